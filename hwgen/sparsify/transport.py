"""The exact transportation problem behind complementary sets and two-way partitions.

Every column takes the same number of rows, every row ends with its own quota of columns, and the kept score is the
greatest possible: a flow of least cost. Successive shortest paths (Ahuja, Magnanti, Orlin, "Network Flows" (1993),
section 9.7) start from the columns' own best rows at given prices, and then lead the surplus of each row to rows
that lack columns. Only rows are nodes of the graph: the arc from one row to another is the cheapest column that can
change hands. So the work follows the number of columns that must change hands rather than that of weights.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def transport(
    score: NDArray[np.float64],
    quota: NDArray[np.int64],
    per_column: int = 1,
    prices: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The positions that maximise the sum of kept scores.

    Args:
        score: (rows, columns), finite.
        quota: (rows,): columns that each row takes, from 0 to `columns`; their sum is columns * per_column.
        per_column: rows that each column takes, at most `rows`.
        prices: (rows,), where to start from; any are right, and those of a similar problem save most of the work.

    Returns:
        taken: bool (rows, columns).
        prices: (rows,): the rows' dual prices. Every column takes the rows of the greatest score - price.
    """
    taken = np.zeros(score.shape[::-1], np.bool_)
    prices = np.zeros(len(score)) if prices is None else prices.copy()
    _solve(np.ascontiguousarray(score.T), quota, per_column, prices, taken)
    return taken.T, prices


@njit(cache=True)
def _solve(score, quota, per_column, prices, taken):  # type: ignore[no-untyped-def]
    """Fills taken, (columns, rows) like score, and moves the prices to where they belong."""
    columns, rows = score.shape
    surplus = -quota
    for column in range(columns):
        for _ in range(per_column):
            best = -1
            for row in range(rows):
                if not taken[column, row] and (
                    best < 0 or score[column, row] - prices[row] > score[column, best] - prices[best]
                ):
                    best = row
            taken[column, best] = True
            surplus[best] += 1
    cost = np.full((rows, rows), np.inf)
    through = np.full((rows, rows), -1)
    for column in range(columns):
        _offer(column, score, taken, cost, through)
    distance = np.empty(rows)
    before = np.empty(rows, np.int64)
    settled = np.empty(rows, np.bool_)
    path, givers = np.empty(rows, np.int64), np.empty(rows, np.int64)
    for source in range(rows):
        while surplus[source] > 0:
            target = _shortest_path(source, surplus, cost, prices, distance, before, settled)
            surplus[source] -= 1
            surplus[target] += 1
            length = 0
            row = target
            while row != source:
                giver = before[row]
                column = through[giver, row]
                taken[column, giver] = False
                taken[column, row] = True
                path[length], givers[length] = column, giver
                length += 1
                row = giver
            for step in range(length):
                _withdraw(path[step], givers[step], score, taken, cost, through)
                _offer(path[step], score, taken, cost, through)


@njit(cache=True)
def _shortest_path(source, surplus, cost, prices, distance, before, settled):  # type: ignore[no-untyped-def]
    """The nearest row that lacks columns (Dijkstra on reduced costs); keeps the reduced costs from falling below 0."""
    rows = len(cost)
    distance[:] = np.inf
    settled[:] = False
    distance[source] = 0.0
    while True:
        nearest = -1
        for row in range(rows):
            if not settled[row] and (nearest < 0 or distance[row] < distance[nearest]):
                nearest = row
        settled[nearest] = True
        if surplus[nearest] < 0:
            break
        for row in range(rows):
            if not settled[row] and cost[nearest, row] < np.inf:
                # Rounding may leave a reduced cost a little below 0.
                length = distance[nearest] + max(0.0, cost[nearest, row] + prices[row] - prices[nearest])
                if length < distance[row]:
                    distance[row] = length
                    before[row] = nearest
    for row in range(rows):
        if settled[row]:
            prices[row] += distance[nearest] - distance[row]
    return nearest


@njit(cache=True)
def _offer(column, score, taken, cost, through):  # type: ignore[no-untyped-def]
    """Keeps the arcs that a column makes cheaper."""
    rows = len(cost)
    for giver in range(rows):
        if taken[column, giver]:
            for row in range(rows):
                if not taken[column, row]:
                    loss = score[column, giver] - score[column, row]
                    if loss < cost[giver, row]:
                        cost[giver, row] = loss
                        through[giver, row] = column


@njit(cache=True)
def _withdraw(column, former, score, taken, cost, through):  # type: ignore[no-untyped-def]
    """Finds other columns for the arcs that led through a column which changed hands.

    Those are all arcs of its former taker, and the arcs to its new one.
    """
    rows = len(cost)
    for giver in range(rows):
        if giver == former or taken[column, giver]:
            for row in range(rows):
                if through[giver, row] == column and (giver == former or taken[column, row]):
                    _search(giver, row, score, taken, cost, through)


@njit(cache=True)
def _search(giver, row, score, taken, cost, through):  # type: ignore[no-untyped-def]
    least, best = np.inf, -1
    for column in range(len(score)):
        if taken[column, giver] and not taken[column, row]:
            loss = score[column, giver] - score[column, row]
            if loss < least:
                least, best = loss, column
    cost[giver, row] = least
    through[giver, row] = best
