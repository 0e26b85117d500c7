"""Milliseconds of a tile-wise layer, tile by tile, beside torch's dense products with and without packed weights.

    python -m benchmarks.tile_wise --json

One thread; all sides of a layer take turns call by call in one process, so that other load on the machine meets all of
them. Ratios are of the thread's processor time, which does not run while another program has the core; wall times stand
beside it.
On a machine with CUDA the layers run there too, in half precision.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, TypeAlias

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from hwgen import terminal
from hwgen.sparsify import TileElementWise, TileWise, apply_masks, magnitude, use_tiles
from hwgen.sparsify.tile_modules import TileWiseLinear

SPARSITY = 0.75
# Both products of a BERT encoder's feed-forward block: (inputs, outputs).
LAYERS = ((768, 3072), (3072, 768))
ROWS = (128, 512)
CUDA_ROWS = 12_800
SINGLES = "tiles and 1 % singles"
UNTIMED = 3

Call: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """One way to compute a layer, or a part of one.

    Attributes:
        wall, processor: median milliseconds of a call; on CUDA the second is None.
    """

    wall: float
    processor: float | None


@dataclass(frozen=True)
class Result:
    """A layer.

    Attributes:
        inputs, outputs, rows, dtype, device: of it.
        error: largest difference between the tiles and the dense layer with the same mask, by the largest output.
        dense, tiles, parts: ways by name; parts of the tiles run alone, with what they need at hand.
        fastest: the dense way with the least time, processor time where there is one.
        ratio: its time by that of the tiles.
        ratio_with_singles: as ratio, with 1 % of the elements beside the tiles and as many zeros in all.
    """

    inputs: int
    outputs: int
    rows: int
    dtype: str
    device: str
    error: float
    dense: dict[str, Timing]
    tiles: dict[str, Timing]
    parts: dict[str, Timing]
    fastest: str
    ratio: float
    ratio_with_singles: float


@cache
def layers(inputs: int, outputs: int, dtype: torch.dtype, device: str) -> tuple[nn.Linear, dict[str, TileWiseLinear]]:
    """A random layer with a tile-wise mask, and the same by tiles; beside it another, of tiles and single elements."""
    torch.manual_seed(0)
    found = {}
    patterns = {"tiles": TileWise(), SINGLES: TileElementWise(restored=0.01)}
    for name, pattern in patterns.items():
        model = nn.Sequential(nn.Linear(inputs, outputs))
        apply_masks(model, {"0": pattern.project(magnitude(model[0].weight), SPARSITY)})
        prune.remove(model[0], "weight")
        model = model.to(device, dtype)
        if name == "tiles":
            dense = model[0]
        use_tiles(model, {"0": pattern})
        found[name] = model[0]
    return dense, found


def dense_ways(layer: nn.Linear, x: Tensor) -> dict[str, Call]:
    """The layer as if nothing were pruned."""
    weight, bias = layer.weight, layer.bias
    transposed = weight.T.contiguous()
    ways: dict[str, Call] = {
        "F.linear": lambda: functional.linear(x, weight, bias),
        "addmm, transposed weight": lambda: torch.addmm(bias, x, transposed),
    }
    if x.is_cuda:
        return ways
    # What torch.compile's freezing puts in place of a Linear: weights packed once, for so many rows.
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
        ways["oneDNN, packed weight"] = lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    if torch.backends.mkl.is_available() and x.dtype == torch.float32:
        mkl = torch.ops.mkl._mkl_reorder_linear_weight(weight, len(x))
        ways["MKL, packed weight"] = lambda: torch.ops.mkl._mkl_linear(x, mkl, weight, bias, len(x))
    return ways


def part_ways(module: TileWiseLinear, x: Tensor) -> dict[str, Call]:
    """The three steps of `TileWiseLinear`, each alone."""
    inputs = [module.get_buffer(f"inputs_{number}") for number in range(len(module.weights))]
    *biases, rest = module.bias.split(module.sizes)
    gathered = [x.index_select(1, index) for index in inputs]
    products = [torch.addmm(*triple) for triple in zip(biases, gathered, module.weights, strict=True)]
    pruned = rest.expand(len(x), -1)
    return {
        "gather inputs": lambda: [x.index_select(1, index) for index in inputs],
        "products": lambda: [torch.addmm(*triple) for triple in zip(biases, gathered, module.weights, strict=True)],
        "place outputs": lambda: torch.cat([*products, pruned], 1).index_select(1, module.place),
    }


def timings(ways: dict[str, Call], calls: int, cuda: bool, report: Callable[[float], None]) -> dict[str, Timing]:
    """The ways take turns, a call each."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(-UNTIMED, calls):
        for name, call in ways.items():
            wall, processor = time.perf_counter(), time.thread_time()
            call()
            if cuda:
                torch.cuda.synchronize()
            taken = time.perf_counter() - wall, time.thread_time() - processor
            if number >= 0:
                seconds[name].append(taken)
        report((number + UNTIMED + 1) / (calls + UNTIMED))
    medians = {
        name: [statistics.median(clock) for clock in zip(*pairs, strict=True)] for name, pairs in seconds.items()
    }
    return {
        name: Timing(round(1e3 * wall, 3), None if cuda else round(1e3 * processor, 3))
        for name, (wall, processor) in medians.items()
    }


