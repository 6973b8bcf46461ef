"""Schedule, averaging, early stopping and class balance."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from edgebus.training.finetune import TrainingDivergedError
from edgebus.training.finetune._batches import Batches, repeat_factors
from edgebus.training.finetune._run import WeightAverage, rate_at
from edgebus.training.graph import TorchGraph
from edgebus.training.settings import FinetuneSettings
from edgebus_detection.vision import Truth
from training_scenes import network, objective, prepare, scene, train

DAY = [scene(index) for index in range(24)]


def wrong(image):
    return replace(image, truth=replace(image.truth, labels=1 - image.truth.labels))


def test_the_rate_rises_and_falls_as_a_cosine():
    settings = FinetuneSettings(steps=100, warmup=0.1, final=0.05)
    rates = [rate_at(step, settings) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[-1] == pytest.approx(0.05)
    assert rates[54] == pytest.approx(0.525)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))


def test_a_run_that_learns_the_wrong_thing_is_stopped_at_its_best():
    # What it trains on gets every class wrong: the longer, the worse.
    right = TorchGraph(network(), scope="all")
    train(right, DAY, steps=120)
    known = right.tensors()
    settings = {"steps": 200, "validate_every": 0.05, "patience": 3, "learning_rate": 2e-3}
    graph = TorchGraph(network(), known, scope="all")
    held = [scene(index) for index in range(200, 212)]
    result = train(graph, [wrong(image) for image in DAY], validation=held, **settings)
    assert result.stopped
    assert result.steps < 200
    assert result.steps == result.best_step + 30
    assert [step for step, _ in result.validation] == list(range(10, result.steps + 1, 10))
    best = min(loss for _, loss in result.validation)
    assert dict(result.validation)[result.best_step] == best

    def loss_of(tensors):
        again = TorchGraph(network(), tensors, scope="all")
        return np.mean(train(again, held, steps=6, learning_rate=1e-12).losses)

    free = TorchGraph(network(), known, scope="all")
    train(free, [wrong(image) for image in DAY], **settings)
    assert loss_of(graph.tensors()) < 0.8 * loss_of(free.tensors())


def test_without_pictures_to_validate_on_every_step_is_done():
    result = train(TorchGraph(network()), DAY, steps=10)
    assert (result.steps, result.stopped, result.best_step) == (10, False, None)
    assert result.validation == ()


def test_a_run_that_gets_better_is_not_stopped():
    held = [scene(index) for index in range(200, 212)]
    result = train(TorchGraph(network(), scope="all"), DAY, validation=held, steps=100)
    assert not result.stopped
    assert result.best_step > 50


def test_pictures_to_validate_on_that_cannot_be_read_are_none():
    torn = replace(DAY[0], source=b"\xff\xd8 torn")
    result = train(TorchGraph(network()), DAY, validation=[torn], steps=10)
    assert result.steps == 10
    assert result.validation == ()


def test_a_validation_loss_that_is_not_finite_ends_the_run():
    poison = scene(500)

    def poisoned(image):
        tensor, place = prepare(image)
        same = np.array_equal(image, poison.load())
        return (tensor * np.float32("nan") if same else tensor), place

    with pytest.raises(TrainingDivergedError, match="step 6: loss nan"):
        train(TorchGraph(network()), DAY, prepare=poisoned, validation=[poison])


def test_the_average_forgets_the_start_and_follows():
    parameter = torch.nn.Parameter(torch.zeros(2))
    average = WeightAverage([parameter], horizon=4)
    for step in range(1, 201):
        with torch.no_grad():
            parameter.fill_(float(step))
        average.add(step)
    assert 195 < float(average.values[0][0]) < 200
    with average.applied():
        assert torch.equal(parameter.data, average.values[0])
    assert float(parameter[0].detach()) == 200
    last = WeightAverage([parameter], horizon=0)
    with torch.no_grad():
        parameter.fill_(7.3)
    last.add(1)
    assert torch.equal(last.values[0], parameter.data)


def test_without_averaging_the_last_weights_are_the_outcome():
    kept = {}
    graph = TorchGraph(network())

    def on_step(step):
        kept[step.step] = [p.detach().clone() for p in graph.parameters()]

    train(graph, DAY, steps=6, average=0.0, on_step=on_step)
    assert all(torch.equal(a, b.detach()) for a, b in zip(kept[6], graph.parameters(), strict=True))
    train(graph, DAY, steps=6, average=0.9, on_step=on_step)
    assert not all(
        torch.equal(a, b.detach()) for a, b in zip(kept[6], graph.parameters(), strict=True)
    )


def labelled(*labels):
    side = np.array([[index, 0, index + 4, 4] for index in range(len(labels))], np.float32)
    image = np.full((32, 32, 3), 9, np.uint8)
    return replace(
        DAY[0],
        name=f"{labels}",
        source=cv2.imencode(".png", image)[1].tobytes(),
        truth=Truth(side.reshape(-1, 4), np.array(labels, np.int64)),
    )


def test_repeat_factors_are_those_of_the_paper():
    labels = [(0,)] * 6 + [(0, 1)] * 2 + [()] * 8
    # class 0 on 8 of 16, class 1 on 2 of 16; threshold one half
    np.testing.assert_allclose(repeat_factors(labels, 0.5), [1] * 6 + [2] * 2 + [1] * 8)
    np.testing.assert_array_equal(repeat_factors(labels, 0.0), np.ones(16))


def test_rare_classes_come_more_often_when_asked_for():
    images = [labelled(0)] * 30 + [labelled(1)] * 2

    def share(balance):
        batches = Batches(
            new=images,
            replay=(),
            size=8,
            replay_share=0.0,
            objective=objective(),
            seed=0,
            balance=balance,
        )
        drawn = np.concatenate([row.truth.labels for _ in range(80) for row in batches.next().rows])
        return float((drawn == 1).mean())

    assert share(0.0) == pytest.approx(2 / 32, abs=0.01)
    # sqrt(0.5 / (2 / 32)) = 2.83 times as often
    assert share(0.5) == pytest.approx(2.83 * 2 / (30 + 2.83 * 2), abs=0.015)


def test_mixed_precision_is_for_cuda_only():
    plain, mixed = (
        train(TorchGraph(network()), DAY, steps=4, precision=precision).losses
        for precision in ("float32", "bfloat16")
    )
    assert plain == mixed


def test_the_graph_computes_in_mixed_precision():
    # The one thing that CUDA would do and a CPU can: the graph under autocast, batched.
    graph = TorchGraph(network())
    pictures = torch.from_numpy(np.concatenate([prepare(image.load())[0] for image in DAY[:4]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = graph(pictures, logits=True)["output"]
    exact = graph(pictures, logits=True)["output"]
    assert torch.isfinite(mixed.float()).all()
    assert float((mixed.float() - exact).abs().max().detach()) < 0.2
