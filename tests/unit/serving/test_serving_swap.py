from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from edgebus.artifacts import Bundle
from edgebus.serving import (
    EngineError,
    EngineSettings,
    HotSwap,
    ModelRefusedError,
    NoPreviousModelError,
    OrtEngine,
    ProbeError,
    make_probe,
    run_probe,
)
from edgebus_detection.models import probe_picture
from edgebus_detection.models.testing import tiny_bundle, tiny_picture

ONE = EngineSettings(threads=1)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return tiny_bundle(folder / "v1"), tiny_bundle(folder / "v2", version=2, gain=0.3)


class Wrapped:
    """An engine that spoils its outputs."""

    def __init__(self, source, settings, spoil) -> None:
        self._engine = OrtEngine(source, settings)
        self._spoil = spoil
        self.name = self._engine.name

    def run(self, inputs):
        outputs = self._engine.run(inputs)
        return {name: self._spoil(output.copy()) for name, output in outputs.items()}


def spoiled(spoil, *, only: int = 2):
    def make(source, settings):
        if source.manifest.version == only:
            return Wrapped(source, settings, spoil)
        return OrtEngine(source, settings)

    return make


def with_nan(output):
    output[0, 3, 4] = np.nan
    return output


def test_the_probe_picture_never_changes(bundles) -> None:
    picture = probe_picture(bundles[0].manifest, seed=0)
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    # Pinned: bundles in the field carry what came out of this very picture.
    assert [int(v) for v in picture[0, 0]] == [73, 163, 128]
    assert int(picture.sum()) == 1123036
    assert (picture != probe_picture(bundles[0].manifest, seed=1)).any()


def test_an_engine_passes_its_own_probe(bundles) -> None:
    bundle = bundles[0]
    expected = bundle.probe()
    assert expected is not None
    assert run_probe(OrtEngine(bundle, ONE), bundle.manifest, expected) <= 1e-3
    spec, again = make_probe(bundle, settings=ONE)
    assert spec == bundle.manifest.probe
    assert (again["index/output"] == expected["index/output"]).all()
    assert sum(value.nbytes for value in again.values()) < 4096


def test_another_models_probe_fails(bundles) -> None:
    first, second = bundles
    with pytest.raises(ProbeError, match=r"output output: value \d+ is .* expected"):
        run_probe(OrtEngine(first, ONE), first.manifest, second.probe())


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"index/output": np.array([10**9]), "value/output": np.zeros(1, np.float32)},
        {"index/output": np.array([0, 1]), "value/output": np.zeros(1, np.float32)},
    ],
)
def test_a_probe_that_does_not_belong_is_refused(bundles, tensors) -> None:
    tensors = tensors or {"index/other": np.array([0])}
    with pytest.raises(ProbeError):
        run_probe(OrtEngine(bundles[0], ONE), bundles[0].manifest, tensors)


def test_not_finite_is_refused_without_a_probe_too(bundles) -> None:
    engine = Wrapped(bundles[0], ONE, with_nan)
    with pytest.raises(EngineError, match="not finite"):
        run_probe(engine, bundles[0].manifest, None)


def test_swap_and_back(bundles) -> None:
    first, second = bundles
    swap = HotSwap(ONE)
    assert swap.current is None
    with pytest.raises(NoPreviousModelError):
        swap.rollback()
    swap.switch(swap.prepare(first))
    candidate = swap.prepare(second)
    assert swap.current is not None
    assert swap.current.ref.version == 1  # prepared is not serving
    assert swap.switch(candidate) < 50
    assert (swap.current.ref.version, swap.previous.ref.version) == (2, 1)
    assert swap.rollback().ref.version == 1
    assert swap.previous is None


@pytest.mark.parametrize(
    ("spoil", "stage"),
    [
        (with_nan, "warm-up"),
        (lambda output: output[:, :5], "warm-up"),
        (lambda output: output * 1.01, "probe"),
    ],
    ids=["nan", "shape", "wrong numbers"],
)
def test_a_candidate_that_fails_never_serves(bundles, spoil, stage) -> None:
    first, second = bundles
    swap = HotSwap(ONE, make_engine=spoiled(spoil))
    swap.switch(swap.prepare(first))
    serving = swap.current
    with pytest.raises(ModelRefusedError, match=f"tiny v2 .* failed its {stage}") as caught:
        swap.prepare(second)
    assert caught.value.stage == stage
    assert caught.value.model == second.ref
    assert swap.current is serving
    assert len(serving.model.detect(tiny_picture())[0]) == 2


def test_an_unknown_decoder_is_refused_on_load(bundles) -> None:
    first = bundles[0]
    workload = first.manifest.workload | {"decoder": {"kind": "ssd"}}
    manifest = first.manifest.model_copy(update={"workload": workload})
    with pytest.raises(ModelRefusedError, match="no decoder 'ssd'"):
        HotSwap(ONE).prepare(dataclasses.replace(first, manifest=manifest))


def test_every_frame_is_answered_by_one_whole_model_while_models_change(tmp_path: Path) -> None:
    # Each version finds the red square with another certainty, so that a score tells its model.
    bundles = [tiny_bundle(tmp_path / f"v{n}", version=n, gain=0.02 + n / 400) for n in (1, 2)]
    low = {"threshold": 0.1}
    swap = HotSwap(ONE, options=low)
    swap.switch(swap.prepare(bundles[0]))
    picture = tiny_picture(blue=None)
    scores = {
        bundle.digest: HotSwap(ONE, options={"threshold": 0.1})
        .prepare(bundle)
        .model.detect(picture)[0]
        .scores
        for bundle in bundles
    }
    assert not np.array_equal(*scores.values())
    answers: list[tuple[str, np.ndarray]] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            serving = swap.current
            assert serving is not None
            found, _ = serving.model.detect(picture)
            answers.append((serving.ref.digest, found.scores))

    worker = threading.Thread(target=serve)
    worker.start()
    try:
        for turn in range(12):
            swap.switch(swap.prepare(bundles[(turn + 1) % 2]))
    finally:
        stop.set()
        worker.join()
    assert {digest for digest, _ in answers} == set(scores)
    assert all(np.array_equal(found, scores[digest]) for digest, found in answers)
