"""Torch computes, and trains, the ONNX graph that the edge serves.

Needs torch, which `edgebus.serving` itself does not.
"""

from edgebus.training.graph._errors import (
    GraphError,
    GraphWeightsError,
    Problem,
    UnsupportedGraphError,
)
from edgebus.training.graph._module import TorchGraph, check_supported, interpolate
from edgebus.training.graph._weights import HEAD_DEPTH, TrainScope

__all__ = [
    "HEAD_DEPTH",
    "GraphError",
    "GraphWeightsError",
    "Problem",
    "TorchGraph",
    "TrainScope",
    "UnsupportedGraphError",
    "check_supported",
    "interpolate",
]
