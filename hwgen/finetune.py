"""Quantisation-aware fine-tuning: training goes on in the arithmetic of the hardware.

    prepared = hwgen.quantisation_aware(model, calibration)
    ...                                  # your own training loop on prepared.parameters()
    packed = hwgen.pack(prepared)        # computes what `prepared` computed, to the last bit

Rounding in the forward pass follows Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (2018, arXiv 1712.05877), section 3, but for exact instead of simulated integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import InputError, ModelError, ToolError, install

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise ToolError(f"importing and training models needs {error.name}: {install('torch')}") from error

from hwgen import differentiable, float_network
from hwgen.calibration import Range, check_calibration, measure_ranges, without_identities
from hwgen.float_network import Network
from hwgen.format import network as integer
from hwgen.format.network import IntegerNetwork
from hwgen.format.packed import PackedNetwork
from hwgen.importer import import_for
from hwgen.packing import pack_network
from hwgen.quantise import LayerScales, RoundedNetwork, round_network


def quantisation_aware(
    model: nn.Module, calibration: NDArray[np.floating], *, power_of_two: bool = False
) -> QuantisationAware:
    """Wraps a trained model for fine-tuning.

    Args:
        model: the trained (and pruned) module; it is left as it was and shares nothing with the result.
        calibration: float32 (N, C, H, W) or (N, F): typical inputs, which fix the scales of the activations.
        power_of_two: give every requantisation a shift and no multiplier.

    Returns:
        A module that computes what the packed model would, ready for training.

    Raises:
        ModelError: the model cannot be realised exactly; the line names the layer.
        DataError: the calibration data does not fit the model.
        InputError: the model is quantisation-aware already.
    """
    if isinstance(model, QuantisationAware):
        raise InputError("quantisation_aware: the model is one already; train it, or pack it")
    samples = check_calibration(calibration)
    network = without_identities(import_for(model, samples))
    return QuantisationAware(network, measure_ranges(network, samples), power_of_two=power_of_two)


class TrainedLayer(nn.Module):
    """What is trained of a Linear or Conv2d, in real values.

    Attributes:
        name: the module's path in the model.
        weight: float64, batch norm folded in.
        bias: float64 (outputs,), also where the model had none.
        mask: bool, of the weight's shape: the positions that were not pruned. The others stay 0.
    """

    weight: Tensor
    bias: Tensor
    mask: Tensor

    def __init__(self, layer: float_network.Linear | float_network.Conv2d) -> None:
        super().__init__()
        self.name = layer.name
        # Double precision, so that the module starts as exactly what packing the model gives.
        self.weight = nn.Parameter(torch.tensor(layer.weight))
        self.bias = nn.Parameter(torch.tensor(layer.bias))
        self.register_buffer("mask", torch.tensor(layer.mask))

    def values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight and bias as they are; raises ModelError if training has broken them."""
        weight = torch.where(self.mask, self.weight, 0.0).detach().cpu().double().numpy()
        bias = self.bias.detach().cpu().double().numpy()
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ModelError(f"layer {self.name!r}: its weights are no longer finite; train with a lower learning rate")
        return weight, bias

    def rounded(self, layer: integer.Linear | integer.Conv2d, scales: LayerScales) -> tuple[Tensor, Tensor]:
        """Weight and bias as integers, with the gradients of the real values."""

        def integers(smooth: Tensor, exact: NDArray[np.integer], scale: NDArray[np.float64]) -> Tensor:
            steps = torch.as_tensor(scale, device=smooth.device).reshape(-1, *[1] * (smooth.dim() - 1))
            return differentiable.straight_through(smooth / steps, torch.from_numpy(exact).to(smooth.device).double())

        weight = torch.where(self.mask, self.weight, 0.0)
        return integers(weight, layer.weight, scales.weight), integers(self.bias, layer.bias, scales.sums)

    def extra_repr(self) -> str:
        return f"{self.name!r}, weight={tuple(self.weight.shape)}"


class QuantisationAware(nn.Module):
    """A network whose forward pass is, bit for bit, that of the integer network that it packs to.

    The scales of the activations are fixed; those of the weights follow the weights as they change. The state dict
    holds both, so that training resumes with the same arithmetic.

    Attributes:
        layers: the Linear and Conv2d layers, in order.
        ranges: float64 (tensors, 2): smallest and largest value that calibration saw of the input and of every layer.
        power_of_two: bool: whether requantisation has no multiplier.

    Shape: (N, *input shape) float32 -> (N, *output shape) float32, as `host`'s `run`, the head included.
    """

    ranges: Tensor
    power_of_two: Tensor

    def __init__(self, network: Network, ranges: Sequence[Range], *, power_of_two: bool = False) -> None:
        super().__init__()
        self._network = network
        self.layers = nn.ModuleList(
            TrainedLayer(layer)
            for layer in network.layers
            if isinstance(layer, float_network.Linear | float_network.Conv2d)
        )
        self.register_buffer("ranges", torch.tensor([(r.low, r.high) for r in ranges], dtype=torch.float64))
        self.register_buffer("power_of_two", torch.tensor(power_of_two))

    def forward(self, x: Tensor) -> Tensor:
        rounded = self._round()
        trained = self._trained()
        value = differentiable.quantise_input(rounded.network.input, x)
        for layer in rounded.network.layers:
            if isinstance(layer, integer.Linear | integer.Conv2d):
                parameters = next(trained).rounded(layer, rounded.scales[layer.name])
                value = differentiable.apply(layer, value, *parameters)
            else:
                value = differentiable.apply(layer, value)
        return differentiable.dequantise(rounded.network, value)

    def integer_network(self) -> IntegerNetwork:
        """The integers that the forward pass computes with."""
        return self._round().network

    def pack(self) -> PackedNetwork:
        """The packed network that gives what the forward pass gives."""
        return pack_network(self.integer_network())

    def _trained(self) -> Iterator[TrainedLayer]:
        for layer in self.layers:
            assert isinstance(layer, TrainedLayer)
            yield layer

    def _round(self) -> RoundedNetwork:
        trained = self._trained()
        layers = []
        for layer in self._network.layers:
            if isinstance(layer, float_network.Linear | float_network.Conv2d):
                weight, bias = next(trained).values()
                layer = replace(layer, weight=weight, bias=bias)
            layers.append(layer)
        ranges = [Range(low, high) for low, high in self.ranges.tolist()]
        network = replace(self._network, layers=tuple(layers))
        return round_network(network, ranges, power_of_two=bool(self.power_of_two))
