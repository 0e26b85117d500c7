"""The windows of a convolution over a map that comes pixel by pixel; without Amaranth, so that a plan can use it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Lists that may come between the end of a position, as a model without latencies has it, and the cycle that counts it.
SLACK = 2


@dataclass(frozen=True)
class Windows:
    """The windows of a convolution over a map, in pixels of the padded map.

    Attributes:
        map, kernel, stride, padding, dilation: (rows, columns) each, as in torch.
    """

    map: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for name in ("map", "kernel", "stride", "dilation"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        if min(self.padding) < 0:
            raise ValueError(f"padding must not be negative, not {self.padding!r}")
        if min(self.positions) < 1:
            raise ValueError(f"the kernel must fit into the padded map: {self!r}")

    @property
    def positions(self) -> tuple[int, int]:
        """Output rows and columns."""
        rows, columns = (
            (self.map[i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1) // self.stride[i] + 1
            for i in range(2)
        )
        return rows, columns

    @property
    def padded(self) -> tuple[int, int]:
        """Extent of the padded map, without the padding behind it that no window reaches."""
        rows, columns = (
            max(
                self.padding[i] + self.map[i],
                (self.positions[i] - 1) * self.stride[i] + (self.kernel[i] - 1) * self.dilation[i] + 1,
            )
            for i in range(2)
        )
        return rows, columns

    @property
    def pixels(self) -> int:
        return self.padded[0] * self.padded[1]

    def needed_by(self, axis: int) -> NDArray[np.bool_]:
        """bool (pixels, kernel): whether an offset of the kernel meets a row (axis 0) or a column (axis 1)."""
        place = np.arange(self.padded[axis])[:, None] - np.arange(self.kernel[axis]) * self.dilation[axis]
        window, rest = np.divmod(place, self.stride[axis])
        return (rest == 0) & (window >= 0) & (window < self.positions[axis])

    def inside(self, axis: int) -> NDArray[np.bool_]:
        """bool (pixels,): whether a row (axis 0) or a column (axis 1) is not padding."""
        place = np.arange(self.padded[axis]) - self.padding[axis]
        return (place >= 0) & (place < self.map[axis])

    def pixels_of(self, offset: tuple[int, int]) -> NDArray[np.int64]:
        """Numbers of the pixels that an offset of the kernel meets, in raster order."""
        rows, columns = (self.needed_by(axis)[:, offset[axis]] for axis in range(2))
        return np.flatnonzero(np.outer(rows, columns))

    def waiting(self, writes: int, cycles: int) -> int:
        """Lists that come while padding is written, 0 without padding.

        Args:
            writes: cycles that writing a list takes.
            cycles: of a word.
        """
        if not any(self.padding):
            return 0
        inside = np.outer(self.inside(0), self.inside(1)).ravel()
        borders = np.flatnonzero(np.concatenate([inside, inside]))
        longest = int(np.diff(borders).max()) - 1
        return -(-longest * writes * int(inside.sum()) // cycles) + SLACK

    def least_depth(self) -> int:
        """Lists that the first offset meets, and does not leave, until the last one meets its list of a position."""
        first, last = self.pixels_of((0, 0)), self.pixels_of((self.kernel[0] - 1, self.kernel[1] - 1))
        return int((np.searchsorted(first, last, side="right") - np.arange(len(last))).max())

    def full_speed_depth(self, interval: int, cycles: int) -> int:
        """Lists for which the first offset needs room if a word's pixels arrive evenly in its cycles; a power of two.

        Args:
            interval: cycles of a position.
            cycles: of a word.
        """
        words = np.arange(3)[:, None]
        first, last = self.pixels_of((0, 0)), self.pixels_of((self.kernel[0] - 1, self.kernel[1] - 1))
        # In units of 1 / pixels of a cycle.
        arrived, complete = (((words * self.pixels + of + 1) * cycles).ravel() for of in (first, last))
        grid = np.arange(len(complete)) * interval * self.pixels
        ended = np.maximum.accumulate(complete - grid) + grid + interval * self.pixels
        held = np.arange(len(arrived)) + 1 - np.searchsorted(ended, arrived)
        return 1 << (int(held.max()) + SLACK - 1).bit_length()
