"""From real values to a network's integers and back: the two ends of every device, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError
from hwgen.format.network import Input, IntegerNetwork


def quantise_input(input: Input, x: NDArray[np.floating]) -> NDArray[np.int64]:
    """floor(x / scale + 0.5) in double precision, saturated to the input's range.

    Args:
        input: the network's input type.
        x: float32 or float64 (N, *input.shape); infinities saturate.

    Returns:
        int64 of x's shape, in [-128, 127] if the input is signed, else in [0, 255].

    Raises:
        DataError: another dtype, another shape or a NaN.
    """
    check_floats("input", x, input.shape)
    if np.isnan(x).any():
        raise DataError("input: contains NaN, which no integer stands for; every value must be a number")
    # A huge value over a small scale is an infinity, which saturates as it should.
    with np.errstate(over="ignore"):
        steps = np.floor(x.astype(np.float64) / input.scale + 0.5)
    low, high = (-128, 127) if input.signed else (0, 255)
    return np.clip(steps, low, high).astype(np.int64)


def dequantise_output(network: IntegerNetwork, y: NDArray[np.integer]) -> NDArray[np.float32]:
    """Applies the output's scales and then the head, both in double precision.

    Args:
        network: the integer network.
        y: its integer output (N, ...), the first dimension after N being the scales'.

    Returns:
        float32 of y's shape.

    Raises:
        DataError: y is not an array of integers with as many channels as there are scales.
    """
    channels = len(network.output_scale)
    if not np.issubdtype(y.dtype, np.integer) or y.ndim < 2 or y.shape[1] != channels:
        raise DataError(f"output: must be integers (N, {channels}, ...), not {y.dtype} {y.shape}")
    real = y * network.output_scale.reshape(-1, *[1] * (y.ndim - 2))
    if network.head is not None:
        real = real - real.max(axis=1, keepdims=True)
        total = np.exp(real).sum(axis=1, keepdims=True)
        real = real - np.log(total) if network.head == "log_softmax" else np.exp(real) / total
    return real.astype(np.float32)


def check_floats(what: str, x: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    """Raises DataError, which begins with `what`, unless x is a float32 or float64 array (N, *shape)."""
    wanted = f"(N, {', '.join(map(str, shape))})"
    if not isinstance(x, np.ndarray):
        raise DataError(f"{what}: must be a float32 numpy array {wanted}, not {type(x).__name__}")
    if x.dtype not in (np.float32, np.float64):
        raise DataError(f"{what}: must be float32 or float64, not {x.dtype}; convert it with .astype('float32')")
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        raise DataError(f"{what}: must have shape {wanted}, batch first, not {x.shape}")
