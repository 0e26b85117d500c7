"""Packing: masks -> complementary sets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.errors import DataError, ModelError
from hwgen.format.network import Conv2d, Flatten, Input, IntegerNetwork, KWinners, Linear, Requantise
from hwgen.format.packed import expand, unpack
from hwgen.packing import Assignment, pack_layer, pack_mask, pack_network
from hwgen.sparsify import Block, TileWise


def planted(outputs: int, columns: int, nonzeros: int, per_set: int, seed: int) -> np.ndarray:
    """A mask trained with the constraint, its output channels shuffled."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((outputs, columns), np.bool_)
    for output in range(outputs):
        if output % per_set == 0:
            order = rng.permutation(columns)
        part = output % per_set
        mask[output, order[part * nonzeros : (part + 1) * nonzeros]] = True
    return mask[rng.permutation(outputs)]


def count_rows(mask: np.ndarray, set_of: np.ndarray | list[int]) -> list[int]:
    """Rows of each column, counted one non-zero at a time."""
    rows = []
    for column in range(mask.shape[1]):
        members = [set_of[output] for output in range(len(mask)) if mask[output, column]]
        rows.append(max((members.count(owner) for owner in members), default=0))
    return rows


def partitions(count: int) -> Iterator[list[int]]:
    """All ways to put so many outputs into sets."""
    if count == 0:
        yield []
        return
    for head in partitions(count - 1):
        for target in range(max(head, default=-1) + 2):
            yield [*head, target]


def check_assignment(mask: np.ndarray, result: Assignment) -> None:
    places = set(zip(result.set_of.tolist(), result.kernel_of.tolist(), strict=True))
    assert len(places) == len(mask)
    rows = count_rows(mask, result.set_of.tolist())
    assert (result.rows, result.rows_max) == (sum(rows), max(rows))
    assert result.columns_used == np.count_nonzero(rows)
    assert set(result.set_of.tolist()) == set(range(result.sets))


masks = st.tuples(
    st.integers(1, 13), st.integers(1, 17), st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9, 1.0]), st.integers(0, 2**32 - 1)
).map(lambda size: np.random.default_rng(size[3]).random(size[:2]) < size[2])


def layer_of(mask: np.ndarray, seed: int = 0) -> Linear:
    # Zero is a legal weight inside the mask, and must survive.
    weight = np.random.default_rng(seed).integers(-3, 4, mask.shape).astype(np.int8) * mask
    return Linear("fc", weight.astype(np.int8), mask, np.zeros(len(mask), np.int32))


@settings(max_examples=100, deadline=None)
@given(mask=masks, objective=st.sampled_from(["slots", "uniform"]), multipliers=st.sampled_from([None, 1, 3, 8]))
def test_any_mask_packs_and_unpacks(mask, objective, multipliers) -> None:
    result = pack_mask(mask, objective=objective, multipliers=multipliers)
    check_assignment(mask, result)
    layer = layer_of(mask)
    packing = pack_layer(layer, objective=objective, multipliers=multipliers)
    weight, unpacked = unpack(packing, layer.weight.shape)
    np.testing.assert_array_equal(weight, layer.weight)
    np.testing.assert_array_equal(unpacked, mask)
    assert packing.nonzeros == mask.sum()
    assert np.diff(packing.row_start).tolist() == count_rows(mask, packing.set_of.tolist())
    assert packing.slots == packing.sets * sum(count_rows(mask, packing.set_of.tolist()))


@pytest.mark.parametrize(
    ("outputs", "columns", "nonzeros", "per_set", "efficiency"),
    [
        (64, 1600, 200, 8, 1.0),
        (1500, 1600, 64, 25, 1.0),
        (64, 25, 12, 2, 0.96),
        (16, 16, 4, 4, 1.0),
        (64, 16, 4, 4, 1.0),
        (64, 32, 4, 8, 1.0),
        (128, 64, 8, 8, 1.0),
        (256, 128, 8, 16, 1.0),
        (7, 14, 2, 7, 1.0),
    ],
)
def test_trained_sets_are_found(outputs, columns, nonzeros, per_set, efficiency) -> None:
    mask = planted(outputs, columns, nonzeros, per_set, seed=outputs + columns)
    result = pack_mask(mask)
    assert result.rows_max == 1
    assert mask.sum() / result.slots == pytest.approx(efficiency)
    sizes = np.bincount(result.set_of)
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_partly_filled_last_set_costs_one_set(seed) -> None:
    # 16 kernels of 3 over 9 columns: 5 sets of 3 and one kernel, so 6 sets, of 54 slots, hold them.
    result = pack_mask(planted(16, 9, 3, 3, seed))
    assert (result.sets, result.rows, result.rows_max) == (6, 9, 1)
    sizes = np.bincount(result.set_of)
    assert sizes.max() == 3


