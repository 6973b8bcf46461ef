"""A tiny YOLOX-style network and pictures that it can learn, for tests of training."""

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgebus.training.finetune import alone, finetune
from edgebus.training.settings import FinetuneSettings
from edgebus_detection.training import AugmentSettings
from edgebus_detection.training.yolox import LabelledImage, YoloxHead, YoloxObjective
from edgebus_detection.vision import Truth

SIDE, CLASSES = 32, 2
HEAD = YoloxHead(height=SIDE, width=SIDE, classes=CLASSES, strides=(8, 16))


def network(seed=0):
    """Stride 8 and 16 under one head: [1, 16 + 4, 5 + 2], scores after a sigmoid, batch 1."""
    rng = np.random.default_rng(seed)
    tensors, nodes = {}, []

    def conv(name, x, y, inputs, outputs, kernel, stride=1, bias=0.0):
        fan = inputs * kernel * kernel
        weight = rng.normal(size=(outputs, inputs, kernel, kernel)) * (2 / fan) ** 0.5
        tensors[f"{name}.w"] = weight.astype(np.float32)
        tensors[f"{name}.b"] = np.full(outputs, bias, np.float32)
        pads = [kernel // 2] * 4
        nodes.append(
            helper.make_node(
                "Conv", [x, f"{name}.w", f"{name}.b"], [y], strides=[stride] * 2, pads=pads
            )
        )

    def relu(x, y):
        nodes.append(helper.make_node("Relu", [x], [y]))

    conv("a", "images", "a", 3, 12, 3, 2)
    relu("a", "ar")
    conv("b", "ar", "b", 12, 24, 3, 2)
    relu("b", "br")
    conv("c", "br", "c", 24, 24, 3, 2)
    relu("c", "c8")
    conv("d", "c8", "d", 24, 24, 3, 2)
    relu("d", "c16")
    for level in ("8", "16"):
        conv(f"box{level}", f"c{level}", f"box{level}", 24, 4, 1)
        # Boxes begin at the size of a cell, or most never meet what they shall cover.
        tensors[f"box{level}.w"] *= 0.05
        conv(f"obj{level}", f"c{level}", f"obj{level}", 24, 1, 1, bias=-2.0)
        conv(f"cls{level}", f"c{level}", f"cls{level}", 24, CLASSES, 1)
        parts = [f"box{level}"]
        for part in ("obj", "cls"):
            nodes.append(helper.make_node("Sigmoid", [f"{part}{level}"], [f"{part}{level}.score"]))
            parts.append(f"{part}{level}.score")
        nodes.append(helper.make_node("Concat", parts, [f"all{level}"], axis=1))
        nodes.append(helper.make_node("Reshape", [f"all{level}", "flat"], [f"flat{level}"]))
    nodes.append(helper.make_node("Concat", ["flat8", "flat16"], ["flat_all"], axis=2))
    nodes.append(helper.make_node("Transpose", ["flat_all"], ["output"], perm=[0, 2, 1]))
    inits = [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    inits.append(numpy_helper.from_array(np.array([1, 5 + CLASSES, -1], np.int64), "flat"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 20, 5 + CLASSES])],
        inits,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


class Same:
    def to_input(self, boxes):
        return boxes


def prepare(image):
    return (image.astype(np.float32).transpose(2, 0, 1)[None] - 114) / 64, Same()


def scene(index, *, dark=False):
    """One coloured square on grey: blue is class 0, red is class 1."""
    rng = np.random.default_rng(index)
    size = int(rng.integers(8, 15))
    x, y = (int(v) for v in rng.integers(1, SIDE - size - 1, 2))
    label = int(rng.integers(0, 2))
    image = np.full((SIDE, SIDE, 3), 100, np.uint8)
    image[y : y + size, x : x + size] = (220, 40, 40) if label == 0 else (40, 40, 220)
    if dark:
        image = (image * 0.25).astype(np.uint8)
    return LabelledImage(
        name=f"{index}",
        source=cv2.imencode(".png", image)[1].tobytes(),
        truth=Truth(np.float32([[x, y, x + size, y + size]]), np.array([label])),
    )


SETTINGS = FinetuneSettings(steps=60, learning_rate=5e-3, replay_share=0.0, threads=1)
STILL = AugmentSettings(scale=0, translate=0, brightness=0, contrast=0)


_OBJECTIVE = ("head", "prepare", "augmentation", "classes")
_ARGUMENTS = ("on_step", "stop", "validation", "checkpoints", "team")


def objective(**changes):
    return YoloxObjective(**({"head": HEAD, "prepare": prepare, "augmentation": STILL} | changes))


def train(graph, new, replay=(), **changes):
    what = {k: changes.pop(k) for k in _OBJECTIVE if k in changes}
    more = {k: changes.pop(k) for k in _ARGUMENTS if k in changes}
    return finetune(
        graph,
        objective=objective(**what),
        new=new,
        replay=replay,
        settings=FinetuneSettings(**(SETTINGS.model_dump() | changes)),
        **({"team": alone("cpu")} | more),
    )
