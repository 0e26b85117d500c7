from __future__ import annotations

import dataclasses

import pytest

from boards.catalogue import BOARDS, board
from hwgen.errors import PlanError

NAMES = [
    "ulx3s-85f",
    "ulx3s-25f",
    "orangecrab-85f",
    "ecpix5-85f",
    "icebreaker",
    "tang-nano-20k",
    "tang-mega-138k",
    "arty-a7-100",
    "pynq-z2",
    "ultra96",
    "alveo-u250",
]


def test_the_catalogue_holds_the_promised_boards_once_each():
    assert [entry.name for entry in BOARDS] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_board_is_found_and_complete(name):
    entry = board(name)
    assert entry.name == name
    assert min(entry.lut, entry.dsp, entry.block_ram_bits) > 0
    assert entry.lut_inputs == (6 if entry.family in ("xilinx7", "ultrascale+") else 4)
    assert entry.toolchain in ("open", "vivado")
    assert entry.title and entry.part


@pytest.mark.parametrize(
    ("name", "lut", "dsp", "block_ram_bits"),
    [
        # Device tables of Lattice FPGA-DS-02012, AMD DS180 and DS891: 3,744 Kb, 4,860 Kb, 7.6 Mb.
        ("ulx3s-85f", 83_640, 156, 3_833_856),
        ("arty-a7-100", 63_400, 240, 4_976_640),
        ("ultra96", 70_560, 360, 7_962_624),
        ("icebreaker", 5_280, 8, 122_880),
    ],
)
def test_figures_are_those_of_the_data_sheets(name, lut, dsp, block_ram_bits):
    entry = board(name)
    assert (entry.lut, entry.dsp, entry.block_ram_bits) == (lut, dsp, block_ram_bits)


def test_an_unknown_board_is_refused_with_the_names_that_exist():
    with pytest.raises(
        PlanError, match=r"board 'ulx3s' does not exist; choose one of ulx3s-85f, .*alveo-u250"
    ) as caught:
        board("ulx3s")
    assert "\n" not in str(caught.value)


def test_boards_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        board("pynq-z2").dsp = 1  # type: ignore[misc]
