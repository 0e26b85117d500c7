"""Where a word's time goes on this processor: each step of the keyword spotter, in each way that the device "cpu" compares.

    python -m benchmarks.cpu_steps --json

A step takes what a program that ends with it takes more than the fastest one that ends before it; the programs take turns,
call by call, on one core.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import numpy as np
import typer

from benchmarks import gsc_network
from host.cpu import choice
from host.cpu.compiler import compiled
from host.cpu.isa import choose
from host.cpu.measured import Measured
from host.cpu.permuted import Permuted
from host.cpu.plan import Plan, Planner
from host.cpu.program import Program, processor
from host.cpu.steps import Step
from hwgen import terminal
from hwgen.format.network import IntegerNetwork

ENDS = "input and output"
TABLES = {1: "", 2: ", two tables", 4: ", four tables"}


@dataclass(frozen=True)
class Timing:
    """A step in one way.

    Attributes:
        step, way: what was timed.
        median, p10: microseconds of a word, more than without the step.
    """

    step: str
    way: str
    median: float
    p10: float


class Timed:
    """A program, and the microseconds of its calls."""

    def __init__(self, plan: Plan, steps: list[Step], network: IntegerNetwork, path: str) -> None:
        isa = choose(path, processor()[1])
        self._program = Program(compiled(replace(plan, steps=tuple(steps), shared={}), network.output_scale, isa), isa)
        self._work = self._program.workspace()
        self._result = np.zeros(len(network.output_scale), np.float32)
        self.times: list[float] = []

    def call(self, word: int) -> None:
        """`word`: address of a word."""
        places = word, self._result.ctypes.data, 1, self._work.ctypes.data, self._program.block
        start = time.perf_counter()
        self._program.floats(*places)
        self.times.append(1e6 * (time.perf_counter() - start))

    def figures(self) -> tuple[float, float]:
        return float(np.median(self.times)), float(np.percentile(self.times, 10))


def timings(seed: int | None, path: str, calls: int) -> list[Timing]:
    """Each way to each step, in the order in which they run."""
    network = gsc_network.network(seed).network
    words = gsc_network.inputs(seed, 16)
    plan = Planner(network, choose(path, processor()[1]), choice.best).plan()
    before, found, taken = Timed(plan, [], network, path), [], []
    _measure([before], words, calls)
    found.append(Timing("", ENDS, *before.figures()))
    for step in plan.steps:
        ways = step.ways if isinstance(step, Measured) else (step,)
        programs = [Timed(plan, [*taken, way], network, path) for way in ways]
        _measure([before, *programs], words, calls)
        without = before.figures()
        for way, program in zip(ways, programs, strict=True):
            median, p10 = (a - b for a, b in zip(program.figures(), without, strict=True))
            found.append(Timing(step.name, _name(way), median, p10))
        fastest = min(range(len(ways)), key=lambda number: programs[number].figures())
        taken.append(ways[fastest])
        before = programs[fastest]
    return found


def _measure(programs: list[Timed], words: np.ndarray, calls: int) -> None:
    for program in programs:
        program.times.clear()
    # Blocks, of which the first calls fill the caches.
    block, untimed = 20, 2
    for _ in range(-(-calls // block)):
        for program in programs:
            for number in range(untimed + block):
                program.call(words[number % len(words)].ctypes.data)
            del program.times[-untimed - block : -block]


def _name(way: Step) -> str:
    if not isinstance(way, Permuted):
        return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(way).__name__).lower()
    return "permuted" + TABLES[way.tables] + ", asking ahead" * (way.ahead and not way.product.several)


def main(
    seed: Annotated[int | None, typer.Option(min=0, help="As of benchmarks.cpu.")] = None,
    path: Annotated[str, typer.Option(help="Of host.cpu; default: the fastest that this processor can run.")] = "",
    calls: Annotated[int, typer.Option(min=1, help="Of each program.")] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Time the steps of the keyword spotter."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    found = timings(seed, path, calls)
    if as_json:
        terminal.print_json({"processor": processor()[0], "seed": seed, "timings": [asdict(one) for one in found]})
        return
    rows = [(one.step, one.way, f"{one.median:.2f}", f"{one.p10:.2f}") for one in found]
    terminal.print_table("Microseconds of a word", ("step", "way", "median", "p10"), rows, left=2)


if __name__ == "__main__":
    typer.run(main)
