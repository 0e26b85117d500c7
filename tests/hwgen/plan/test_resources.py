"""The resource model: how memories are mapped, block by block, and totals against synthesis."""

from __future__ import annotations

import numpy as np
import pytest

from boards.catalogue import BOARDS, board
from boards.synthesis import counts
from hwgen.errors import PlanError
from hwgen.format.network import Conv2d, Flatten, Input, IntegerNetwork, KWinners, Linear, Requantise
from hwgen.generator import write
from hwgen.packing import pack_network
from hwgen.plan import make_plan, resource_primitives, resources, stages
from hwgen.plan.resource_coefficients import COEFFICIENTS
from hwgen.plan.resource_primitives import FAMILIES, Memory, adder, bank_rows, banked, memory
from rtl_templates.banked_memory import bank_depth


# Counted by Yosys 0.70.
@pytest.mark.parametrize(
    ("depth", "width", "options", "blocks"),
    [
        (512, 36, {}, 1),
        (300, 100, {"rom": True}, 3),
        # Rows beyond a block's become columns: 11 * 32 bits at 9 a block.
        (64_000, 11, {"rom": True}, 40),
        (3_000, 40, {"rom": True}, 7),
        (4_800, 260, {"rom": True}, 73),
        (1_600, 33, {}, 4),
        # Two ports that read have 18 bits each.
        (128, 88, {"rom": True, "reads": 2, "style": "block"}, 5),
        # Granules take whole bytes of 9 bits.
        (512, 48, {"granule": 12}, 2),
        (2_048, 24, {"granule": 8}, 3),
    ],
)
def test_blocks_of_a_memory(depth, width, options, blocks):
    assert memory("ecp5", depth, width, **options) == Memory(blocks=blocks)
    assert memory("ultrascale+", depth, width, **options | {"style": "block"}) == Memory(blocks=blocks / 2)


@pytest.mark.parametrize(
    ("family", "depth", "width", "reads", "lut"),
    [
        ("ecp5", 16, 18, 1, 5 * 6),
        ("ecp5", 16, 18, 2, 10 * 6),
        ("ultrascale+", 16, 18, 1, 2 * 8),
        ("ultrascale+", 64, 18, 2, 6 * 8),
    ],
)
def test_luts_of_a_memory_with_asynchronous_ports(family, depth, width, reads, lut):
    assert memory(family, depth, width, reads=reads, asynchronous=True) == Memory(lut=lut)


def test_small_memories_are_distributed_and_small_tables_are_logic():
    assert memory("ecp5", 64, 16).blocks == 0
    assert memory("ecp5", 128, 16).blocks == 1
    assert memory("ultrascale+", 256, 8) == Memory(lut=8 * 8 + 8)
    assert memory("ecp5", 512, 4, rom=True).blocks == 0
    assert memory("ecp5", 520, 4, rom=True).blocks == 1
    # What is constant takes nothing.
    assert memory("ecp5", 1, 100, rom=True) == Memory()


@pytest.mark.parametrize("width", [8, 11, 24, 40, 100, 260])
def test_banks_are_those_of_the_component(width):
    for depth in (1, 5, 100, 511, 513, 1_500, 4_000, 6_000, 9_000, 20_000, 50_000):
        assert bank_rows(depth, width) == bank_depth(depth, width)
    found, banks = banked("ecp5", 1_500, 36)
    assert (found.blocks, banks) == (3, 2)


def test_an_adder():
    assert [adder(bits, "ecp5") for bits in (16, 17)] == [18, 18]
    assert adder(16, "ultrascale+") == 16


def test_every_family_of_the_catalogue_has_an_estimate():
    stage = stages.ReLU(name="relu", cycles=1, bits=8, signed=True, lanes=4)
    for entry in BOARDS:
        assert resources.resources(stage, entry.family).lut > 0
        assert resources.blocks(entry.block_ram_bits, entry.family) > 0
    assert resources.blocks(board("ulx3s-85f").block_ram_bits, "ecp5") == 208
    assert resources.blocks(board("ultra96").block_ram_bits, "ultrascale+") == 216


def test_both_families_have_the_same_coefficients():
    ecp5, ultrascale = (COEFFICIENTS[family] for family in FAMILIES)
    assert set(ecp5) == set(ultrascale)
    assert all(value > 0 for kinds in (ecp5, ultrascale) for values in kinds.values() for value in values.values())


class _Small:
    name, family = "small board", "ecp5"
    dsp, lut, block_ram_bits = 100, 100_000, 2 * 18 * 1024


def test_a_board_with_too_few_blocks_is_refused():
    with pytest.raises(PlanError, match=r"blocks of block memory, but small board has 2"):
        make_plan(_packed(), board=_Small, mode="dense")


def _packed():
    rng = np.random.default_rng(5)

    def weights(*shape) -> tuple[np.ndarray, np.ndarray]:
        mask = rng.random(shape) < 0.5
        return np.where(mask, rng.integers(-127, 128, shape), 0).astype(np.int8), mask

    def scaled(name, channels):
        return Requantise(name, rng.integers(1 << 14, 1 << 16, channels).astype(np.int32), 24, True)

    def bias(channels):
        return rng.integers(-2000, 2000, channels).astype(np.int32)

    layers = (
        Conv2d("conv", *weights(8, 2, 3, 3), bias(8)),
        scaled("scale", 8),
        KWinners("winners", 2, True),
        Flatten("flatten"),
        Linear("hidden", *weights(24, 8 * 36), bias(24)),
        scaled("scale_hidden", 24),
        Linear("output", *weights(10, 24), bias(10)),
    )
    return pack_network(IntegerNetwork(Input((2, 8, 8), 1.0, True), layers, np.ones(10)))


@pytest.mark.parametrize(("family", "name"), [("ecp5", "ulx3s-25f"), ("ultrascale+", "ultra96")])
def test_a_plan_says_what_synthesis_counts(family, name, tmp_path):
    packed = _packed()
    plan = make_plan(packed, board=board(name), mode="sparse-dense", cycles=2_000)
    bundle = write(plan, packed, tmp_path / "bundle")
    found = counts(bundle.path / f"{bundle.manifest.top}.v", bundle.manifest.top, family)
    planned = resources.total(plan.stages, family)
    assert planned.lut == pytest.approx(found.lut, rel=0.15)
    assert planned.dsp == found.dsp
    assert planned.block_ram == pytest.approx(found.block_ram, abs=3)


@pytest.mark.parametrize(("rows", "density"), [(25, 0.125), (16, 0.5), (12, 0.02), (64, 0.04)])
def test_equal_bits_of_a_sparse_table_count_once(rows, density):
    rng, width = np.random.default_rng(rows), 5000
    bits = (rng.random((rows, width)) < density) & (rng.random((rows, width)) < 0.5)
    different = {column.tobytes() for column in bits.T} - {bytes(rows)}
    assert resource_primitives._different(rows, width, density) == pytest.approx(len(different), rel=0.05, abs=10)
