"""What a board holds, what stages take of it, and what each resource is worth."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, inf
from typing import NamedTuple, Protocol, runtime_checkable

from hwgen.plan.resources import blocks, total
from hwgen.plan.stages import Stage

# Without a board: the most multiplier blocks of a plan, and how many look-up tables and blocks of memory are worth as
# much as one.
MOST_MULTIPLIERS = 1 << 12
LUT_PER_MULTIPLIER = 500
MEMORY_PER_MULTIPLIER = 1
# Of the board's look-up tables a design can use so many and still be routed.
LUT_SHARE = 0.9


@runtime_checkable
class Board(Protocol):
    """What the planner asks of a board."""

    @property
    def name(self) -> str: ...

    @property
    def dsp(self) -> int: ...

    @property
    def lut(self) -> int: ...

    @property
    def block_ram_bits(self) -> int: ...


class Needs(NamedTuple):
    """Multiplier blocks, look-up tables, blocks of memory as the FPGA's family has them."""

    dsp: float
    lut: float
    memory: float

    def plus(self, other: Needs) -> Needs:
        return Needs(self.dsp + other.dsp, self.lut + other.lut, self.memory + other.memory)


# Which of them is the memory.
MEMORY = Needs._fields.index("memory")


class Budget:
    """Of a board, or of none.

    Arguments:
        board: None where only multipliers may be bounded.
        multipliers: without a board, the most multiplier blocks.

    Attributes:
        family: of the FPGA; the ECP5 where the board names none.
        ultra_ram: whether it has any.
        limits: what a plan may take of each resource.
    """

    def __init__(self, board: Board | None, multipliers: float = inf):
        self.board = board
        self.family: str = getattr(board, "family", "ecp5")
        self.ultra_ram: bool = getattr(board, "ultra_ram", 0) > 0
        if board is None:
            self.limits: tuple[float, float, float] = (multipliers, inf, inf)
            self._worth = (1.0, 1 / LUT_PER_MULTIPLIER, 1 / MEMORY_PER_MULTIPLIER)
        else:
            memory = blocks(board.block_ram_bits, self.family)
            self.limits = (board.dsp, round(board.lut * LUT_SHARE), memory)
            self._worth = (1.0, board.dsp / board.lut, board.dsp / max(1, memory))

    @property
    def most_multipliers(self) -> float:
        """Products that an engine may form in a cycle: at most two in a block."""
        return 2 * self.limits[0]

    def __str__(self) -> str:
        if self.board is None:
            return "" if self.limits[0] == inf else f" with {self.limits[0]} multipliers"
        return f" with the {self.limits[0]} multipliers of {self.board.name}"

    def needs(self, stages: Iterable[Stage]) -> Needs:
        """What stages take, as estimated."""
        taken = total(stages, self.family, ultra_ram=self.ultra_ram)
        return Needs(taken.dsp, ceil(taken.lut), taken.block_ram)

    def price(self, needs: Needs) -> float:
        """In multipliers, every resource being worth its share of the board."""
        return sum(need * worth for need, worth in zip(needs, self._worth, strict=True))

    def lack(self, needs: Needs) -> str:
        """What is needed more than the board has; empty where all fits."""
        names = ("multipliers", "look-up tables", "blocks of block memory")
        for name, need, limit in zip(names, needs, self.limits, strict=True):
            if need > limit:
                return f"{need:g} {name}, " + (f"but {self.board.name} has {limit}" if self.board else f"not {limit}")
        return ""
