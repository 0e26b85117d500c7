"""What a 75 % tile-wise layer takes of an FPGA, beside the same layer with every zero multiplied: as planned.

    python -m benchmarks.tile_wise_hardware --json

The weights are random, the pattern is that of their magnitudes: tiles of 128 outputs.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import typer

from hwgen import terminal
from hwgen.format.network import Input, IntegerNetwork, Linear
from hwgen.packing import pack_network
from hwgen.plan import make_plan
from hwgen.plan.resources import total
from hwgen.plan.stages import Mac
from hwgen.sparsify import TileWise

SPARSITY = 0.75
# (inputs, outputs) of a BERT encoder's feed-forward block.
LAYERS = ((768, 3072), (3072, 768))
CYCLES = (18_432, 4_608, 1_152)


@dataclass(frozen=True)
class Figures:
    """The layer in one mode within a limit of cycles.

    Attributes:
        mode, limit: as asked for.
        cycles, multipliers: of the plan.
        utilisation: non-zero weights / (cycles * multipliers).
        folds, parallel, steps, readers: of the MAC engine.
        routed: whether kernel IDs are stored and products routed by them.
        weight_bits: of the weight memories.
        lut, block_ram: estimated for the ECP5.
    """

    mode: str
    limit: int
    cycles: int
    multipliers: int
    utilisation: float
    folds: int
    parallel: int
    steps: int
    readers: int
    routed: bool
    weight_bits: int
    lut: int
    block_ram: int


def network(inputs: int, outputs: int, seed: int) -> IntegerNetwork:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((outputs, inputs))
    mask = TileWise().project(np.abs(values), SPARSITY)
    weight = np.where(mask, np.round(127 * values / np.abs(values).max()), 0).astype(np.int8)
    layer = Linear("linear", weight, mask, np.zeros(outputs, np.int32))
    return IntegerNetwork(Input((inputs,), 1.0, True), (layer,), np.ones(outputs))


def main(
    seed: Annotated[int, typer.Option(min=0, help="Of the weights.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Packs and plans the layers."""
    results = []
    with terminal.progress() as report:
        for inputs, outputs in LAYERS:
            source = network(inputs, outputs, seed)
            report(f"packing {inputs} to {outputs}", None)
            start = time.process_time()
            packed = pack_network(source)
            seconds = time.process_time() - start
            packing = packed.packings["linear"]
            figures = []
            for mode in ("dense", "sparse-dense"):
                for limit in CYCLES:
                    report(f"{inputs} to {outputs}, {mode}, {limit} cycles", None)
                    plan = make_plan(packed, mode=mode, cycles=limit)
                    mac = next(stage for stage in plan.stages if isinstance(stage, Mac))
                    taken = total(plan.stages)
                    figures.append(
                        Figures(
                            mode=mode,
                            limit=limit,
                            cycles=plan.cycles_per_word,
                            multipliers=plan.multipliers,
                            utilisation=round(packing.nonzeros / (plan.cycles_per_word * plan.multipliers), 3),
                            folds=mac.folds,
                            parallel=mac.parallel,
                            steps=mac.steps,
                            readers=mac.readers,
                            routed=mac.routed and mac.kernels > 1,
                            weight_bits=mac.weight_bits,
                            lut=round(taken.lut),
                            block_ram=round(taken.block_ram),
                        )
                    )
            results.append(
                {
                    "inputs": inputs,
                    "outputs": outputs,
                    "nonzeros": packing.nonzeros,
                    "sets": packing.sets,
                    "kernels": packing.kernels,
                    "routed": packing.routed,
                    "packing_seconds": round(seconds, 1),
                    "plans": [asdict(one) for one in figures],
                }
            )
    if json:
        terminal.print_json({"sparsity": SPARSITY, "seed": seed, "layers": results})
        return
    for result in results:
        print(f"{result['inputs']} to {result['outputs']}: {result['nonzeros']} non-zeros in {result['sets']} sets")
        for one in result["plans"]:
            print(
                f"  {one['mode']:12} within {one['limit']:6}: {one['cycles']:6} cycles, {one['multipliers']:5} "
                f"multipliers, utilisation {one['utilisation']:.3f}, {one['weight_bits']:9} weight bits, "
                f"{one['lut']:6} LUTs"
            )


if __name__ == "__main__":
    typer.run(main)