@pytest.mark.parametrize("seed", range(20))
def test_equals_brute_force_on_tiny_masks(seed) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(2, 7), rng.integers(1, 9))) < rng.uniform(0.15, 0.8)
    best = min((1 + max(set_of)) * sum(count_rows(mask, set_of)) ** 2 for set_of in partitions(len(mask)))
    optimum_slots = min(
        (1 + max(set_of)) * sum(count_rows(mask, set_of))
        for set_of in partitions(len(mask))
        if (1 + max(set_of)) * sum(count_rows(mask, set_of)) ** 2 == best
    )
    result = pack_mask(mask)
    strict_for_little_more = result.rows_max <= 1 and result.slots <= 1.25 * optimum_slots
    assert result.sets * result.rows**2 == best or strict_for_little_more


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("multipliers", [1, 2, 3])
def test_equals_brute_force_for_given_multipliers(seed, multipliers) -> None:
    rng = np.random.default_rng(100 + seed)
    mask = rng.random((6, 7)) < rng.uniform(0.15, 0.8)
    best = min(sum(count_rows(mask, set_of)) * -(-(1 + max(set_of)) // multipliers) for set_of in partitions(len(mask)))
    result = pack_mask(mask, multipliers=multipliers)
    assert result.rows * -(-result.sets // multipliers) == best


def test_unstructured_mask_has_an_efficiency_floor() -> None:
    mask = np.random.default_rng(1).random((64, 576)) < 0.1
    result = pack_mask(mask)
    check_assignment(mask, result)
    assert mask.sum() / result.slots >= 0.5
    assert result.sets >= 4
    # A search is worth its time only if it beats sets dealt out like cards.
    for multipliers in (2, 4, 8):
        searched = pack_mask(mask, multipliers=multipliers)
        dealt = sum(count_rows(mask, (np.arange(64) % multipliers).tolist()))
        assert searched.rows * -(-searched.sets // multipliers) < 0.95 * dealt


def test_uniform_objective_shortens_the_longest_column() -> None:
    mask = np.random.default_rng(1).random((64, 576)) < 0.1
    slots = pack_mask(mask, objective="slots", multipliers=8)
    uniform = pack_mask(mask, objective="uniform", multipliers=8)
    assert uniform.time("uniform") < slots.time("uniform")
    assert uniform.time("slots") > slots.time("slots")


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (64, 1), (1, 31)])
def test_empty_layer(shape) -> None:
    result = pack_mask(np.zeros(shape, np.bool_))
    assert (result.rows, result.rows_max, result.slots) == (0, 0, 0)
    assert 1 <= result.sets <= shape[0]
    packing = pack_layer(layer_of(np.zeros(shape, np.bool_)))
    assert (packing.rows, packing.efficiency, packing.rows_max) == (0, 1.0, 0)
    assert not unpack(packing, shape)[1].any()


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (13, 1), (1, 31)])
def test_dense_layer_fills_every_slot(shape) -> None:
    result = pack_mask(np.ones(shape, np.bool_))
    assert (result.sets, result.rows) == shape


def test_equal_supports_get_sets_of_their_own() -> None:
    mask = np.zeros((12, 8), np.bool_)
    mask[:6, :4] = True
    mask[6:, 4:] = True
    result = pack_mask(mask)
    assert (result.sets, result.rows) == (6, 8)


def test_grouped_convolution_shares_sets_between_groups() -> None:
    weight = np.random.default_rng(0).integers(1, 9, (6, 2, 3, 1)).astype(np.int8)
    layer = Conv2d("c", weight, np.ones(weight.shape, np.bool_), np.zeros(6, np.int32), groups=3)
    full, mask = expand(layer)
    assert full.shape == (6, 18) and mask.sum() == 36
    # Output 4 is of the last group, whose channels are 4 and 5: columns 12 .. 17.
    assert full[4].tolist() == [0] * 12 + weight[4].ravel().tolist()
    packing = pack_layer(layer)
    assert (packing.sets, packing.rows, packing.efficiency) == (2, 18, 1.0)
    np.testing.assert_array_equal(unpack(packing, weight.shape, groups=3)[0], weight)


def test_rows_hold_weight_and_kernel_of_every_set() -> None:
    mask = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], np.bool_)
    weight = np.array([[5, 0, 6], [0, -7, 0], [1, 0, 3]], np.int8)
    packing = pack_layer(Linear("fc", weight, mask, np.zeros(3, np.int32)))
    assert packing.set_of.tolist() == [0, 0, 1]
    assert packing.kernel_of.tolist() == [0, 1, 0]
    assert packing.row_start.tolist() == [0, 1, 2, 3]
    assert packing.weights.tolist() == [[5, 1], [-7, 0], [6, 3]]
    assert packing.kernel_ids.tolist() == [[0, 0], [1, 0], [0, 0]]
    assert packing.occupied.all()


