"""What whole chips would do, estimated from one copy of each accelerator: copies until a resource is full.

    python -m benchmarks.gsc_hardware --mode sparse-sparse --synthesise ultrascale+ --json > sparse-sparse.json
    python -m benchmarks.full_chip dense.json sparse-dense.json sparse-sparse.json

Nothing here is placed or routed: every figure is arithmetic on the counts of a synthesised copy, and every assumption
is a row of the output. Several files of one mode are designs that may be mixed on one chip.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.optimize import LinearConstraint, milp

from boards.catalogue import KIBIT, Board, board
from hwgen import terminal
from hwgen.errors import HwgenError, InputError

FAMILY = "ultrascale+"
MAX_CLOCK_MHZ = 300.0
SHARE = 0.8
PRODUCTS_A_DSP = 2
# An 8x8 product without DSP: Yosys' `booth`, then `synth_xilinx -family xcup -nodsp`. Its share of an adder tree is
# left out, which favours the dense accelerator.
LUTS_A_PRODUCT = 95
BLOCK_RAM_BITS = 36 * KIBIT
# Of the network, a word, with no zero skipped: both convolutions, the linear layer and the output.
DENSE_PRODUCTS = 28 * 28 * 25 * 64 + 10 * 10 * 1600 * 64 + 1600 * 1500 + 1500 * 12


@dataclass(frozen=True)
class Resources:
    """Of a chip or of one copy.

    Attributes:
        lut: look-up tables of six inputs, those used as memory included.
        lutram: those that are, or can be, memory.
        ff: flip-flops.
        dsp: DSP48E2 blocks.
        block_ram: blocks of 36 kbit; half a block is 18 kbit.
        ultra_ram: blocks of 288 kbit.
    """

    lut: float
    lutram: float
    ff: float
    dsp: float
    block_ram: float
    ultra_ram: float = 0

    def items(self) -> Iterator[tuple[str, float]]:
        return ((field.name, getattr(self, field.name)) for field in fields(self))


# Look-up tables that can be memory, from AMD's tables of the distributed memory (64 bits a table).
LUTRAM = {"alveo-u250": 791_040, "ultra96": 28_800}
SHORT_NAMES = {"alveo-u250": "U250", "ultra96": "ZU3EG"}


@dataclass(frozen=True)
class Design:
    """One copy of an accelerator.

    Attributes:
        mode: "dense", "sparse-dense" or "sparse-sparse".
        bit_exact: simulated, and every output as the reference's.
        cycles: a word, measured where it was simulated.
        products: useful ones, a word.
        formed: products formed in a cycle, in DSPs, LUTs and as constants.
        used: resources.
    """

    mode: str
    bit_exact: bool
    cycles: float
    products: int
    formed: float
    used: Resources


@dataclass(frozen=True)
class Filled:
    """A chip full of copies.

    Attributes:
        chip: the board's name.
        mode: of the designs.
        copies: of each design.
        words_per_second: of all copies together.
        bound: words/s if every product formed were useful.
        shares: of the chip, by resource.
        limit: the resource with the largest share.
    """

    chip: str
    mode: str
    copies: tuple[int, ...]
    words_per_second: float
    bound: float
    shares: Mapping[str, float]
    limit: str


@dataclass(frozen=True)
class Published:
    """Words/s of one network and of a full chip, and the copies on it; None where the paper has no figure."""

    single: int | None
    full: int | None
    copies: int | None


# Hunter, Spracklen, Ahmad 2021 (arXiv 2112.13896). Recalled, not copied from the text; the ratios of a single network
# (33x) and of the full chip (112x) are confirmed. Only the U250's table tells one network from the full chip.
PUBLISHED = {
    ("alveo-u250", "dense"): Published(3_049, 12_195, 4),
    ("alveo-u250", "sparse-dense"): Published(35_714, 689_655, 24),
    ("alveo-u250", "sparse-sparse"): Published(102_564, 1_369_863, 20),
    ("ultra96", "sparse-dense"): Published(None, 21_053, None),
    ("ultra96", "sparse-sparse"): Published(None, 45_455, None),
}


def available(chip: Board) -> Resources:
    """All that the chip has; its family has two flip-flops a look-up table."""
    blocks = chip.block_ram_bits // BLOCK_RAM_BITS
    return Resources(chip.lut, LUTRAM[chip.name], 2 * chip.lut, chip.dsp, blocks, chip.ultra_ram)


def fill(chip: Board, designs: Sequence[Design], *, clock_hz: float, share: float = SHARE) -> Filled:
    """The mix of copies with the most words a second; designs that need what the chip lacks are left out.

    Args:
        chip: whose resources are filled.
        designs: of one mode.
        clock_hz: of every copy.
        share: of each resource that may be used.
    """
    have = available(chip)
    used = np.array([[amount for _, amount in design.used.items()] for design in designs]).T
    room = np.array([amount for _, amount in have.items()]) * share
    rates = np.array([1 / design.cycles for design in designs])
    # Scaled, since the solver's tolerances are absolute.
    limits = LinearConstraint(used / np.maximum(room, 1)[:, None], ub=np.minimum(room, 1))
    found = milp(-rates / rates.max(), constraints=limits, integrality=np.ones(len(rates)))
    copies = np.rint(found.x).astype(int)
    formed = sum(count * design.formed / design.products for count, design in zip(copies, designs, strict=True))
    shares = {
        name: float(row @ copies / amount) if amount else 0.0
        for (name, amount), row in zip(have.items(), used, strict=True)
    }
    return Filled(
        chip=chip.name,
        mode=designs[0].mode,
        copies=tuple(int(count) for count in copies),
        words_per_second=float(copies @ rates * clock_hz),
        bound=float(formed * clock_hz),
        shares=shares,
        limit=max(shares, key=lambda name: shares[name]),
    )


def dense_bound(chip: Board, products: int, *, clock_hz: float, share: float = SHARE, luts: bool = False) -> float:
    """Words a second of a dense accelerator with weights in memory, if no multiplier ever rests.

    Args:
        chip: whose DSPs form two products each.
        products: a word.
        clock_hz: of the multipliers.
        share: of the DSPs (and LUTs) that may be used.
        luts: fills the LUTs with multipliers too, and needs none for anything else.
    """
    formed = int(chip.dsp * share) * PRODUCTS_A_DSP
    if luts:
        formed += int(chip.lut * share) // LUTS_A_PRODUCT
    return clock_hz * formed / products


def read_design(path: Path) -> Design:
    """One copy, from what `gsc_hardware --synthesise ultrascale+ --json` printed.

    Raises:
        InputError: no such file, or not that.
    """
    try:
        return design_of(json.loads(path.read_text()))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a result of gsc_hardware --synthesise {FAMILY} --json ({type(error).__name__}: {error})"
        ) from None


def design_of(result: Mapping[str, Any]) -> Design:
    """One copy, as it was synthesised."""
    counted = result["resources"][FAMILY]
    used = Resources(**{field.name: counted[field.name] for field in fields(Resources)})
    # Requantisation multiplies too, but is no product of the network.
    layers = [stage for stage in result["stages"] if stage["layer"]]
    return Design(
        mode=result["mode"],
        bit_exact=result["bit_exact"] is True,
        cycles=result["cycles_per_word"] or result["cycles_planned"],
        products=sum(stage["products"] for stage in layers),
        formed=sum(stage["formed"] for stage in layers),
        used=used,
    )


def main(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT.json...", help="What gsc_hardware --synthesise ultrascale+ printed.")
    ],
    clock_mhz: Annotated[float, typer.Option(help="Of every copy; at most 300.")] = MAX_CLOCK_MHZ,
    share: Annotated[float, typer.Option(help="Of each resource that may be used; at most 0.8.")] = SHARE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Estimate full chips from one copy of each accelerator."""
    try:
        if not 0 < clock_mhz <= MAX_CLOCK_MHZ:
            raise InputError(f"--clock-mhz must be above 0 and at most {MAX_CLOCK_MHZ:g}, not {clock_mhz:g}")
        if not 0 < share <= SHARE:
            raise InputError(f"--share must be above 0 and at most {SHARE}, not {share}")
        designs: dict[str, list[Design]] = {}
        for path in results:
            design = read_design(path)
            designs.setdefault(design.mode, []).append(design)
        estimate = estimated(designs, clock_hz=clock_mhz * 1e6, share=share)
    except HwgenError as error:
        terminal.say(f"full_chip: {error}")
        sys.exit(error.exit_code)
    if as_json:
        terminal.print_json(estimate)
    else:
        typer.echo(markdown(estimate))


