"""How lanes that take windows in turn divide a convolution; without Amaranth, so that a plan can use it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rtl_templates.sub_lists import SubLists
from rtl_templates.windows import Windows

# Lanes that share their registers of control, and whose results one LUT a bit joins to those of the lanes before.
GROUP = 3
# Words after which a ring's fill repeats.
_WARM, _MEASURED = 3, 2


@dataclass(frozen=True)
class Part:
    """What a chain of lanes reads of each window: consecutive rows of lists.

    Attributes:
        offset: of the kernel, at which it begins.
        phase: row of that offset's list.
        offsets: that it touches, those behind the kernel's last one included.
        first_row, rows: of the padded map, whose lists its lanes keep.
    """

    offset: int
    phase: int
    offsets: int
    first_row: int
    rows: int


@dataclass(frozen=True)
class WindowParts:
    """Each window is cut into as many parts as there are chains, and of each chain one lane serves the window's part.

    Attributes:
        windows: the convolution.
        entries: of a list.
        weight_rows: rows of the augmented weight tensor for each entry.
        kernels: accumulators of a set, which leave after the products.
        interval: cycles from a window to the next, at least `kernels`.
        chains: parts of a window.
    """

    windows: Windows
    entries: int
    weight_rows: int
    kernels: int
    interval: int
    chains: int = 1

    def __post_init__(self) -> None:
        if self.kernels < 1:
            raise ValueError(f"kernels must be positive, not {self.kernels!r}")
        if self.interval < self.kernels:
            raise ValueError(f"interval must be at least kernels = {self.kernels}, not {self.interval!r}")
        if self.chains < 1 or (self.chains - 1) * self.rows >= self._all_rows:
            raise ValueError(f"each of chains = {self.chains!r} must have some of a window's {self._all_rows} rows")

    @property
    def lists(self) -> SubLists:
        return SubLists(self.entries)

    @property
    def _all_rows(self) -> int:
        return self.windows.kernel[0] * self.windows.kernel[1] * self.lists.list_rows

    @property
    def rows(self) -> int:
        """Of lists, in a part; the last part may go beyond the window, where weights are zero."""
        return -(-self._all_rows // max(1, self.chains))

    @property
    def steps(self) -> int:
        """Products that a lane forms of a part, one a cycle."""
        return self.rows * self.lists.row_entries * self.weight_rows

    @property
    def busy(self) -> int:
        """Cycles that a window takes a lane."""
        return self.steps + self.kernels

    @property
    def lanes(self) -> int:
        """Of each chain."""
        return -(-self.busy // self.interval)

    @property
    def groups(self) -> int:
        """Of lanes, in each chain."""
        return -(-self.lanes // GROUP)

    @property
    def cycles(self) -> int:
        """Of a word: its windows, or writing its lists where that takes longer."""
        positions = self.windows.positions[0] * self.windows.positions[1]
        return max(positions * self.interval, self.windows.pixels * self.lists.list_rows)

    @property
    def parts(self) -> list[Part]:
        """In the order of the window."""
        rows_of_list, columns = self.lists.list_rows, self.windows.kernel[1]
        result = []
        for chain in range(self.chains):
            offset, phase = divmod(chain * self.rows, rows_of_list)
            end = min((chain + 1) * self.rows, self._all_rows)
            first, last = offset // columns, (-(-end // rows_of_list) - 1) // columns
            first_row = first * self.windows.dilation[0]
            last_row = (self.windows.positions[0] - 1) * self.windows.stride[0] + last * self.windows.dilation[0]
            offsets = -(-(phase + self.rows) // rows_of_list)
            result.append(Part(offset, phase, offsets, first_row, last_row + 1 - first_row))
        return result

    @cached_property
    def ring(self) -> int:
        """Lists that a lane keeps: the least power of two that never makes an even producer lose time."""
        window = self.windows
        reach = (window.kernel[0] - 1) * window.dilation[0] * window.padded[1]
        reach += (window.kernel[1] - 1) * window.dilation[1] + 1
        size = 1 << (reach + RELEASE_SLACK - 1).bit_length()
        while not all(self._keeps_up(part, size) for part in self.parts):
            size *= 2
        return size

    def bases(self, part: Part) -> tuple[int, int, int, int]:
        """Number of the list with which a part of the first window begins, and how far it is to the next window's.

        Returns:
            The number; lists to the next window of a row, from a row's last to the next row's first, from a word's last
            to the next word's first.
        """
        window, width = self.windows, self.windows.padded[1]
        row, column = divmod(part.offset, window.kernel[1])
        rows, columns = window.positions
        first = (row * window.dilation[0] - part.first_row) * width + column * window.dilation[1]
        back = (columns - 1) * window.stride[1]
        return (
            first,
            window.stride[1],
            window.stride[0] * width - back,
            (part.rows - (rows - 1) * window.stride[0]) * width - back,
        )

    def _keeps_up(self, part: Part, ring: int) -> bool:
        """Whether windows start evenly with such a ring and lists that come evenly, written no faster than they can be."""
        window, (rows, columns) = self.windows, self.windows.positions
        height, width = window.padded
        words = _WARM + _MEASURED
        first, within_row, to_row, to_word = self.bases(part)
        jumps = np.full(words * rows * columns, within_row)
        jumps[columns - 1 :: columns] = to_row
        jumps[rows * columns - 1 :: rows * columns] = to_word
        bases = np.cumsum(np.concatenate([[first], jumps]))
        kept = (np.arange(height) >= part.first_row) & (np.arange(height) < part.first_row + part.rows)
        kept = np.tile(np.repeat(kept, width), words)
        last = window.pixels_of((window.kernel[0] - 1, window.kernel[1] - 1))
        complete = np.zeros(words * height * width, bool)
        complete[(np.arange(words)[:, None] * height * width + last).ravel()] = True
        starts: list[int] = []
        written, now = 0, 0
        freed_by = 0
        for number in range(len(kept)):
            now = max(now + self.lists.list_rows, number * self.cycles // (height * width))
            if kept[number]:
                while bases[freed_by] <= written - ring:
                    freed_by += 1
                if freed_by:
                    if freed_by > len(starts):
                        return False
                    now = max(now, starts[freed_by - 1] + self.busy + self.groups + RELEASE_SLACK)
                written += 1
            if complete[number]:
                starts.append(max(now, starts[-1] + self.interval if starts else 0))
        ends = np.array(starts)[rows * columns - 1 :: rows * columns]
        return bool((np.diff(ends)[_WARM - 1 :] == self.cycles).all())


# Cycles from the last drained accumulator of a lane until lists may be written over what it read, chains aside.
RELEASE_SLACK = 16
