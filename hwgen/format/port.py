"""One end of an accelerator: how the beats of its stream carry tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, InputError

TENSOR_LIMIT = 1 << 31  # values a word


@dataclass(frozen=True)
class Port:
    """How the beats of a value stream carry a tensor.

    A word is sent position by position (row by row), within a position beat by beat. A vector is a map of one position.

    Attributes:
        lanes: values a beat.
        bits: width of one value.
        signed: two's complement if true.
        shape: (C, H, W) or (F,).
        layout: a row of `lanes` channel numbers, in torch's order, for every beat of a position; -1 where the lane
            carries nothing. Every channel appears exactly once.
        pixels: neighbours in a row that count as one position: the channels of the second follow those of the first.

    Raises:
        InputError: the attributes contradict each other.
    """

    lanes: int
    bits: int
    signed: bool
    shape: tuple[int, ...]
    layout: tuple[tuple[int, ...], ...]
    pixels: int = 1

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 3) or min(self.shape) < 1 or prod(self.shape) > TENSOR_LIMIT:
            raise InputError(f"port shape must be (C, H, W) or (F,) of at most 2^31 values, not {self.shape}")
        if not 1 <= self.bits <= 64:
            raise InputError(f"port bits must be 1 to 64, not {self.bits}")
        if self.lanes < 1 or not self.layout or any(len(row) != self.lanes for row in self.layout):
            raise InputError(f"port layout must have rows of {self.lanes} lanes (lanes >= 1)")
        if self.pixels < 1 or (self.pixels > 1 and (len(self.shape) == 1 or self.shape[2] % self.pixels)):
            raise InputError(f"port pixels must divide the width of the map, not {self.pixels}")
        channels = sorted(channel for row in self.layout for channel in row if channel != -1)
        if channels != list(range(self.channels)):
            raise InputError(f"port layout must name each of {self.channels} channels exactly once, and -1 elsewhere")

    @property
    def channels(self) -> int:
        """Of a position, all its pixels together."""
        return self.shape[0] * self.pixels

    @property
    def positions(self) -> int:
        return prod(self.shape[1:]) // self.pixels

    @property
    def beats(self) -> int:
        """Beats a word."""
        return self.positions * len(self.layout)

    @property
    def payload_bits(self) -> int:
        return self.lanes * self.bits

    @property
    def limbs(self) -> int:
        """32-bit words that hold one beat."""
        return -(-self.payload_bits // 32)

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value."""
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)


def encode_words(port: Port, x: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Tensors to beats.

    Args:
        port: how the beats carry them.
        x: integers (N, *port.shape) within `port.range`.

    Returns:
        uint32 (N, port.beats, port.limbs): lane i at bit i * bits, little-endian, two's complement.

    Raises:
        DataError: dtype, shape or a value does not fit the port.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "iu" or x.shape[1:] != port.shape or x.ndim != len(port.shape) + 1:
        raise DataError(f"words must be integers (N, {_comma(port.shape)}), not {x.dtype} {x.shape}")
    low, high = port.range
    if x.size and (int(x.min()) < low or int(x.max()) > high):
        raise DataError(f"words must lie in [{low}, {high}], but have values in [{x.min()}, {x.max()}]")
    # The channel added at the end is what -1 picks: a lane that carries nothing sends 0.
    channels = np.zeros((len(x), port.channels + 1, port.positions), np.uint64)
    by_pixel = x.reshape(len(x), port.shape[0], port.positions, port.pixels).transpose(0, 3, 1, 2)
    channels[:, :-1] = by_pixel.reshape(len(x), port.channels, port.positions).astype(np.int64).view(np.uint64)
    lanes = channels[:, np.array(port.layout)].transpose(0, 3, 1, 2).reshape(len(x), port.beats, port.lanes)
    raw = np.zeros((len(x), port.beats, port.limbs), np.uint32)
    for lane, limb, shift, done, width in _pieces(port):
        piece = (lanes[..., lane] >> np.uint64(done)) & np.uint64((1 << width) - 1)
        raw[..., limb] |= piece.astype(np.uint32) << np.uint32(shift)
    return raw


def decode_words(port: Port, raw: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Beats to tensors, the inverse of `encode_words`.

    Args:
        port: how the beats carry them.
        raw: uint32 (N, port.beats, port.limbs).

    Returns:
        int64 (N, *port.shape).

    Raises:
        DataError: dtype or shape does not fit the port.
    """
    if raw.dtype != np.uint32 or raw.ndim != 3 or raw.shape[1:] != (port.beats, port.limbs):
        raise DataError(f"beats must be uint32 (N, {port.beats}, {port.limbs}), not {raw.dtype} {raw.shape}")
    lanes = np.zeros((len(raw), port.beats, port.lanes), np.uint64)
    for lane, limb, shift, done, width in _pieces(port):
        piece = (raw[..., limb] >> np.uint32(shift)) & np.uint32((1 << width) - 1)
        lanes[..., lane] |= piece.astype(np.uint64) << np.uint64(done)
    spare = 64 - port.bits
    values = (lanes << np.uint64(spare)).view(np.int64)
    values = values >> spare if port.signed else (values.view(np.uint64) >> np.uint64(spare)).view(np.int64)
    slots = values.reshape(len(raw), port.positions, len(port.layout) * port.lanes)
    order = np.argsort([channel if channel >= 0 else port.channels for row in port.layout for channel in row])
    by_pixel = slots[:, :, order[: port.channels]].reshape(len(raw), port.positions, port.pixels, port.shape[0])
    return by_pixel.transpose(0, 3, 1, 2).reshape(len(raw), *port.shape)


def _pieces(port: Port) -> list[tuple[int, int, int, int, int]]:
    """(lane, limb, bit in the limb, bit in the lane, width) of every run of bits that stays within one limb."""
    pieces = []
    for lane in range(port.lanes):
        done = 0
        while done < port.bits:
            limb, shift = divmod(lane * port.bits + done, 32)
            width = min(32 - shift, port.bits - done)
            pieces.append((lane, limb, shift, done, width))
            done += width
    return pieces


def _comma(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
