"""Model cards: lineage, data and figures of a version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from edgebus.artifacts import Bundle
from edgebus.contracts import (
    Change,
    DomainReport,
    GateReport,
    LabelReport,
    ModelRef,
    Timestamp,
    utc_now,
)
from edgebus.files import write_file
from edgebus.training.job_spec import JobOutcome, JobSpec
from edgebus.training.settings import TrainSettings
from edgebus.training.trainer import Material
from edgebus_detection.datasets.labelled import Labelled
from edgebus_detection.metrics.measuring import MAP
from edgebus_detection.models import detection_spec
from edgebus_detection.training.curves import draw_curves
from edgebus_detection.training.options import DetectionTraining

if TYPE_CHECKING:
    from edgebus.training.finetune import FinetuneResult


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PictureSet(_Part):
    """The contents of one set of pictures.

    Attributes:
        name: new, replay, held-out new, held-out old.
        pictures: How many.
        with_boxes: Those that something is on.
        sources: Pictures of each camera (site/node/service/camera) or data set.
        labels: Pictures by who labelled them.
        boxes: Boxes of each class.
    """

    name: str
    pictures: int
    with_boxes: int
    sources: dict[str, int]
    labels: dict[str, int]
    boxes: dict[str, int]


class ModelCard(_Part):
    """The card of one candidate, as `card.json` holds it (after Mitchell et al., FAT* 2019).

    Attributes:
        model: Name of the model.
        version: Version of the candidate.
        parent: What was trained further.
        weights: Digest of the candidate's weights; None where none was written.
        job: The job that made it.
        created: When.
        outcome: accepted or refused.
        reason: Why, with figures.
        data: What was trained on and measured on.
        left_out: Training pictures that looked like held-out ones.
        settings: How it was trained.
        options: Label sources and augmentation.
        gate: The gate's figures.
        losses: Loss of each step.
        validation: Steps and the loss on pictures that were set aside.
        validated_on: How many these were.
        best_step: The step whose weights are the outcome; None: the last.
        resumed_at: Steps that were done before a crash.
        seconds: Per phase.
        unusable: How many pictures and labels could not be used.
        labels: Label sources of the samples, and what was overruled.
    """

    model: str
    version: int
    parent: ModelRef
    weights: str | None
    job: str
    created: Timestamp
    outcome: str
    reason: str
    data: tuple[PictureSet, ...]
    left_out: int
    settings: TrainSettings
    options: DetectionTraining
    gate: GateReport
    losses: tuple[float, ...]
    validation: tuple[tuple[int, float], ...]
    validated_on: int
    best_step: int | None
    resumed_at: int
    seconds: dict[str, float]
    unusable: int
    labels: LabelReport


def make_card(
    spec: JobSpec,
    options: DetectionTraining,
    base: Bundle,
    *,
    material: Material[Labelled],
    learnt: FinetuneResult,
    outcome: JobOutcome,
) -> ModelCard:
    """The card of a candidate that was measured.

    Args:
        spec: The job.
        options: Its label sources and augmentation.
        base: What was trained further.
        material: What was trained on and measured on.
        learnt: The training run.
        outcome: How it ended; it has a gate's report.
    """
    classes = detection_spec(base.manifest).classes
    sets = (
        ("new", material.new),
        ("replay", material.replay),
        ("held-out new", material.new_holdout),
        ("held-out old", material.old_holdout),
    )
    gate = outcome.gate
    assert gate is not None
    bundle = None if outcome.bundle is None else Bundle.open(outcome.bundle)
    return ModelCard(
        model=spec.model or base.manifest.name,
        version=spec.version,
        parent=base.ref,
        weights=None if bundle is None else bundle.index.file("weights.safetensors").digest,
        job=spec.job,
        created=utc_now(),
        outcome=outcome.outcome,
        reason=outcome.reason,
        data=tuple(_set(name, pictures, classes) for name, pictures in sets),
        left_out=gate.left_out,
        settings=spec.settings,
        options=options,
        gate=gate,
        losses=learnt.losses,
        validation=learnt.validation,
        validated_on=learnt.validated_on,
        best_step=learnt.best_step,
        resumed_at=learnt.resumed_at,
        seconds=outcome.seconds,
        unusable=len(outcome.unusable),
        labels=material.labels,
    )


def write_card(card: ModelCard, folder: Path) -> None:
    """Write `card.json`, `card.md` and `curves.svg`.

    Raises:
        OSError: The disk is full or broken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw_curves(
        card.losses, card.validation, resumed_at=card.resumed_at, best_step=card.best_step
    )
    write_file(folder / "curves.svg", picture.encode())
    write_file(folder / "card.json", card.model_dump_json(indent=1).encode())
    write_file(folder / "card.md", markdown(card).encode())


