"""The inner loops of `hwgen.sparsify.grouping`, compiled by numba."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def conflicts(demand):  # type: ignore[no-untyped-def]
    """(kernels, kernels): what two kernels want of the same columns, the smaller of both demands summed over columns.

    demand: (columns, kernels), mostly 0.
    """
    columns, kernels = demand.shape
    conflict = np.zeros((kernels, kernels))
    for column in range(columns):
        wanting = np.flatnonzero(demand[column])
        for index, kernel in enumerate(wanting):
            for other in wanting[:index]:
                shared = min(demand[column, kernel], demand[column, other])
                conflict[kernel, other] += shared
                conflict[other, kernel] += shared
    return conflict


@njit(cache=True)
def reduce_conflicts(conflict, sets, set_of):  # type: ignore[no-untyped-def]
    """Exchanges kernels between sets for as long as the conflicts inside of sets become less."""
    kernels = len(conflict)
    inside = np.zeros((kernels, sets))
    for kernel in range(kernels):
        for other in range(kernels):
            inside[kernel, set_of[other]] += conflict[kernel, other]
    tolerance = 1e-9 * conflict.max()
    changed = True
    while changed:
        changed = False
        for kernel in range(kernels):
            source = set_of[kernel]
            most, partner = tolerance, -1
            for other in range(kernels):
                target = set_of[other]
                if target != source:
                    gain = inside[kernel, source] - inside[kernel, target]
                    gain += inside[other, target] - inside[other, source] + 2 * conflict[kernel, other]
                    if gain > most:
                        most, partner = gain, other
            if partner >= 0:
                target = set_of[partner]
                for other in range(kernels):
                    change = conflict[other, partner] - conflict[other, kernel]
                    inside[other, source] += change
                    inside[other, target] -= change
                set_of[kernel], set_of[partner] = target, source
                changed = True


@njit(cache=True)
def bound_replacements(members, owner, best, second, score, price, quota, bound):  # type: ignore[no-untyped-def]
    """Writes bound[a, b] for every member a of a set and every kernel b; see `grouping.Groups`.

    owner: (columns,): index in members of who has the column, -1 for nobody. best, second: (columns,): greatest and
    second greatest score - price among the members and nobody, who offers 0.
    """
    kernels, columns = score.shape
    without = np.empty(len(members))
    for kernel in range(kernels):
        without[:] = 0.0
        total = quota[kernel] * price[kernel]
        for column in range(columns):
            offer = score[kernel, column] - price[kernel]
            # Most offers are below both, and then there is nothing to add.
            if offer > second[column]:
                gain = max(0.0, offer - best[column])
                total += gain
                if owner[column] >= 0:
                    without[owner[column]] += offer - second[column] - gain
        for index, member in enumerate(members):
            bound[member, kernel] = total + without[index]


@njit(cache=True)
def update_gains(members, set_of, bound, gain):  # type: ignore[no-untyped-def]
    """Writes what the exchange of each member with each kernel brings at most; -inf within a set."""
    for member in members:
        for other in range(len(bound)):
            most = -np.inf
            if set_of[member] != set_of[other]:
                most = bound[member, other] + bound[other, member] - bound[member, member] - bound[other, other]
            gain[member, other] = most
            gain[other, member] = most
