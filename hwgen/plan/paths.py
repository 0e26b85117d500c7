"""The cheapest path through a graph whose edges take resources that the whole path must not exceed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hwgen.errors import PlanError, ToolError
from hwgen.plan.budget import MEMORY, Budget, Needs
from hwgen.plan.stages import Stage

START, END = "start", "end"
# Between paths whose prices differ by less than this share the search does not go on.
GAP = 1e-3


@dataclass(frozen=True, eq=False)
class Edge:
    """Stages that lead from one node to another, with what they take and their price."""

    begin: Hashable
    end: Hashable
    stages: tuple[Stage, ...]
    needs: Needs
    price: float


class TooLarge(PlanError):
    """No path is within the budget; the message says what is needed and there.

    Attributes:
        memory: whether it may be for want of memory: there are multipliers and look-up tables enough, each for itself.
    """

    def __init__(self, message: str, *, memory: bool):
        super().__init__(message)
        self.memory = memory


def cheapest(edges: Sequence[Edge], budget: Budget) -> list[Edge]:
    """The cheapest path from START to END within the budget.

    Args:
        edges: those that end at a node come before those that begin there.
        budget: what a path may take.

    Raises:
        TooLarge: there is none.
    """
    path = shortest(edges, lambda edge: edge.price)
    lack = budget.lack(_total(path))
    if not lack:
        return path
    for resource, limit in enumerate(budget.limits):
        least = _total(shortest(edges, partial(_need, resource)))
        if least[resource] > limit:
            alone = Needs(*(need if other == resource else 0 for other, need in enumerate(least)))
            raise TooLarge(budget.lack(alone), memory=resource == MEMORY)
    within = _within(edges, budget)
    if within is None:
        raise TooLarge(lack, memory=True)
    return within


def shortest(edges: Sequence[Edge], length: Callable[[Edge], float]) -> list[Edge]:
    """The path from START to END with the least sum of lengths; the first one of several."""
    best: dict[Hashable, tuple[float, Edge | None]] = {START: (0, None)}
    for edge in edges:
        if edge.begin in best:
            total = best[edge.begin][0] + length(edge)
            if edge.end not in best or total < best[edge.end][0]:
                best[edge.end] = (total, edge)
    path = []
    last = best[END][1]
    while last is not None:
        path.append(last)
        last = best[last.begin][1]
    return path[::-1]


def _need(resource: int, edge: Edge) -> float:
    return edge.needs[resource]


def _total(path: Sequence[Edge]) -> Needs:
    total = Needs(0, 0, 0)
    for edge in path:
        total = total.plus(edge.needs)
    return total


def _within(edges: Sequence[Edge], budget: Budget) -> list[Edge] | None:
    """The cheapest path within the budget: a flow of one from START to END, as an integer program."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    nodes: dict[Hashable, int] = {}
    for edge in edges:
        nodes.setdefault(edge.begin, len(nodes))
        nodes.setdefault(edge.end, len(nodes))
    number = np.arange(len(edges))
    flow = coo_array(
        (
            np.repeat([1.0, -1.0], len(edges)),
            ([nodes[edge.begin] for edge in edges] + [nodes[edge.end] for edge in edges], np.tile(number, 2)),
        ),
        shape=(len(nodes), len(edges)),
    )
    out = np.zeros(len(nodes))
    out[nodes[START]], out[nodes[END]] = 1, -1
    bounded = [resource for resource, limit in enumerate(budget.limits) if np.isfinite(limit)]
    # Needs are counted in halves: less than that keeps rounding out of the comparison.
    limits = np.array([budget.limits[resource] + 0.25 for resource in bounded])
    needs = np.array([[edge.needs[resource] for edge in edges] for resource in bounded], float) / limits[:, None]
    result = milp(
        np.array([edge.price for edge in edges]),
        integrality=np.ones(len(edges)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(flow.tocsr(), out, out), LinearConstraint(needs, ub=1.0)],
        options={"mip_rel_gap": GAP},
    )
    if result.status == 2:
        return None
    if result.x is None:
        raise ToolError(f"the choice of a plan's stages failed: {result.message}")
    return [edge for edge, taken in zip(edges, result.x, strict=True) if taken > 0.5]
