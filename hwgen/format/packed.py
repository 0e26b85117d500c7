"""The packed network: an integer network and the complementary sets of its layers, and its file."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwgen.errors import DataError, FormatError, HwgenError, InputError, ModelError
from hwgen.format import hwpack
from hwgen.format.network import Conv2d, IntegerNetwork, Linear, Requantise
from hwgen.format.sets import Packing, expand, lay_out, unpack
from hwgen.format.shapes import Tensor, tensors

__all__ = ["LayerReport", "PackedNetwork", "Packing", "expand", "lay_out", "unpack"]


@dataclass(frozen=True)
class LayerReport:
    """What packing made of one layer.

    Attributes:
        name, kind: of the layer; kind is "linear" or "conv2d".
        shape: of the weight, as torch has it.
        nonzeros: positions of the mask.
        density: nonzeros / positions.
        sets: complementary sets.
        kernels: most output channels in one set.
        rows: rows of the augmented weight tensor.
        rows_max: most rows of one column.
        slots: rows * sets: multiplications of one walk over all columns.
        efficiency: nonzeros / slots.
        accumulator_bits: width that holds every sum and partial sum, proven from weights, biases and input range.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    nonzeros: int
    density: float
    sets: int
    kernels: int
    rows: int
    rows_max: int
    slots: int
    efficiency: float
    accumulator_bits: int


