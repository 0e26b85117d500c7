"""hwgen's device "cpu" beside ONNX Runtime, OpenVINO, torch.compile and DeepSparse, on one network, in one run.

python -m benchmarks.cpu --seed 3 --json
python -m benchmarks.cpu --layer wide
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

import host
import hwgen
from benchmarks import gsc_network
from benchmarks.cpu.engines import ENGINES, LAYER_PEERS, PEERS, Peer
from benchmarks.cpu.measure import Form, Own, Task, measure_pinned
from benchmarks.cpu.networks import LAYERS, Words, inputs, layer_inputs, layers
from benchmarks.cpu.results import figures, layer_ratios, machine, network_ratios, print_tables
from hwgen import terminal
from hwgen.errors import HwgenError, InputError
from hwgen.format.io import quantise_input
from hwgen.format.packed import PackedNetwork

BATCH = 64
# Words to compute and to compare with the reference, and as many others to calibrate with.
WORDS = BATCH


def main(
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of weights, masks and inputs drawn at random. Default: the trained network."),
    ] = None,
    network: Annotated[Path | None, typer.Option(metavar="NET.hwpack", help="Your own network instead.")] = None,
    layer: Annotated[str | None, typer.Option(help=f"One layer instead of a network: {' or '.join(LAYERS)}.")] = None,
    calls: Annotated[int, typer.Option(min=1, help="Of each form with one word, on one core.")] = 1000,
    batches: Annotated[
        int, typer.Option(min=0, help=f"Calls of each form with {BATCH} words, on all cores; 0 leaves them out.")
    ] = 100,
    device: Annotated[str, typer.Option(help="hwgen's.")] = "cpu",
    engine: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(ENGINES)}; may be repeated. Default: all.")
    ] = None,
    deepsparse: Annotated[
        Path | None,
        typer.Option(metavar="PYTHON", help="Of an environment with deepsparse 1.8.0, which needs numpy 1."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Time a network on the processor: hwgen and other inference engines take turns, call by call."""
    try:
        if network is not None and layer is not None:
            raise InputError("--layer: measures a layer of its own: leave out --network, or --layer")
        peers = _choose(engine, layer)
        before = machine()
        with tempfile.TemporaryDirectory(prefix="hwgen-cpu-") as folder:
            with terminal.progress() as report:
                own, words, calibration = _sides(Path(folder), seed, network, layer, device, report)
            cores = sorted(os.sched_getaffinity(0))
            task = Task(own, peers, words, calibration, batch=1, threads=1, calls=calls, deepsparse=deepsparse)
            # The last core: interrupts mostly go to the first.
            latency = measure_pinned(task, cores[-1:])
            throughput = None
            if batches:
                task = replace(task, batch=BATCH, threads=len(cores), calls=batches)
                throughput = measure_pinned(task, cores)
    except HwgenError as error:
        terminal.say(f"cpu: {error}")
        sys.exit(error.exit_code)
    rows = figures(latency, throughput, BATCH)
    mine = [Form("hwgen", form.name) for form in own]
    bit_exact = latency.bit_exact and (throughput is None or throughput.bit_exact)
    result = {
        "network": _name(seed, network, layer),
        "seed": seed,
        "device": device,
        "bit_exact": bit_exact,
        "calls": {"latency": calls, "throughput": batches, "batch": BATCH},
        "machine": before,
        "versions": latency.versions,
        **(layer_ratios(rows, *mine[:3]) if layer else network_ratios(rows, mine[0])),
        "forms": [asdict(row) for row in rows],
        "absent": latency.absent | (throughput.absent if throughput else {}),
    }
    if json:
        terminal.print_json(result)
    else:
        print_tables(result, rows)
    if not bit_exact:
        terminal.say("cpu: the device and the reference differ")
        sys.exit(1)


def _choose(engines: list[str] | None, layer: str | None) -> tuple[Peer, ...]:
    for name in engines or ():
        if name not in ENGINES:
            raise InputError(f"--engine {name}: no such engine: use one of {', '.join(ENGINES)}")
    if layer is not None and layer not in LAYERS:
        raise InputError(f"--layer {layer}: no such layer: use one of {', '.join(LAYERS)}")
    peers = PEERS if layer is None else LAYER_PEERS
    return tuple(peer for peer in peers if not engines or peer.engine in engines)


def _sides(
    folder: Path, seed: int | None, network: Path | None, layer: str | None, device: str, report: terminal.Report
) -> tuple[tuple[Own, ...], Words, Words]:
    """hwgen's forms, their networks in files, and words to compute and to calibrate with."""

    def saved(name: str, packed: PackedNetwork) -> tuple[Path, NDArray[np.int64]]:
        """The file of a network and what the reference computes."""
        path = folder / f"{name}.hwpack"
        packed.save(path)
        report(f"computing the reference of {name}", None)
        with host.open(path, device="reference") as reference:
            return path, reference.run_int(quantise_input(packed.network.input, words))

    report("packing", None)
    if layer is None:
        packed = hwgen.load(network) if network else gsc_network.network(seed)
        words, calibration = (inputs(packed.network.input, [seed or 0, purpose], WORDS) for purpose in range(2))
        return (Own(device, *saved("network", packed), device),), words, calibration
    shape = LAYERS[layer]
    words, calibration = (layer_inputs(shape, [seed or 0, purpose], WORDS) for purpose in range(2))
    both = layers(shape, seed or 0, calibration)
    behind, alone = (saved(name, packed) for name, packed in zip(("k-winners, layer", "layer"), both, strict=True))
    dense = f"{device}{',' if ':' in device else ':'}dense"
    own = (
        Own(f"{device}, k-winners", *behind, device),
        Own(f"{dense}, k-winners", *behind, dense, required=False),
        Own(dense, *alone, dense, required=False),
        Own(device, *alone, device),
    )
    return own, words, calibration


def _name(seed: int | None, network: Path | None, layer: str | None) -> str:
    """What was measured."""
    if layer:
        return f"one layer, {layer}"
    if network:
        return network.name
    return "keyword spotting, trained" if seed is None else "keyword spotting, random weights"


if __name__ == "__main__":
    typer.run(main)