def estimated(designs: Mapping[str, Sequence[Design]], *, clock_hz: float, share: float = SHARE) -> dict[str, Any]:
    """Both chips full of each mode, the ratios between the modes and the assumptions, as JSON values."""
    filled = [
        fill(board(chip), of_mode, clock_hz=clock_hz, share=share)
        for chip in SHORT_NAMES
        for of_mode in designs.values()
    ]
    return {
        "estimate": True,
        "clock_mhz": clock_hz / 1e6,
        "share": share,
        "designs": {mode: [asdict(design) for design in of_mode] for mode, of_mode in designs.items()},
        "chips": [asdict(one) | {"published": _published(one)} for one in filled],
        "ratios": _ratios(designs, filled, clock_hz, share),
        "assumptions": _assumptions(designs, clock_hz, share),
    }


def _published(filled: Filled) -> dict[str, int | None] | None:
    found = PUBLISHED.get((filled.chip, filled.mode))
    return asdict(found) if found else None


def _ratios(
    designs: Mapping[str, Sequence[Design]], filled: Sequence[Filled], clock_hz: float, share: float
) -> dict[str, float]:
    """Sparse-sparse and dense on the U250: dense's bound alone without a dense design, empty without sparse-sparse."""
    if "sparse-sparse" not in designs:
        return {}
    chip = board("alveo-u250")
    full = {one.mode: one for one in filled if one.chip == chip.name}
    dense, sparse = DENSE_PRODUCTS, designs["sparse-sparse"][0].products
    bound = dense_bound(chip, dense, clock_hz=clock_hz, share=share)
    with_luts = dense_bound(chip, dense, clock_hz=clock_hz, share=share, luts=True)
    rate = full["sparse-sparse"].words_per_second
    in_dsps = bound * dense / sparse
    published = PUBLISHED[chip.name, "sparse-sparse"].full
    assert published is not None
    ratios = {"dense bound, DSPs alone, cycles a word": clock_hz / bound, "dense bound, DSPs alone, words/s": bound}
    if "dense" in full:
        achieved = full["dense"].words_per_second
        ratios |= {"dense achieved, words/s": achieved, "dense achieved / dense bound": achieved / bound}
    return ratios | {
        "sparse-sparse achieved, words/s": rate,
        "sparse-sparse achieved / dense bound": rate / bound,
        "products a word, dense / sparse-sparse": dense / sparse,
        "sparse-sparse bound with every product in a DSP, words/s": in_dsps,
        "sparse-sparse achieved / that bound: what constants in LUTs add": rate / in_dsps,
        "dense bound, LUTs full of multipliers too, words/s": with_luts,
        "sparse-sparse achieved / dense bound with LUTs": rate / with_luts,
        "sparse-sparse achieved / published full chip (recalled)": rate / published,
    }


