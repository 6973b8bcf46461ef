"""Three brokers on one machine that are one: a NATS cluster with MQTT 3.1.1."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgebus.lab.broker import BrokerStartError, EmbeddedBroker, free_ports

__all__ = ["EmbeddedCluster"]

_NAME = "edgebus-cluster"

# After a node's death the others need 4 to 9 s to elect leaders for what it led. Requests to what
# has no leader are lost; the sooner that is noticed, the sooner a client can try again.
_MQTT = """\
  js_api_timeout: "2s"
  stream_replicas: {replicas}
  consumer_replicas: {replicas}
"""
_CLUSTER = """\
http: "{host}:{http_port}"
cluster {{
  name: "{cluster}"
  host: "{host}"
  port: {port}
  no_advertise: true
  routes: [{routes}]
}}
"""


class ClusterNode(EmbeddedBroker):
    """One broker of a cluster.

    Args:
        data_dir: Folder for its store; its name is the node's.
        host: Address to listen on.
        port: MQTT port.
        route: Port on which the other nodes reach it.
        routes: Those ports of all nodes, this one included.
        http_port: Port of its health checks.
        start_timeout_s: How long it may take until it has what the others have.
        ack_wait_s: After this long an event that a client has not acknowledged is sent again.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str,
        port: int,
        route: int,
        routes: tuple[int, ...],
        http_port: int,
        start_timeout_s: float,
        ack_wait_s: float,
    ) -> None:
        super().__init__(
            data_dir, host=host, port=port, start_timeout_s=start_timeout_s, ack_wait_s=ack_wait_s
        )
        self.route, self.routes, self.http_port = route, routes, http_port

    async def ready(self) -> bool:
        """Whether it takes clients, and has all that the others have."""
        # Before it is in step with the others it lets a client wait until both give up.
        health = await ask(self.host, self.http_port, "/healthz")
        return health.get("status") == "ok" and await super().ready()

    def config(self) -> str:
        """The embedded broker's configuration, with replicas and the other nodes."""
        text = super().config().replace("edgebus-embedded", self.data_dir.name)
        head, mqtt, rest = text.partition("mqtt {\n")
        return (
            head
            + mqtt
            + _MQTT.format(replicas=len(self.routes))
            + rest
            + _CLUSTER.format(
                host=self.host,
                http_port=self.http_port,
                cluster=_NAME,
                port=self.route,
                routes=", ".join(f'"nats://{self.host}:{port}"' for port in self.routes),
            )
        )


class EmbeddedCluster:
    """A cluster of `nats-server` processes: any one of them may die.

    Sessions, queued events and retained values are kept by every node (JetStream with as many
    replicas as nodes), and a client goes on at another node with the session that it has. Events
    are acknowledged once a majority of the nodes has them. With fewer than a majority alive the
    rest refuses clients.

    Args:
        data_dir: Folder with one folder per node.
        host: Address that all nodes listen on.
        size: How many nodes; an odd number.
        ack_wait_s: After this long an event that a client has not acknowledged is sent again. What
            was on its way through a node that died comes that late, or a second time.
        start_timeout_s: How long the cluster, or a node that comes back, may take.

    Raises:
        ValueError: A cluster of fewer than 3 or of an even number of nodes: one more node that can
            die is not gained by it.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        size: int = 3,
        ack_wait_s: float = 10.0,
        start_timeout_s: float = 60.0,
    ) -> None:
        if size < 3 or size % 2 == 0:
            msg = f"a cluster of {size} nodes survives no more than a smaller one; take 3 or 5"
            raise ValueError(msg)
        ports = free_ports(3 * size, host=host)
        routes = tuple(ports[:size])
        self.start_timeout_s = start_timeout_s
        self.nodes = tuple(
            ClusterNode(
                data_dir / f"node-{number}",
                host=host,
                port=ports[size + number],
                route=routes[number],
                routes=routes,
                http_port=ports[2 * size + number],
                start_timeout_s=start_timeout_s,
                ack_wait_s=ack_wait_s,
            )
            for number in range(size)
        )

    @property
    def url(self) -> str:
        """All addresses, for `BrokerSettings.url`."""
        return self.url_from(0)

    def url_from(self, first: int) -> str:
        """All addresses, node number `first` the one that is tried first."""
        count = len(self.nodes)
        return ",".join(self.nodes[(first + step) % count].url for step in range(count))

    async def __aenter__(self) -> Self:
        await self.start_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start_all(self) -> None:
        """Start every node and wait until each of them takes clients and has the others' data.

        Raises:
            BrokerNotInstalledError: The program is missing.
            BrokerStartError: A node ended, or they do not find together in time.
        """
        try:
            # At the same time: one alone takes no client before it knows a majority.
            async with asyncio.TaskGroup() as group:
                for node in self.nodes:
                    group.create_task(node.start(), name=f"start {node.data_dir.name}")
        except BaseExceptionGroup as errors:
            await self.stop()
            raise errors.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise

    async def kill(self, number: int) -> None:
        """End a node as a power cut would (SIGKILL)."""
        await self.nodes[number].kill()

    async def start(self, number: int) -> None:
        """Start a node again and wait until it has caught up with the others.

        Before that another one must not go: what it lacks may be on that one only.

        Raises:
            BrokerStartError: It ended, or does not catch up in time.
        """
        await self.nodes[number].start()

    async def stop(self) -> None:
        """End all nodes, softly."""
        await asyncio.gather(*(node.stop() for node in self.nodes))

    async def leader(self) -> int:
        """Number of the node that leads the cluster's own state.

        Raises:
            BrokerStartError: There is none: fewer than a majority of the nodes is alive.
        """
        for node in self.nodes:
            if node.running:
                found = await ask(node.host, node.http_port, "/jsz")
                name = found.get("meta_cluster", {}).get("leader")
                for other, candidate in enumerate(self.nodes):
                    if candidate.data_dir.name == name and candidate.running:
                        return other
        raise BrokerStartError(reason="has no leader among its nodes", log=self.nodes[0].log_end())


async def ask(host: str, port: int, path: str) -> dict[str, Any]:
    """A JSON answer of a `nats-server`'s monitoring; empty while there is none.

    Args:
        host: Where it listens.
        port: Its `http` port.
        path: Such as ``/healthz`` or ``/jsz``.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return {}
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = json.loads((await reader.read(-1)).partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        return {}
    finally:
        writer.close()
    return answer if isinstance(answer, dict) else {}
