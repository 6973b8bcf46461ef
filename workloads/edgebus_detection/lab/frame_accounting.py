"""Frame accounting: failed, dropped and torn frames, as plain functions over the messages.

A detector's life is one connection of one process: it
begins with a birth (`ServiceState` with a new instance or session) and ends with the next. Within
a life every frame between its first and its last answer must be answered, or counted as dropped
by the detector itself. Frames between two lives could not be answered by anybody.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgebus.contracts import ModelStatus, ServiceState
from edgebus_detection.lab.frames import FrameEntry
from edgebus_detection.lab.summary import Frames
from edgebus_detection.messages import Detections

_IN_FLIGHT = timedelta(seconds=2)
"""Frames younger than this at the end may still be under way."""


@dataclass(frozen=True, slots=True)
class Life:
    """One connection of one detector process, from `born` on."""

    born: datetime
    instance: str
    session: int


@dataclass(frozen=True, slots=True)
class Serving:
    """A node's detector announced that it serves `digest` since `since`; it prepared it before."""

    digest: str
    since: datetime
    prepared: datetime


def lives_of(states: Iterable[ServiceState]) -> list[Life]:
    """The lives that a service announced, oldest first."""
    found: dict[tuple[str, int], Life] = {}
    for state in states:
        key = (state.instance, state.session)
        if state.state == "offline":  # a will: written at the connection it belongs to
            continue
        if key not in found or state.time < found[key].born:
            found[key] = Life(state.time, state.instance, state.session)
    return sorted(found.values(), key=lambda life: life.born)


def serving_of(statuses: Sequence[ModelStatus]) -> list[Serving]:
    """Every change of the serving model that a detector announced, oldest first."""
    found: list[Serving] = []
    for number, status in enumerate(statuses):
        if status.serving is None:
            continue
        digest = status.serving.digest
        since = status.since or status.time
        if found and found[-1].digest == digest:
            continue
        prepared = next(
            (
                earlier.time
                for earlier in statuses[:number]
                if earlier.target is not None
                and earlier.target.digest == digest
                and earlier.state in {"downloaded", "verified", "updating"}
            ),
            since,
        )
        found.append(Serving(digest, since, min(prepared, since)))
    return found


def count_frames(
    frames: Sequence[FrameEntry],
    *,
    lives: Sequence[Life],
    servings: Sequence[Serving],
    end: datetime,
    dead_letters: int = 0,
) -> Frames:
    """Count the frames of one camera, but not those held out.

    Args:
        frames: Its frames.
        lives: Lives of the detector of its node.
        servings: Models that this detector announced.
        end: When the observation ended.
        dead_letters: Frames of this camera that the detector could not handle.
    """
    sent = [frame for frame in frames if frame.sent or frame.answer is not None]
    ordered = sorted(sent, key=lambda frame: frame.captured)
    births = [life.born for life in lives]
    grouped: dict[int, list[Detections]] = {}
    for frame in ordered:
        if frame.answer is not None:
            life = bisect_right(births, frame.answer.detected)
            grouped.setdefault(life, []).append(frame.answer)
    failed = torn = in_swap = dropped = 0
    last_of_instance: dict[str, int] = {}
    for number, answers in sorted(grouped.items()):
        answers.sort(key=lambda answer: answer.detected)
        instance = lives[number - 1].instance if number else ""
        before = last_of_instance.get(instance, 0)
        dropped += max(0, answers[-1].dropped - before)
        last_of_instance[instance] = answers[-1].dropped
        first, last = answers[0].captured, answers[-1].captured
        reborn = bool(births) and births[-1] > answers[-1].detected
        if number == max(grouped) and not reborn:
            last = max(last, end - _IN_FLIGHT)
        between = [frame for frame in ordered if first <= frame.captured <= last]
        silent = sum(frame.answer is None for frame in between)
        # What was dropped before the first answer belongs to frames before `first`.
        counted = max(0, answers[-1].dropped - max(before, answers[0].dropped))
        failed += max(0, silent - counted)
        torn += _out_of_order(answers, servings)
        in_swap += _dropped_in_swaps(answers, servings)
    answered = sum(frame.answer is not None for frame in ordered)
    known = {serving.digest for serving in servings}
    torn += sum(
        frame.torn
        or (frame.answer is not None and bool(known) and frame.answer.model.digest not in known)
        for frame in ordered
    )
    silent = len(ordered) - answered
    return Frames(
        total=len(ordered),
        answered=answered,
        dropped=dropped,
        dropped_in_swap=in_swap,
        unserved=max(0, silent - dropped - failed),
        failed=failed + dead_letters,
        torn=torn,
    )


def _out_of_order(answers: Sequence[Detections], servings: Sequence[Serving]) -> int:
    """Answers of a model that had been replaced and was not announced again."""
    began: dict[str, datetime] = {}
    current: str | None = None
    wrong = 0
    known = {serving.digest for serving in servings}
    for answer in answers:
        digest = answer.model.digest
        if known and digest not in known:  # counted on its own
            continue
        if digest != current and digest in began:
            back = any(
                serving.digest == digest and serving.since > began[current or digest]
                for serving in servings
            )
            if not back:
                wrong += 1
                continue
        if digest != current:
            began[digest] = answer.detected
            current = digest
    return wrong


def _dropped_in_swaps(answers: Sequence[Detections], servings: Sequence[Serving]) -> int:
    """Frames passed over from the moment a new model was prepared until its third answer."""
    total = 0
    for at in range(1, len(answers)):
        digest = answers[at].model.digest
        if digest == answers[at - 1].model.digest:
            continue
        prepared = [
            serving.prepared
            for serving in servings
            if serving.digest == digest and serving.prepared <= answers[at].detected
        ]
        start = at - 1
        while start > 0 and prepared and answers[start].detected > prepared[-1]:
            start -= 1
        stop = min(at + 2, len(answers) - 1)
        total += max(0, answers[stop].dropped - answers[start].dropped)
    return total
