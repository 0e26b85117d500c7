"""The transportation problem against linear programming."""

from __future__ import annotations

from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from hwgen.sparsify.transport import transport


def optimum(score: np.ndarray, quota: np.ndarray, per_column: int) -> float:
    rows, columns = score.shape
    of_row = np.kron(np.eye(rows), np.ones(columns))
    of_column = np.kron(np.ones(rows), np.eye(columns))
    demand = np.concatenate([quota, np.full(columns, per_column)])
    result = linprog(-score.ravel(), A_eq=np.vstack([of_row, of_column]), b_eq=demand, bounds=(0, 1))
    assert result.success
    return -result.fun


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 9),
    ties=st.booleans(),
    warm=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_linear_programming(rows, columns, ties, warm, seed) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(-2, 3, (rows, columns)).astype(np.float64) if ties else rng.standard_normal((rows, columns))
    prices = rng.standard_normal(rows) if warm else None
    common = gcd(rows, columns)
    balanced = rng.integers(0, common + 1)
    # Quotas of any size for one row a column, or equal ones for several.
    problems = [
        (np.bincount(rng.integers(0, rows, columns), minlength=rows), 1),
        (np.full(rows, balanced * columns // common), int(balanced * rows // common)),
    ]
    for quota, per_column in problems:
        taken, dual = transport(score, quota, per_column, prices)
        assert taken.sum(axis=1).tolist() == quota.tolist()
        assert set(taken.sum(axis=0).tolist()) == {per_column}
        assert score[taken].sum() == pytest.approx(optimum(score, quota, per_column))
        reduced = score - dual[:, None]
        if per_column == 1:
            assert (reduced[taken.argmax(axis=0), np.arange(columns)] >= reduced.max(axis=0) - 1e-9).all()
