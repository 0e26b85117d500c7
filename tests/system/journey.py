"""One network through the whole journey: packed, planned, generated, simulated, compared."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from host import reference
from hwgen.errors import PlanError
from hwgen.format.network import IntegerNetwork
from hwgen.format.packed import PackedNetwork
from hwgen.generator import write
from hwgen.packing import pack_network
from hwgen.plan import Plan, make_plan
from sim.compiled import CompiledSimulator
from tests.random_networks import inputs

WORDS = 20
# Simulators of random networks are used for a few thousand cycles: a quick build beats a quick run.
MULTIPLIERS = 48


class _Limit:
    """A board with so many multipliers, and enough of all else."""

    name = "test board"
    dsp = MULTIPLIERS
    lut = 1 << 17
    block_ram_bits = 1 << 30


def plan_for(packed, mode: str, slack: float) -> Plan:
    """The fastest plan with few multipliers, or one that may take `slack` times as long."""
    try:
        fastest = make_plan(packed, board=_Limit, mode=mode)
    except PlanError:
        return make_plan(packed, mode=mode, cycles=1 << 30)
    if slack <= 1:
        return fastest
    return make_plan(packed, board=_Limit, mode=mode, cycles=int(fastest.cycles_per_word * slack))


def check(network: IntegerNetwork, mode: str, slack: float, seed: int, stalls: bool) -> dict[str, object]:
    """Asserts that simulation and reference agree and that the plan's cycles are the measured ones."""
    packed = pack_network(network)
    return check_plan(network, packed, plan_for(packed, mode, slack), seed, stalls)


def check_plan(
    network: IntegerNetwork, packed: PackedNetwork, plan: Plan, seed: int, stalls: bool
) -> dict[str, object]:
    """As `check`, for a given plan."""
    x = inputs(network, WORDS, seed)
    expected = reference.run_int(network, x)
    with tempfile.TemporaryDirectory(prefix="hwgen-test-") as folder:
        bundle = write(plan, packed, Path(folder) / "bundle")
        with CompiledSimulator.from_bundle(bundle.path) as simulator:
            measured, result = simulator.run(x)
            np.testing.assert_array_equal(measured, expected)
            # The first words fill the buffers between stages.
            ends = result.beat_cycles[WORDS // 2 :, -1]
            steady = (ends[-1] - ends[0]) / (len(ends) - 1)
            assert steady == plan.cycles_per_word, (steady, plan.cycles_per_word)
            if stalls:
                rng = np.random.default_rng(seed)
                measured, _ = simulator.run(
                    x,
                    input_stalls=rng.choice([0.1, 0.5, 0.9]),
                    output_stalls=rng.choice([0.1, 0.5, 0.9]),
                    seed=seed,
                    reset_at=int(rng.integers(1, (WORDS - 1) * plan.cycles_per_word)),
                )
                np.testing.assert_array_equal(measured, expected)
    return {"cycles": plan.cycles_per_word, "multipliers": plan.multipliers, "stages": [s.kind for s in plan.stages]}
