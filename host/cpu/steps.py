"""The steps of a program: what each reads and writes, before any code is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from host.cpu.ir import Code, Tables, Value
from host.cpu.isa import Isa
from host.cpu.layout import Map


@dataclass(frozen=True)
class Context:
    """Where a step's code goes.

    Attributes:
        code: the step's function.
        isa: the path.
        work: pointer to the workspace.
        block: pointer to the tables' block.
        tables: to add constants to.
    """

    code: Code
    isa: Isa
    work: Value
    block: Value
    tables: Tables


class Step(Protocol):
    """A part of the program.

    Attributes:
        name: of the layer that it computes, or begins with.
    """

    @property
    def name(self) -> str: ...

    def emit(self, context: Context) -> None:
        """Writes the step's code."""


@dataclass(frozen=True)
class Lists:
    """The non-zero values of each pixel of a map: `slots` places of rows (int32), then as many values (int16).

    Spare slots, and those of the border, hold zeros: the product with any row adds nothing.

    Attributes:
        map: whose pixels they are; a flat list is that of a map of one pixel.
        slots: entries of a pixel, even.
        row_bytes: of the matrix whose rows the entries name: a place is channel * row_bytes.
        start: byte in the workspace.
    """

    map: Map
    slots: int
    row_bytes: int
    start: int = 0

    @property
    def pixel(self) -> int:
        return 8 * -(-6 * self.slots // 8)

    @property
    def values(self) -> int:
        """Where the values of a pixel begin."""
        return 4 * self.slots

    @property
    def row(self) -> int:
        return (self.map.width + self.map.border[1] + self.map.border[3]) * self.pixel

    @property
    def size(self) -> int:
        return (self.map.height + self.map.border[0] + self.map.border[2]) * self.row

    @property
    def origin(self) -> int:
        return self.start + self.map.border[0] * self.row + self.map.border[1] * self.pixel


@dataclass(frozen=True)
class Window:
    """The pixels that an output position sees.

    Attributes:
        size: output positions (rows, columns).
        stride: pixels of the map from position to position (rows, columns).
        taps: (row, column) of each pixel in the window, relative to the pixel at output position * stride.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    taps: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Scale:
    """Requantisation: y = saturate((x * multiplier + 2^(shift-1)) >> shift).

    Attributes:
        multiplier: int32, one a channel.
        shift: of all channels.
        offset: of the bytes that result.
        narrow: whether the shifted product fits 32 bits, before it saturates.
    """

    multiplier: NDArray[np.int32]
    shift: int
    offset: int
    narrow: bool
