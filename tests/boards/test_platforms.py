from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest

from boards.catalogue import BOARDS, board
from boards.top import top_sources
from hwgen.errors import PlanError
from hwgen.format.port import Port

PORT = Port(2, 5, True, (2,), ((0, 1),))
MANIFEST = cast(Any, SimpleNamespace(top="accelerator", input=PORT, output=PORT))


@pytest.mark.parametrize(
    ("name", "receives", "sends", "part"),
    [
        ("ulx3s-85f", "M1", "L4", ("LFE5U-85F", "BG381", "6")),
        ("orangecrab-85f", "N17", "M18", ("LFE5U-85F", "MG285", "8")),
        ("ecpix5-85f", "R26", "R24", ("LFE5UM5G-85F", "BG554", "8")),
    ],
)
def test_the_pins_and_the_part_are_the_boards(name, receives, sends, part):
    sources = top_sources(board(name), MANIFEST, 100e6)

    assert (sources.device, sources.package, sources.speed) == part
    assert board(name).part.replace("-", "").startswith(f"{part[0]}{part[2]}{part[1]}".replace("-", ""))
    assert f'LOCATE COMP "uart_0__rx__io" SITE "{receives}";' in sources.constraints
    assert f'LOCATE COMP "uart_0__tx__io" SITE "{sends}";' in sources.constraints
    # Oscillator, button, two serial lines and three lights.
    assert sources.constraints.count("LOCATE COMP") == 7


@pytest.mark.parametrize("entry", [entry for entry in BOARDS if entry.platform], ids=lambda entry: entry.name)
def test_every_board_with_a_platform_has_a_top(entry):
    assert "EHXPLLL" in top_sources(entry, MANIFEST, 96e6).rtlil


def test_a_board_without_a_platform_is_refused():
    with pytest.raises(PlanError, match="ulx3s-85f: no open place and route here"):
        top_sources(dataclasses.replace(board("ulx3s-85f"), platform=None), MANIFEST, 50e6)
