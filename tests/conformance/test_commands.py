"""Requirements M1 to M5: commands and their answers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from harness import Recorder, Site, eventually

from edgebus.bus import Bus, CommandFailedError, Event, RequestTimeoutError
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
    late = RetrainCommand(source="x", expires=utc_now() - timedelta(seconds=1))
    intime = RetrainCommand(source="x", expires=utc_now() + timedelta(minutes=1))
    await tool.publish(topic, late)
    await tool.publish(topic, intime)
    await eventually(lambda: len(got.events) == 1)
    assert got.events[0].payload == intime
    assert subscription.stats.expired == 1


async def test_m5_answers_go_below_the_own_prefix_only(site: Site) -> None:
    service, tool = await distributor(site), await site.bus("laptop")
    asked: asyncio.Queue[Event] = asyncio.Queue()

    async def handler(event: Event) -> None:
        asked.put_nowait(event)

    await service.subscribe(CMD_RETRAIN.any(site=site.name), handler)
    elsewhere = REPLY.at(tool.identity, request="x").name
    for reply_to in (elsewhere, f"{service.identity.prefix}/state", "a/#", ""):
        await tool.publish(
            CMD_RETRAIN.at(service.identity), RetrainCommand(source="x", reply_to=reply_to)
        )
        event = await asyncio.wait_for(asked.get(), 10)
        with pytest.raises(ContractError, match="reply_to"):
            await service.reply(event, Reply(source="x", request=event.payload.id, ok=True))
    # Whoever asks for no answer gets none.
    await tool.publish(CMD_RETRAIN.at(service.identity), RetrainCommand(source="x"))
    event = await asyncio.wait_for(asked.get(), 10)
    await service.reply(event, Reply(source="x", request=event.payload.id, ok=True))
    assert service.stats.published == 0
