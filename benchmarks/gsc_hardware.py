"""An accelerator of the keyword-spotting network: generated, simulated word after word, compared with the reference.

python -m benchmarks.gsc_hardware --mode sparse-sparse --simulate 20 --seed 3 --json
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import host
import hwgen
from benchmarks import gsc_network
from boards.catalogue import board
from hwgen import terminal
from hwgen.errors import HwgenError
from hwgen.format.io import quantise_input
from hwgen.format.packed import PackedNetwork
from hwgen.generator import Bundle, write
from hwgen.plan import make_plan


@dataclass(frozen=True)
class StageResult:
    """A stage of the pipeline that multiplies.

    Attributes:
        name, kind: of the stage.
        layer: whether its products are those of a layer's weights, rather than a requantisation's.
        multipliers: that it has; 0 where constant weights became adders.
        products: useful ones, a word.
        cycles: that the stage itself needs for a word, as planned.
        formed: products formed in a cycle: the multipliers, or those that the adders stand for.
        utilisation: products / (formed * cycles).
        efficiency: products / (formed * the pipeline's cycles), which is lower where another stage is slower.
    """

    name: str
    kind: str
    layer: bool
    multipliers: int
    products: int
    cycles: int
    formed: float
    utilisation: float
    efficiency: float


@dataclass(frozen=True)
class Result:
    """One accelerator.

    Attributes:
        mode, board: that it was planned for; board is None where nothing bounds the multipliers.
        seed: of weights, masks and inputs; None for the trained network.
        words: simulated back to back.
        bit_exact: every output of every word is that of the reference; None without simulation.
        cycles_per_word: between the last output beats of successive words; None for fewer than two words.
        cycles_planned: as the plan says.
        nonzeros: as the paper counts them, see `gsc_network.nonzeros`.
        packing_efficiency: non-zero weights / weight slots.
        multipliers: products that the whole pipeline can form in a cycle.
        stages: those that multiply.
        resources: family -> what synthesis counted, where it was asked for, and with it the plan's stages:
            `resource_model check --counted` compares both.
        build: of the board's bitstream, made from the bundle that was simulated, where it was asked for.
    """

    mode: str
    board: str | None
    seed: int | None
    words: int
    bit_exact: bool | None
    cycles_per_word: float | None
    cycles_planned: int
    nonzeros: int
    packing_efficiency: float
    multipliers: int
    stages: tuple[StageResult, ...]
    resources: dict[str, dict[str, Any]]
    build: dict[str, Any] | None


def main(
    mode: Annotated[str, typer.Option(help="dense, sparse-dense, sparse-sparse or auto.")] = "sparse-sparse",
    simulate: Annotated[int, typer.Option(metavar="N", help="Words to simulate; 0 only plans and generates.")] = 20,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of weights, masks and inputs drawn at random. Default: the trained network."),
    ] = None,
    board_name: Annotated[str, typer.Option("--board", help="Whose multipliers may be used; none: any number.")] = (
        "ulx3s-85f"
    ),
    cycles: Annotated[
        int | None,
        typer.Option(
            help="The most cycles a word may take, by the smallest accelerator for that. Default: the fastest."
        ),
    ] = None,
    synthesise: Annotated[
        list[str] | None,
        typer.Option(metavar="FAMILY", help="Count resources too: ecp5 or ultrascale+; may be repeated."),
    ] = None,
    place_and_route: Annotated[
        bool, typer.Option("--place-and-route", help="Also make the board's bitstream: an hour for a large network.")
    ] = False,
    clock: Annotated[float, typer.Option(metavar="MHZ", help="Of the bitstream.")] = 110.0,
    router: Annotated[str, typer.Option(help="router1, or router2, which ends sooner.")] = "router2",
    placer: Annotated[str, typer.Option(help="heap or static.")] = "heap",
    placement_seed: Annotated[int, typer.Option(help="Another one gives another placement.")] = 1,
    nextpnr: Annotated[str, typer.Option(metavar="OPTIONS", help="More options of nextpnr-ecp5.")] = "",
    floorplan: Annotated[bool, typer.Option(help="Place multipliers and memories first; else nextpnr does.")] = True,
    network: Annotated[Path | None, typer.Option(metavar="NET.hwpack", help="Another network.")] = None,
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Keeps the bundle there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Generate an accelerator of the keyword-spotting network and measure it in simulation."""
    try:
        with terminal.progress() as report, _folder(bundle) as folder:
            report("packing", None)
            packed = gsc_network.network(seed) if network is None else hwgen.load(network)
            report("planning", None)
            chosen = None if board_name == "none" else board(board_name)
            plan = make_plan(packed, board=chosen, mode=mode, cycles=cycles)
            report("generating", None)
            generated = write(plan, packed, folder)
            report("simulating", None)
            x = quantise_input(packed.network.input, gsc_network.inputs(seed, simulate))
            bit_exact, measured = _simulate(folder, x) if simulate else (None, None)
            resources = {}
            for family in synthesise or ():
                report(f"synthesising for {family}", None)
                resources[family] = _counts(generated, family) | {"plan": plan.to_json()}
            built = None
            if place_and_route:
                options = {
                    "router": router,
                    "placer": placer,
                    "seed": placement_seed,
                    "nextpnr": nextpnr,
                    "floorplan": floorplan,
                }
                built = _built(folder, board_name, clock, options, report)
            result = _result(packed, generated, seed, simulate, bit_exact, measured, resources, built)
    except HwgenError as error:
        terminal.say(f"gsc_hardware: {error}")
        sys.exit(error.exit_code)
    if json:
        terminal.print_json(asdict(result))
    else:
        _print(result)
    if result.bit_exact is False:
        terminal.say("gsc_hardware: the simulated hardware and the reference differ")
        sys.exit(1)


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="hwgen-gsc-") as scratch:
        yield Path(scratch) / "bundle"


