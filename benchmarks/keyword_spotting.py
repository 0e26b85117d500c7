"""How well trained keyword spotters do on speakers whom they never heard, over several seeds.

python -m benchmarks.keyword_spotting --data DIR --trained SEED_0 --trained SEED_1 --trained SEED_2 --json
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.gsc_network import nonzeros
from hwgen import terminal
from hwgen.errors import HwgenError
from hwgen.examples.gsc import trained as files
from hwgen.examples.gsc.evaluation import Evaluation, evaluate
from hwgen.examples.gsc.recordings import load

ACCURACIES = ("accuracy_dense", "accuracy_sparse", "accuracy_int8")


def main(
    data: Annotated[Path, typer.Option(help="A folder for each class, as for hwgen.examples.gsc.")],
    trained: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that `hwgen.examples.gsc train` wrote; may be repeated. Default: what is shipped."),
    ] = None,
    hardware_words: Annotated[
        int | None, typer.Option(min=0, help="Of the first one, to run through simulated hardware; all.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Evaluate trained keyword spotters; mean and deviation of their accuracies."""
    try:
        with terminal.progress() as report:
            recordings = load(data, report)
            runs, found = [], []
            for number, folder in enumerate(trained or [files.SHIPPED]):
                networks = files.load(folder)
                words = hardware_words if number == 0 else 0
                found.append(evaluate(networks, recordings, hardware_words=words, report=report))
                record = {key: value for key, value in networks.record.items() if key != "speakers"}
                packing = {layer.name: layer.nonzeros / layer.slots for layer in networks.packed.report()}
                counts = {"nonzeros": nonzeros(networks.packed), "packing_efficiency": packing}
                runs.append(counts | {"evaluation": asdict(found[-1]), "training": record})
    except HwgenError as error:
        terminal.say(f"keyword_spotting: {error}")
        sys.exit(error.exit_code)
    summary = {name: _spread([getattr(one, name) for one in found]) for name in ACCURACIES}
    lost = _spread([one.accuracy_dense - one.accuracy_int8 for one in found])
    result: dict[str, Any] = {"seeds": len(found), **summary, "points_lost": lost, "runs": runs}
    if json:
        terminal.print_json(result)
    else:
        _print(result, found)


def _spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation of a sample."""
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _print(result: dict[str, Any], found: list[Evaluation]) -> None:
    rows = [
        (name.replace("_", " "), *(f"{getattr(one, name):.2f}" for one in found), f"{result[name]['mean']:.2f}")
        for name in ACCURACIES
    ]
    columns = ("%", *(f"seed {run['training']['recipe']['seed']}" for run in result["runs"]), "mean")
    terminal.print_table("Keyword spotting", columns, rows)


if __name__ == "__main__":
    typer.run(main)
