"""The audit of the demonstration's networks on their 400 test images.

python -m benchmarks.audit_digits --json
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer

import hwgen
from hwgen import terminal
from hwgen.audit import audit, predictor
from hwgen.audit.tables import print_audit
from hwgen.examples import digits


def main(json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False) -> None:
    """Trains the networks, or loads them from the cache, and compares dense, sparse and packed."""
    torch.set_num_threads(1)
    with terminal.progress() as report:
        trained = digits.train(report)
        packed = hwgen.pack(trained.sparse, calibration=trained.train_x)
        models = {
            "dense": predictor(trained.dense),
            "sparse": predictor(trained.sparse),
            "int8": predictor(packed),
        }
        result = audit(models, trained.test_x, trained.test_y, report=report)
    if json:
        terminal.print_json(result.to_json())
    else:
        print_audit(result)


if __name__ == "__main__":
    typer.run(main)
