"""Earlier pictures hold the graph to what it said; labels speak of their classes only."""

import numpy as np
import pytest
import torch

from edgebus.training.finetune import Batches
from edgebus.training.finetune._run import frozen_copy
from edgebus.training.graph import TorchGraph
from edgebus_detection.training.yolox import Anchors, LabelledImage, Target, yolox_loss
from edgebus_detection.training.yolox.loss import distillation_loss, other_classes
from training_scenes import CLASSES, network, objective, prepare, scene, train


def rows(*, objectness=(-6.0, 3.0), label=0):
    """One picture of two predictions: nothing, and an object."""
    raw = torch.zeros(1, 2, 5 + CLASSES)
    raw[0, :, 4] = torch.tensor(objectness)
    raw[0, :, 5:] = -4.0
    raw[0, 1, 5 + label] = 4.0
    return raw


def test_what_has_not_changed_costs_nothing_and_what_was_seen_weighs_most():
    was = rows()
    assert float(distillation_loss(was, was)) == pytest.approx(0.0, abs=1e-6)
    costs = []
    for number in (0, 1):
        moved = was.clone()
        moved[0, number, :4] += 1.0
        costs.append(float(distillation_loss(moved, was)))
    assert costs[0] < 0.01 * costs[1]
    assert float(distillation_loss(rows(label=1), was)) > 1.0
    assert float(distillation_loss(rows(objectness=(3.0, 3.0)), was)) > 1.0


def test_no_picture_costs_nothing():
    none = rows()[:0]
    assert float(distillation_loss(none, none)) == 0.0


def test_only_what_was_seen_of_other_classes_is_left_unsaid():
    was = rows(label=1)
    assert other_classes(was, [0]).tolist() == [[False, True]]
    assert other_classes(was, [0, 1]).tolist() == [[False, False]]
    assert other_classes(was, []).tolist() == [[False, True]]


def test_where_labels_do_not_speak_of_it_nothing_is_called_background():
    anchors = Anchors(corners=torch.zeros(2, 2), strides=torch.full((2, 1), 8.0))
    empty = Target(
        boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), ignore=torch.zeros(0, 4)
    )
    raw = rows().requires_grad_()
    yolox_loss(raw, [empty], anchors, unjudged=torch.tensor([[False, True]])).total.backward()
    assert raw.grad is not None
    assert float(raw.grad[0, 1].abs().sum()) == 0.0
    assert float(raw.grad[0, 0, 4]) > 0.0


def test_a_batch_says_which_of_its_pictures_are_earlier():
    sizes = {"new": 3, "replay": 5}
    groups = {name: [scene(i) for i in range(size)] for name, size in sizes.items()}
    batch = Batches(**groups, objective=objective(), size=4, replay_share=0.5, seed=0).next()
    assert sorted(batch.earlier) == [False, False, True, True]


def answers(graph, pictures):
    inputs = torch.from_numpy(np.concatenate([prepare(p.load())[0] for p in pictures]))
    with torch.no_grad():
        return graph(inputs)["output"].numpy()


def test_it_goes_on_saying_of_earlier_pictures_what_it_said():
    model = network()
    graph = TorchGraph(model, scope="all")
    day, dusk = [scene(i) for i in range(24)], [scene(i, dark=True) for i in range(24)]
    train(graph, day, steps=150)
    known = graph.tensors()
    said = answers(graph, day)
    # Whoever labelled the earlier pictures did not know of anything: that is not what is learnt.
    bare = [LabelledImage(p.name, p.source) for p in day]
    changed = {}
    for weight in (0.0, 1.0):
        again = TorchGraph(model, known, scope="all")
        train(again, dusk, bare, steps=60, replay_share=0.5, distillation_weight=weight)
        changed[weight] = float(np.abs(answers(again, day)[..., 4] - said[..., 4]).mean())
    assert changed[1.0] < 0.3 * changed[0.0]


def test_the_copy_stays_as_it_was():
    graph = TorchGraph(network(), scope="all")
    frozen = frozen_copy(graph)
    said = answers(frozen, [scene(0)])
    train(graph, [scene(i) for i in range(8)], steps=10)
    np.testing.assert_array_equal(answers(frozen, [scene(0)]), said)
    assert not np.array_equal(answers(graph, [scene(0)]), said)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
