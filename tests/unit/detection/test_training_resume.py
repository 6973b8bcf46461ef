"""An interrupted run goes on from its checkpoint, to the bit; a broken one costs its steps."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgebus.training.finetune import CheckpointError, Checkpoints, Snapshot
from edgebus.training.graph import TorchGraph
from edgebus_detection.training import AugmentSettings
from training_scenes import network, scene, train

STEPS = 12
DAY = [scene(index) for index in range(7)]
DUSK = [scene(index, dark=True) for index in range(50, 59)]
MANY = {
    "replay": DAY,
    "replay_share": 0.3,
    "balance": 0.8,
    "steps": STEPS,
    "augmentation": AugmentSettings(),
    "validate_every": 0.25,
    "patience": None,
}


def run(checkpoints=None, *, until=None, **changes):
    """A run with everything on; `until`: as if it were killed after so many steps."""
    seen = []

    def on_step(step):
        seen.append(step.step)
        if step.step == until:
            raise KeyboardInterrupt

    result = train(
        TorchGraph(network(), scope=changes.pop("scope", "biases+scales")),
        DUSK,
        validation=[scene(index, dark=True) for index in range(90, 96)],
        checkpoints=checkpoints,
        on_step=on_step,
        **(MANY | changes),
    )
    return result, seen


def bits(result):
    update = result.update
    parts = [*sorted(update.replace.items()), *sorted(update.scale.items())]
    return b"".join(name.encode() + value.tobytes() for name, value in parts)


@pytest.fixture
def store(tmp_path):
    return Checkpoints(tmp_path / "checkpoint.safetensors", every_steps=1, every_s=3600)


@pytest.mark.parametrize("scope", ["biases+scales", "all"])
@pytest.mark.parametrize("until", [1, 6, STEPS])
def test_an_interrupted_run_comes_to_the_same_result(store, until, scope):
    whole, _ = run(scope=scope)
    with pytest.raises(KeyboardInterrupt):
        run(store, until=until, scope=scope)
    second, seen = run(store, scope=scope)
    assert second.resumed_at == until
    assert seen == list(range(until + 1, STEPS + 1))
    assert second.warnings == ()
    assert second.losses == whole.losses
    assert second.validation == whole.validation
    assert second.best_step == whole.best_step
    assert bits(second) == bits(whole)


def test_weights_that_the_loss_does_not_depend_on_stay_as_they_are(store):
    model = network()
    model.graph.node.append(helper.make_node("Conv", ["c16", "aux.w"], ["aux"]))
    weight = np.ones((2, 24, 1, 1), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "aux.w"))
    model.graph.output.append(helper.make_tensor_value_info("aux", TensorProto.FLOAT, None))

    def result(checkpoints=None, until=None):
        def on_step(step):
            if step.step == until:
                raise KeyboardInterrupt

        graph = TorchGraph(model, scope="all")
        return train(graph, DUSK, steps=6, checkpoints=checkpoints, on_step=on_step)

    with pytest.raises(KeyboardInterrupt):
        result(store, until=3)
    second = result(store)
    assert second.resumed_at == 3
    assert "aux.w" not in second.update.replace
    assert bits(second) == bits(result())


def test_checkpoints_change_nothing(store):
    assert bits(run(store)[0]) == bits(run()[0])


def test_it_may_be_interrupted_again_and_again(store):
    whole, _ = run()
    for until in (2, 3, 9):
        with pytest.raises(KeyboardInterrupt):
            run(store, until=until)
    assert bits(run(store)[0]) == bits(whole)


def test_pictures_that_were_left_out_stay_out(store):
    torn = type(DUSK[0])(name="torn", source=b"\xff\xd8 torn")
    with pytest.raises(KeyboardInterrupt):
        run(store, until=8, replay=[*DAY, torn])
    result, _ = run(store, replay=[*DAY, torn])
    assert result.unreadable == ("torn",)
    assert bits(result) == bits(run(replay=[*DAY, torn])[0])


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text", "facts"])
def test_a_damaged_checkpoint_starts_over_with_a_warning(store, harm):
    whole, _ = run()
    with pytest.raises(KeyboardInterrupt):
        run(store, until=5)
    data = store.path.read_bytes()
    changed = {
        "cut": data[: len(data) // 2],
        "flip": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "empty": b"",
        "text": b"not a checkpoint",
        "facts": data.replace(b'\\"step\\": 5', b'\\"step\\": 4'),
    }[harm]
    assert changed != data
    store.path.write_bytes(changed)
    result, seen = run(store)
    assert seen[0] == 1
    assert result.resumed_at == 0
    (warning,) = result.warnings
    assert "is damaged" in warning
    assert "starts over" in warning
    assert bits(result) == bits(whole)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"steps": STEPS + 1}, {"replay": DAY[1:]}, {"scope": "all"}], ids=list
)
def test_a_checkpoint_of_another_run_is_not_taken(store, change):
    with pytest.raises(KeyboardInterrupt):
        run(store, until=5)
    result, seen = run(store, **change)
    assert seen[0] == 1
    assert "other items, labels, weights or settings" in result.warnings[0]


def test_a_disk_that_takes_no_checkpoint_does_not_end_the_run(tmp_path):
    store = Checkpoints(tmp_path / "nowhere" / "checkpoint.safetensors", every_steps=3)
    result, _ = run(store)
    assert result.steps == STEPS
    (warning,) = result.warnings
    assert "no checkpoint after step 3" in warning
    assert bits(result) == bits(run()[0])


def test_a_checkpoint_is_whole_or_the_one_before(store):
    snapshot = Snapshot(run="a", step=1, facts={"x": [1.5]}, arrays={"w": np.float32([1, 2])})
    store.save(snapshot)
    left = store.path.with_name(f".{store.path.name}.4711.part")
    left.write_bytes(b"half")
    found = store.load("a")
    assert (found.step, found.facts["x"]) == (1, [1.5])
    np.testing.assert_array_equal(found.arrays["w"], [1, 2])
    assert not left.exists()
    with pytest.raises(CheckpointError, match="another run"):
        store.load("b")
    store.path.unlink()
    assert store.load("a") is None


def test_time_decides_when_nothing_else_does(tmp_path):
    assert Checkpoints(tmp_path / "a", every_s=1e-9).due(1)
    patient = Checkpoints(tmp_path / "b", every_s=3600, every_steps=4)
    assert [step for step in range(1, 9) if patient.due(step)] == [4, 8]


def test_chance_comes_from_the_run_alone():
    torch.manual_seed(1)
    first = bits(run()[0])
    torch.manual_seed(2)
    np.random.seed(3)
    assert bits(run()[0]) == first
