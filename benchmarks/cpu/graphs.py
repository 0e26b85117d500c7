"""A float network as a torch module and as ONNX graphs, in float32 and quantised to int8."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cpu.networks import Words, without_winners
from hwgen.errors import ModelError
from hwgen.float_network import Conv2d, Layer, Linear, Network, output_shape
from hwgen.format.network import Flatten, KWinners, MaxPool2d, ReLU

if TYPE_CHECKING:
    import onnx

# Old enough for every engine, and new enough for quantised graphs.
OPSET, IR_VERSION = 13, 8
INPUT = "input"


class TopWinners(nn.Module):
    """k-WTA in the operators that compilers know: exactly k winners, among equal values any.

    Args:
        k: winners.
        local: the channels of a position compete if true, else all values of a word.
    """

    def __init__(self, k: int, local: bool) -> None:
        super().__init__()
        self.k = k
        self.local = local

    def forward(self, x: Tensor) -> Tensor:
        values = x if self.local else x.flatten(1)
        winners = torch.topk(values, self.k, dim=1, sorted=False)
        return torch.zeros_like(values).scatter(1, winners.indices, winners.values).reshape(x.shape)


def torch_module(network: Network) -> nn.Sequential:
    """float32 (N, *input shape) -> (N, *output shape), in evaluation mode, all weights stored, zeros too."""
    modules = [_torch_layer(layer) for layer in network.layers]
    if network.head is not None:
        modules.append({"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax}[network.head](1))
    return nn.Sequential(*modules).eval().requires_grad_(False)


def _torch_layer(layer: Layer) -> nn.Module:
    match layer:
        case Linear() | Conv2d():
            module: nn.Linear | nn.Conv2d
            outputs, inputs, *kernel = layer.weight.shape
            if isinstance(layer, Linear):
                module = nn.Linear(inputs, outputs)
            else:
                shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
                module = nn.Conv2d(inputs * layer.groups, outputs, (kernel[0], kernel[1]), *shape)
            module.weight.data = torch.from_numpy(layer.weight.astype(np.float32))
            module.bias = nn.Parameter(torch.from_numpy(layer.bias.astype(np.float32)))
            return module
        case ReLU():
            return nn.ReLU()
        case MaxPool2d():
            return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding, layer.dilation, ceil_mode=layer.ceil_mode)
        case KWinners():
            return TopWinners(layer.k, layer.local)
        case Flatten():
            return nn.Flatten()
        case _:
            raise ModelError(f"layer {layer.name!r} ({type(layer).__name__}): the comparison has no such layer")


def onnx_model(network: Network, batch: int) -> onnx.ModelProto:
    """The network for batches of exactly `batch` words, as engines like it best: input "input", one output."""
    from onnx import TensorProto, checker, helper

    graph = _Graph(batch, network.input_shape)
    for layer in network.layers:
        graph.append(layer)
    if network.head is not None:
        graph.node({"softmax": "Softmax", "log_softmax": "LogSoftmax"}[network.head], network.head, axis=1)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
        for name, shape in ((INPUT, network.input_shape), (graph.current, graph.shape))
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "network", ends[:1], ends[1:], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    checker.check_model(model)
    return model


class _Graph:
    """The nodes so far; `current` names the last one's output, of `shape` without the batch."""

    def __init__(self, batch: int, shape: tuple[int, ...]) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.current = INPUT
        self.shape = shape
        self._batch = batch

    def append(self, layer: Layer) -> None:
        match layer:
            case Linear():
                self.node("Gemm", layer.name, *self._parameters(layer), transB=1)
            case Conv2d():
                self.node(
                    "Conv",
                    layer.name,
                    *self._parameters(layer),
                    kernel_shape=layer.weight.shape[2:],
                    strides=layer.stride,
                    pads=layer.padding * 2,
                    dilations=layer.dilation,
                    group=layer.groups,
                )
            case ReLU():
                self.node("Relu", layer.name)
            case MaxPool2d():
                self.node(
                    "MaxPool",
                    layer.name,
                    kernel_shape=layer.kernel,
                    strides=layer.stride,
                    pads=layer.padding * 2,
                    dilations=layer.dilation,
                    ceil_mode=int(layer.ceil_mode),
                )
            case KWinners():
                self._winners(layer)
            case Flatten():
                self.node("Flatten", layer.name, axis=1)
            case _:
                raise ModelError(f"layer {layer.name!r} ({type(layer).__name__}): the comparison has no such layer")
        self.shape = output_shape(layer, self.shape)

    def node(self, operator: str, name: str, *more: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Appends an operator on the current output and `more`; its first output becomes the current one."""
        from onnx import helper

        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, [self.current, *more], names, name=name, **attributes))
        self.current = name
        return names

    def constant(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def _parameters(self, layer: Linear | Conv2d) -> tuple[str, str]:
        weight, bias = layer.weight.astype(np.float32), layer.bias.astype(np.float32)
        return self.constant(f"{layer.name}.weight", weight), self.constant(f"{layer.name}.bias", bias)

    def _winners(self, layer: KWinners) -> None:
        """The k largest, written into zeros where they were; among equal values the lowest index wins, as in hwgen."""
        local = layer.local and len(self.shape) == 3
        # Every engine sorts the last dimension faster than another.
        if local:
            channels, rows, columns = self.shape
            shape: tuple[int, ...] = (self._batch, rows, columns, channels)
            self.node("Transpose", f"{layer.name}.channels_last", perm=(0, 2, 3, 1))
        else:
            shape = (self._batch, int(np.prod(self.shape)))
            self.node("Flatten", f"{layer.name}.flat", axis=1)
        k = self.constant(f"{layer.name}.k", np.array([layer.k], np.int64))
        values, indices = self.node("TopK", f"{layer.name}.winners", k, outputs=2, axis=-1, sorted=0)
        self.current = self.constant(f"{layer.name}.zeros", np.zeros(shape, np.float32))
        self.node("ScatterElements", f"{layer.name}.scattered", indices, values, axis=-1)
        if local:
            self.node("Transpose", layer.name, perm=(0, 3, 1, 2))
        else:
            original = self.constant(f"{layer.name}.shape", np.array([self._batch, *self.shape], np.int64))
            self.node("Reshape", layer.name, original)


@dataclass(frozen=True, eq=False)
class Graphs:
    """The files of one network's ONNX graphs, made when they are asked for.

    Attributes:
        network: with k-WTA.
        calibration: float32 (N, *input shape), from which int8 graphs take the ranges of activations.
        batch: words of a call; divides N.
        folder: where the files go; empty at first.
    """

    network: Network
    calibration: Words
    batch: int
    folder: Path

    def path(self, precision: str, *, winners: bool) -> Path:
        """The graph in "fp32" or "int8", with or without k-WTA."""
        path = self.folder / f"{precision}_{'with' if winners else 'without'}_winners.onnx"
        if path.exists():
            return path
        if precision == "int8":
            _quantise(self.path("fp32", winners=winners), path, self.calibration, self.batch)
        else:
            model = onnx_model(self.network if winners else without_winners(self.network), self.batch)
            path.write_bytes(model.SerializeToString())
        return path


def _quantise(source: Path, target: Path, calibration: Words, batch: int) -> None:
    """Static quantisation: uint8 activations, int8 weights of the whole range, one scale a tensor.

    These choices were the fastest of those tried with ONNX Runtime and OpenVINO: a scale a channel, symmetric or
    signed activations and quantising only some operators were as fast or slower.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(calibration.reshape(-1, batch, *calibration.shape[1:]))

        def get_next(self) -> dict[str, Words] | None:
            words = next(self._batches, None)
            return None if words is None else {INPUT: words}

    with _quiet():
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=False,
            reduce_range=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to optimise the graph before it is quantised: there is nothing left to fuse in it."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
