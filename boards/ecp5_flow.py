"""From a bundle to a bitstream for an ECP5: Yosys, nextpnr-ecp5 and ecppack, all from PyPI.

A build lies in the folder `build/<board>` of its bundle:

    top.il, top.lpf            the board's top module and its pins
    netlist.json               the synthesised design               synthesis.log
    floorplan.json             the same with places for its blocks
    accelerator.config         the placed and routed design         place_and_route.log
    report.json                nextpnr's timing and utilisation
    accelerator.bit            the bitstream                        bitstream.log
    utilisation.json           what of the FPGA is used
    build.json                 what each finished step was made from

A step is skipped where it was made from the same inputs before. Its outputs are written under other names and renamed
when all are there, so that an interrupted build leaves finished steps as they were, and nothing half done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.catalogue import BOARDS, Board
from boards.floorplan import VERSION as FLOORPLAN_VERSION
from boards.floorplan import floorplan
from boards.tools import run_tool, version
from boards.top import TOP, TopSources, link_words_per_second, top_sources
from hwgen import ecp5
from hwgen.errors import InputError, PlanError, ToolError
from hwgen.format.bundle import BUILD, BUILD_RECORD, Manifest, read_manifest

Report = Callable[[str, float | None], None]

UTILISATION = "utilisation.json"
BITSTREAM = "accelerator.bit"
ROUTERS = ("router1", "router2")
PLACERS = ("heap", "static")
# What an order code calls a package, and what nextpnr does.
PACKAGES = {"BG": "CABGA", "MG": "CSFBGA"}
# The cells of nextpnr's report that a user counts; the others come with the board's pins and clocks.
RESOURCES = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "block_ram": "DP16KD"}


@dataclass(frozen=True)
class Options:
    """What a build can be asked for.

    Attributes:
        clock_mhz: the accelerator's clock; the PLL makes the nearest within 1 %.
        baud: of the serial line, or None for the fastest that the clock makes.
        seed: of the placement: another seed gives another result.
        router: "router1", whose clocks are some 10 % faster, or "router2", which ends soon where router1's last
            connections take hours.
        placer: "heap", or "static", which takes longer and leaves shorter wires, but packs more densely.
        nextpnr: more options of nextpnr's command line, such as "--parallel-refine --threads 2", which programs built
            for a machine have.
        floorplan: places multiplier and memory blocks first, see boards.floorplan; else nextpnr does.
    """

    clock_mhz: float = 100.0
    baud: int | None = None
    seed: int = 1
    router: str = "router1"
    placer: str = "heap"
    nextpnr: str = ""
    floorplan: bool = True

    def __post_init__(self) -> None:
        if self.router not in ROUTERS:
            raise InputError(f"router must be one of {', '.join(ROUTERS)}, not {self.router!r}")
        if self.placer not in PLACERS:
            raise InputError(f"placer must be one of {', '.join(PLACERS)}, not {self.placer!r}")
        try:
            shlex.split(self.nextpnr)
        except ValueError as error:
            raise InputError(f"nextpnr's options {self.nextpnr!r} do not end: {error}") from error


@dataclass(frozen=True)
class Clock:
    """A clock of a routed design.

    Attributes:
        fmax_mhz: the fastest that nextpnr's timing analysis allows.
        ratio: of its frequency to that of the accelerator's clock, which `Build.clock_mhz` gives.
    """

    fmax_mhz: float
    ratio: float


@dataclass(frozen=True)
class Build:
    """A bitstream and what is known of it.

    Attributes:
        board: name of the board.
        content_hash: of the bundle that it was made from.
        bitstream: its file.
        clock_mhz: what the PLL makes.
        clocks: by net.
        critical_path: the registers or memories at which the slowest path between two of them begins and ends.
        cycles_per_word: of the plan, or None if the bundle does not say.
        baud: of the serial line.
        link_words_per_second: what the serial line carries.
        utilisation: {lut, ff, dsp, block_ram: {used, available}}; a LUT counts as one whether it is logic, a carry or
            distributed memory.
        tools: version of each.
        seconds: that each step took when it ran.
        skipped: the steps that an earlier build had done.
    """

    board: str
    content_hash: str
    bitstream: Path
    clock_mhz: float
    clocks: dict[str, Clock]
    critical_path: tuple[str, str]
    cycles_per_word: int | None
    baud: int
    link_words_per_second: float
    utilisation: dict[str, dict[str, int]]
    tools: dict[str, str]
    seconds: dict[str, float]
    skipped: tuple[str, ...]

    @property
    def core_mhz(self) -> float:
        """The fastest accelerator clock at which every clock keeps its ratio to it."""
        return min(clock.fmax_mhz / clock.ratio for clock in self.clocks.values())

    @property
    def timing_met(self) -> bool:
        return self.core_mhz >= self.clock_mhz

    @property
    def words_per_second(self) -> float | None:
        """What the accelerator does at `core_mhz`, whatever its host link carries."""
        return None if self.cycles_per_word is None else self.core_mhz * 1e6 / self.cycles_per_word

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        words = self.words_per_second
        return {
            "board": self.board,
            "content_hash": self.content_hash,
            "clock_mhz": round(self.clock_mhz, 3),
            "fmax_mhz": {name: round(clock.fmax_mhz, 2) for name, clock in self.clocks.items()},
            "clock_ratio": {name: round(clock.ratio, 4) for name, clock in self.clocks.items()},
            "timing_met": self.timing_met,
            "critical_path": list(self.critical_path),
            "cycles_per_word": self.cycles_per_word,
            "words_per_second": None if words is None else round(words, 1),
            "baud": self.baud,
            "link_words_per_second": round(self.link_words_per_second, 1),
            "utilisation": self.utilisation,
            "tools": self.tools,
            "seconds": self.seconds,
            "bitstream": str(self.bitstream),
        }


@dataclass(frozen=True)
class Step:
    """A piece of work that is done once for the same inputs.

    Attributes:
        name: of the step, and of its log.
        key: stands for everything that it is made from.
        outputs: names of the files that it makes.
        work: makes them, under the names with `.new` at the end.
    """

    name: str
    key: str
    outputs: tuple[str, ...]
    work: Callable[[], None]


def build(
    bundle: str | os.PathLike[str],
    board: Board,
    options: Options | None = None,
    *,
    report: Report = lambda name, share: None,
    force: bool = False,
) -> Build:
    """Makes a bitstream of a bundle, or what of it is not there yet.

    Args:
        bundle: its folder.
        board: one with an ECP5 whose pins are known.
        options: see `Options`.
        report: is told the name of each piece of work, and the share that is done if it is known.
        force: does every step again.

    Raises:
        PlanError: there is no open flow for the board, or its clock cannot be made.
        FormatError: the folder is not a bundle.
        InputError: files cannot be written there.
        ToolError: a tool is missing or failed, or the accelerator is too large for the board.
    """
    options = options or Options()
    check_board(board, bundle)
    manifest = read_manifest(bundle)
    versions = {tool: version(tool) for tool in ("yosys", "nextpnr-ecp5", "ecppack")}
    sources = top_sources(board, manifest, options.clock_mhz * 1e6, options.baud)
    # Links resolved, since a WebAssembly tool does not follow those that lead out of its folder.
    folder = Path(os.path.realpath(bundle)) / BUILD / board.name
    record = _Record(folder)
    steps = _steps(folder, Path(os.path.realpath(bundle)), manifest, sources, options, versions, report)
    skipped = tuple(step.name for step in steps if not force and record.has(step))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for step in steps:
            if step.name not in skipped:
                record.run(step, manifest.content_hash)
        return _result(folder, board, manifest, sources, versions, record, skipped)
    except OSError as error:
        raise InputError(f"{folder}: cannot build there: {error.strerror} ({error.filename})") from error


def check_board(board: Board, bundle: str | os.PathLike[str]) -> None:
    """Raises PlanError for a board that `build` makes no bitstream for."""
    if board.platform is not None:
        return
    able = ", ".join(entry.name for entry in BOARDS if entry.platform is not None)
    if board.toolchain != "open":
        raise PlanError(
            f"{board.name}: no open place and route for its FPGA; use the sources in {Path(bundle)} with the vendor's "
            f"tools, or one of {able}"
        )
    raise PlanError(
        f"{board.name}: hwgen does not know its pins; use the sources in {Path(bundle)} in a project of your own, or "
        f"one of {able}"
    )


class _Record:
    """What `build.json` says of the steps that are done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            steps = json.loads((folder / BUILD_RECORD).read_text())["steps"]
            self._steps = {name: (str(entry["key"]), float(entry["seconds"])) for name, entry in steps.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # An unreadable record means only that everything is done again.
            self._steps = {}

    @property
    def seconds(self) -> dict[str, float]:
        return {name: seconds for name, (_, seconds) in self._steps.items()}

    def has(self, step: Step) -> bool:
        done = self._steps.get(step.name, ("", 0.0))[0] == step.key
        return done and all((self._folder / name).is_file() for name in step.outputs)

    def run(self, step: Step, content_hash: str) -> None:
        import time

        started = time.monotonic()
        # From the first on, so that the folder is known for a build even if it is interrupted.
        self._write(content_hash)
        step.work()
        # Between here and the record's rename the step counts as not done.
        self._steps.pop(step.name, None)
        self._write(content_hash)
        for name in step.outputs:
            (self._folder / f"{name}.new").replace(self._folder / name)
        self._steps[step.name] = (step.key, round(time.monotonic() - started, 1))
        self._write(content_hash)

    def _write(self, content_hash: str) -> None:
        steps = {name: {"key": key, "seconds": seconds} for name, (key, seconds) in self._steps.items()}
        text = json.dumps({"content_hash": content_hash, "steps": steps}, indent=1) + "\n"
        (self._folder / f"{BUILD_RECORD}.new").write_text(text)
        (self._folder / f"{BUILD_RECORD}.new").replace(self._folder / BUILD_RECORD)


def _device(part: str) -> str:
    """As nextpnr names it: LFE5U-85F is 85k, LFE5UM5G-85F is um5g-85k."""
    family, size = part.removeprefix("LFE5").split("-")
    return f"{'' if family == 'U' else f'{family.lower()}-'}{size.removesuffix('F')}k"


def device_options(part: str, package: str, speed: str) -> list[str]:
    """What tells nextpnr the FPGA; arguments as of an Amaranth platform: LFE5U-85F, BG381, 6."""
    return [f"--{_device(part)}", "--package", PACKAGES[package[:2]] + package[2:], "--speed", speed]


def _steps(
    folder: Path,
    bundle: Path,
    manifest: Manifest,
    sources: TopSources,
    options: Options,
    versions: dict[str, str],
    report: Report,
) -> list[Step]:
    """The steps of a build; each one's key contains that of the step before."""
    device = _device(sources.device)

    def synthesise() -> None:
        report("synthesis", None)
        (folder / f"{TOP}.il").write_text(sources.rtlil)
        commands = [
            # Yosys looks for memory images beside the file that names them.
            f'read_verilog "{bundle / f"{manifest.top}.v"}"',
            f"read_rtlil {TOP}.il",
            *ecp5.synthesis(TOP, folder, "-json netlist.json.new"),
        ]
        (folder / "synthesis.ys").write_text("\n".join(commands) + "\n")
        run_tool("yosys", ["synthesis.ys"], folder, folder / "synthesis.log")
        netlist = folder / "netlist.json.new"
        netlist.write_text(json.dumps(ecp5.improved(json.loads(netlist.read_text()), TOP)))

    def place_blocks() -> None:
        report("floorplan", 0.0)
        netlist = json.loads((folder / "netlist.json").read_text())
        cells = netlist["modules"][TOP]["cells"]
        for name, site in floorplan(cells, device, options.seed, lambda share: report("floorplan", share)).items():
            cells[name].setdefault("attributes", {})["BEL"] = site.bel
        (folder / "floorplan.json.new").write_text(json.dumps(netlist))

    placing = [
        *device_options(sources.device, sources.package, sources.speed),
        "--json", "floorplan.json" if options.floorplan else "netlist.json", "--lpf", f"{TOP}.lpf",
        "--textcfg", "accelerator.config.new", "--report", "report.json.new",
        # For clocks that no constraint reaches; those of the PLL are derived from the oscillator's.
        "--freq", f"{sources.clock_hz / 1e6:g}", "--timing-allow-fail",
        "--seed", str(options.seed), "--placer", options.placer, "--router", options.router,
        *shlex.split(options.nextpnr),
    ]  # fmt: skip

    def place_and_route() -> None:
        (folder / f"{TOP}.lpf").write_text(sources.constraints)
        watch = _Watch(report)
        try:
            run_tool("nextpnr-ecp5", placing, folder, folder / "place_and_route.log", watch)
        except ToolError:
            if watch.excess:
                raise ToolError(
                    f"the accelerator does not fit on the board's FPGA: it needs {' and '.join(watch.excess)}; plan it "
                    "with more cycles a word (--cycles)"
                ) from None
            raise

    def pack() -> None:
        report("bitstream", None)
        arguments = ["--compress", "--input", "accelerator.config", "--bit", f"{BITSTREAM}.new"]
        run_tool("ecppack", arguments, folder, folder / "bitstream.log")

    synthesis = _key(manifest.content_hash, sources.rtlil, ecp5.ARITHMETIC, str(ecp5.VERSION), versions["yosys"])
    planned = _key(synthesis, FLOORPLAN_VERSION, device, str(options.seed))
    placed = _key(planned if options.floorplan else synthesis, sources.constraints, *placing, versions["nextpnr-ecp5"])
    packed = _key(placed, versions["ecppack"])
    return [
        Step("synthesis", synthesis, ("netlist.json",), synthesise),
        *([Step("floorplan", planned, ("floorplan.json",), place_blocks)] if options.floorplan else []),
        Step("place_and_route", placed, ("accelerator.config", "report.json"), place_and_route),
        Step("bitstream", packed, (BITSTREAM,), pack),
    ]


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Watch:
    """Reads progress out of nextpnr's log, line by line.

    Members:
        excess: what the design needs more of than there is, as text.
    """

    def __init__(self, report: Report) -> None:
        self._report, self._arcs = report, 0
        self.excess: list[str] = []
        report("packing", None)

    def __call__(self, line: str) -> None:
        if used := re.fullmatch(r"Info:\s+(\w+): +(\d+)/ *(\d+) +\d+%", line):
            if int(used[2]) > int(used[3]):
                self.excess.append(f"{int(used[2]):,} of {int(used[3]):,} {used[1]}")
        elif re.search("Creating initial analytic placement|Running Static placer|Placed ", line):
            self._report("placement", None)
        elif total := re.search(r"[Rr]outing (\d+) arcs", line):
            self._arcs = int(total[1])
            self._report("routing", 0.0)
        elif row := re.fullmatch(r"Info: +\d+ \|( +\d+){2} \|( +\d+){2} \| +(\d+)\|.*", line):
            # router1: arcs that remain.
            if self._arcs:
                self._report("routing", max(0.0, 1 - int(row[3]) / self._arcs))
        elif row := re.search(r"iter=\d+ .*overused=(\d+)", line):
            self._report("routing", None)


def _result(
    folder: Path,
    board: Board,
    manifest: Manifest,
    sources: TopSources,
    versions: dict[str, str],
    record: _Record,
    skipped: Sequence[str],
) -> Build:
    report = json.loads((folder / "report.json").read_text())
    clock_mhz = sources.clock_hz / 1e6
    clocks = {
        name.removeprefix("$glbnet$"): Clock(figures["achieved"], figures["constraint"] / clock_mhz)
        for name, figures in report["fmax"].items()
    }
    utilisation = {
        name: {key: int(report["utilization"][cell][key]) for key in ("used", "available")}
        for name, cell in RESOURCES.items()
    }
    (folder / f"{UTILISATION}.new").write_text(json.dumps(utilisation, indent=1) + "\n")
    (folder / f"{UTILISATION}.new").replace(folder / UTILISATION)
    cycles = manifest.expected.get("cycles_per_word")
    return Build(
        board=board.name,
        content_hash=manifest.content_hash,
        bitstream=folder / BITSTREAM,
        clock_mhz=clock_mhz,
        clocks=clocks,
        critical_path=_critical_path(report),
        cycles_per_word=cycles if isinstance(cycles, int) else None,
        baud=sources.baud,
        link_words_per_second=link_words_per_second(sources.baud, manifest.input, manifest.output),
        utilisation=utilisation,
        tools=versions,
        seconds=record.seconds,
        skipped=tuple(skipped),
    )


def _critical_path(report: dict[str, Any]) -> tuple[str, str]:
    """Cells at the ends of the slowest path that begins and ends with a clock."""
    paths = [entry["path"] for entry in report["critical_paths"] if "<async>" not in (entry["from"], entry["to"])]
    if not paths:
        return "", ""
    slowest = max(paths, key=lambda path: sum(piece["delay"] for piece in path))
    return slowest[0]["from"]["cell"], slowest[-1]["to"]["cell"]
