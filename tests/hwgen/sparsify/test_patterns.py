"""What all patterns have in common, and each against its plain definition."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hwgen.errors import DataError, InputError
from hwgen.packing import pack_mask
from hwgen.sparsify import Block, Complementary, NofM, Partitioned, Pattern, TileElementWise, TileWise, Unstructured
from tests.hwgen.sparsify import brute_force

PATTERNS = [
    Unstructured(),
    Block(1, 4),
    Block(4, 1),
    Block(2, 3),
    NofM(2, 4),
    NofM(1, 3),
    Partitioned(inputs=3),
    Partitioned(outputs=2),
    Partitioned(inputs=2, outputs=3),
    Complementary(1),
    Complementary(2),
    Complementary(5),
    TileWise(1),
    TileWise(3),
    TileElementWise(3, 0.05),
    Block(1, 2, Partitioned(inputs=3)),
    Block(2, 1, NofM(2, 4)),
    Block(1, 3, Complementary(2)),
    Block(2, 2, TileWise(2)),
]
# The pattern's own test says which masks are legal; these are the ones that can be enumerated.
DEFINITIONS = {
    Block(1, 2): lambda mask: brute_force.is_block(mask, 1, 2),
    Block(2, 1): lambda mask: brute_force.is_block(mask, 2, 1),
    Block(2, 3): lambda mask: brute_force.is_block(mask, 2, 3),
    NofM(1, 2): lambda mask: brute_force.is_n_of_m(mask, 1, 2),
    NofM(2, 3): lambda mask: brute_force.is_n_of_m(mask, 2, 3),
    Partitioned(inputs=2): lambda mask: brute_force.is_partitioned(mask, 2, None),
    Partitioned(outputs=2): lambda mask: brute_force.is_partitioned(mask, None, 2),
    Partitioned(inputs=2, outputs=1): lambda mask: brute_force.is_partitioned(mask, 2, 1),
    Complementary(2): lambda mask: brute_force.is_complementary(mask, 2),
    Complementary(3): lambda mask: brute_force.is_complementary(mask, 3),
    Block(1, 2, NofM(1, 2)): lambda mask: (
        brute_force.is_block(mask, 1, 2) and brute_force.is_n_of_m(mask[:, ::2], 1, 2)
    ),
    TileWise(2): lambda mask: brute_force.is_tile_wise(mask, 2),
    TileWise(3): lambda mask: brute_force.is_tile_wise(mask, 3),
    TileElementWise(2, 0.17): lambda mask: brute_force.fewest_singles(mask, 2) <= round(0.17 * mask.size),
}
SHAPES = [(4, 3), (3, 4), (2, 6), (2, 5)]


@st.composite
def scores(draw) -> np.ndarray:
    """Of any size, prime ones too; with ties, with columns that all outputs want, with negative values."""
    shape = draw(st.tuples(st.integers(1, 19), st.integers(1, 31)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "ties", "equal", "popular columns"]))
    if kind == "ties":
        return rng.integers(0, 3, shape).astype(np.float64)
    if kind == "equal":
        return np.full(shape, 0.5)
    score = rng.standard_normal(shape)
    return np.abs(score) * np.exp(2 * rng.standard_normal(shape[1])) if kind == "popular columns" else score


def fits(pattern: Pattern, shape: tuple[int, ...]) -> bool:
    try:
        pattern.nearest_sparsity(shape, 0.5)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@settings(max_examples=40, deadline=None)
@given(score=scores(), wanted=st.floats(0, 1))
def test_projections_are_legal_and_keep_the_guarantee(pattern, score, wanted) -> None:
    if not fits(pattern, score.shape):
        score = np.tile(score, (3, 4))
    assume(fits(pattern, score.shape))
    sparsity = pattern.nearest_sparsity(score.shape, wanted)
    try:
        mask = pattern.project(score, wanted)
    except InputError:
        # Too far from what the pattern allows.
        assert abs(wanted - sparsity) > 1e-3
        mask = pattern.project(score, sparsity)
    assert mask.shape == score.shape and mask.dtype == np.bool_
    assert pattern.check(mask)
    assert 1 - _counted(pattern, mask).mean() == pytest.approx(sparsity)
    guarantee = pattern.guarantee(score.shape, wanted)
    assert mask.sum(axis=1).max() <= guarantee.nonzeros_per_output <= score.shape[1]
    assert mask.sum(axis=0).max() <= guarantee.nonzeros_per_input <= score.shape[0]
    assert mask.sum() <= guarantee.slots == guarantee.sets * score.shape[1]


@pytest.mark.parametrize("pattern", DEFINITIONS, ids=str)
def test_check_is_the_definition(pattern) -> None:
    for shape in SHAPES:
        if fits(pattern, shape):
            # With 4,096 masks a shape, a third is enough of the one whose definition is slow.
            chosen = list(brute_force.all_masks(*shape))[:: 3 if isinstance(pattern, TileElementWise) else 1]
            expected = [DEFINITIONS[pattern](mask) for mask in chosen]
            assert [pattern.check(mask) for mask in chosen] == expected
            assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize("pattern", [pattern for pattern in DEFINITIONS if not hasattr(pattern, "tile")], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_projections_are_the_best_legal_masks(pattern, seed) -> None:
    rng = np.random.default_rng(seed)
    for shape in SHAPES:
        if fits(pattern, shape):
            score = rng.random(shape) if seed else rng.integers(0, 3, shape).astype(np.float64)
            mask = pattern.project(score, pattern.nearest_sparsity(shape, rng.random()))
            legal = [
                other
                for other in brute_force.all_masks(*shape)
                if _counted(pattern, other).sum() == _counted(pattern, mask).sum() and DEFINITIONS[pattern](other)
            ]
            assert score[mask].sum() == pytest.approx(max(score[other].sum() for other in legal))


def _counted(pattern: Pattern, mask: np.ndarray) -> np.ndarray:
    """What sparsity counts: elements, or blocks, of which those at the edge are smaller."""
    return mask[:: pattern.outputs, :: pattern.inputs] if isinstance(pattern, Block) else mask


def test_unstructured_keeps_the_largest_and_the_first_of_equals() -> None:
    score = np.array([[3.0, 1.0, 2.0], [2.0, 2.0, 0.0]])
    assert Unstructured().project(score, 0.5).tolist() == [[True, False, True], [True, False, False]]


def test_convolutions_are_flattened_in_the_order_of_torch() -> None:
    weight = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = NofM(1, 5).project(weight)
    winners = weight.detach().max(dim=-1, keepdim=True).values == weight.detach()
    assert np.array_equal(mask, winners.flatten(1).numpy())
    assert NofM(1, 5).check(winners)
    assert NofM(1, 5).nearest_sparsity(tuple(weight.shape), 0.5) == pytest.approx(0.8)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_equal_scores_make_equal_masks(pattern) -> None:
    score = np.random.default_rng(0).random((12, 24))
    sparsity = pattern.nearest_sparsity(score.shape, 0.6)
    assert np.array_equal(pattern.project(score, sparsity), pattern.project(score.copy(), sparsity))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block(0, 2), "outputs: must be an integer of at least 1, not 0"),
        (lambda: Block(2, 1.5), "inputs: must be an integer of at least 1, not 1.5"),
        (lambda: Block(2, 2, "random"), "pattern: must be a pattern such as Unstructured(), not 'random'"),
        (lambda: NofM(0, 4), "n: must be an integer of at least 1, not 0"),
        (lambda: NofM(3, 2), "m: must be an integer of at least 3, not 2"),
        (lambda: Partitioned(), "inputs, outputs: at least one must be a number of parts"),
        (lambda: Partitioned(inputs=0), "inputs: must be an integer of at least 1, not 0"),
        (lambda: Complementary(True), "kernels: must be an integer of at least 1, not True"),
        (lambda: TileWise(0), "tile: must be an integer of at least 1, not 0"),
        (lambda: TileElementWise(4, 1.5), "restored: must be a share from 0 to 1, not 1.5"),
        (lambda: Unstructured().project(np.ones((2, 2))), "sparsity: this pattern has none of its own"),
        (lambda: Unstructured().project(np.ones((2, 2)), 1.1), "sparsity: must be a share from 0 to 1, not 1.1"),
        (lambda: Unstructured().nearest_sparsity((4,), 0.5), "shape: must be (outputs, inputs, ...)"),
        (lambda: NofM(2, 4).project(np.ones((2, 8)), 0.9), "sparsity: 2 of 4 has 0.5, not 0.9"),
        (lambda: Complementary(2).project(np.ones((2, 25)), 0.5), "leave 12 of 25 non-zeros an output, 0.52, not 0.5"),
        (lambda: Complementary(9).project(np.ones((2, 8))), "take at most 8"),
        (lambda: Partitioned(inputs=4).project(np.ones((2, 15)), 0.0), "the nearest is 0.2"),
        (lambda: Partitioned(inputs=4).check(np.ones((2, 3), np.bool_)), "inputs: 3 inputs cannot be cut into 4 parts"),
        (lambda: Partitioned(2, 2).nearest_sparsity((4, 5), 0.5), "inputs: with partitions both ways, 5 inputs must"),
        (lambda: TileElementWise(4, 0.1).project(np.ones((4, 5)), 0.95), "it is at most 0.9, not 0.95"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unstructured().project(np.array([[1.0, np.nan]]), 0.5), "score: must be finite, but 1 values are not"),
        (lambda: Unstructured().project(np.ones(4), 0.5), "score: must have the shape (outputs, inputs, ...)"),
        (lambda: Unstructured().project(np.ones((0, 4)), 0.5), "and not be empty, not (0, 4)"),
        (lambda: Unstructured().project([["a"]], 0.5), "score: must be real numbers"),
        (lambda: Unstructured().check(np.ones((2, 2))), "mask: must be bool, not float64; weight != 0 is one"),
        (lambda: Complementary(2).check(np.eye(2, dtype=bool), [0.0, 0.0]), "sets: must be 2 integers, one an output"),
    ],
)
def test_what_is_no_mask_or_score_is_refused(make, message) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        make()


def test_patterns_need_neither_torch_nor_a_compiler_to_load() -> None:
    code = "import sys, hwgen.sparsify; assert not {'torch', 'numba', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_blocks_share_indices_and_keep_the_sets_of_their_grid() -> None:
    pattern = Block(2, 4, Complementary(4))
    mask = pattern.project(np.random.default_rng(0).random((16, 64)))
    guarantee = pattern.guarantee((16, 64), 0.75)
    assert (guarantee.shared, guarantee.sets, guarantee.slots) == (8, 4, 256)
    assert pack_mask(mask).slots == guarantee.slots == mask.sum()
