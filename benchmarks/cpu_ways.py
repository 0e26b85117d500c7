"""How long the ways of forming products take on this processor: what `host.cpu.choice` chooses by.

    python -m benchmarks.cpu_ways --json

Each layer is timed alone, in each way that the path has; the time is divided by the way's units (quads, pairs or slots
of a position and 16 outputs). Without its layers a program takes the time of the two ends, which is taken off.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import typer

from host.cpu import choice
from host.cpu.compiler import compiled
from host.cpu.isa import PATHS, supported
from host.cpu.plan import Planner
from host.cpu.program import Program, processor
from host.cpu.steps import Step
from hwgen import terminal
from hwgen.format.network import Conv2d, Input, IntegerNetwork, KWinners, Layer, Linear, Requantise

UNITS = {
    "dense": "quad", "tiles": "tile", "fetched": "register", "listed": "pair", "permuted": "slot",
    "permuted, two tables": "pair_slot", "permuted, four tables": "shared_slot",
}  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """A layer in one way.

    Attributes:
        path, layer, way: what was timed.
        microseconds: the median of a word.
        nanoseconds: a unit.
        modelled: nanoseconds a unit in `host.cpu.choice`.
        chosen: whether the model chooses this way, or has it measured.
    """

    path: str
    layer: str
    way: str
    microseconds: float
    nanoseconds: float
    modelled: float
    chosen: bool


def layers() -> dict[str, tuple[tuple[int, ...], tuple[Layer, ...]]]:
    """Name: (input shape, layers of which the last is timed)."""
    return {
        "conv 64 to 64, 5x5, 12 % of weights, 8 winners": (
            (64, 14, 14), (KWinners("k", 8, True), _conv(64, 64, 5, 0.125), _scale(64))
        ),
        "linear 1600 to 1500, 4 %, 200 winners": ((1600,), (KWinners("k", 200, False), _linear(1500, 1600, 0.04))),
        "conv 1024 to 1024, 1x1, 5 %, 102 winners": (
            (1024, 8, 8), (KWinners("k", 102, True), _conv(1024, 1024, 1, 0.05), _scale(1024))
        ),
        "conv 32 to 32, 1x1, half, 16 winners": ((32, 4, 4), (KWinners("k", 16, True), _conv(32, 32, 1, 0.5), _scale(32))),
    }  # fmt: skip


def _conv(outputs: int, inputs: int, kernel: int, density: float) -> Conv2d:
    weight = _weights((outputs, inputs, kernel, kernel), density)
    return Conv2d("layer", weight, weight != 0, np.zeros(outputs, np.int32))


def _linear(outputs: int, inputs: int, density: float) -> Linear:
    weight = _weights((outputs, inputs), density)
    return Linear("layer", weight, weight != 0, np.zeros(outputs, np.int32))


def _weights(shape: tuple[int, ...], density: float) -> np.ndarray:
    """As many non-zeros in each output: random masks."""
    rng = np.random.default_rng(0)
    columns = int(np.prod(shape[1:]))
    kept = rng.permuted(np.tile(np.arange(columns) < density * columns, (shape[0], 1)), axis=1)
    return (rng.integers(1, 128, kept.shape) * kept).astype(np.int8).reshape(shape)


def _scale(channels: int) -> Requantise:
    return Requantise("scale", np.full(channels, 1 << 14, np.int32), 24, True)


def median_seconds(network: IntegerNetwork, path: str, form, calls: int) -> tuple[float, list[Step]]:
    isa = PATHS[path]
    plan = Planner(network, isa, form).plan()
    program = Program(compiled(plan, network.output_scale, isa), isa)
    work, rng = program.workspace(), np.random.default_rng(1)
    word = rng.integers(0, 256, network.input.shape).astype(np.uint8)
    result = np.zeros(1 << 20, np.int32)
    places = word.ctypes.data, result.ctypes.data, 1, work.ctypes.data, program.block
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        program.integers(*places)
        times.append(time.perf_counter() - start)
    return statistics.median(times), list(plan.steps)


def timings(path: str, calls: int) -> list[Timing]:
    """Each way to each layer on a path: medians of so many calls."""
    found = []
    for name, (shape, chain) in layers().items():
        source = Input(shape, 1.0, True)
        outputs = len(chain[1].weight)  # type: ignore[union-attr]
        network = IntegerNetwork(source, chain, np.ones(outputs))
        without, _ = median_seconds(IntegerNetwork(source, chain[:1], np.ones(shape[0])), path, choice.best, calls)
        for way, unit in UNITS.items():
            units: list[float] = []
            chosen: list[bool] = []

            def form(product, lists, isa, unit=unit, units=units, chosen=chosen) -> Step:
                way = next((way for way in choice.ways(product, lists, isa) if way.unit == unit), None)
                if way is None:
                    return choice.best(product, lists, isa)
                units.append(product.window.size[0] * product.window.size[1] * way.units)
                chosen.append(unit in [way.unit for way in choice.candidates(product, lists, isa)])
                return way.step

            seconds, _ = median_seconds(network, path, form, calls)
            if not units:
                continue
            modelled = getattr(choice.COSTS[path], unit)
            taken = max(0.0, seconds - without)
            found.append(Timing(path, name, way, 1e6 * seconds, 1e9 * taken / units[0], modelled, chosen[0]))
    return found


def main(
    path: Annotated[list[str] | None, typer.Option(help="May be repeated; all that this processor can run.")] = None,
    calls: Annotated[int, typer.Option(min=1, help="Of each program.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Time the ways of forming products."""
    found = []
    with terminal.progress() as report:
        for one in path or supported(processor()[1]):
            report(one, None)
            found += timings(one, calls)
    if as_json:
        terminal.print_json({"processor": processor()[0], "timings": [asdict(timing) for timing in found]})
        return
    rows = [
        (
            t.path,
            t.layer,
            t.way,
            f"{t.microseconds:.1f}",
            f"{t.nanoseconds:.2f}",
            f"{t.modelled:g}",
            "x" if t.chosen else "",
        )
        for t in found
    ]
    columns = ("path", "layer", "way", "us a word", "ns a unit", "in the model", "chosen")
    terminal.print_table("Ways of forming products", columns, rows, left=3)


if __name__ == "__main__":
    typer.run(main)
