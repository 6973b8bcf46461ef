"""Settings of nodes and of services."""

from pathlib import Path
from socket import gethostname
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgebus.bus import BrokerSettings, BusSettings
from edgebus.contracts import Segment


class ServiceSettings(BaseModel):
    """A service's own settings; each service subclasses it.

    Frozen, and unknown keys are errors: a typo must not become a default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LogSettings(ServiceSettings):
    """Logs, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important level that is shown."""
    format: Literal["auto", "console", "json"] = "auto"
    """One JSON object per line, or lines for people; auto: for people where there is a terminal."""


def _default_data_dir(node: dict[str, Any]) -> Path:
    """The node's own folder, named like its topics: two nodes on one host share none."""
    levels = (node.get(level, "") for level in ("base", "site", "node"))
    try:
        share = Path.home() / ".local" / "share"
    except RuntimeError:  # a user without a home, as in some containers
        share = Path("/var/lib")
    return share.joinpath(*levels)


class NodeSettings(ServiceSettings):
    """Settings that all services of a node share."""

    base: Segment = "edgebus"
    """First level of every topic, for brokers that others use too."""
    site: Segment = "lab"
    """The place; second level of every topic."""
    node: Segment = Field(default_factory=gethostname, json_schema_extra={"x-default": "host name"})
    """The host; third level of every topic. Its own host name by default."""
    broker: BrokerSettings = BrokerSettings()
    """The connection to the broker."""
    bus: BusSettings = BusSettings()
    """Limits and times of the bus."""
    data_dir: Path = Field(
        default_factory=_default_data_dir,
        json_schema_extra={"x-default": "~/.local/share/BASE/SITE/NODE"},
    )
    """Folder of this node for what must survive a restart; each service has a folder of its own
    name in it. By default it is named like the node's topics; below /var/lib for a user that has
    no home."""
    heartbeat_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds between two metrics messages."""
    drain_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    """Seconds that a stopping service may take to finish what it accepted."""
    log: LogSettings = LogSettings()
    """Logs of the services."""