def _simulate(bundle: Path, x: NDArray[np.int64]) -> tuple[bool, float | None]:
    """Whether every output is the reference's, and the cycles between words."""
    with host.open(bundle, device="reference") as accelerator:
        expected = accelerator.run_int(x)
    # One call: the words follow each other without a gap, and nothing stalls the output.
    with host.open(bundle, device="sim") as accelerator:
        y = accelerator.run_int(x)
        return bool(np.array_equal(y, expected)), accelerator.stats.cycles_per_word


def _counts(bundle: Bundle, family: str) -> dict[str, Any]:
    from boards.synthesis import counts

    return asdict(counts(bundle.path / f"{bundle.manifest.top}.v", bundle.manifest.top, family))


def _built(
    bundle: Path, board_name: str, clock: float, options: dict[str, Any], report: Callable[[str, float | None], None]
) -> dict[str, Any]:
    from boards.ecp5_flow import Options, build

    figures = build(bundle, board(board_name), Options(clock_mhz=clock, **options), report=report).to_json()
    # A path of this machine.
    del figures["bitstream"]
    return figures | {"options": options}


def _result(
    packed: PackedNetwork,
    bundle: Bundle,
    seed: int | None,
    words: int,
    bit_exact: bool | None,
    cycles_per_word: float | None,
    resources: dict[str, dict[str, Any]],
    built: dict[str, Any] | None,
) -> Result:
    plan = bundle.plan.to_json()
    layers = packed.report()
    names = {layer.name for layer in layers}
    return Result(
        mode=plan["mode"],
        board=plan["board"],
        seed=seed,
        words=words,
        bit_exact=bit_exact,
        cycles_per_word=cycles_per_word,
        cycles_planned=plan["cycles_per_word"],
        nonzeros=gsc_network.nonzeros(packed),
        packing_efficiency=sum(layer.nonzeros for layer in layers) / sum(layer.slots for layer in layers),
        multipliers=plan["multipliers"],
        stages=tuple(
            _stage(stage, stage["name"] in names, cycles_per_word or plan["cycles_per_word"])
            for stage in plan["stages"]
            if stage["products"]
        ),
        resources=resources,
        build=built,
    )


def _stage(stage: dict[str, Any], is_layer: bool, pipeline_cycles: float) -> StageResult:
    multipliers, products, cycles = stage["multipliers"], stage["products"], stage["cycles"]
    formed = multipliers or products / cycles
    return StageResult(
        name=stage["name"],
        kind=stage["kind"],
        layer=is_layer,
        multipliers=multipliers,
        products=products,
        cycles=cycles,
        formed=formed,
        utilisation=products / (formed * cycles),
        efficiency=products / (formed * pipeline_cycles),
    )


def _print(result: Result) -> None:
    figures = asdict(result)
    del figures["stages"], figures["resources"], figures["build"]
    figures["packing_efficiency"] = f"{result.packing_efficiency:.2%}"
    title = "Keyword-spotting network, hwgen"
    terminal.print_table(title, ("", ""), [(name.replace("_", " "), value) for name, value in figures.items()])
    rows = [
        (
            stage.name,
            stage.kind,
            stage.multipliers or "constants",
            stage.products,
            stage.cycles,
            f"{stage.utilisation:.1%}",
            f"{stage.efficiency:.1%}",
        )
        for stage in result.stages
    ]
    columns = ("stage", "kind", "multipliers", "useful products a word", "cycles", "utilisation", "efficiency")
    terminal.print_table("Stages that multiply", columns, rows, left=2)
    for family, counted in result.resources.items():
        totals = [(name.replace("_", " "), value) for name, value in counted.items() if not isinstance(value, dict)]
        terminal.print_table(f"Synthesis for {family}", ("", ""), totals)
    if result.build is not None:
        rows = [(name.replace("_", " "), str(value)) for name, value in result.build.items()]
        terminal.print_table("Placed and routed", ("", ""), rows)


if __name__ == "__main__":
    typer.run(main)
