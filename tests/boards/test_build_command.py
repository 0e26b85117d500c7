"""`hwgen build`, with tools that only pretend."""

from __future__ import annotations

import json

import pytest

from boards import ecp5_flow
from hwgen.cli import main
from tests.boards.test_ecp5_flow import Tools, make_bundle


@pytest.fixture
def hwgen(capsys, monkeypatch):
    """Runs a command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr(ecp5_flow, "run_tool", Tools())

    def run(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_help(hwgen):
    code, out, _ = hwgen("build", "--help")
    assert code == 0
    for option in ("--board", "--clock", "--baud", "--seed", "--router", "--placer", "--nextpnr", "--force", "--json"):
        assert option in out


def test_figures(hwgen, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    code, out, err = hwgen("build", bundle, "--board", "ulx3s-85f", "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["board"] == "ulx3s-85f" and figures["timing_met"] is True
    assert {"content_hash", "fmax_mhz", "clock_ratio", "words_per_second", "utilisation", "bitstream"} <= set(figures)
    for step in ("synthesis", "bitstream"):
        assert step in err
    code, out, err = hwgen("build", bundle, "--board", "ulx3s-85f")
    assert code == 0 and "words per second" in out and "synthesis" not in err


def test_a_clock_that_is_not_reached_is_said(hwgen, tmp_path):
    code, out, err = hwgen(
        "build", make_bundle(tmp_path / "bundle"), "--board", "ulx3s-85f", "--clock", "150", "--json"
    )
    assert code == 0 and json.loads(out)["timing_met"] is False
    assert "the slowest path allows" in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "was made for no board; name one with --board"),
        (["--board", "ulx4s"], "board 'ulx4s' does not exist"),
        (["--board", "alveo-u250"], "alveo-u250: no open place and route"),
        (["--board", "ulx3s-85f", "--baud", "99999999"], "baud must be"),
        (["--board", "ulx3s-85f", "--router", "x"], "router must be one of"),
        (["--board", "ulx3s-85f", "--placer", "x"], "placer must be one of"),
        (["--board", "ulx3s-85f", "--clock", "29.6"], "clock must be one that the PLL makes"),
    ],
)
def test_errors_are_one_line(hwgen, tmp_path, options, message):
    code, out, err = hwgen("build", make_bundle(tmp_path / "bundle"), *options)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert message in err.rstrip("\n").splitlines()[-1]
