"""A torch module that computes an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

from edgebus.artifacts import Update, apply_update
from edgebus.training.graph._errors import GraphError, GraphWeightsError
from edgebus.training.graph._plan import Plan, compile_plan
from edgebus.training.graph._weights import HEAD_DEPTH, TrainScope, Weight, choose

Float32 = npt.NDArray[np.float32]


def check_supported(model: bytes | ModelProto) -> None:
    """Check that torch can compute, and so train, a graph.

    Args:
        model: The graph; weights may be missing from it (external data).

    Raises:
        UnsupportedGraphError: Naming every operator, attribute variant and node without a rule.
    """
    compile_plan(_parse(model))


class TorchGraph(nn.Module):
    """An ONNX graph as a torch module, trainable without a second definition of the network.

    The parameters are the float32 initializers that feed convolutions, matrix products and batch
    normalisations. What of them a training run changes is the scope; with the default,
    "biases+scales", a weight w becomes w * s with one factor s per output channel, so an update is
    a few numbers per layer instead of the weights. Batch normalisation computes with its stored
    statistics, as it does when served: there is no training mode.
    """

    def __init__(
        self,
        model: bytes | ModelProto,
        tensors: Mapping[str, npt.NDArray[np.generic]] | None = None,
        *,
        outputs: Sequence[str] | None = None,
        scope: TrainScope = "biases+scales",
        head_depth: int = HEAD_DEPTH,
    ) -> None:
        """Compile the graph.

        Args:
            model: The graph, serialised or not.
            tensors: The weights by name; where one is missing, the graph itself must hold it.
            outputs: Names of tensors to compute instead of the graph's outputs.
            scope: What to train.
            head_depth: Layers before the outputs that scope "head" trains.

        Raises:
            UnsupportedGraphError: Naming everything that has no rule.
            GraphWeightsError: A tensor is missing or does not fit the graph.
        """
        super().__init__()
        proto = _parse(model)
        self._plan = compile_plan(proto, outputs)
        given = {} if tensors is None else tensors
        self._initial = _collect(proto, self._plan.weights, given)
        # Tensors of the bundle that this graph does not read stay as they are.
        self._passive = {
            name: np.array(value, np.float32)
            for name, value in given.items()
            if name not in self._initial and value.dtype == np.float32
        }
        self.scope: TrainScope = scope
        choice = choose(self._plan.weights, scope, head_depth=head_depth)
        # Names of tensors hold dots and slashes, which names of parameters may not.
        self._replaced = _parameters(self, "tensor", {n: self._initial[n] for n in choice.replaced})
        self._scaled = _parameters(
            self,
            "scale",
            {n: np.ones(self._initial[n].shape[0], np.float32) for n in choice.scaled},
        )
        fixed = [n for n in self._initial if n not in self._replaced]
        self._fixed = _buffers(self, "fixed", {n: torch.tensor(self._initial[n]) for n in fixed})
        self._constants = _buffers(self, "constant", dict(self._plan.constants))

    @property
    def input_name(self) -> str:
        """Name of the graph's input."""
        return self._plan.input_name

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the graph's input; None for a free dimension."""
        return self._plan.input_shape

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return self._plan.outputs

    @property
    def trainable(self) -> int:
        """How many numbers a training run changes."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, x: Tensor, *, logits: bool = False) -> dict[str, Tensor]:
        """Compute the outputs of a batch.

        Args:
            x: Pictures [B, C, H, W], float32, prepared as the bundle's input specification says.
            logits: Leave out every sigmoid behind which the graph only moves data, so that an
                output holds logits where it else holds scores, in the same places: losses are
                exact there.

        Returns:
            The outputs by name, the batch first. An intermediate tensor of a graph with batch 1
            baked in, whose first axis is not the batch, gets the batch as an additional first axis.

        Raises:
            ValueError: The shape does not fit the graph's input.
        """
        wanted = self._plan.input_shape
        if x.ndim != len(wanted) or any(
            n is not None and n != m for n, m in zip(wanted[1:], x.shape[1:], strict=True)
        ):
            msg = f"input of shape {tuple(x.shape)}; the graph wants {wanted}, any batch size"
            raise ValueError(msg)
        values: dict[str, Tensor] = {name: self.get_buffer(a) for name, a in self._fixed.items()}
        for name, attribute in self._replaced.items():
            values[name] = self.get_parameter(attribute)
        for name, attribute in self._scaled.items():
            scale = self.get_parameter(attribute)
            values[name] = values[name] * scale.reshape(-1, *([1] * (values[name].ndim - 1)))
        values.update({name: self.get_buffer(a) for name, a in self._constants.items()})
        if wanted[0] is None or x.shape[0] == 1:
            return _run(self._plan, values, x, logits=logits)
        # Batch 1 is baked into the graph's reshapes: map the graph of one picture over the batch.
        mapped: dict[str, Tensor] = torch.func.vmap(
            lambda one: _run(self._plan, values, one, logits=logits)
        )(x.unsqueeze(1))
        return {n: v.squeeze(1) if v.shape[1] == 1 else v for n, v in mapped.items()}

    def update(self) -> Update:
        """What training changed: lossless, float32.

        Applied to the tensors that the graph was made with it gives exactly `tensors()`.
        """
        replaced = {n: _numpy(self.get_parameter(a)) for n, a in self._replaced.items()}
        scales = {n: _numpy(self.get_parameter(a)) for n, a in self._scaled.items()}
        return Update(
            replace={n: v for n, v in replaced.items() if not _same(v, self._initial[n])},
            scale={n: s for n, s in scales.items() if not bool((s == 1).all())},
        )

    def initial_tensors(self) -> dict[str, Float32]:
        """The weights that the graph was made with."""
        return self._passive | self._initial

    def tensors(self) -> dict[str, Float32]:
        """The weights as they are now: what training computes with, to the bit."""
        return apply_update(self.initial_tensors(), self.update())


def interpolate(old: Mapping[str, Float32], new: Update, alpha: float) -> Update:
    """The update that goes only a part of the way: old + alpha * (new - old).

    A cheap second candidate: less gain on the new domain for less loss on the old one.

    Args:
        old: The tensors that `new` applies to.
        new: A full update.
        alpha: Part of the way, 0 (nothing changes) to 1 (`new`).

    Raises:
        ValueError: alpha is outside 0 to 1.
    """
    if not 0.0 <= alpha <= 1.0:
        msg = f"alpha = {alpha}; it must be from 0 to 1"
        raise ValueError(msg)
    part, one = np.float32(alpha), np.float32(1)
    return Update(
        replace={n: old[n] + part * (value - old[n]) for n, value in new.replace.items()},
        scale={n: one + part * (value - one) for n, value in new.scale.items()},
    )


def _parse(model: bytes | ModelProto) -> ModelProto:
    if isinstance(model, ModelProto):
        return model
    try:
        return onnx.load_model_from_string(model)
    except DecodeError as error:
        msg = f"{len(model)} bytes that are no ONNX model: {error}"
        raise GraphError(msg) from error


def _collect(
    proto: ModelProto,
    weights: Mapping[str, Weight],
    tensors: Mapping[str, npt.NDArray[np.generic]],
) -> dict[str, Float32]:
    inline = {t.name: t for t in proto.graph.initializer}
    collected: dict[str, Float32] = {}
    for name, weight in weights.items():
        value = tensors.get(name)
        if value is None:
            if inline[name].data_location == TensorProto.EXTERNAL:
                raise GraphWeightsError(name=name, reason="missing, and the graph holds no data")
            value = numpy_helper.to_array(inline[name])
        if value.shape != weight.shape:
            reason = f"shape {value.shape}, the graph wants {weight.shape}"
            raise GraphWeightsError(name=name, reason=reason)
        if value.dtype != np.float32:
            raise GraphWeightsError(name=name, reason=f"type {value.dtype}, must be float32")
        collected[name] = np.array(value, np.float32)
    return collected


def _parameters(module: nn.Module, kind: str, values: Mapping[str, Float32]) -> dict[str, str]:
    names = {name: f"{kind}_{index}" for index, name in enumerate(values)}
    for name, attribute in names.items():
        module.register_parameter(attribute, nn.Parameter(torch.tensor(values[name])))
    return names


def _buffers(module: nn.Module, kind: str, values: Mapping[str, Tensor]) -> dict[str, str]:
    names = {name: f"{kind}_{index}" for index, name in enumerate(values)}
    for name, attribute in names.items():
        module.register_buffer(attribute, values[name], persistent=False)
    return names


def _numpy(tensor: Tensor) -> Float32:
    return tensor.detach().cpu().numpy().copy()


def _same(a: Float32, b: Float32) -> bool:
    # By bits: 0.0 and -0.0 differ.
    return a.tobytes() == b.tobytes()


def _run(plan: Plan, known: Mapping[str, Tensor], x: Tensor, *, logits: bool) -> dict[str, Tensor]:
    values = {**known, plan.input_name: x}
    for step in plan.steps:
        inputs = [values[name] if name else None for name in step.inputs]
        if logits and step.to_score:
            values[step.outputs[0]] = values[step.inputs[0]]
        else:
            result = step.run(*inputs)
            outputs = result if isinstance(result, tuple) else (result,)
            values.update(zip(step.outputs, outputs, strict=True))
        for name in step.forget:
            del values[name]
    return {name: values[name] for name in plan.outputs}
