"""A whole fleet on one machine: embedded broker, supervisor, observer, view and report."""

from edgebus.lab.broker import BrokerNotInstalledError, BrokerStartError, EmbeddedBroker
from edgebus.lab.end_condition import RunEnd, check_end, waiting_for
from edgebus.lab.lab import ROOMY, Lab, load_lab
from edgebus.lab.report import render_report, write_csv, write_run
from edgebus.lab.round_report import Shown, data_uri, draw_twice
from edgebus.lab.rounds import Round, Rounds, Stage
from edgebus.lab.run_state import EdgeModel, RunEvent, RunState, service_of
from edgebus.lab.streams import StreamState
from edgebus.lab.summary import Bytes, Count, RunFacts, Summary, SummaryPart, summarize
from edgebus.lab.view import summary_table

__all__ = [
    "ROOMY",
    "BrokerNotInstalledError",
    "BrokerStartError",
    "Bytes",
    "Count",
    "EdgeModel",
    "EmbeddedBroker",
    "Lab",
    "Round",
    "Rounds",
    "RunEnd",
    "RunEvent",
    "RunFacts",
    "RunState",
    "Shown",
    "Stage",
    "StreamState",
    "Summary",
    "SummaryPart",
    "check_end",
    "data_uri",
    "draw_twice",
    "load_lab",
    "render_report",
    "service_of",
    "summarize",
    "summary_table",
    "waiting_for",
    "write_csv",
    "write_run",
]
