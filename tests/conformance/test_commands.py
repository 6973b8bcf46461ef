"""Requirements M1 to M5: commands and their answers."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from harness import Recorder, Site, eventually

from edgebus.bus import Bus, CommandFailedError, Event, RawMessage, RequestTimeoutError
from edgebus.contracts import (
    ContractError,
    ModelListCommand,
    ModelListReply,
    Reply,
    RetrainCommand,
    utc_now,
)
from edgebus.contracts.topics import CMD_MODELS, CMD_RETRAIN, REPLY


async def serve(bus: Bus, site: Site, *, ok: bool = True, times: int = 1) -> None:
    async def handler(event: Event[ModelListCommand]) -> None:
        for _ in range(times):
            if ok:
                await bus.reply(event, ModelListReply(ok=True))
            else:
                await bus.reply(event, Reply(ok=False, detail="no such model"))

    await bus.subscribe(CMD_MODELS.any(site=site.name), handler)


def address(site: Site):
    return CMD_MODELS.at(site.identity("cloud", "distributor"))


def command(site: Site) -> ModelListCommand:
    return ModelListCommand()


async def distributor(site: Site) -> Bus:
    return await site.bus("cloud", "distributor")


async def test_m1_a_command_gets_its_answer(site: Site) -> None:
    service, tool = await distributor(site), await site.bus("laptop")
    await serve(service, site)
    for _ in range(3):
        asked = command(site)
        answer = await tool.request(address(site), asked, timeout=10)
        assert answer.request == asked.id
        assert answer.ok
    # Many at once find their own answers.
    many = [command(site) for _ in range(20)]
    answers = await asyncio.gather(
        *(tool.request(address(site), asked, timeout=10) for asked in many)
    )
    assert [answer.request for answer in answers] == [asked.id for asked in many]


async def test_m2_no_answer_is_an_error_in_time(site: Site) -> None:
    tool = await site.bus("laptop")
    with pytest.raises(RequestTimeoutError) as late:
        await tool.request(address(site), command(site), timeout=0.2)
    assert late.value.timeout == 0.2
    assert late.value.topic == address(site).name


async def test_m3_further_answers_are_ignored(site: Site) -> None:
    service, tool = await distributor(site), await site.bus("laptop")
    await serve(service, site, times=3)
    for _ in range(3):
        answer = await tool.request(address(site), command(site), timeout=10)
        assert answer.ok
    await eventually(lambda: service.stats.published >= 9)


async def test_m3_a_plain_no_is_an_error_with_its_reason(site: Site) -> None:
    service, tool = await distributor(site), await site.bus("laptop")
    await serve(service, site, ok=False)
    with pytest.raises(CommandFailedError, match="no such model"):
        await tool.request(address(site), command(site), timeout=10)


async def test_m4_a_command_past_its_time_is_not_acted_upon(site: Site) -> None:
    service, tool = await distributor(site), await site.bus("laptop")
    got = Recorder()
    subscription = await service.subscribe(CMD_RETRAIN.any(site=site.name), got)
    topic = CMD_RETRAIN.at(service.identity)
    late = RetrainCommand(expires=utc_now() - timedelta(seconds=1))
    intime = RetrainCommand(expires=utc_now() + timedelta(minutes=1))
    await tool.publish(topic, late)
    await tool.publish(topic, intime)
    await eventually(lambda: len(got.events) == 1)
    assert got.events[0].payload.id == intime.id
    assert subscription.stats.expired == 1


async def test_m5_an_answer_goes_below_the_prefix_of_who_asked(site: Site) -> None:
    service, tool = await distributor(site), await site.bus("laptop", "node-red")
    await serve(service, site)
    mine = REPLY.at(tool.identity, request="my-17")
    answers: asyncio.Queue[RawMessage] = asyncio.Queue()

    async def hear(message: RawMessage) -> None:
        answers.put_nowait(message)

    await tool.tap(mine.name, hear, qos=1)
    # As somebody without a library writes it: no id, no time, no schema.
    words = {"source": tool.identity.source, "reply_to": mine.name}
    await tool.publish_raw(address(site).name, json.dumps(words).encode(), qos=1)
    message = await asyncio.wait_for(answers.get(), 10)
    answer = ModelListReply.decode(message.payload)
    assert answer.ok
    assert answer.source == service.identity.source
    assert not message.retained


async def test_m5_answers_go_nowhere_else(site: Site) -> None:
    service, tool = await distributor(site), await site.bus("laptop")
    asked: asyncio.Queue[Event] = asyncio.Queue()

    async def handler(event: Event) -> None:
        asked.put_nowait(event)

    await service.subscribe(CMD_RETRAIN.any(site=site.name), handler)
    source, victim = tool.identity.source, site.identity("victim")
    for reply_to in (
        REPLY.at(victim, request="x").name,  # a third party's
        f"{tool.identity.prefix}/state",
        f"{tool.identity.prefix}/replies/x/y",
        f"{tool.identity.prefix}/replies/",
        f"{tool.identity.prefix}/replies/#",
        f"other/{source}/replies/x",
        f"{service.identity.prefix}/state",
        "a/#",
        "",
    ):
        await tool.publish(
            CMD_RETRAIN.at(service.identity), RetrainCommand(source=source, reply_to=reply_to)
        )
        event = await asyncio.wait_for(asked.get(), 10)
        with pytest.raises(ContractError, match="reply_to"):
            await service.reply(event, Reply(request=event.payload.id, ok=True))
    # Whoever asks for no answer gets none.
    await tool.publish(CMD_RETRAIN.at(service.identity), RetrainCommand())
    event = await asyncio.wait_for(asked.get(), 10)
    await service.reply(event, Reply(request=event.payload.id, ok=True))
    assert service.stats.published == 0
