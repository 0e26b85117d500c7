"""How lanes that take windows in turn divide a convolution; without Amaranth, so that a plan can use it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from rtl_templates.sub_lists import SubLists
from rtl_templates.windows import Windows

# Lanes that share their registers of control, and whose results one LUT a bit joins to those of the lanes before; the
# first group, before which there are none, has one more.
GROUP = 3
# Of a window, from its last list to its first result, besides its steps and a cycle a group of lanes.
LATENCY = 19
# Words after which a ring's fill repeats.
_WARM, _MEASURED = 3, 2
# Lists that may come before it is known that a ring is full.
ROOM_DELAY = 2
# Cycles from the last accumulator that leaves a lane until lists may be written over what it read, the chain aside.
_RELEASE = 16


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
        """Cycles that a window takes a lane; less than three of them would overtake each other behind the chains."""
        return max(3, self.steps + self.kernels)

    @property
    def lanes(self) -> int:
        """Of each chain."""
        return -(-self.busy // self.interval)

    @property
    def groups(self) -> list[range]:
        """The lanes of each chain, by the registers that they share."""
        ends = [*range(GROUP + 1, self.lanes, GROUP), self.lanes]
        return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]

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

    @property
    def ring(self) -> int:
        """Lists that a lane keeps: the least power of two that never makes an even producer lose time."""
        return _ring(self)

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


@lru_cache(maxsize=1 << 12)
def _ring(parts: WindowParts) -> int:
    window = parts.windows
    reach = (window.kernel[0] - 1) * window.dilation[0] * window.padded[1]
    reach += (window.kernel[1] - 1) * window.dilation[1] + 1
    size = 1 << (reach + _RELEASE - 1).bit_length()
    while not all(_keeps_up(parts, part, size - ROOM_DELAY) for part in parts.parts):
        size *= 2
    return size


def _keeps_up(parts: WindowParts, part: Part, ring: int) -> bool:
    """Whether windows start evenly with such a ring and lists that come evenly, written no faster than they can be."""
    window, (rows, columns) = parts.windows, parts.windows.positions
    height, width = window.padded
    words, positions = _WARM + _MEASURED, rows * columns
    first, within_row, to_row, to_word = parts.bases(part)
    jumps = np.full(words * positions, within_row)
    jumps[columns - 1 :: columns] = to_row
    jumps[positions - 1 :: positions] = to_word
    bases = np.cumsum(np.concatenate([[first], jumps])).tolist()
    of_row = np.arange(height)
    kept = np.tile(np.repeat((of_row >= part.first_row) & (of_row < part.first_row + part.rows), width), words).tolist()
    last = np.zeros(window.pixels, bool)
    last[window.pixels_of((window.kernel[0] - 1, window.kernel[1] - 1))] = True
    completes = np.tile(last, words).tolist()
    due = (np.arange(words * window.pixels) * parts.cycles // window.pixels).tolist()

    starts: list[int] = []
    written = freed_by = 0
    now, release = -parts.lists.list_rows, parts.busy + len(parts.groups) + _RELEASE
    for earliest, keeps, completing in zip(due, kept, completes, strict=True):
        now = max(now + parts.lists.list_rows, earliest)
        if keeps:
            while bases[freed_by] <= written - ring:
                freed_by += 1
            if freed_by > len(starts):
                return False
            if freed_by:
                now = max(now, starts[freed_by - 1] + release)
            written += 1
        if completing:
            starts.append(max(now, starts[-1] + parts.interval if starts else 0))
    ends = starts[positions - 1 :: positions]
    return all(after - before == parts.cycles for before, after in pairwise(ends[_WARM - 1 :]))