def measure(
    inputs: int, outputs: int, rows: int, dtype: torch.dtype, device: str, calls: int, report: terminal.Report
) -> Result:
    dense_layer, modules = layers(inputs, outputs, dtype, device)
    x = torch.randn(rows, inputs, device=device).to(dtype)
    wanted = dense_layer(x)
    error = float((modules["tiles"](x) - wanted).abs().max() / wanted.abs().max())
    dense, parts = dense_ways(dense_layer, x), part_ways(modules["tiles"], x)
    tiles: dict[str, Call] = {name: lambda module=module: module(x) for name, module in modules.items()}  # type: ignore[misc]
    name = f"{inputs} to {outputs}, {rows} rows, {str(dtype).removeprefix('torch.')}, {device}"
    found = timings(dense | tiles | parts, calls, device == "cuda", lambda share: report(name, share))

    def time_of(way: str) -> float:
        processor = found[way].processor
        return found[way].wall if processor is None else processor

    fastest = min(dense, key=time_of)
    return Result(
        inputs=inputs,
        outputs=outputs,
        rows=rows,
        dtype=str(dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        error=error,
        dense={way: found[way] for way in dense},
        tiles={way: found[way] for way in tiles},
        parts={way: found[way] for way in parts},
        fastest=fastest,
        ratio=round(time_of(fastest) / time_of("tiles"), 2),
        ratio_with_singles=round(time_of(fastest) / time_of(SINGLES), 2),
    )


def processor_name() -> str:
    """The processor's model name, where Linux tells it, and the instructions that torch uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor()])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def main(
    calls: Annotated[int, typer.Option(min=1, help="Of each side.")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Of the whole, for the spread.")] = 3,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32 or bfloat16, on the processor; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Times 75 % tile-wise layers against dense ones."""
    torch.set_num_threads(1)
    results: list[list[Result]] = []
    with terminal.progress() as report, torch.inference_mode():
        for _ in range(repeats):
            runs = [
                measure(*layer, rows, getattr(torch, name), "cpu", calls, report)
                for name in dtype or ["float32"]
                for layer in LAYERS
                for rows in ROWS
            ]
            if torch.cuda.is_available():
                runs += [
                    measure(*layer, CUDA_ROWS, half, "cuda", calls, report)
                    for half in (torch.bfloat16, torch.float16)
                    for layer in LAYERS
                ]
            results.append(runs)
    if json:
        terminal.print_json(
            {
                "processor": processor_name(),
                "cuda": "measured" if torch.cuda.is_available() else "not measured: torch finds no CUDA device",
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "sparsity": SPARSITY,
                "calls": calls,
                "repeats": [[asdict(result) for result in runs] for runs in results],
            }
        )
        return
    for runs in zip(*results, strict=True):
        for result in runs:
            print(
                f"{result.inputs:5} to {result.outputs:5}, {result.rows:5} rows, {result.dtype}, {result.device}: "
                f"{result.ratio:.2f} times as fast as {result.fastest}, "
                f"{result.ratio_with_singles:.2f} with single elements; error {result.error:.1e}"
            )
    if not torch.cuda.is_available():
        print("CUDA: not measured, since torch finds no device")


if __name__ == "__main__":
    typer.run(main)