def markdown(card: ModelCard) -> str:
    """The card as Markdown."""
    settings = card.settings
    run = f"{len(card.losses)} of {settings.steps} steps of {settings.batch} pictures"
    if card.best_step is not None:
        run += f", the weights after step {card.best_step}"
    if card.resumed_at:
        run += f", taken up again at step {card.resumed_at} after a crash"
    lines = [
        f"# {card.model} v{card.version}: {card.outcome}",
        "",
        f"{_plain(card.reason)}.",
        "",
        *_table(
            ("", ""),
            [
                ("parent", f"v{card.parent.version}, `{card.parent.digest[:16]}`"),
                ("weights", "none written" if card.weights is None else f"`{card.weights[:16]}`"),
                ("job", f"`{card.job}`, {card.created:%Y-%m-%d %H:%M} UTC"),
                ("trained", f"{settings.scope}, {run}, seed {settings.seed}"),
                ("time", ", ".join(f"{k} {v:.1f} s" for k, v in card.seconds.items())),
            ],
        ),
        "",
        "## Data",
        "",
        *_table(
            ("set", "pictures", "with boxes", "labels", "from"),
            [
                (s.name, s.pictures, s.with_boxes, _counts(s.labels), _counts(s.sources))
                for s in card.data
            ],
        ),
        "",
        f"{card.left_out} training pictures were left out because they look like held-out ones; "
        f"{card.unusable} pictures or labels could not be used. {_validated(card)}",
        "",
        *_table(
            ("boxes of", *(s.name for s in card.data)),
            [
                (label, *(s.boxes.get(label, 0) for s in card.data))
                for label in dict.fromkeys(label for s in card.data for label in s.boxes)
            ],
        ),
        "",
        *_labels(card.labels),
        "## Figures",
        "",
        "On held-out pictures, through ONNX Runtime, incumbent and candidate.",
    ]
    for domain in card.gate.domains:
        lines += ["", *_domain(domain, card.gate)]
    lines += ["", *_speed(card.gate), "", "![Loss per step](curves.svg)", ""]
    lines += _limits(card)
    return "\n".join(lines) + "\n"


def _labels(labels: LabelReport) -> list[str]:
    """Label sources, conflicts, and how good the teacher is."""
    lines = [
        "## Labels of the samples",
        "",
        f"Boxes by {_counts(labels.labels)}; {labels.ignored} regions ignored, "
        f"{labels.inconsistent} of them boxes that the teacher did not repeat in the next, nearly "
        "equal picture.",
        "",
    ]
    if labels.conflicts:
        lines += [*_table(("conflict", "boxes"), sorted(labels.conflicts.items())), ""]
    if labels.thresholds:
        head = ("teacher's boxes of", "labels from", "why", "precision", "recall", "of", "there")
        rows = [
            (
                _plain(each.label),
                "none" if each.accept is None else f"{each.accept:.2f}",
                each.why,
                *("" if v is None else f"{v:.3f}" for v in (each.precision, each.recall)),
                each.predicted,
                each.actual,
            )
            for each in labels.thresholds
        ]
        lines += [*_table(head, rows), ""]
    return lines


def _domain(domain: DomainReport, gate: GateReport) -> list[str]:
    names = {MAP: "mAP50-95"}
    rows: list[tuple[object, ...]] = [
        (
            names.get(name, name.replace("_", " ")),
            *_both(change),
            "" if name in domain.lower_is_better else domain.labels,
        )
        for name, change in domain.figures.items()
    ]
    for kind, parts in domain.groups.items():
        prefix = "" if kind == "class" else "camera "
        rows += [
            (f"{prefix}{_plain(name)}", *_both(change), change.labels)
            for name, change in parts.items()
        ]
    title = (
        f"**{domain.name} domain**, {domain.items} pictures, labels: {domain.labelled_by or '?'}"
    )
    if domain.gain_low is not None and domain.gain_high is not None and gate.confidence:
        title += (
            f"; gain in {domain.deciding} {domain.gain_low:+.3f} to {domain.gain_high:+.3f} "
            f"({gate.confidence:.0%} interval)"
        )
    return [title, "", *_table(("", "before", "after", "change", "boxes"), rows)]


def _both(change: Change) -> tuple[str, str, str]:
    return f"{change.before:.3f}", f"{change.after:.3f}", f"{change.rise:+.3f}"


def _speed(gate: GateReport) -> list[str]:
    if gate.latency_ms_before is None or gate.latency_ms_after is None:
        return ["Latency was not measured."]
    return [
        f"One picture takes {gate.latency_ms_after:.1f} ms on the training host, "
        f"the incumbent {gate.latency_ms_before:.1f} ms."
    ]


def _limits(card: ModelCard) -> list[str]:
    found = [
        f"Measured on {domain.items} pictures of the {domain.name} domain, whose labels are from: "
        f"{domain.labelled_by or '?'}."
        for domain in card.gate.domains
    ]
    if any("teacher" in domain.labelled_by for domain in card.gate.domains):
        found.append("What the teacher gets wrong counts as right.")
    if len(card.gate.domains) < 2:
        found.append("Whether it has forgotten anything was not measured.")
    return ["## Limits", "", *(f"- {text}" for text in found)]


def _validated(card: ModelCard) -> str:
    if not card.validated_on:
        return "None were set aside for early stopping: there were too few."
    return f"{card.validated_on} were set aside for early stopping."


def _set(name: str, pictures: Sequence[Labelled], classes: Sequence[str]) -> PictureSet:
    boxes = Counter(int(label) for picture in pictures for label in picture.truth.labels)
    return PictureSet(
        name=name,
        pictures=len(pictures),
        with_boxes=sum(bool(len(picture.truth.labels)) for picture in pictures),
        sources=_ordered(picture.group.rpartition("/")[0] for picture in pictures),
        labels=_ordered(picture.provenance for picture in pictures),
        boxes={classes[label]: count for label, count in boxes.most_common()},
    )


def _ordered(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{_plain(name)} {count}" for name, count in counts.items()) or "none"


def _plain(text: str) -> str:
    """Text that no Markdown cell breaks on."""
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in cells]
