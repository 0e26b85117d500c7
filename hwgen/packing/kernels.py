"""The inner loops of the search, compiled by numba: they make some millions of small moves.

All functions take the state of `hwgen.packing.search.Sets` as arrays:
    columns, starts: output o has its non-zeros in columns[starts[o] : starts[o + 1]].
    height: (sets, columns): non-zeros of a set in a column; top: (columns,): the greatest of them; at_top: how many
        sets have it.
    set_of: (outputs,).
    step: (outputs + 1,): what one more non-zero costs a set that has 0, 1, ... of the column.
    row_cost: what one more row of the packed weights costs, which is one more than `top` of some column.
All of them are changed in place, but for columns, starts and step.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def add(output, target, columns, starts, height, top, at_top, set_of):  # type: ignore[no-untyped-def]
    """Puts an output that is in no set into the set target."""
    for column in columns[starts[output] : starts[output + 1]]:
        height[target, column] += 1
        if height[target, column] > top[column]:
            top[column] += 1
            at_top[column] = 1
        elif height[target, column] == top[column]:
            at_top[column] += 1
    set_of[output] = target


@njit(cache=True)
def remove(output, columns, starts, height, top, at_top, set_of):  # type: ignore[no-untyped-def]
    """Takes an output out of its set."""
    source = set_of[output]
    for column in columns[starts[output] : starts[output + 1]]:
        if height[source, column] == top[column]:
            at_top[column] -= 1
        height[source, column] -= 1
        if at_top[column] == 0:
            top[column] -= 1
            for other in range(len(height)):
                at_top[column] += height[other, column] == top[column]
    set_of[output] = -1


@njit(cache=True)
def cost_of_adding(output, columns, starts, height, top, step, row_cost, cost):  # type: ignore[no-untyped-def]
    """Writes into cost, (sets,), what an output that is in no set would cost in each."""
    for target in range(len(height)):
        total = 0.0
        for column in columns[starts[output] : starts[output + 1]]:
            total += step[height[target, column]]
            if height[target, column] == top[column]:
                total += row_cost
        cost[target] = total


@njit(cache=True)
def fill(order, columns, starts, height, top, at_top, set_of, step, row_cost):  # type: ignore[no-untyped-def]
    """Puts the outputs of order (n,) one after the other where each costs least, into the emptiest of equal sets."""
    sizes = np.zeros(len(height), np.int64)
    cost = np.zeros(len(height))
    for output in order:
        cost_of_adding(output, columns, starts, height, top, step, row_cost, cost)
        target = 0
        for other in range(1, len(height)):
            if cost[other] < cost[target] or (cost[other] == cost[target] and sizes[other] < sizes[target]):
                target = other
        add(output, target, columns, starts, height, top, at_top, set_of)
        sizes[target] += 1


@njit(cache=True)
def anneal(  # type: ignore[no-untyped-def]
    outputs, draws, temperatures, goal, columns, starts, height, top, at_top, set_of, step, row_cost
):
    """Moves outputs[i] at temperatures[i] to the set that draws[i], from 0 to 1, selects; ends at the best assignment seen.

    All three are (moves,). It ends early where the rows, the sum of top, are no more than goal.
    """
    costs = np.zeros(len(height))
    chances = np.zeros(len(height))
    change = best = 0.0
    best_of = set_of.copy()
    for index in range(len(outputs)):
        if row_cost > 0 and index % 64 == 0 and top.sum() <= goal:
            return
        output = outputs[index]
        source = set_of[output]
        remove(output, columns, starts, height, top, at_top, set_of)
        cost_of_adding(output, columns, starts, height, top, step, row_cost, costs)
        least, total = costs.min(), 0.0
        for target in range(len(height)):
            total += np.exp((least - costs[target]) / temperatures[index])
            chances[target] = total
        target = min(np.searchsorted(chances, draws[index] * total, side="right"), len(height) - 1)
        add(output, target, columns, starts, height, top, at_top, set_of)
        change += costs[target] - costs[source]
        if change < best - 1e-9:
            best = change
            best_of[:] = set_of
    for output in range(len(set_of)):
        if best_of[output] != set_of[output]:
            remove(output, columns, starts, height, top, at_top, set_of)
            add(output, best_of[output], columns, starts, height, top, at_top, set_of)
