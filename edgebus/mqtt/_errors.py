"""What is wrong with the bytes of the other side."""

from __future__ import annotations

__all__ = ["MALFORMED", "PACKET_TOO_LARGE", "PROTOCOL_ERROR", "ProtocolError"]

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82
PACKET_TOO_LARGE = 0x95


class ProtocolError(Exception):
    """Bytes that are no MQTT, or a packet that may not come now.

    Attributes:
        problem: What was found.
        section: Where the specification rules it out, for example ``3.3.1``; MQTT 5.0 numbering.
        code: Reason code for the DISCONNECT packet (MQTT 5.0 §3.14.2.1).
    """

    def __init__(self, problem: str, *, section: str, code: int = MALFORMED) -> None:
        super().__init__(f"{problem} (MQTT 5.0 §{section})")
        self.problem = problem
        self.section = section
        self.code = code
