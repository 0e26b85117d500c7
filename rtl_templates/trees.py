"""Balanced trees of operators: `sum()` and `reduce()` would make chains, and `sum()` widens with every term."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth import Module, Signal, Value, unsigned
from amaranth.utils import bits_for


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


def total(m: Module, terms: Sequence[Value], largest: int, name: str) -> Signal:
    """The sum of unsigned terms that is known not to exceed `largest`, in a signal of just that width."""
    result = Signal(unsigned(max(1, bits_for(largest))), name=name)
    m.d.comb += result.eq(tree(lambda a, b: a + b, terms))
    return result