@dataclass(frozen=True, eq=False)
class PackedNetwork:
    """An integer network whose weights lie in complementary sets.

    Attributes:
        network: what every device computes.
        packings: one for each Linear and Conv2d, by the layer's name.

    Raises:
        ModelError: if the layers do not fit together or the packings are not those of the layers.
    """

    network: IntegerNetwork
    packings: Mapping[str, Packing]

    def __post_init__(self) -> None:
        _check_network(self.network)
        names = {layer.name for layer in self.network.layers if isinstance(layer, Linear | Conv2d)}
        if names != set(self.packings):
            odd = min(names ^ set(self.packings))
            raise ModelError(f"layer {odd!r}: exactly the Linear and Conv2d layers must have a packing")
        for layer in self.network.layers:
            if isinstance(layer, Linear | Conv2d):
                _check_packing(layer, self.packings[layer.name])

    def __repr__(self) -> str:
        """Of the weights only how many there are."""
        layers = [layer for layer in self.network.layers if isinstance(layer, Linear | Conv2d)]
        nonzeros = sum(np.count_nonzero(layer.weight) for layer in layers)
        return f"PackedNetwork({len(self.network.layers)} layers, {nonzeros:,} non-zero weights)"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an .hwpack file in one step: readers see the old file or the whole new one.

        Raises:
            InputError: the path cannot be written.
        """
        path = Path(path)
        data = hwpack.encode(self.network, self.packings)
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with scratch.open("xb") as file:
                file.write(data)
            os.replace(scratch, path)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}; give a path that can be written") from None
        finally:
            # Where the folder is none, unlink fails as open did.
            with contextlib.suppress(OSError):
                scratch.unlink()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PackedNetwork:
        """Reads an .hwpack file and checks all of it.

        Raises:
            FormatError: missing, truncated, corrupted, of another version or not an .hwpack file.
        """
        try:
            return cls(*hwpack.decode(Path(path).read_bytes()))
        except OSError as error:
            raise FormatError(f"{path}: {error.strerror or error}; give the path of an .hwpack file") from None
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None
        except HwgenError as error:
            raise FormatError(f"{path}: inconsistent: {error}; pack the model again") from None

    def content_hash(self) -> str:
        """SHA-256, in hexadecimal, of everything that `save` writes."""
        return hwpack.content_hash(self.network, self.packings)

    def report(self) -> tuple[LayerReport, ...]:
        """One row for each Linear and Conv2d, in the order in which they run."""
        rows = []
        for layer, tensor in zip(self.network.layers, tensors(self.network)[1:], strict=True):
            if isinstance(layer, Linear | Conv2d):
                rows.append(_report_layer(layer, self.packings[layer.name], tensor))
        return tuple(rows)


def _report_layer(layer: Linear | Conv2d, packing: Packing, output: Tensor) -> LayerReport:
    return LayerReport(
        name=layer.name,
        kind=hwpack.kind_name(layer),
        shape=layer.weight.shape,
        nonzeros=packing.nonzeros,
        density=packing.nonzeros / layer.weight.size,
        sets=packing.sets,
        kernels=packing.kernels,
        rows=packing.rows,
        rows_max=packing.rows_max,
        slots=packing.slots,
        efficiency=packing.efficiency,
        accumulator_bits=output.bits,
    )


def _check_network(network: IntegerNetwork) -> None:
    names = [layer.name for layer in network.layers]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ModelError(f"layer {repeated[0]!r}: several layers have this name; give each its own")
    if not network.layers:
        raise ModelError("the network has no layers")
    if not (math.isfinite(network.input.scale) and network.input.scale > 0):
        raise ModelError(f"input: the scale must be positive and finite, not {network.input.scale!r}")
    for layer in network.layers:
        if isinstance(layer, Linear | Conv2d):
            _check_weights(layer)
    sizes = tensors(network)
    for layer, tensor in zip(network.layers, sizes[1:], strict=True):
        if isinstance(layer, Requantise):
            _check_requantise(layer, tensor)
    channels = sizes[-1].shape[0]
    scale = network.output_scale
    if scale.dtype != np.float64 or scale.shape != (channels,) or not np.isfinite(scale).all():
        raise ModelError(f"output: the scale must be {channels} finite float64 values, one a channel of the output")


def _check_weights(layer: Linear | Conv2d) -> None:
    where = f"layer {layer.name!r}"
    axes = 2 if isinstance(layer, Linear) else 4
    if layer.weight.dtype != np.int8 or layer.weight.ndim != axes or layer.weight.size == 0:
        raise ModelError(
            f"{where}: weights must be int8 of {axes} axes and not empty, not {layer.weight.dtype} {layer.weight.shape}"
        )
    if layer.mask.dtype != np.bool_ or layer.mask.shape != layer.weight.shape:
        raise ModelError(
            f"{where}: the mask must be bool {layer.weight.shape}, not {layer.mask.dtype} {layer.mask.shape}"
        )
    if layer.bias.dtype != np.int32 or layer.bias.shape != layer.weight.shape[:1]:
        raise ModelError(
            f"{where}: the bias must be int32 {layer.weight.shape[:1]}, not {layer.bias.dtype} {layer.bias.shape}"
        )
    if layer.weight[~layer.mask].any() or (layer.weight == -128).any():
        raise ModelError(f"{where}: weights must be in [-127, 127], and 0 outside the mask")
    if isinstance(layer, Conv2d) and layer.weight.shape[0] % layer.groups:
        raise ModelError(f"{where}: {layer.weight.shape[0]} output channels do not divide into {layer.groups} groups")


def _check_requantise(layer: Requantise, tensor: Tensor) -> None:
    multiplier = layer.multiplier
    if multiplier.dtype != np.int32 or multiplier.shape != tensor.shape[:1]:
        raise ModelError(
            f"layer {layer.name!r}: needs {tensor.shape[0]} int32 multipliers, not {multiplier.dtype} "
            f"{multiplier.shape}"
        )
    if multiplier.min() < 1 or multiplier.max() >= 1 << 16 or not 0 <= layer.shift <= 47:
        raise ModelError(f"layer {layer.name!r}: multipliers must be in 1 .. 65535 and the shift in 0 .. 47")


def _check_packing(layer: Linear | Conv2d, packing: Packing) -> None:
    try:
        weight, mask = unpack(packing, layer.weight.shape, layer.groups if isinstance(layer, Conv2d) else 1)
    except DataError as error:
        raise ModelError(f"layer {layer.name!r}: {error}") from None
    if not (np.array_equal(weight, layer.weight) and np.array_equal(mask, layer.mask)):
        raise ModelError(f"layer {layer.name!r}: the packing holds other weights than the layer")
