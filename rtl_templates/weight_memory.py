"""Memories of (weight, kernel ID), the rows of an augmented weight tensor."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import unsigned
from amaranth.lib.memory import Memory
from numpy.typing import NDArray

WEIGHT_BITS = 8


def check_weights(
    weights: NDArray[np.integer], kernel_ids: NDArray[np.integer], offsets: int, kernels: int
) -> None:  # fmt: skip
    """Refuses weights and kernel IDs that are no (kernel offsets, weight rows, channels, sets) of a convolution.

    Raises:
        ValueError: other shapes, weights beyond [-127, 127], or IDs that are not below `kernels`.
    """
    if weights.ndim != 4 or weights.shape != kernel_ids.shape or len(weights) != offsets or not weights.size:
        raise ValueError(
            f"weights and kernel IDs must be ({offsets}, weight rows, channels, sets), "
            f"not {weights.shape!r} and {kernel_ids.shape!r}"
        )
    if not 0 <= kernel_ids.min() <= kernel_ids.max() < kernels:
        raise ValueError(f"kernel IDs must be below {kernels}")
    if np.abs(weights.astype(np.int64)).max() > 127:
        raise ValueError("weights must be in [-127, 127]")


def weight_memory(weights: NDArray[np.integer], kernel_ids: NDArray[np.integer], kernel_bits: int) -> Memory:
    """A memory of `weight_rows`."""
    width = weights.shape[1] * (WEIGHT_BITS + kernel_bits)
    return Memory(shape=unsigned(width), depth=len(weights), init=weight_rows(weights, kernel_ids, kernel_bits))


def weight_rows(weights: NDArray[np.integer], kernel_ids: NDArray[np.integer], kernel_bits: int) -> list[int]:
    """A row holds (weight, kernel ID) for every slot; the first slot, and in a slot the weight, in the low bits.

    Args:
        weights, kernel_ids: int (depth, slots).
        kernel_bits: width of a kernel ID; 0 leaves it out.
    """
    depth = len(weights)
    fields = np.concatenate(
        [
            _bits(weights.astype(np.int64) & 0xFF, WEIGHT_BITS),
            _bits(kernel_ids.astype(np.int64), kernel_bits),
        ],
        axis=2,
    ).reshape(depth, -1)
    packed = np.packbits(fields, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _bits(values: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    return ((values[..., None] >> np.arange(width)) & 1).astype(np.uint8)
