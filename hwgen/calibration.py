"""What calibration data tells of a float network: the range of its input and of each layer's output."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, ModelError
from hwgen.float_network import Layer, Network, output_shape, trace
from hwgen.format.io import check_floats
from hwgen.format.network import Flatten, KWinners

BATCH = 64  # samples of calibration data in flight, which bounds memory


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a tensor on the calibration data."""

    low: float
    high: float


def check_calibration(calibration: object) -> NDArray[np.floating]:
    """The calibration data itself; raises DataError unless it is an array of maps or vectors, batch first."""
    if not isinstance(calibration, np.ndarray) or calibration.ndim not in (2, 4):
        wanted = "calibration: must be a numpy array (N, C, H, W) or (N, F), not"
        if not isinstance(calibration, np.ndarray):
            raise DataError(f"{wanted} {type(calibration).__name__}; a tensor has .numpy()")
        hints = {
            1: "; to a single sample add the batch dimension, x[None]",
            3: "; to a single sample add the batch dimension, x[None], to maps without channels theirs, x[:, None]",
        }
        raise DataError(f"{wanted} {calibration.shape}{hints.get(calibration.ndim, '')}")
    return calibration


def without_identities(network: Network) -> Network:
    """The network without k-WTA that keeps everything, with a warning of each, and Flatten of vectors."""
    shape = network.input_shape
    kept: list[Layer] = []
    for layer in network.layers:
        identity = False
        if isinstance(layer, KWinners):
            competitors = shape[0] if layer.local else int(np.prod(shape))
            identity = layer.k >= competitors
            if identity:
                warnings.warn(
                    f"layer {layer.name!r}: k = {layer.k} keeps all of {competitors} values, so this k-WTA does nothing "
                    "and is left out; a smaller k makes activations sparse",
                    stacklevel=2,
                )
        elif isinstance(layer, Flatten):
            identity = len(shape) == 1
        if not identity:
            kept.append(layer)
            shape = output_shape(layer, shape)
    return Network(network.input_shape, tuple(kept), network.head)


def measure_ranges(network: Network, calibration: NDArray[np.floating]) -> list[Range]:
    """The range of the input and of each layer's output, in order.

    Args:
        network: the float network.
        calibration: float32 or float64 (N, *network.input_shape), typical inputs.

    Raises:
        DataError: calibration is empty, of another shape or dtype, or not finite.
        ModelError: a layer whose values overflow.
    """
    x = _samples(network, calibration)
    low = np.full(len(network.layers) + 1, np.inf)
    high = -low
    for start in range(0, len(x), BATCH):
        batch = x[start : start + BATCH]
        low[0], high[0] = min(low[0], batch.min()), max(high[0], batch.max())
        # Overflow is reported below, by name.
        with np.errstate(over="ignore", invalid="ignore"):
            for index, (layer, values) in enumerate(trace(network, batch), start=1):
                low[index], high[index] = min(low[index], values.min()), max(high[index], values.max())
                if not np.isfinite(values.sum(dtype=np.float64)):
                    raise ModelError(f"layer {layer.name!r}: its values overflow float32 on the calibration data")
    if low[0] == high[0] == 0:
        warnings.warn("calibration: every value is 0, so scales are arbitrary; give typical inputs", stacklevel=2)
    return [Range(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def _samples(network: Network, calibration: NDArray[np.floating]) -> NDArray[np.float32]:
    check_floats("calibration", calibration, network.input_shape)
    if not len(calibration):
        raise DataError("calibration: has no samples; give some typical inputs, a few hundred are enough")
    # A double beyond float32's range becomes an infinity, which is reported.
    with np.errstate(over="ignore"):
        samples = calibration.astype(np.float32)
    if not np.isfinite(samples).all():
        first = int(np.isfinite(samples).reshape(len(samples), -1).all(axis=1).argmin())
        raise DataError(
            f"calibration: sample {first} (from 0) contains NaN or infinity; every value must be a finite float32"
        )
    return samples
