"""Seconds that `hwgen plan`, or `hwgen generate`, takes for the keyword-spotting network, start-up included.

python -m benchmarks.plan_time --json
python -m benchmarks.plan_time --generate --json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import gsc_network
from hwgen import terminal
from hwgen.plan import MODES

BOARDS = ("none", "ulx3s-85f", "alveo-u250")
# Beside the fastest plan, one that may take so many times its cycles.
SLACK = 2


@dataclass(frozen=True)
class Run:
    """One call of the command.

    Attributes:
        mode, board: as given.
        cycles: as given, or None for the fastest plan.
        seconds: of wall time; processor_seconds: of all its threads.
        cycles_per_word, multipliers: of the plan; None where the board is too small for any.
        refusal: why there is no plan, or None.
    """

    mode: str
    board: str
    cycles: int | None
    seconds: float
    processor_seconds: float
    cycles_per_word: int | None
    multipliers: int | None
    refusal: str | None


def main(
    seed: Annotated[int, typer.Option(min=0, help="Of weights and masks.")] = 0,
    generate: Annotated[bool, typer.Option("--generate", help="Generate the fastest plan of each board.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Plans the network in every mode, for several boards and none, as fast as can be and with a limit of cycles.

    Generating is for boards alone, as fast as can be.
    """
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder, terminal.progress() as report:
        report("packing", None)
        network = Path(folder) / "net.hwpack"
        gsc_network.network(seed).save(network)
        for mode in MODES:
            for board in BOARDS:
                report(f"{mode}, {board}", None)
                if generate:
                    # Without a board there is no bound, and nothing that anybody would build.
                    if board != "none":
                        runs.append(_run(network, mode, board, None, Path(folder) / "bundle"))
                    continue
                fastest = _run(network, mode, board, None)
                runs.append(fastest)
                # Where the board is too small, the limit is one that nothing reaches in less.
                runs.append(_run(network, mode, board, SLACK * (fastest.cycles_per_word or 4000)))
    slowest = max(runs, key=lambda run: run.seconds)
    if json:
        terminal.print_json(
            {
                "command": "generate" if generate else "plan",
                "seed": seed,
                "processors": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
                "longest_seconds": slowest.seconds,
                "runs": [asdict(run) for run in runs],
            }
        )
        return
    for run in runs:
        goal = "fastest" if run.cycles is None else f"within {run.cycles}"
        result = run.refusal or f"{run.cycles_per_word} cycles, {run.multipliers} multipliers"
        print(f"{run.mode:14} {run.board:10} {goal:13} {run.seconds:5.1f} s  {result}")
    print(f"longest: {slowest.seconds:.1f} s")


def _run(network: Path, mode: str, board: str, cycles: int | None, bundle: Path | None = None) -> Run:
    """Plans, or generates into `bundle`."""
    command = [sys.executable, "-m", "hwgen", "generate" if bundle else "plan", str(network)]
    command += ["--mode", mode, "--board", board, "--json"]
    if bundle:
        command += ["--out", str(bundle)]
    if cycles is not None:
        command += ["--cycles", str(cycles)]
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    figures = json.loads(done.stdout) if done.returncode == 0 else {}
    figures = figures.get("plan", figures)
    return Run(
        mode=mode,
        board=board,
        cycles=cycles,
        seconds=round(seconds, 2),
        processor_seconds=round(processor, 2),
        cycles_per_word=figures.get("cycles_per_word"),
        multipliers=figures.get("multipliers"),
        refusal=None if figures else done.stderr.strip().splitlines()[-1],
    )


if __name__ == "__main__":
    typer.run(main)
