"""Tests of the count of each stage's area."""

from __future__ import annotations

import json

import pytest

from benchmarks import stage_area


def cell(kind: str, bit: int) -> dict:
    return {"type": kind, "port_directions": {"Z": "output", "A": "input"}, "connections": {"Z": [bit], "A": ["1"]}}


def module() -> dict:
    return {
        "attributes": {"top": "1"},
        "netnames": {"accelerator.stage_0_a_mac.sum": {"bits": [1, 2]}, "led": {"bits": [9]}},
        "cells": {
            "accelerator.stage_0_a_mac.add": cell("CCU2C", 1),
            "unnamed": cell("LUT4", 2),
            "accelerator.stage_1_b_narrow.parts": cell("TRELLIS_DPR16X4", 3),
            "accelerator.stage_1_b_narrow_rst_TRELLIS_FF_Q": cell("TRELLIS_FF", 4),
            "blink": cell("LUT4", 9),
        },
    }


def test_counts_by_the_name_of_the_cell_or_of_what_it_drives():
    empty = {"ff": 0, "dsp": 0, "block_ram": 0}
    assert list(stage_area.areas(module()).items()) == [
        ("stage_1_b_narrow", {"lut": 6, **empty, "ff": 1}),
        ("stage_0_a_mac", {"lut": 3, **empty}),
        ("other", {"lut": 1, **empty}),
    ]


@pytest.mark.parametrize("text", [None, "{", '{"modules": {"m": {"attributes": {}}}}'])
def test_refuses_what_is_no_netlist(text, tmp_path, capsys):
    if text is not None:
        (tmp_path / "netlist.json").write_text(text)
    with pytest.raises(SystemExit) as exit_:
        stage_area.main(tmp_path)
    assert exit_.value.code
    assert str(tmp_path / "netlist.json") in capsys.readouterr().err.replace("\n", "")


def test_prints_json(tmp_path, capsys):
    (tmp_path / "netlist.json").write_text(json.dumps({"modules": {"top": module()}}))
    stage_area.main(tmp_path, json=True)
    assert json.loads(capsys.readouterr().out)["other"]["lut"] == 1