def _assumptions(designs: Mapping[str, Sequence[Design]], clock_hz: float, share: float) -> list[tuple[str, str]]:
    exact = all(design.bit_exact for of_mode in designs.values() for design in of_mode)
    return [
        ("kind of figure", "an estimate: arithmetic on one copy's counts; nothing is placed or routed"),
        ("clock", f"{clock_hz / 1e6:g} MHz for every mode and chip, not derived from timing; 300 MHz at most"),
        ("cycles a word", "measured in simulation, " + ("every output bit-exact" if exact else "NOT ALL BIT-EXACT")),
        ("copies", f"whole ones, no part shared, until {share:.0%} of a resource is used; designs of a mode are mixed"),
        ("counts", "Yosys `synth_xilinx -family xcup` of a whole copy; registers are not absorbed into DSPs"),
        (
            "LUTs",
            "of any size count as one; adders of three operands are LUT6_2 with two outputs; inverters are not counted",
        ),
        ("block RAM", "36 kbit blocks; UltraRAM, where the chip has it, for buffers without initial content only"),
        (
            "two products a DSP",
            "in every mode, wherever two multipliers share an activation: so synthesised, not assumed",
        ),
        (
            "dense",
            f"weights in memory, every product in a DSP; its bound takes {share:.0%} of the DSPs, never resting",
        ),
        ("product in LUTs", f"{LUTS_A_PRODUCT} LUTs, without its share of an adder tree, which favours dense"),
        ("not modelled", "interconnect between copies, host link (PCIe, DMA, memory), the board's shell"),
        ("not modelled", "crossings between dies, congestion, power"),
        ("weights", "random, by the network's exact masks: speed depends on masks and winners, not on values"),
        ("published", "recalled from arXiv 2112.13896, except the ratios 33x and 112x; other clocks and tools"),
    ]


def markdown(estimate: Mapping[str, Any]) -> str:
    """The estimate as tables."""
    parts = ["# Full chips: an estimate", _copies_table(estimate)]
    for chip, short in SHORT_NAMES.items():
        parts += [f"## {board(chip).title} ({short})", _chip_table(estimate, chip)]
    if estimate["ratios"]:
        rows = [(name, _number(value)) for name, value in estimate["ratios"].items()]
        parts += ["## Sparse-sparse against dense, U250", _table(("figure", "value"), rows)]
    parts += ["## Assumptions", _table(("of", "assumption"), estimate["assumptions"])]
    return "\n\n".join(parts) + "\n"


def _copies_table(estimate: Mapping[str, Any]) -> str:
    names = [field.name.replace("_", " ") for field in fields(Resources)]
    columns = ("one copy", "cycles a word", "products a word", "formed a cycle", "bound, cycles", *names)
    rows = []
    for mode, designs in estimate["designs"].items():
        for design in designs:
            bound = design["products"] / design["formed"]
            figures = (design["cycles"], design["products"], design["formed"], bound, *design["used"].values())
            rows.append((mode, *map(_number, figures)))
    return _table(columns, rows)


def _chip_table(estimate: Mapping[str, Any], chip: str) -> str:
    names = [field.name.replace("_", " ") for field in fields(Resources)]
    columns = ("mode", "copies", *names, "words/s", "bound, words/s", "published (recalled)", "over published")
    rows = []
    for one in estimate["chips"]:
        if one["chip"] != chip:
            continue
        known = one["published"]["full"] if one["published"] else None
        rows.append(
            (
                one["mode"],
                " + ".join(map(str, one["copies"])) if any(one["copies"]) else "does not fit",
                *(f"{value:.0%}" for value in one["shares"].values()),
                _number(one["words_per_second"]),
                _number(one["bound"]),
                _number(known) if known else "-",
                f"{one['words_per_second'] / known:.1f}x" if known else "-",
            )
        )
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


if __name__ == "__main__":
    typer.run(main)
