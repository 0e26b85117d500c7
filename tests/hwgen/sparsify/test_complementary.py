"""Complementary sets: how good the projection is, and that the packer finds what it made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from hwgen.errors import InputError
from hwgen.packing import pack_mask
from hwgen.sparsify import Complementary, complementary_mask
from hwgen.sparsify.grouping_kernels import conflicts
from tests.hwgen.sparsify import brute_force

# Outputs, columns, kernels of a set, and the share of slots that the keyword-spotting network of the paper fills.
LAYERS = {"conv1": (64, 25, 2, 0.96), "conv2": (64, 1600, 8, 1.0), "linear": (1500, 1600, 25, 1.0)}


def realistic(outputs: int, columns: int, seed: int) -> np.ndarray:
    """Magnitudes: some columns matter to all outputs, and some outputs are larger throughout."""
    rng = np.random.default_rng(seed)
    scale = np.exp(0.3 * rng.standard_normal(columns)) * np.exp(0.3 * rng.standard_normal((outputs, 1)))
    return np.abs(rng.standard_normal((outputs, columns))) * scale


@pytest.mark.parametrize("layer", LAYERS)
def test_the_packer_finds_the_sets(layer) -> None:
    outputs, columns, kernels, efficiency = LAYERS[layer]
    pattern = Complementary(kernels)
    mask, sets = pattern.project_sets(realistic(outputs, columns, seed=1))
    assert pattern.check(mask, sets) and pattern.check(mask)
    packed = pack_mask(mask)
    assert packed.rows_max == 1
    assert packed.sets == outputs // kernels
    assert mask.sum() / packed.slots == pytest.approx(efficiency)
    guarantee = pattern.guarantee((outputs, columns), 0.5)
    assert (packed.sets, packed.slots) == (guarantee.sets, guarantee.slots)
    assert set(mask.sum(axis=1).tolist()) == {guarantee.nonzeros_per_output}


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 8),
    columns=st.integers(4, 13),
    kernels=st.integers(2, 4),
    kind=st.sampled_from(["random", "ties", "realistic"]),
    seed=st.integers(0, 2**32 - 1),
)
# Here the search has to leave the first sets that no exchange improves.
@example(outputs=6, columns=5, kernels=2, kind="ties", seed=4473)
def test_projections_of_small_scores_keep_nearly_the_optimum(outputs, columns, kernels, kind, seed) -> None:
    rng = np.random.default_rng(seed)
    score = {
        "random": rng.random((outputs, columns)),
        "ties": rng.integers(0, 3, (outputs, columns)).astype(np.float64),
        "realistic": realistic(outputs, columns, seed),
    }[kind]
    kept = score[Complementary(kernels).project(score)].sum()
    optimum = brute_force.best_complementary(score, kernels)
    assert 0.97 * optimum <= kept <= optimum + 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_pairs_of_forty_kernels_keep_nearly_the_optimum(seed) -> None:
    # With two kernels a set, the sets are a matching, which an integer program finds at this size too.
    score = realistic(40, 25, seed)
    pairs = [(first, second) for first in range(40) for second in range(first)]
    values = np.array([brute_force.best_of_set(score[list(pair)], 12) for pair in pairs])
    member = np.array([[output in pair for pair in pairs] for output in range(40)])
    result = milp(
        -values, constraints=LinearConstraint(member, 1, 1), integrality=np.ones(len(pairs)), bounds=Bounds(0, 1)
    )
    kept = score[Complementary(2).project(score)].sum()
    assert result.success
    assert 0.97 * -result.fun <= kept <= -result.fun + 1e-9
    # Sets that were not searched for are not good enough.
    dealt = sum(brute_force.best_of_set(score[[first, first + 1]], 12) for first in range(0, 40, 2))
    assert dealt < 0.97 * -result.fun


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_assignments_are_the_optimum_of_their_sets(layer) -> None:
    outputs, columns, kernels, _ = LAYERS[layer]
    score = realistic(outputs, columns, seed=2)
    mask, sets = Complementary(kernels).project_sets(score)
    members = sets == 1
    best = brute_force.best_of_set(score[members], columns // kernels)
    assert score[members][mask[members]].sum() == pytest.approx(best)


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(1, 13),
    columns=st.integers(4, 13),
    kernels=st.integers(1, 4),
    ties=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_given_sets_keep_their_members_and_get_their_best_columns(outputs, columns, kernels, ties, seed) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 3, (outputs, columns)).astype(float) if ties else rng.random((outputs, columns))
    pattern, places = Complementary(kernels), -(-outputs // kernels) * kernels
    sets = rng.permutation(places)[:outputs] // kernels
    mask, kept = pattern.project_sets(score, sets=sets)
    assert np.array_equal(kept, sets) and pattern.check(mask, sets)
    for target in np.unique(sets):
        members = sets == target
        best = brute_force.best_of_set(score[members], columns // kernels)
        assert score[members][mask[members]].sum() == pytest.approx(best)


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_the_short_search_is_legal_and_not_far_behind(layer) -> None:
    outputs, columns, kernels, _ = LAYERS[layer]
    pattern, score = Complementary(kernels), realistic(outputs, columns, seed=5)
    mask, sets = pattern.project_sets(score, thorough=False)
    assert pattern.check(mask, sets)
    most = score[pattern.project(score)].sum()
    assert 0.95 * most < score[mask].sum() < most


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([0, 0, 0, 1], "sets: must be from 0 to 1, each of at most 2 outputs"),
        ([0, 0, 1, 2], "sets: must be from 0 to 1"),
        ([0, 0, -1, 1], "sets: must be from 0 to 1"),
        ([0, 0, 1], "sets: must be 4 integers"),
        ([0.0, 0.0, 1.0, 1.0], "sets: must be 4 integers, one an output, not float64"),
    ],
)
def test_sets_that_cannot_be_are_refused(sets, message) -> None:
    with pytest.raises(InputError, match=message):
        Complementary(2).project_sets(np.ones((4, 6)), sets=np.array(sets))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_legal_mask_is_its_own_projection(layer) -> None:
    outputs, columns, kernels, _ = LAYERS[layer]
    planted = complementary_mask(outputs, columns, columns // kernels, torch.Generator().manual_seed(0)).numpy()
    planted = planted[np.random.default_rng(0).permutation(outputs)]
    assert np.array_equal(Complementary(kernels).project(planted.astype(np.float64)), planted)


@pytest.mark.parametrize(("outputs", "sizes"), [(7, [2, 2, 3]), (8, [2, 3, 3]), (2, [2])])
def test_a_remainder_of_outputs_has_sets_with_room(outputs, sizes) -> None:
    score = realistic(outputs, 13, seed=outputs)
    mask, sets = Complementary(3).project_sets(score)
    assert set(mask.sum(axis=1).tolist()) == {4}
    assert Complementary(3).check(mask, sets)
    assert max(np.bincount(sets)) <= 3 and len(np.bincount(sets)) == len(sizes)


def test_many_kernels_are_searched_in_portions(monkeypatch) -> None:
    monkeypatch.setattr("hwgen.sparsify.grouping.MOST_KERNELS", 10)
    pattern = Complementary(4)
    mask, sets = pattern.project_sets(realistic(22, 16, seed=0))
    assert pattern.check(mask, sets)
    assert sets.max() == 5
    assert set(sets[:8].tolist()) == {0, 1} and set(sets[8:16].tolist()) == {2, 3}


def test_sets_are_refused_that_collide_or_are_too_large_or_too_many() -> None:
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]], np.bool_)
    pattern = Complementary(2)
    assert pattern.check(mask, np.array([0, 0, 1, 1])) and pattern.check(mask, np.array([1, 1, 0, 0]))
    assert not pattern.check(mask, np.array([0, 1, 0, 1]))
    assert not pattern.check(mask, np.array([0, 0, 1, 2]))
    assert not pattern.check(mask, np.array([0, 0, 1, -1]))
    assert not pattern.check(mask[[0, 1, 1, 0]][:, [0, 0, 1, 2]])
    assert not Complementary(2).check(np.eye(4, dtype=np.bool_), np.array([0, 0, 1, 1])), "two non-zeros an output"
    assert not Complementary(3).check(np.eye(3, 4, dtype=np.bool_)[[0, 1, 2, 2]], np.array([0, 0, 0, 0]))


def test_kernels_collide_by_what_both_of_them_want() -> None:
    demand = np.array([[1.0, 2.0, 0.0], [3.0, 0.5, 4.0]])
    assert conflicts(demand).tolist() == [[0, 1.5, 3], [1.5, 0, 0.5], [3, 0.5, 0]]
