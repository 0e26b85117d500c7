"""The demonstration: one trained sparse network, three accelerators, every test image through each of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwgen.api import pack
from hwgen.examples import digits
from hwgen.format.io import dequantise_output, quantise_input
from hwgen.format.packed import PackedNetwork
from hwgen.generator import write
from hwgen.plan import Plan, make_plan
from hwgen.plan.stages import Mac

Report: TypeAlias = Callable[[str, float | None], None]

MODES = ("dense", "sparse-dense", "sparse-sparse")
# Every mode gets the same board and takes of its multipliers what makes it fastest.
BOARD = "ulx3s-85f"
IMAGES_AT_ONCE = 50


@dataclass(frozen=True)
class ModeResult:
    """One accelerator.

    Attributes:
        cycles_per_word: measured between the last beats of successive images, all images back to back.
        cycles_planned: as the plan says.
        multipliers: products formed in a cycle.
        cycles_times_multipliers: measured cycles * multipliers: the work that the hardware can do in an image's time.
        packing_efficiency: non-zero weights / weight slots.
        slowest_layer: of those that multiply.
        utilisation: of its multipliers: products that the mode does not skip / (multipliers * cycles).
        bit_exact: every output of every image is that of the reference.
        accuracy: of the hardware's outputs.
        bundle: its folder.
    """

    cycles_per_word: float
    cycles_planned: int
    multipliers: int
    cycles_times_multipliers: float
    packing_efficiency: float
    slowest_layer: str
    utilisation: float
    bit_exact: bool
    accuracy: float
    bundle: str


@dataclass(frozen=True)
class DemoResult:
    """Everything that the demonstration shows.

    Attributes:
        images: test images, each simulated in every mode.
        accuracy_dense, accuracy_sparse: of the float networks, in [0, 1].
        accuracy_int8: of the reference's arithmetic.
        nonzeros, weights: of all layers: positions of the masks, and all positions.
        products: multiplications an image that each mode cannot skip.
        board: that every mode was planned for.
        modes: by name.
    """

    images: int
    accuracy_dense: float
    accuracy_sparse: float
    accuracy_int8: float
    nonzeros: int
    weights: int
    products: dict[str, int]
    board: str
    modes: dict[str, ModeResult]

    @property
    def bit_exact(self) -> bool:
        return all(result.bit_exact for result in self.modes.values())

    @property
    def accuracy_hardware(self) -> float:
        """The lowest of all modes; they are equal unless a mode is not bit-exact."""
        return min(result.accuracy for result in self.modes.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bit_exact": self.bit_exact, "accuracy_hardware": self.accuracy_hardware}


def run(out: Path, report: Report, board_name: str = BOARD) -> DemoResult:
    """Trains (or loads), packs, generates and simulates.

    Args:
        out: folder for a bundle of each mode.
        report: called with the piece of work and the share that is done, or None.
        board_name: the board that every mode fills.

    Raises:
        HwgenError: a tool is missing or failed.
    """
    from boards.catalogue import board

    trained = digits.train(report)
    report("packing", None)
    packed = pack(trained.sparse, calibration=trained.train_x)
    x = quantise_input(packed.network.input, trained.test_x)
    expected = _reference(packed, x, report)
    plans, runs = {}, {}
    with ThreadPoolExecutor(1) as pool:
        # The next mode is generated while the compiler, a process of its own, works on the last.
        for mode in MODES:
            report(f"generating {mode}", None)
            plans[mode] = make_plan(packed, board=board(board_name), mode=mode)
            write(plans[mode], packed, out / mode)
            runs[mode] = pool.submit(_simulate, mode, out / mode, x, report)
        report("waiting for the simulations", None)
        results = {
            mode: _judge(plans[mode], packed, out / mode, *runs[mode].result(), expected, trained.test_y)
            for mode in MODES
        }
    layers = packed.report()
    nonzeros = sum(layer.nonzeros for layer in layers)
    return DemoResult(
        images=len(x),
        accuracy_dense=trained.accuracy_dense,
        accuracy_sparse=trained.accuracy_sparse,
        accuracy_int8=_accuracy(packed, expected, trained.test_y),
        nonzeros=nonzeros,
        weights=sum(int(np.prod(layer.shape)) for layer in layers),
        products={mode: sum(stage.products for stage in plan.stages) for mode, plan in plans.items()},
        board=board_name,
        modes=results,
    )


def _reference(packed: PackedNetwork, x: NDArray[np.int64], report: Report) -> NDArray[np.int64]:
    from host import reference

    parts = []
    for first in range(0, len(x), IMAGES_AT_ONCE):
        report("reference arithmetic", first / len(x))
        parts.append(reference.run_int(packed.network, x[first : first + IMAGES_AT_ONCE]))
    return np.concatenate(parts)


def _accuracy(packed: PackedNetwork, y: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    # Each output has its own scale: raw integers of two outputs cannot be compared.
    return digits.accuracy(dequantise_output(packed.network, y), labels)


def _simulate(mode: str, bundle: Path, x: NDArray[np.int64], report: Report) -> tuple[NDArray[np.int64], float]:
    """The outputs and the cycles between images."""
    import host

    report(f"simulating {mode}", None)
    # One call: the images follow each other without a gap, and nothing stalls the output.
    with host.open(bundle, device="sim") as accelerator:
        y = accelerator.run_int(x)
        cycles = accelerator.stats.cycles_per_word
    assert cycles is not None
    return y, cycles


def _judge(
    plan: Plan,
    packed: PackedNetwork,
    bundle: Path,
    y: NDArray[np.int64],
    cycles: float,
    expected: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> ModeResult:
    layers = packed.report()
    slots = sum(int(np.prod(layer.shape)) if plan.mode == "dense" else layer.slots for layer in layers)
    slowest = max((stage for stage in plan.stages if isinstance(stage, Mac)), key=lambda stage: stage.cycles)
    return ModeResult(
        cycles_per_word=cycles,
        cycles_planned=plan.cycles_per_word,
        multipliers=plan.multipliers,
        cycles_times_multipliers=cycles * plan.multipliers,
        packing_efficiency=sum(layer.nonzeros for layer in layers) / slots,
        slowest_layer=slowest.name,
        utilisation=slowest.utilisation,
        bit_exact=bool(np.array_equal(y, expected)),
        accuracy=_accuracy(packed, y, labels),
        bundle=str(bundle),
    )
