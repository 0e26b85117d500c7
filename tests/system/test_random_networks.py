"""Random networks: reference = simulation, bit for bit, and the planned cycles are the measured ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.random_networks import random_network
from tests.system.journey import check

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MODES = ("dense", "sparse-dense", "sparse-sparse", "auto")
PLAIN = settings(
    deadline=None,
    database=None,
    # A network follows from its seed: there is nothing to shrink, and a failure prints the seed.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
seeds = st.integers(0, 2**64 - 1)


def journey(seed: int, mode: str) -> dict:
    slack = np.random.default_rng(seed).choice([1.0, 1.0, 2.0, 5.0])
    return check(random_network(seed), mode, float(slack), seed % 2**32, stalls=True)


# Several small tests rather than one of 25 examples: the workers share them.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", range(3))
def test_some_random_networks(part, mode):
    @settings(PLAIN, max_examples=3 if part == 0 else 2)
    @given(seeds)
    def run(seed):
        journey(seed, mode)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_many_random_networks(mode):
    seen, kinds = [], Counter()

    @settings(PLAIN, max_examples=52)
    @given(seeds)
    def run(seed):
        outcome = journey(seed, mode)
        seen.append({"seed": seed, "cycles": outcome["cycles"], "multipliers": outcome["multipliers"]})
        kinds.update(set(outcome["stages"]))

    run()
    assert len({row["seed"] for row in seen}) >= 50
    RESULTS.mkdir(exist_ok=True)
    record = {
        "command": f"pytest -m slow 'tests/system/test_random_networks.py::test_many_random_networks[{mode}]'",
        "mode": mode,
        "networks": len(seen),
        "words_each": 20,
        "bit_exact": True,
        "cycles_as_planned": True,
        "with_stalls_and_reset": len(seen),
        "networks_with_stage": dict(sorted(kinds.items())),
        "each": seen,
    }
    (RESULTS / f"random_networks_{mode}.json").write_text(json.dumps(record, indent=1) + "\n")
