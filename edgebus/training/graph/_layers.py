"""Rules of the operators with weights or windows: convolution, pooling, resizing, matrices."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebus.training.graph._node import NodeView, NotSupported, Op, ints, rule

__all__: list[str] = []

_WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
_CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_CONV_TRANSPOSE = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


def _halves(pads: list[int]) -> tuple[list[int], list[int] | None]:
    """ONNX pads (all begins, then all ends) as (symmetric padding, extra `F.pad` argument)."""
    half = len(pads) // 2
    begin, end = pads[:half], pads[half:]
    if begin == end:
        return begin, None
    # F.pad wants the last axis first, begin and end in turn.
    return [0] * half, [p for axis in reversed(range(half)) for p in (begin[axis], end[axis])]


def _weight_rank(node: NodeView, index: int) -> int:
    shape = node.shape(index)
    if shape is None:
        msg = f"the weight {node.inputs[index]!r} is computed by the graph; it must be a tensor"
        raise NotSupported(msg)
    if len(shape) not in _CONV:
        msg = f"a weight of {len(shape)} dimensions; known: 3, 4 or 5"
        raise NotSupported(msg)
    return len(shape)


def _auto_pad(node: NodeView) -> None:
    node.must_be(auto_pad=("NOTSET", "VALID"))
    if node.get("auto_pad", "NOTSET") == "VALID" and any(node.get("pads", [])):
        msg = "auto_pad = 'VALID' together with pads"
        raise NotSupported(msg)


@rule("Conv", attributes=(*_WINDOW, "group"))
def _conv(node: NodeView) -> Op:
    rank = _weight_rank(node, 1)
    _auto_pad(node)
    axes = rank - 2
    function: Any = _CONV[rank]
    padding, extra = _halves(node.get("pads", [0] * (2 * axes)))
    stride = node.get("strides", [1] * axes)
    dilation = node.get("dilations", [1] * axes)
    groups = int(node.get("group", 1))

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if extra is not None:
            x = F.pad(x, extra)
        result: Tensor = function(x, weight, bias, stride, padding, dilation, groups)
        return result

    return run


@rule("ConvTranspose", attributes=(*_WINDOW, "group", "output_padding"))
def _conv_transpose(node: NodeView) -> Op:
    rank = _weight_rank(node, 1)
    _auto_pad(node)
    axes = rank - 2
    function: Any = _CONV_TRANSPOSE[rank]
    padding, extra = _halves(node.get("pads", [0] * (2 * axes)))
    if extra is not None:
        msg = f"pads = {node.get('pads', [])} differ at begin and end"
        raise NotSupported(msg)
    stride = node.get("strides", [1] * axes)
    more = node.get("output_padding", [0] * axes)
    groups = int(node.get("group", 1))
    dilation = node.get("dilations", [1] * axes)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        result: Tensor = function(x, weight, bias, stride, padding, more, groups, dilation)
        return result

    return run


def _pool_axes(node: NodeView) -> int:
    axes = len(node.get("kernel_shape", []))
    if axes != 2:
        msg = f"kernel_shape = {node.get('kernel_shape', [])}; known: two axes"
        raise NotSupported(msg)
    if len(node.outputs) > 1:
        msg = "second output (indices); known: the first output only"
        raise NotSupported(msg)
    return axes


@rule("MaxPool", attributes=(*_WINDOW, "ceil_mode", "storage_order"))
def _max_pool(node: NodeView) -> Op:
    axes = _pool_axes(node)
    _auto_pad(node)
    node.must_be(storage_order=0, ceil_mode=(0, 1))
    kernel = node.get("kernel_shape", [])
    padding, extra = _halves(node.get("pads", [0] * (2 * axes)))
    ceil = bool(node.get("ceil_mode", 0))
    if ceil and (extra is not None or any(padding)):
        msg = "ceil_mode = 1 together with pads"
        raise NotSupported(msg)
    if any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
        # torch refuses such padding as an argument; the result is the same.
        extra = [p for axis in reversed(range(axes)) for p in (padding[axis], padding[axis])]
        padding = [0] * axes
    stride = node.get("strides", [1] * axes)
    dilation = node.get("dilations", [1] * axes)

    def run(x: Tensor) -> Tensor:
        if extra is not None:
            x = F.pad(x, extra, value=float("-inf"))
        return F.max_pool2d(x, kernel, stride, padding, dilation, ceil)

    return run


@rule("AveragePool", attributes=(*_WINDOW, "ceil_mode", "count_include_pad"))
def _average_pool(node: NodeView) -> Op:
    axes = _pool_axes(node)
    _auto_pad(node)
    node.must_be(ceil_mode=0, count_include_pad=(0, 1))
    if any(d != 1 for d in node.get("dilations", [])):
        msg = f"attribute dilations = {node.get('dilations', [])}; known: all 1"
        raise NotSupported(msg)
    kernel = node.get("kernel_shape", [])
    padding, extra = _halves(node.get("pads", [0] * (2 * axes)))
    if extra is not None or any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
        msg = f"pads = {node.get('pads', [])}; known: equal at begin and end, at most half a window"
        raise NotSupported(msg)
    stride = node.get("strides", [1] * axes)
    count = bool(node.get("count_include_pad", 0))
    return lambda x: F.avg_pool2d(x, kernel, stride, padding, False, count)


@rule("GlobalAveragePool")
def _global_average_pool(_node: NodeView) -> Op:
    return lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@rule("GlobalMaxPool")
def _global_max_pool(_node: NodeView) -> Op:
    return lambda x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


@rule("BatchNormalization", attributes=("epsilon", "momentum", "spatial", "training_mode"))
def _batch_normalization(node: NodeView) -> Op:
    node.must_be(spatial=1, training_mode=0)
    if len(node.outputs) > 1:
        msg = f"{len(node.outputs)} outputs (training); known: 1"
        raise NotSupported(msg)
    epsilon = float(node.get("epsilon", 1e-5))

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        shape = (-1, *([1] * (x.ndim - 2)))
        gain = scale * torch.rsqrt(variance + epsilon)
        return x * gain.reshape(shape) + (bias - mean * gain).reshape(shape)

    return run


@rule("Gemm", attributes=("alpha", "beta", "transA", "transB"))
def _gemm(node: NodeView) -> Op:
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    first, second = bool(node.get("transA", 0)), bool(node.get("transB", 0))

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.transpose(-1, -2) if first else a) @ (b.transpose(-1, -2) if second else b)
        if alpha != 1.0:
            product = product * alpha
        if c is None:
            return product
        return product + (c if beta == 1.0 else c * beta)

    return run


@rule("MatMul")
def _matmul(_node: NodeView) -> Op:
    return torch.matmul


_RESIZE = (
    "antialias",
    "axes",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "mode",
    "nearest_mode",
)


@rule("Resize", attributes=_RESIZE)
def _resize(node: NodeView) -> Op:
    if node.opset < 11:
        msg = f"operator set {node.opset}; known: 11 and later"
        raise NotSupported(msg)
    if "axes" in node.attributes:
        msg = f"attribute axes = {node.attributes['axes']!r}; known: absent"
        raise NotSupported(msg)
    node.must_be(
        mode=("nearest", "linear"),
        antialias=0,
        exclude_outside=0,
        keep_aspect_ratio_policy="stretch",
    )
    scales, sizes = node.constant(2, "scales"), node.constant(3, "sizes")
    target: dict[str, Any]
    if sizes is not None and sizes.numel():
        channels = node.shape(0)
        if sizes.numel() != 4 or channels is None or int(sizes[1]) != channels[1]:
            msg = f"sizes = {sizes.tolist()}; known: the last two of four axes resized"
            raise NotSupported(msg)
        target = {"size": ints(sizes)[2:]}
        integral = _integral_growth(channels, ints(sizes))
    elif scales is not None and scales.numel():
        factors = [float(s) for s in scales.reshape(-1).tolist()]
        if len(factors) != 4 or factors[:2] != [1.0, 1.0]:
            msg = f"scales = {factors}; known: the last two of four axes resized"
            raise NotSupported(msg)
        target = {"scale_factor": factors[2:], "recompute_scale_factor": False}
        integral = all(f >= 1 and f == int(f) for f in factors)
    else:
        msg = "neither scales nor sizes"
        raise NotSupported(msg)
    mode = node.get("mode", "nearest")
    coordinates = node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "linear":
        known = ("half_pixel", "pytorch_half_pixel", "align_corners")
        if coordinates not in known:
            msg = f"linear with coordinate_transformation_mode = {coordinates!r}; known: {known}"
            raise NotSupported(msg)
        corners = coordinates == "align_corners"
        return lambda x, *_: F.interpolate(x, mode="bilinear", align_corners=corners, **target)
    rounding = node.get("nearest_mode", "round_prefer_floor")
    # At whole growth factors half-pixel with rounding picks the same pixel as flooring does.
    plain = coordinates == "asymmetric" and rounding == "floor"
    same = (
        integral
        and coordinates in {"half_pixel", "pytorch_half_pixel"}
        and rounding.startswith("round_prefer")
    )
    if not (plain or same):
        msg = (
            f"nearest with coordinate_transformation_mode = {coordinates!r} and nearest_mode = "
            f"{rounding!r}; known: 'asymmetric' with 'floor', 'half_pixel' with whole factors"
        )
        raise NotSupported(msg)
    return lambda x, *_: F.interpolate(x, mode="nearest", **target)


def _integral_growth(shape: tuple[int | None, ...], sizes: list[int]) -> bool:
    return all(
        before is not None and after >= before and after % before == 0
        for before, after in zip(shape[2:], sizes[2:], strict=True)
    )
