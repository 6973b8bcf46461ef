"""Training a small YOLOX-style graph: it learns, it keeps, it says when it cannot."""

import cv2
import numpy as np
import pytest
import torch

from edgebus.artifacts import apply_update
from edgebus.training.finetune import NothingToTrainOnError, TrainingDivergedError
from edgebus.training.graph import TorchGraph
from edgebus_detection.training.yolox import (
    HeadMismatchError,
    LabelledImage,
    YoloxHead,
    decode_boxes,
)
from training_scenes import CLASSES, HEAD, SIDE, STILL, network, prepare, scene, train


def test_it_learns_one_picture_by_heart():
    picture = scene(3)
    graph = TorchGraph(network(), scope="all")
    result = train(
        graph,
        [picture],
        steps=150,
        learning_rate=2e-3,
        augmentation=STILL.model_copy(update={"flip": 0.0}),
    )
    assert np.mean(result.losses[-5:]) < 0.2 * np.mean(result.losses[:5])
    tensor, _ = prepare(picture.load())
    with torch.no_grad():
        rows = graph(torch.from_numpy(tensor))["output"][0]
    best = int((rows[:, 4] * rows[:, 5:].max(1).values).argmax())
    boxes = decode_boxes(rows[:, :4], HEAD.anchors(torch.device("cpu")))
    assert int(rows[best, 5:].argmax()) == int(picture.truth.labels[0])
    np.testing.assert_allclose(boxes[best].numpy(), picture.truth.boxes[0], atol=2.0)


@pytest.mark.parametrize("scope", ["biases", "biases+scales", "head", "all"])
def test_the_loss_falls_whatever_is_trained(scope):
    graph = TorchGraph(network(), scope=scope)
    result = train(graph, [scene(i) for i in range(24)])
    assert result.steps == 60
    assert not result.stopped
    assert result.trainable == graph.trainable
    assert np.mean(result.losses[-10:]) < 0.93 * np.mean(result.losses[:5])


def test_the_update_is_what_was_trained():
    model = network()
    graph = TorchGraph(model)
    before = {name: value.copy() for name, value in graph.tensors().items()}
    result = train(graph, [scene(i) for i in range(8)], steps=5)
    rebuilt = apply_update(before, result.update)
    for name, value in graph.tensors().items():
        assert value.tobytes() == rebuilt[name].tobytes(), name
    assert any(not np.array_equal(rebuilt[name], before[name]) for name in before)


def test_equal_seeds_give_equal_updates():
    updates = [
        train(TorchGraph(network()), [scene(i) for i in range(8)], steps=6, seed=seed).update
        for seed in (1, 1, 2)
    ]
    first, second, other = (
        np.concatenate([v.reshape(-1) for v in u.replace.values()]) for u in updates
    )
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()


def test_replay_keeps_what_was_known():
    model = network()
    graph = TorchGraph(model, scope="all")
    day = [scene(i) for i in range(24)]
    train(graph, day, steps=200)
    known = graph.tensors()
    dusk = [scene(i, dark=True) for i in range(100, 124)]

    def loss_by_day(replay):
        second = TorchGraph(model, known, scope="all")
        train(second, dusk, replay, replay_share=0.5, steps=120, learning_rate=5e-3)
        # One step at no learning rate to speak of measures the loss.
        return np.mean(train(second, day, steps=6, learning_rate=1e-12).losses)

    assert loss_by_day(day) < 0.8 * loss_by_day(())


def test_every_step_is_reported_and_a_stop_is_obeyed():
    seen = []
    result = train(
        TorchGraph(network()),
        [scene(0)],
        on_step=seen.append,
        stop=lambda: len(seen) == 4,
    )
    assert [s.step for s in seen] == [1, 2, 3, 4]
    assert all(s.steps == 60 and s.parts["matched"] > 0 for s in seen)
    assert seen[0].learning_rate < seen[3].learning_rate == pytest.approx(5e-3, rel=0.01)
    assert result.stopped
    assert result.steps == 4
    assert result.losses == tuple(s.loss for s in seen)


def test_divergence_is_an_error_not_a_model():
    with pytest.raises(TrainingDivergedError, match="lower the learning rate") as caught:
        train(
            TorchGraph(network(), scope="all"),
            [scene(i) for i in range(8)],
            learning_rate=1e6,
            steps=60,
        )
    assert caught.value.step < 60
    assert caught.value.learning_rate == 1e6


def test_pictures_that_are_not_finite_are_an_error():
    def poisoned(image):
        tensor, place = prepare(image)
        return tensor * np.float32("nan"), place

    with pytest.raises(TrainingDivergedError, match="step 1"):
        train(TorchGraph(network()), [scene(0)], prepare=poisoned)


def test_empty_pictures_teach_silence():
    empty = LabelledImage(
        name="empty",
        source=cv2.imencode(".png", np.full((SIDE, SIDE, 3), 100, np.uint8))[1].tobytes(),
    )
    graph = TorchGraph(network())
    result = train(graph, [empty], steps=40)
    assert result.losses[-1] < 0.7 * result.losses[0]


def test_unreadable_pictures_are_reported():
    broken = LabelledImage(name="broken", source=b"\xff\xd8 torn")
    result = train(TorchGraph(network()), [scene(0), broken], steps=3)
    assert result.unreadable == ("broken",)
    with pytest.raises(NothingToTrainOnError):
        train(TorchGraph(network()), [broken])


@pytest.mark.parametrize(
    "changes", [{"classes": 3}, {"strides": (8, 16, 32)}, {"height": 64}], ids=str
)
def test_another_head_is_refused(changes):
    fields = {"height": SIDE, "width": SIDE, "classes": CLASSES, "strides": (8, 16)} | changes
    with pytest.raises(HeadMismatchError, match=r"\(8, 20, 7\)"):
        train(TorchGraph(network()), [scene(0)], head=YoloxHead(**fields))


def test_torch_has_its_threads_back():
    before = torch.get_num_threads()
    train(TorchGraph(network()), [scene(0)], steps=1, threads=1)
    assert torch.get_num_threads() == before
