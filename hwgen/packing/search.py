"""Sets with collisions: a given number of sets, as few rows as possible.

A column takes as many rows as the fullest set has non-zeros in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Sets:
    """Output channels in a fixed number of sets, with the non-zeros of each set counted by column.

    Args:
        mask: bool (outputs, columns).
        sets: number of sets.
        set_of: int64 (outputs,): the set of each output; None fills the sets greedily, outputs with most non-zeros
            first.
        crowding: float64 (outputs + 2,): cost of h non-zeros of one set in one column. It leads the search across
            plateaus of equal rows, and, where it is steep, to few rows in the longest column.
        row_cost: cost of one row.
    """

    def __init__(
        self,
        mask: NDArray[np.bool_],
        sets: int,
        set_of: NDArray[np.int64] | None,
        crowding: NDArray[np.float64],
        row_cost: float,
    ) -> None:
        sizes = mask.sum(axis=1)
        self._columns = np.nonzero(mask)[1]
        self._starts = np.concatenate(([0], np.cumsum(sizes)))
        self._cost = np.diff(crowding), row_cost
        self.mask = mask
        if set_of is not None:
            self.set_of = set_of.copy()
            self.height = np.zeros((sets, mask.shape[1]), np.int64)
            for output, target in enumerate(set_of):
                self.height[target] += mask[output]
            self.top = self.height.max(axis=0)
            self.at_top = (self.height == self.top).sum(axis=0)
            return
        # numba takes a moment to import, and masks that were trained for it pack without any search.
        from hwgen.packing.kernels import fill

        self.set_of = np.full(len(mask), -1)
        self.height = np.zeros((sets, mask.shape[1]), np.int64)
        self.top = np.zeros(mask.shape[1], np.int64)
        self.at_top = np.full(mask.shape[1], sets)
        largest_first = np.argsort(-sizes, kind="stable")
        fill(largest_first, *self._state(), *self._cost)  # type: ignore[call-arg]

    @property
    def sets(self) -> int:
        return len(self.height)

    @property
    def rows(self) -> int:
        return int(self.top.sum())

    @property
    def rows_max(self) -> int:
        return int(self.top.max(initial=0))

    @property
    def slots(self) -> int:
        return self.sets * self.rows

    def anneal(self, rng: np.random.Generator, steps: int, warm: float, cold: float) -> None:
        """Moves single outputs between sets, at falling temperature, and ends at the best assignment seen.

        Each step draws an output's new set from all sets with the probability exp(-cost / temperature), which needs
        no rejected proposals.

        Args:
            rng: source of the draws.
            steps: moves.
            warm, cold: first and last temperature, in units of the cost.
        """
        from hwgen.packing.kernels import anneal

        outputs = rng.integers(len(self.set_of), size=steps)
        goal = int((-(-self.mask.sum(axis=0) // self.sets)).sum())
        schedule = outputs, rng.random(steps), np.geomspace(warm, cold, steps), goal
        anneal(*schedule, *self._state(), *self._cost)  # type: ignore[call-arg]

    def even_out(self) -> None:
        """Moves outputs from the largest to smaller sets for as long as no column takes more rows for it."""
        sizes = np.bincount(self.set_of, minlength=self.sets)
        for _ in range(len(self.set_of)):
            largest = int(np.argmax(sizes))
            move = self._free_move(largest, sizes)
            if move is None:
                return
            output, target = move
            self.height[largest] -= self.mask[output]
            self.height[target] += self.mask[output]
            self.set_of[output] = target
            sizes[largest] -= 1
            sizes[target] += 1
        self.top = self.height.max(axis=0)
        self.at_top = (self.height == self.top).sum(axis=0)

    def _free_move(self, largest: int, sizes: NDArray[np.int64]) -> tuple[int, int] | None:
        smaller = np.flatnonzero(sizes < sizes[largest] - 1)
        if not len(smaller):
            return None
        full = (self.height[smaller] == self.top).astype(np.float32)
        members = np.flatnonzero(self.set_of == largest)
        grows = full @ self.mask[members].T.astype(np.float32) > 0
        sets, outputs = np.nonzero(~grows)
        if not len(sets):
            return None
        best = np.lexsort((outputs, smaller[sets], sizes[smaller[sets]]))[0]
        return int(members[outputs[best]]), int(smaller[sets[best]])

    def _state(self) -> tuple[NDArray[np.int64], ...]:
        return self._columns, self._starts, self.height, self.top, self.at_top, self.set_of