def test_equal_arguments_give_equal_results() -> None:
    mask = np.random.default_rng(3).random((40, 90)) < 0.15
    first, second = pack_mask(mask, seed=5), pack_mask(mask, seed=5)
    np.testing.assert_array_equal(first.set_of, second.set_of)
    np.testing.assert_array_equal(first.kernel_of, second.kernel_of)


def test_greedy_effort_still_packs() -> None:
    mask = np.random.default_rng(4).random((40, 90)) < 0.15
    check_assignment(mask, pack_mask(mask, effort=0))


def test_layer_behind_winners_has_uniform_rows() -> None:
    mask = np.random.default_rng(6).random((48, 64)) < 0.25
    first = Linear("first", np.ones((64, 4), np.int8), np.ones((64, 4), np.bool_), np.zeros(64, np.int32))
    second = Linear("second", mask.astype(np.int8), mask, np.zeros(48, np.int32))
    scale = Requantise("first.scale", np.ones(64, np.int32), 3, False)
    layers = (first, scale, KWinners("winners", 5, False), Flatten("flat"), second)
    packed = pack_network(IntegerNetwork(Input((4,), 0.5, True), layers, np.ones(48)), multipliers=4)
    uniform = pack_mask(mask, objective="uniform", multipliers=4)
    np.testing.assert_array_equal(packed.packings["second"].set_of, uniform.set_of)
    assert packed.packings["first"].efficiency == 1.0


@pytest.mark.parametrize(
    ("mask", "multipliers"),
    [
        (np.zeros((2, 2)), None),
        (np.zeros((0, 2), np.bool_), None),
        (np.zeros(3, np.bool_), None),
        (np.ones((2, 2), np.bool_), 0),
    ],
)
def test_refuses_what_is_no_mask(mask, multipliers) -> None:
    with pytest.raises(DataError, match="must be"):
        pack_mask(mask, multipliers=multipliers)


def test_refuses_weights_outside_the_mask() -> None:
    layer = Linear("net.fc", np.ones((2, 2), np.int8), np.eye(2, dtype=np.bool_), np.zeros(2, np.int32))
    with pytest.raises(ModelError, match=r"layer 'net\.fc': .*outside the mask"):
        pack_layer(layer)


def tile_wise(outputs: int, columns: int, tile: int, seed: int) -> np.ndarray:
    return TileWise(tile).project(np.random.default_rng(seed).random((outputs, columns)), 0.75)


@pytest.mark.parametrize(("tile", "seed"), [(8, 0), (16, 1), (31, 2)])
def test_outputs_of_a_tile_lie_together_and_need_no_kernel_ids(tile, seed) -> None:
    mask = tile_wise(120, 90, tile, seed)
    # In any order of the outputs.
    mask = mask[np.random.default_rng(seed).permutation(120)]
    survivors = np.flatnonzero(mask.any(axis=1))
    packing = pack_layer(layer_of(mask))
    assert packing.sets == len(survivors) == 60
    assert not packing.routed and not packing.kernel_of[survivors].any()
    # The pruned outputs are shared out among the sets.
    assert packing.kernels == 2
    columns = [mask[output].tobytes() for output in packing.output_at[:, 0]]
    assert sum(a != b for a, b in pairwise(columns)) == len(set(columns)) - 1 == -(-60 // tile) - 1


def test_tiles_that_complement_each_other_are_combined() -> None:
    mask = np.zeros((16, 20), np.bool_)
    mask[:8, ::2] = mask[8:, 1::2] = True
    packing = pack_layer(layer_of(mask))
    assert packing.sets == 8 and packing.efficiency == 1 and packing.routed


def test_outputs_are_combined_where_tiles_keep_very_different_numbers_of_inputs() -> None:
    mask = Block(8, 8).project(np.random.default_rng(0).random((64, 128)), 0.9)
    used = mask[mask.any(axis=1)].sum(axis=1)
    assert used.mean() < 0.6 * used.max()
    packing = pack_layer(layer_of(mask))
    # One output a set would have every column in each of its sets.
    assert packing.routed and packing.efficiency > 0.4


def test_a_large_tile_wise_mask_is_packed_in_little_time() -> None:
    mask = tile_wise(1024, 512, 128, 0)
    start = time.process_time()
    assert pack_mask(mask).sets == 512
    assert time.process_time() - start < 10
