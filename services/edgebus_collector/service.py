"""The collector service: joins, decides, spools and sends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from typing import Any

from cachetools import LRUCache

from edgebus.bus import DropOldest, Event
from edgebus.contracts import (
    STRANGE,
    CaptureCommand,
    PayloadError,
    Reply,
    ServiceState,
    Topic,
    split_of,
    topics,
)
from edgebus.mining import (
    Example,
    InputUnreadableError,
    Predicted,
)
from edgebus.service import CommandRefusedError, Service, command, every, on
from edgebus.workload import Workload, call_in_thread, load_workload
from edgebus_collector.budget import TokenBucket
from edgebus_collector.drift import DriftWatch, make_detector
from edgebus_collector.history import FeedbackRefusedError, History, Seen, resolve
from edgebus_collector.joining import Joiner
from edgebus_collector.reference_model import ReferenceModel
from edgebus_collector.selection import Choice, Selector, Suppressed
from edgebus_collector.sending import Sender
from edgebus_collector.settings import CollectorSettings
from edgebus_collector.spool import Spool, SpoolFullError

# What the documentation shows; settings may name another.
_DEFAULT = load_workload(CollectorSettings.model_fields["workload"].default)
_MOST_STRANGERS = 64
_INPUTS = DropOldest(messages=32, bytes=32 * 2**20)


def _topics_of(workload: Workload) -> tuple[Topic[Any], ...]:
    optional = (workload.truths, workload.feedback)
    return (workload.inputs, workload.predictions, *(topic for topic in optional if topic))


def _receiver_of(service: Collector) -> dict[str, str]:
    return {"service": service.settings.receiver or service.name}


class Collector(Service[CollectorSettings]):
    """Collects what the model got wrong, and a fair share of held-out inputs to measure on."""

    name = "collector"
    publishes = (topics.DRIFT, _DEFAULT.samples)
    subscribes = _topics_of(_DEFAULT)

    async def start(self) -> None:
        """Make the policies, and take up what the last run could not send."""
        settings = self.settings
        workload = self.workload = load_workload(settings.workload)
        workload.prepare()
        self.publishes = (topics.DRIFT, workload.samples)
        buffer, budget = settings.buffer, settings.budget
        self._joiner = Joiner(inputs=buffer.inputs, size=buffer.bytes)
        self._history = History(inputs=buffer.history_inputs, size=buffer.history_bytes)
        self._feedback = TokenBucket(
            rate=budget.feedback_per_minute / 60, capacity=max(1.0, budget.feedback_per_minute)
        )
        self._shares: LRUCache[str, TokenBucket] = LRUCache(_MOST_STRANGERS)
        self._strangers: set[str] = set()
        chain = settings.chain()
        self._selector = Selector(settings, chain=chain)
        self._drift: DriftWatch | None = None
        if settings.drift is not None:
            # The first detector loads its library, which takes a second.
            await asyncio.to_thread(make_detector, settings.drift.method)
            self._drift = DriftWatch(settings.drift, workload.statistics)
        self._gauged: set[str] = set()
        self._trouble = ""
        self._alive: set[str] = set()
        self._receiver = asyncio.Event()
        if settings.receiver is None:
            self._receiver.set()
        self._spool = await asyncio.to_thread(Spool, self.data_dir / "spool", settings.spool)
        self._sender = Sender(
            bus=self.bus,
            address=workload.samples.at(self.identity),
            spool=self._spool,
            receiver=self._receiver,
            metrics=self.metrics,
            log=self.log,
            trouble=self._set_trouble,
        )
        # One input waits at most: the reference model is shown a share, not a backlog.
        self._for_reference: asyncio.Queue[Example[Any, Any, Any]] = asyncio.Queue(maxsize=1)
        if (reference := settings.reference_model) is not None:
            imports = self.data_dir / "reference"
            model = await asyncio.to_thread(ReferenceModel, workload, reference, imports=imports)
            self.log.info("reference model", model=model.name, share=reference.share)
            self.spawn(self._ask_reference(model), name="reference model")
        self.log.info("collecting", policies=chain.names, spooled=len(self._spool))
        self.spawn(self._sender.run(), name="send samples")

    @on(lambda self: self.workload.truths, scope="node")
    async def on_truth(self, event: Event[Any]) -> None:
        """Take the ground truth of an input."""
        await self._judge(self._joiner.add_truth(event.payload))

    @on(lambda self: self.workload.inputs, scope="node", policy=_INPUTS)
    async def on_input(self, event: Event[Any]) -> None:
        """Take an input."""
        await self._judge(self._joiner.add_input(event.payload))

    @on(lambda self: self.workload.predictions, scope="node")
    async def on_prediction(self, event: Event[Any]) -> None:
        """Take the model's prediction for an input."""
        await self._watch_drift(event.payload)
        await self._judge(self._joiner.add_prediction(event.payload))

    @on(lambda self: self.workload.feedback)
    async def on_feedback(self, event: Event[Any]) -> None:
        """Make a sample of an input whose prediction a person has judged."""
        feedback = event.payload
        mine = feedback.node == self.identity.node
        if not mine and (feedback.node or feedback.stream not in self._joiner.streams):
            return
        if not self._may_judge(event):
            self.metrics.counter("feedback.not_allowed")
            return
        try:
            seen = resolve(feedback, self._history, self.workload.verdict)
        except FeedbackRefusedError as error:
            self.metrics.counter(f"feedback.{error.cause}")
            if error.cause != "repeated":
                self.log.warning("feedback leads nowhere", by=feedback.source, error=error.reason)
            return
        now, own = time.monotonic(), self._feedback_share(event.names["node"])
        if self._feedback.available(now) < 1 or own.available(now) < 1:
            self.metrics.counter("feedback.too_much")
            return
        self._feedback.spend(1)
        own.spend(1)
        self.metrics.counter("feedback")
        try:
            choice = self._selector.choose_feedback(seen)
        except STRANGE as error:  # see `_give_up`
            self._give_up(seen.example, error)
            return
        await self._keep(choice, seen)

    def _may_judge(self, event: Event[Any]) -> bool:
        """Whether the feedback of a node counts; who may not is named once in the log."""
        node, allowed = event.names["node"], self.settings.feedback_from
        if allowed is not None:
            right, why = node in allowed, "only nodes in collector.feedback_from may judge"
        else:
            seen = self._history.find(event.payload.stream, event.payload.input)
            right = (
                node == self.identity.node
                or seen is None
                or split_of(seen.example.stream, seen.example.index) == "train"
            )
            why = "the input is held out; name the node in collector.feedback_from"
        if not right and node not in self._strangers and len(self._strangers) < _MOST_STRANGERS:
            self._strangers.add(node)
            self.log.warning("feedback does not count", node=node, reason=why)
        return right

    def _feedback_share(self, node: str) -> TokenBucket:
        """Half of the budget of feedback, for one node."""
        share = self._shares.get(node)
        if share is None:
            per_minute = self.settings.budget.feedback_per_minute / 2
            share = TokenBucket(rate=per_minute / 60, capacity=max(1.0, per_minute))
            self._shares[node] = share
        return share

    @on(topics.SERVICE_STATE, where=_receiver_of)
    async def on_state(self, event: Event[ServiceState]) -> None:
        """Note whether a receiver of samples lives.

        A broker forgets what nobody has subscribed to, and holds only so much for who is away.
        """
        if self.settings.receiver is None:
            return
        if event.payload.state in {"ready", "degraded"}:
            self._alive.add(event.topic)
        else:
            self._alive.discard(event.topic)
        if bool(self._alive) != self._receiver.is_set():
            self.log.info("receiver of samples", there=bool(self._alive), who=event.topic)
        if self._alive:
            self._receiver.set()
        else:
            self._receiver.clear()

    @command(topics.CMD_CAPTURE)
    async def capture(self, event: Event[CaptureCommand]) -> Reply:
        """Send the next input of a stream, whatever the policies say."""
        stream = event.payload.stream
        if stream not in self._joiner.streams:
            known = ", ".join(self._joiner.streams) or "none yet"
            msg = f"no stream {stream!r} on this node; known: {known}"
            raise CommandRefusedError(msg)
        if self._refused(stream):
            msg = f"nothing is collected from {stream!r}: its consent is 'refused'"
            raise CommandRefusedError(msg)
        self._selector.ask(stream)
        return Reply(
            ok=True,
            detail=f"the next input of {stream} that has a prediction becomes a sample",
        )

    @every(seconds=1.0)
    async def measure(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.gauge("spool.samples", len(self._spool))
        self.metrics.gauge("spool.bytes", self._spool.size)
        self.metrics.gauge("inputs.waiting", self._joiner.pending)
        self.metrics.gauge("inputs.expired", self._joiner.expired)
        if self._drift is not None:
            self.metrics.gauge("drift.failed", self._drift.failed)
            streams = self._drift.streams
            self.metrics.gauge("drift.streams", sum(count > 0 for count in streams.values()))
            for name in self._gauged - streams.keys():
                self.metrics.gauge(f"drift.{name}", nan)  # forgotten, here too
            for name, count in streams.items():
                self.metrics.gauge(f"drift.{name}", count)
            self._gauged = set(streams)

    def _refused(self, stream: str) -> bool:
        return self.settings.of_stream(stream).consent == "refused"

    async def _watch_drift(self, prediction: Predicted) -> None:
        if self._drift is None:
            return
        for drift in self._drift.update(prediction):
            self.metrics.counter("drift.returned" if drift.returned else "drift.events")
            self.log.info(
                "drift over" if drift.returned else "drift",
                stream=drift.stream,
                statistic=drift.statistic,
                before=round(drift.before, 3),
                after=round(drift.after, 3),
                since=drift.since,
            )
            await self.publish(topics.DRIFT, drift, stream=drift.stream)

    async def _judge(self, examples: Sequence[Example[Any, Any, Any]]) -> None:
        for example in examples:
            if self._refused(example.stream):
                self.metrics.counter("refused")
                continue
            self.metrics.counter("considered")
            self._history.add(example)
            try:
                decision = self._selector.decide(example, now=time.monotonic())
            except InputUnreadableError:
                # Who predicts dead-letters it; one dead letter is enough.
                self.metrics.counter("unreadable")
                continue
            except STRANGE as error:  # see `_give_up`
                self._give_up(example, error)
                continue
            await self._carry_out(decision)
            if decision is None and self._selector.wants_reference(example):
                if self._for_reference.full():
                    self.metrics.counter("reference.busy")
                else:
                    self._for_reference.put_nowait(example)

    def _give_up(self, example: Example[Any, Any, Any], error: BaseException) -> None:
        """An input that a policy or the workload cannot cope with: a stranger's code fails.

        It is not tried again: an example is put together once.
        """
        self.metrics.counter("failed")
        self.log.warning(
            "input given up",
            stream=example.stream,
            index=example.prediction.index,
            error=f"{type(error).__name__}: {error}",
        )

    async def _ask_reference(self, model: ReferenceModel) -> None:
        """Show inputs to the reference model, one at a time, for ever."""
        while True:
            example = await self._for_reference.get()
            began = time.perf_counter()
            try:
                answer = await asyncio.to_thread(call_in_thread, model.predict, example.input)
                example = replace(example, reference=answer)
                decision = self._selector.decide_reference(example, now=time.monotonic())
            except (Exception, SystemExit) as error:  # noqa: BLE001 the model's, a policy's, the workload's
                self.metrics.counter("reference.failed")
                self.log.warning("reference failed", error=f"{type(error).__name__}: {error}")
                continue
            self.metrics.observe("reference", (time.perf_counter() - began) * 1e3)
            await self._carry_out(decision)

    async def _carry_out(self, decision: Choice | Suppressed | None) -> None:
        if isinstance(decision, Suppressed):
            self.metrics.counter(f"suppressed.{decision.cause}")
        elif isinstance(decision, Choice):
            await self._keep(decision)

    async def _keep(self, choice: Choice, seen: Seen | None = None) -> None:
        """Make the sample of a choice, and spool it."""
        stream = choice.example.stream
        own = self.settings.of_stream(stream)
        with self.tracer.step(
            "collect",
            parent=choice.example.prediction.traceparent,
            attributes={"policy": choice.policy},
        ) as step:
            facts = {
                "source": self.identity.source,
                "traceparent": step.traceparent,
                "drift": None if self._drift is None else self._drift.state(stream),
                "feedback": () if seen is None else seen.verdicts,
                "consent": own.consent,
                "retention": own.retention,
            }
            try:
                sample = self.workload.sample(choice.example, choice.facts() | facts)
            except PayloadError as error:
                self.metrics.counter("dropped.too_large")
                self.log.warning("sample dropped", stream=stream, error=str(error))
                return
            except STRANGE as error:  # see `_give_up`
                self._give_up(choice.example, error)
                return
            await self._put(sample, choice)

    async def _put(self, sample: Any, choice: Choice) -> None:
        try:
            dropped = await self._sender.put(sample)
        except (OSError, SpoolFullError) as error:
            # A full disk must not stop this node's inputs from being looked at.
            self.metrics.counter("dropped.spool")
            await self._set_trouble(f"samples are lost: {error}")
            return
        except (Exception, SystemExit) as error:  # noqa: BLE001 the sample's `encode`
            self._give_up(choice.example, error)
            return
        self.metrics.counter("dropped.spool", len(dropped))
        self.metrics.counter(f"collected.{choice.policy}")
        self.metrics.counter(f"split.{choice.split}")
        if dropped:
            await self._set_trouble("the spool is full; the oldest samples are dropped")
        elif self._trouble:
            await self._set_trouble("")

    async def _set_trouble(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            self.log.warning("collector in trouble", reason=trouble)
        await self.set_state("degraded" if trouble else "ready", trouble)
