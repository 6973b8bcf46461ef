"""Tools that look at the bus: dead letters, traffic, single messages.

`edgebus.inspect.path` follows an input through a recording; it needs the extra ``record``.
"""

from edgebus.inspect.describe import as_json, as_line, human_bytes, printable
from edgebus.inspect.letters import DeadLetters, Letter, LetterNotFoundError, check_replayable
from edgebus.inspect.traffic import Traffic, TrafficLine

__all__ = [
    "DeadLetters",
    "Letter",
    "LetterNotFoundError",
    "Traffic",
    "TrafficLine",
    "as_json",
    "as_line",
    "check_replayable",
    "human_bytes",
    "printable",
]
