from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import full_chip
from benchmarks.full_chip import Design, Resources, dense_bound, design_of, estimated, fill, read_design
from boards.catalogue import board
from hwgen.errors import InputError

U250, ZU3EG = board("alveo-u250"), board("ultra96")


def design(mode="sparse-sparse", cycles=800.0, products=775_912, formed=1_000.0, **used) -> Design:
    return Design(mode, True, cycles, products, formed, Resources(**dict.fromkeys(NAMES, 0) | used))


NAMES = ("lut", "lutram", "ff", "dsp", "block_ram", "ultra_ram")


@pytest.mark.parametrize(
    ("used", "copies", "limit"),
    [
        ({"lut": 1_728_000 * 0.8 / 20}, 20, "lut"),
        ({"lut": 1_728_000 * 0.8 / 20 + 1}, 19, "lut"),
        ({"lutram": 10_000}, 63, "lutram"),
        ({"ff": 100_000}, 27, "ff"),
        ({"dsp": 111, "lut": 10}, 88, "dsp"),
        ({"block_ram": 100.5}, 21, "block_ram"),
        ({"ultra_ram": 25}, 40, "ultra_ram"),
        ({"lut": 2_000_000}, 0, "lut"),
    ],
)
def test_copies_fill_the_scarcest_resource_to_its_share(used, copies, limit):
    filled = fill(U250, [design(**used)], clock_hz=300e6)
    assert filled.copies == (copies,)
    assert filled.words_per_second == pytest.approx(copies * 300e6 / 800)
    assert filled.bound == pytest.approx(copies * 300e6 * 1_000 / 775_912)
    if copies:
        assert filled.limit == limit
    assert all(share <= 0.8 + 1e-9 for share in filled.shares.values())


def test_a_design_that_needs_what_the_chip_lacks_is_left_out():
    with_ultra_ram, without = design(lut=10_000, ultra_ram=25), design(lut=20_000)
    filled = fill(ZU3EG, [with_ultra_ram, without], clock_hz=300e6)
    assert filled.copies == (0, 2) and filled.shares["ultra_ram"] == 0


def test_designs_that_want_different_resources_are_mixed():
    in_luts, in_dsps = design(lut=40_000, dsp=100), design(lut=20_000, dsp=500)
    alone = [fill(U250, [one], clock_hz=300e6).words_per_second for one in (in_luts, in_dsps)]
    mixed = fill(U250, [in_luts, in_dsps], clock_hz=300e6)
    assert all(count > 0 for count in mixed.copies)
    assert mixed.words_per_second > max(alone)
    brute = max(
        a + b
        for a in range(100)
        for b in range(100)
        if a * 40_000 + b * 20_000 <= 0.8 * 1_728_000 and a * 100 + b * 500 <= 0.8 * 12_288
    )
    assert sum(mixed.copies) == brute


def test_the_dense_bound_is_708_cycles_on_four_fifths_of_the_dsps():
    products = 1_254_400 + 10_240_000 + 2_400_000 + 18_000
    assert 300e6 / dense_bound(U250, products, clock_hz=300e6) == pytest.approx(707.6, abs=0.1)
    with_luts = dense_bound(U250, products, clock_hz=300e6, luts=True)
    formed = 2 * 9_830 + 1_382_400 // full_chip.LUTS_A_PRODUCT
    assert with_luts == pytest.approx(300e6 * formed / products)


RESULT = {
    "mode": "sparse-sparse",
    "bit_exact": True,
    "cycles_per_word": None,
    "cycles_planned": 800,
    "stages": [
        {"layer": True, "products": 602_112, "formed": 768.0},
        {"layer": False, "products": 12_544, "formed": 16.0},
        {"layer": True, "products": 160_000, "formed": 200.0},
    ],
    "resources": {
        "ultrascale+": {"lut": 50_000, "lutram": 4_000, "ff": 60_000, "dsp": 116, "block_ram": 80.5, "ultra_ram": 25}
    },
}


def test_a_result_becomes_a_design(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    read = read_design(path)
    assert read == design_of(RESULT)
    assert (read.cycles, read.products, read.formed) == (800, 762_112, 968)
    assert read.used == Resources(50_000, 4_000, 60_000, 116, 80.5, 25)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", json.dumps(RESULT | {"resources": {}})])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="result.json"):
        read_design(path)


def test_ratios_and_published_figures():
    dense = design("dense", cycles=4_000.0, products=13_912_400, formed=4_096.0, lut=400_000, dsp=2_300)
    sparse = design(lut=50_000, dsp=116)
    figures = estimated({"dense": [dense], "sparse-sparse": [sparse]}, clock_hz=250e6)
    assert figures["estimate"] is True and figures["clock_mhz"] == 250
    full = {(one["chip"], one["mode"]): one for one in figures["chips"]}
    assert full["alveo-u250", "sparse-sparse"]["copies"] == (27,)
    assert full["alveo-u250", "dense"]["published"] == {"single": 3_049, "full": 12_195, "copies": 4}
    assert full["ultra96", "dense"]["copies"] == (0,) and full["ultra96", "dense"]["published"] is None
    ratios = figures["ratios"]
    rate, bound = 27 * 250e6 / 800, 250e6 * 2 * 9_830 / 13_912_400
    assert ratios["sparse-sparse achieved / dense bound"] == pytest.approx(rate / bound)
    assert ratios["dense achieved / dense bound"] == pytest.approx(3 * 250e6 / 4_000 / bound)
    assert ratios["products a word, dense / sparse-sparse"] == pytest.approx(17.93, abs=0.01)
    adds = ratios["sparse-sparse achieved / that bound: what constants in LUTs add"]
    assert adds * 13_912_400 / 775_912 == pytest.approx(rate / bound)
    assert ratios["sparse-sparse achieved / published full chip (recalled)"] == pytest.approx(rate / 1_369_863)
    assert full_chip.DENSE_PRODUCTS == 13_912_400
    alone = estimated({"sparse-sparse": [sparse]}, clock_hz=250e6)["ratios"]
    assert alone == {name: value for name, value in ratios.items() if not name.startswith("dense achieved")}
    assert estimated({"dense": [dense]}, clock_hz=250e6)["ratios"] == {}


def test_the_command_prints_tables_json_and_refuses_faster_clocks(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))

    def run(*options):
        command = [sys.executable, "-m", "benchmarks.full_chip", path, *options]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2])

    table = run().stdout
    for part in ("an estimate", "U250", "ZU3EG", "recalled", "not modelled", "host link", "300 MHz", "80%"):
        assert part in table
    assert json.loads(run("--json").stdout)["chips"][0]["mode"] == "sparse-sparse"
    refused = run("--clock-mhz", "301")
    assert refused.returncode == 2 and refused.stderr.startswith("full_chip: --clock-mhz")
