"""The access rules of docs/connecting.md on a real Mosquitto: who may write which answer."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import Bus, BusSettings, Event, PublishRefusedError, RawMessage
from edgebus.contracts import Identity, RetrainCommand
from edgebus.contracts.control import Reply
from edgebus.contracts.topics import CMD_RETRAIN, REPLY
from edgebus.service import NodeSettings, Service, ServiceSettings
from edgebus.service.runtime import Runtime

PAGE = (Path(__file__).resolve().parents[2] / "docs/connecting.md").read_text()
(RULES,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S)
FOR_ANSWERS = "pattern write edgebus/+/+/+/replies/#\n"
SERVICE = Identity(site="lab", node="pi-01", service="retrainer")
OPERATOR = Identity(site="lab", node="operator", service="node-red")


@asynccontextmanager
async def site(
    make: Callable[..., Any], folder: Path, rules: str, *, version: str
) -> AsyncIterator[tuple[Bus, Bus]]:
    """A service, which answers, and an operator, on a broker with these rules."""
    passwords, acl = folder / "passwords", folder / "acl"
    passwords.touch()
    for user in ("pi-01", "operator"):
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, f"{user}!"], check=True)
    acl.write_text(rules)
    for file in (passwords, acl):
        file.chmod(0o644)
    broker = make(extra=f"allow_anonymous false\npassword_file {passwords}\nacl_file {acl}")
    broker.start()
    async with AsyncExitStack() as stack:
        buses = []
        for who in (SERVICE, OPERATOR):
            transport = broker.transport(
                username=who.node, password=f"{who.node}!", version=version
            )
            settings = BusSettings(ephemeral=True)
            bus = Bus(transport, identity=who, settings=settings)
            buses.append(await stack.enter_async_context(bus))
        yield buses[0], buses[1]


async def ask(service: Bus, operator: Bus, reply_to: str) -> asyncio.Queue[Reply]:
    """Have the service answer one command; the queue gets the answers that arrive."""
    answers: asyncio.Queue[Reply] = asyncio.Queue()

    async def hear(message: RawMessage) -> None:
        answers.put_nowait(Reply.decode(message.payload))

    async def answer(event: Event[RetrainCommand]) -> None:
        await service.reply(event, Reply(ok=True))

    await operator.tap(reply_to, hear, qos=1)
    await service.subscribe(CMD_RETRAIN.any(node="pi-01"), answer)
    words = json.dumps({"source": OPERATOR.source, "reply_to": reply_to})
    await operator.publish_raw(CMD_RETRAIN.at(SERVICE).name, words.encode(), qos=1)
    return answers


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("below", [SERVICE, OPERATOR], ids=["who answers", "who asks"])
async def test_the_rules_of_the_page_let_every_answer_through(
    mosquitto_factory: Callable[..., Any], tmp_path: Path, below: Identity, version: str
) -> None:
    async with site(mosquitto_factory, tmp_path, RULES, version=version) as (service, operator):
        answers = await ask(service, operator, REPLY.at(below, request="17").name)
        assert (await asyncio.wait_for(answers.get(), 10)).ok


async def test_without_the_line_for_answers_only_the_services_own_prefix_is_left(
    mosquitto_factory: Callable[..., Any], tmp_path: Path
) -> None:
    assert FOR_ANSWERS in RULES
    rules = RULES.replace(FOR_ANSWERS, "")
    async with site(mosquitto_factory, tmp_path, rules, version="5") as (service, operator):
        answers = await ask(service, operator, REPLY.at(SERVICE, request="17").name)
        assert (await asyncio.wait_for(answers.get(), 10)).ok
        denied = REPLY.at(OPERATOR, request="18")
        with pytest.raises(PublishRefusedError, match="replies/18"):
            await service.publish(denied, Reply(request="x", ok=True))


@pytest.mark.parametrize(
    "topic",
    [
        f"{OPERATOR.prefix}/state",
        "edgebus/lab/pi-02/detector/model",
        "edgebus/lab/pi-02/detector/cmd/rollback",
    ],
)
async def test_a_device_writes_nothing_else_below_another_prefix(
    mosquitto_factory: Callable[..., Any], tmp_path: Path, topic: str
) -> None:
    async with site(mosquitto_factory, tmp_path, RULES, version="5") as (service, operator):
        # One each: Mosquitto 2.0.11 with max_queued_messages 0 hangs up at a second one.
        with pytest.raises(PublishRefusedError, match=r"[Nn]ot authorized"):
            await service.publish_raw(topic, b"{}", qos=1)
        await operator.publish_raw("edgebus/lab/pi-02/detector/cmd/rollback", b"{}", qos=1)


class Idle(Service[ServiceSettings]):
    """A service that only lives."""

    name = "idle"


@pytest.mark.parametrize(
    ("rules", "trouble"),
    [
        (RULES, ""),
        ("pattern read edgebus/#\npattern write edgebus/+/elsewhere/#\n", "does not come back"),
        ("pattern write edgebus/+/%u/#\n", "does not come back"),
    ],
    ids=["rules of the page", "may not write", "may not read"],
)
async def test_on_3_1_1_a_service_notices_that_the_rules_drop_its_state(
    mosquitto_factory: Callable[..., Any],
    tmp_path: Path,
    rules: str,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    passwords.touch()
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "pi-01", "p"], check=True)
    acl.write_text(rules)
    for file in (passwords, acl):
        file.chmod(0o644)
    broker = mosquitto_factory(
        extra=f"allow_anonymous false\npassword_file {passwords}\nacl_file {acl}"
    )
    broker.start()
    runtime = Runtime(
        Idle,
        node=NodeSettings(site="lab", node="pi-01", data_dir=tmp_path / "data"),
        settings=ServiceSettings(),
        transport=broker.transport(username="pi-01", password="p", version="3.1.1"),
    )
    monkeypatch.setattr(runtime._test, "_patience_s", 1.0)
    stop = asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(runtime.run(stop, look_first=False))
        wanted = "degraded" if trouble else "ready"
        while runtime.presence.state != wanted:
            await asyncio.sleep(0.05)
        if not trouble:
            await asyncio.sleep(3.5)
        assert runtime.presence.state == wanted
        assert trouble in runtime.presence.reason
        stop.set()
