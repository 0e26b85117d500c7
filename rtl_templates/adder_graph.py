"""A matrix of constants as a graph of adders: data only, without Amaranth, so that a plan can hold it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
        fused: no adder of its own: every adder that reads it adds its two operands instead. Its level is 0.
    """

    a: int
    b: int
    shift: int
    negate_a: bool
    negate_b: bool
    level: int
    low: int
    high: int
    fused: bool = False

    @property
    def bits(self) -> int:
        """Of the value."""
        return range_bits(self.low, self.high)


class Term(NamedTuple):
    """±value << shift."""

    value: int
    shift: int
    negative: bool


def inside(term: Term, operand: Term) -> Term:
    """An operand of a term's value, as a term of the sum that the term belongs to."""
    return Term(operand.value, term.shift + operand.shift, term.negative != operand.negative)


def passing_bits(terms: Sequence[Term]) -> int:
    """Lowest bits of a sum that need no adder: below all shifts but the least, unless that operand is subtracted."""
    lowest, second, *_ = sorted(terms, key=lambda term: term.shift)
    return 0 if lowest.negative else second.shift


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
        return sum(node.bits - passing_bits(self.terms(node)) for node in self.nodes if not node.fused)

    def terms(self, node: Node) -> list[Term]:
        """What the adder of a node that is not fused adds up: two operands, or three where one is fused."""
        found: list[Term] = []
        for term in (Term(node.a, 0, node.negate_a), Term(node.b, node.shift, node.negate_b)):
            inner = self.nodes[term.value - self.inputs] if term.value >= self.inputs else None
            if inner is None or not inner.fused:
                found.append(term)
                continue
            found.append(inside(term, Term(inner.a, 0, inner.negate_a)))
            found.append(inside(term, Term(inner.b, inner.shift, inner.negate_b)))
        return found

    @property
    def register_bits(self) -> int:
        """Of all registers: the nodes, and the copies that values need to arrive with their partners."""
        until = self.last_levels()
        bits = [self.input_bits] * self.inputs + [0 if node.fused else node.bits for node in self.nodes]
        since = [1] * self.inputs + [node.level for node in self.nodes]
        return sum(b * (last - first + 1) for b, first, last in zip(bits, since, until, strict=True) if last >= first)

    def last_levels(self) -> list[int]:
        """The last level at which each value is read: one below its latest reader, or the depth for an output."""
        last = [0] * self.inputs + [node.level for node in self.nodes]
        for node in self.nodes:
            for term in self.terms(node) if not node.fused else ():
                last[term.value] = max(last[term.value], node.level - 1)
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
