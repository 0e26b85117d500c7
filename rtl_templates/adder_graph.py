"""A matrix of constants as a graph of adders: data only, without Amaranth, so that a plan can hold it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def range_bits(low: int, high: int) -> int:
    """Bits of a value in [low, high]: two's complement if it can be negative, else unsigned."""
    if low >= 0:
        return max(1, high.bit_length())
    return 1 + max((-low - 1).bit_length(), max(high, 0).bit_length())


@dataclass(frozen=True)
class Node:
    """One adder: ±value[a] ± (value[b] << shift), where at most one of the two is subtracted.

    Attributes:
        a, b: values: the graph's inputs come first, then its nodes.
        shift: at least 0.
        negate_a, negate_b: which operand is subtracted.
        level: the register stage that holds it; the inputs are level 0, operands lie at lower levels.
        low, high: what it can be.
    """

    a: int
    b: int
    shift: int
    negate_a: bool
    negate_b: bool
    level: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Of the value."""
        return range_bits(self.low, self.high)

    @property
    def adder_bits(self) -> int:
        """Of the carry chain: below the shift, the lowest bits of `a` pass as they are."""
        return self.bits - (0 if self.negate_a else self.shift)


@dataclass(frozen=True)
class Output:
    """value << shift, or zero where there is no value. A negative shift drops bits that are always zero."""

    value: int | None
    shift: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Of the output."""
        return range_bits(self.low, self.high)


@dataclass(frozen=True)
class AdderGraph:
    """Products of a vector with a constant matrix, as adders that share what columns have in common.

    Attributes:
        inputs: length of the vector.
        low, high: of every input.
        nodes: the adders, every one behind its operands.
        outputs: of each column of the matrix.
    """

    inputs: int
    low: int
    high: int
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    @property
    def depth(self) -> int:
        """Levels of registers."""
        return max((node.level for node in self.nodes), default=0)

    @property
    def input_bits(self) -> int:
        """Of an input."""
        return range_bits(self.low, self.high)

    @property
    def adder_bits(self) -> int:
        """Of all carry chains together: about the LUTs that the graph takes."""
        return sum(node.adder_bits for node in self.nodes)

    @property
    def register_bits(self) -> int:
        """Of all registers: the nodes, and the copies that values need to arrive with their partners."""
        until = self.last_levels()
        bits = [self.input_bits] * self.inputs + [node.bits for node in self.nodes]
        since = [1] * self.inputs + [node.level for node in self.nodes]
        return sum(b * (last - first + 1) for b, first, last in zip(bits, since, until, strict=True) if last >= first)

    def last_levels(self) -> list[int]:
        """The last level at which each value is read: one below its latest reader, or the depth for an output."""
        last = [0] * self.inputs + [node.level for node in self.nodes]
        for node in self.nodes:
            for operand in (node.a, node.b):
                last[operand] = max(last[operand], node.level - 1)
        for value in used(self.outputs):
            last[value] = self.depth
        return last

    def evaluate(self, x: NDArray[np.integer]) -> NDArray[np.int64]:
        """The graph on integers (..., inputs): (..., outputs)."""
        values = [x[..., place].astype(np.int64) for place in range(self.inputs)]
        for node in self.nodes:
            a, b = values[node.a], values[node.b] << node.shift
            values.append((-a if node.negate_a else a) + (-b if node.negate_b else b))
        results = [_shifted(values[o.value], o.shift) if o.value is not None else 0 * x[..., 0] for o in self.outputs]
        return np.stack(results, axis=-1).astype(np.int64)


def used(outputs: Iterable[Output]) -> list[int]:
    """The values that outputs show."""
    return [output.value for output in outputs if output.value is not None]


def _shifted(value: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    return value << shift if shift >= 0 else value >> -shift
