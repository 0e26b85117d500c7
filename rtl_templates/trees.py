"""Balanced trees of operators: `sum()` and `reduce()` would make chains, and `sum()` widens with every term."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth import Cat, Const, Module, Signal, Value, unsigned
from amaranth.utils import bits_for

# Bits whose neighbours below fit into a LUT beside them.
_TOGETHER = 4


def tree(operator: Callable[[Value, Value], Value], terms: Sequence[Value]) -> Value:
    """Applies an associative operator pairwise; `terms` must not be empty."""
    level = list(terms)
    while len(level) > 1:
        pairs = [operator(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) & ~1 :]
    return level[0]


def any_of(terms: Sequence[Value]) -> Value:
    """The bitwise or of all terms."""
    return tree(lambda a, b: a | b, terms)


def lowest_one(value: Value) -> Value:
    """The lowest bit that is set, alone, as value & -value is: gates, which take fewer levels than a carry."""
    below, result = Const(0), []
    for start in range(0, len(value), _TOGETHER):
        part = value[start : start + _TOGETHER]
        result += [part[i] & ~(below | part[:i].any()) for i in range(len(part))]
        below = value[: start + len(part)].any()
    return Cat(result)


def total(m: Module, terms: Sequence[Value], largest: int, name: str) -> Signal:
    """The sum of unsigned terms that is known not to exceed `largest`, in a signal of just that width."""
    result = Signal(unsigned(max(1, bits_for(largest))), name=name)
    m.d.comb += result.eq(tree(lambda a, b: a + b, terms))
    return result
