"""A topology: machines, their services and settings, and when the run is over, in one YAML file."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from edgebus.addresses import SECRET_NAME, has_credentials
from edgebus.contracts import Segment
from edgebus.service.loading import explain
from edgebus.service.yamltext import YamlTextError, read_yaml

MAX_PACKET_BYTES = 8 * 2**20
"""Largest MQTT packet that the services of a topology accept."""

Seconds = Annotated[float, Field(gt=0)]
Word = Annotated[str, BeforeValidator(str, json_schema_input_type=str | int | float | bool)]
Tree = dict[str, Any]


class TopologyError(ValueError):
    """A topology that cannot be run.

    Attributes:
        source: The file it came from, or what stands for it.
        problems: One line per mistake; each names the place, the value and the way out.
    """

    exit_code = 2

    def __init__(self, *, source: str, problems: list[str]) -> None:
        super().__init__(f"{source}: " + "; ".join(problems))
        self.source = source
        self.problems = problems


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class BrokerChoice(_Part):
    """The broker of a run: an embedded one, or one that is there already."""

    embedded: bool = True
    """Start an own broker as a child process."""
    url: str | None = None
    """Broker to use instead, for example ``mqtt://localhost:1883``."""
    version: Literal["5", "3.1.1"] | None = None
    """MQTT version; the embedded broker speaks 3.1.1 only."""
    host: str = "127.0.0.1"
    """Address the embedded broker listens on."""
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the embedded broker; null takes 1883, or where that is taken the first free one up to
    1899; 0 takes any free one."""

    @model_validator(mode="before")
    @classmethod
    def _url_means_not_embedded(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("url") and "embedded" not in value:
            return value | {"embedded": False}
        return value

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.embedded and self.url:
            msg = f"is embedded and has the url {self.url}; keep one of the two"
            raise ValueError(msg)
        if not self.embedded and not self.url:
            msg = "is not embedded, so it needs a url, for example mqtt://localhost:1883"
            raise ValueError(msg)
        if self.embedded and self.version == "5":
            msg = "the embedded broker speaks MQTT 3.1.1 only; give a url for MQTT 5"
            raise ValueError(msg)
        return self

    @property
    def mqtt_version(self) -> Literal["5", "3.1.1"] | None:
        """The version that clients shall speak; None: what the broker speaks."""
        return self.version or ("3.1.1" if self.embedded else None)

    @property
    def profile(self) -> Literal["nats"] | None:
        """The repairs that clients shall make; the embedded broker is a NATS server."""
        return "nats" if self.embedded else None


class Until(_Part):
    """End condition of a run; without one, it runs until Ctrl-C."""

    loop: Literal["closed"] | None = None
    """``closed`` waits until every edge serves a retrained version and was measured on it."""
    after_inputs: Annotated[int, Field(ge=1)] = 120
    """Inputs of each stream that are answered by the new version before the end."""
    timeout_s: Seconds | None = None
    """Seconds after which the run gives up; a loop that is not closed by then is a failure."""
    seconds: Seconds | None = None
    """Seconds to run, whatever happens."""

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.loop is None and self.seconds is None:
            msg = "names no end; give loop: closed, or seconds: 60"
            raise ValueError(msg)
        if self.loop is not None and self.seconds is not None:
            msg = "has both loop and seconds; use loop with timeout_s"
            raise ValueError(msg)
        return self


class Topology(_Part):
    """Everything that `edgebus up` starts."""

    name: Segment = "run"
    """Name of the run folder."""
    base: Segment = "edgebus"
    """First level of every topic."""
    site: Segment = "lab"
    """Second level of every topic."""
    broker: BrokerChoice = BrokerChoice()
    """The broker."""
    environment: dict[str, str] = {}
    """Environment variables of every service."""
    setup: tuple[tuple[Word, ...], ...] = ()
    """Commands of the form ``[module, argument, …]``, run once by ``python -m`` before the
    services."""
    workload: Segment | None = None
    """The workload whose view and report `edgebus up` shows; its default without."""
    nodes: dict[Segment, dict[Segment, Tree]] = Field(min_length=1)
    """Per node its services, per service its settings: the sections above."""
    node_settings: Tree = {}
    """Settings of every node, for example ``{heartbeat_s: 2}``."""
    until: Until | None = None
    """End of the run; null: it runs until Ctrl-C."""

    @field_validator("nodes", mode="before")
    @classmethod
    def _service_without_settings(cls, value: Any) -> Any:
        """``collector:`` with nothing behind it means the defaults."""
        if not isinstance(value, dict):
            return value
        return {
            node: {name: {} if settings is None else settings for name, settings in parts.items()}
            if isinstance(parts, dict)
            else parts
            for node, parts in value.items()
        }

    @model_validator(mode="after")
    def _every_node_runs_something(self) -> Self:
        for node, services in self.nodes.items():
            if not services:
                msg = f"node {node} has no service; give it one, or remove it"
                raise ValueError(msg)
        return self

    @property
    def services(self) -> list[tuple[str, str]]:
        """Every (node, service), in the order of the file."""
        return [(node, service) for node, parts in self.nodes.items() for service in parts]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a topology file; ``{here}`` in it becomes the file's folder.

        Raises:
            TopologyError: It is missing, no YAML, or has mistakes.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TopologyError(source=str(path), problems=[f"cannot be read: {reason}"]) from error
        try:
            tree = read_yaml(text)
        except YamlTextError as error:
            raise TopologyError(source=str(path), problems=[f"is no YAML: {error}"]) from error
        return cls.parse(
            fill_placeholders(tree, {"here": str(path.resolve().parent)}), source=str(path)
        )

    @classmethod
    def parse(cls, tree: Any, *, source: str) -> Self:
        """Check a tree of settings.

        Raises:
            TopologyError: It has mistakes; an unknown key comes with the nearest right one.
        """
        if not isinstance(tree, dict):
            problem = f"a topology is a mapping with at least nodes: …, not {type(tree).__name__}"
            raise TopologyError(source=source, problems=[problem])
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            problems = [f"{each.key or 'topology'}: {each.reason}" for each in explain(cls, error)]
            raise TopologyError(source=source, problems=problems) from error


def node_configs(topology: Topology, *, url: str, data: Path) -> dict[str, Tree]:
    """The settings file of every node, as it would lie on a device."""
    return {
        node: {
            "base": topology.base,
            "site": topology.site,
            "node": node,
            "broker": {
                "url": url,
                "version": topology.broker.mqtt_version,
                "profile": topology.broker.profile,
                "max_packet_bytes": MAX_PACKET_BYTES,
            },
            "data_dir": str(data / node),
            **topology.node_settings,
            **services,
        }
        for node, services in topology.nodes.items()
    }


def take_secrets(tree: Tree, *, prefix: str) -> tuple[Tree, dict[str, str]]:
    """Settings without secrets, which become variables: ``${PREFIX1}`` in the settings' place.

    A secret is an address with a password or a query, and the text of a key that is called one.

    Args:
        tree: Settings of a node; not changed.
        prefix: Begin of the variables' names.

    Returns:
        The settings for a file, and the environment that a service needs to read it.
    """
    secrets: dict[str, str] = {}

    def taken(value: Any, *, secret: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                key: taken(below, secret=SECRET_NAME.search(str(key)) is not None)
                for key, below in value.items()
            }
        if isinstance(value, list | tuple):
            return [taken(below, secret=secret) for below in value]
        if not isinstance(value, str) or not (secret or has_credentials(value)):
            return value
        name = f"{prefix}{len(secrets) + 1}"
        secrets[name] = value
        return f"${{{name}}}"

    return taken(tree), secrets


def fill_placeholders(tree: Any, values: dict[str, str]) -> Any:
    """`tree` with ``{name}`` replaced in every string; other braces stay as they are."""
    if isinstance(tree, str):
        for name, value in values.items():
            tree = tree.replace("{" + name + "}", value)
        return tree
    if isinstance(tree, dict):
        return {key: fill_placeholders(value, values) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(fill_placeholders(value, values) for value in tree)
    return tree
