"""Where the values of a tensor lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_KINDS = {1: np.uint8, 2: np.int16, 4: np.int32}
# Channels of a vector operation.
LANES = 16


@dataclass(frozen=True)
class Map:
    """A tensor in the workspace: rows of pixels of channels; a vector is a map of one pixel.

    Attributes:
        channels, height, width: as torch has them; a flattened map stays a map.
        stride: channels from pixel to pixel, at least `channels`; those beyond hold the fill.
        border: rows and columns around the map (top, left, bottom, right), which hold the fill: the next layer's padding.
        unit: bytes of a value: 1, or 4 for sums (int32), or 2 for bytes that were widened (int16, without an offset).
        offset: of bytes: what stands for the value 0, 128 where values may be negative, else 0.
        fill: what border and spare channels hold, as stored.
        start: byte in the workspace.
    """

    channels: int
    height: int
    width: int
    stride: int
    border: tuple[int, int, int, int]
    unit: int
    offset: int
    fill: int
    start: int = 0

    @property
    def words(self) -> bool:
        """Whether the values are sums."""
        return self.unit == 4

    @property
    def pixel(self) -> int:
        """Bytes from pixel to pixel."""
        return self.stride * self.unit

    @property
    def row(self) -> int:
        """Bytes from row to row."""
        return (self.width + self.border[1] + self.border[3]) * self.pixel

    @property
    def size(self) -> int:
        """Bytes of it all."""
        return (self.height + self.border[0] + self.border[2]) * self.row

    @property
    def origin(self) -> int:
        """Byte in the workspace of the first channel of the first pixel."""
        return self.start + self.border[0] * self.row + self.border[1] * self.pixel

    def filled(self) -> NDArray[np.uint8]:
        """The contents before anything is computed."""
        return np.full(self.size // self.unit, self.fill, _KINDS[self.unit]).view(np.uint8)


# Two vectors: what the widest way of multiplying writes at once.
PIXEL = 2 * LANES


def padded(channels: int) -> int:
    """Channels in whole vectors."""
    return -(-channels // LANES) * LANES


def stride_of(channels: int) -> int:
    """Channels from pixel to pixel, so that vector operations may write all of them."""
    return -(-channels // PIXEL) * PIXEL
