# amaranth: UnusedElaboratable=no
from __future__ import annotations

import pytest
from amaranth import signed

from rtl_templates.accumulators import Accumulators
from sim.bench import run_bench


@pytest.mark.parametrize(
    ("bits", "lanes", "sets", "kernels", "banks", "routed", "latency"),
    [
        # A register, its bank, a place in the output.
        (18, 1, 1, 1, 6, True, 3),
        # And three levels of the tree.
        (21, 5, 2, 1, 9, True, 3 + 3),
        # Several kernels: bank, output.
        (19, 1, 3, 2, 5, True, 2 + 1),
        (23, 3, 2, 5, 3, True, 2 + 2),
        # Several kernels of which only the first has weights.
        (18, 1, 3, 2, 5, False, 3),
        (21, 3, 2, 3, 4, False, 3 + 2),
    ],
)
def test_sums(bits, lanes, sets, kernels, banks, routed, latency):
    component = Accumulators(signed(bits), lanes=lanes, sets=sets, kernels=kernels, banks=banks, routed=routed)
    assert component.latency == latency
    run_bench(
        component,
        "tests.rtl_templates.accumulators_bench",
        parameters={
            "bits": bits,
            "lanes": lanes,
            "sets": sets,
            "kernels": kernels,
            "banks": banks,
            "routed": routed,
            "latency": latency,
        },
    )


@pytest.mark.parametrize("name", ["lanes", "sets", "kernels", "banks"])
def test_refuses(name):
    arguments = {"lanes": 1, "sets": 1, "kernels": 1, "banks": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be positive, not 0"):
        Accumulators(signed(20), **arguments)
