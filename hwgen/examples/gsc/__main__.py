"""Command line of the keyword-spotting example."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hwgen import terminal
from hwgen.errors import HwgenError

app = typer.Typer(add_completion=False, help="Keyword spotting on Google Speech Commands.")
Data = Annotated[Path, typer.Option("--data", help="A folder for each class, with .wav or .flac files.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")]


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except HwgenError as error:
        terminal.say(f"gsc: {error}")
        sys.exit(error.exit_code)


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the trained networks.")],
    epochs: Annotated[
        int,
        typer.Option(min=1, help="Of a phase: two train what both networks begin with, and each has one of its own."),
    ] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, masks and order.")] = 0,
    device: Annotated[str, typer.Option(help="Of torch: cpu, cuda.")] = "cpu",
) -> None:
    """Train the dense and the sparse network, quantise and pack the sparse one."""
    with _errors(), terminal.progress() as report:
        from hwgen.examples.gsc.recordings import load
        from hwgen.examples.gsc.session import train_both

        train_both(load(data, report), epochs=epochs, seed=seed, device=device, out=out, report=report)


@app.command()
def evaluate(
    data: Data,
    trained: Annotated[Path | None, typer.Option(help="Folder that `train` wrote; what the package ships.")] = None,
    hardware_words: Annotated[
        int | None, typer.Option(min=0, help="Recordings to run through simulated hardware; all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate trained networks on speakers whom they never heard."""
    with _errors():
        with terminal.progress() as report:
            from hwgen.examples.gsc import trained as files
            from hwgen.examples.gsc.evaluation import evaluate as run
            from hwgen.examples.gsc.recordings import load

            networks = files.load(trained or files.SHIPPED)
            found = run(networks, load(data, report), hardware_words=hardware_words, report=report)
        if as_json:
            terminal.print_json(asdict(found))
            return
        for name in found.worse:
            terminal.say(f"gsc: class {name} is more than 5 points worse than in the dense network")
        facts = {key: value for key, value in asdict(found).items() if key not in ("per_class", "worse")}
        rows = [(key.replace("_", " "), _text(value)) for key, value in facts.items()]
        terminal.print_table("Keyword spotting", ("", ""), rows)
        columns = ("class", "recordings", "dense %", "sparse %", "int8 %")
        classes = [
            (name, of["recordings"], *(f"{of[kind]:.1f}" for kind in ("dense", "sparse", "int8")))
            for name, of in found.per_class.items()
        ]
        terminal.print_table("Each class", columns, classes)


@app.command()
def audit(
    data: Data,
    trained: Annotated[Path | None, typer.Option(help="Folder that `train` wrote; what the package ships.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the networks on speakers whom they never heard: by class, by confidence, under noise, one by one."""
    with _errors():
        with terminal.progress() as report:
            from hwgen.audit import audit as compare
            from hwgen.audit import predictor
            from hwgen.examples.gsc import trained as files
            from hwgen.examples.gsc import training
            from hwgen.examples.gsc.recordings import CLASSES, load, never_heard

            networks = files.load(trained or files.SHIPPED)
            new = never_heard(load(data, report), set(networks.record["speakers"]))
            report("computing spectrograms", None)
            models = {
                name: predictor(model)
                for name, model in (("dense", networks.dense), ("sparse", networks.sparse), ("int8", networks.packed))
            }
            result = compare(models, training.spectrograms(new), new.labels, classes=CLASSES, report=report)
        if as_json:
            terminal.print_json(result.to_json())
        else:
            from hwgen.audit.tables import print_audit

            print_audit(result)


def _text(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    app()
