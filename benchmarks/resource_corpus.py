"""Single stages, synthesised: what the resource model is fitted to.

The stages are those of plans for random networks like the keyword-spotting network, small enough to be synthesised in
seconds; `resource_rare_stages.py` has those of kinds that such plans seldom have.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from boards.synthesis import counts
from hwgen.elaborate import stage_component
from hwgen.errors import PlanError
from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Requantise,
)
from hwgen.format.packed import PackedNetwork
from hwgen.packing import pack_network
from hwgen.plan import Plan, make_plan, stages
from hwgen.plan.stages import Stage
from hwgen.verilog import write_verilog
from rtl_templates.target import target_of

# What no synthesis of a stage depends on, or no sample told when it was made.
UNSEEN = ("name", "cycles", "bias_of", "nonzeros")
MODES = ("dense", "sparse-dense", "sparse-sparse", "sparse-sparse")
SLOWEST = 1 << 31
# What is larger takes minutes to synthesise.
MOST_MULTIPLIERS = 120
MOST_ADDER_BITS = 6000

KINDS = {
    kind.kind: kind
    for kind in (
        stages.Source, stages.Mac, stages.Unrolled, stages.Lanes, stages.WindowLanes, stages.Scatter, stages.Narrow, stages.DropEmpty,
        stages.Pool, stages.StreamPool, stages.Requantise, stages.AddBias, stages.ReLU, stages.LocalWinners,
        stages.Compact, stages.GlobalWinners,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A synthesised stage.

    Attributes:
        stage: as planned.
        family: of FPGAs.
        lut, dsp, block_ram: as `boards.synthesis.counts` counts them.
    """

    stage: Stage
    family: str
    lut: int
    dsp: int
    block_ram: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"stage": self.stage.to_json()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Sample:
        return cls(**content | {"stage": stage_of(content["stage"])})


def stage_of(content: dict[str, Any]) -> Stage:
    """A stage of its JSON."""
    fields = {name: _tuples(value) for name, value in content.items() if name != "kind"}
    if isinstance(fields.get("window"), dict):
        fields["window"] = stages.Window(**{name: _tuples(value) for name, value in fields["window"].items()})
    return KINDS[content["kind"]](**fields)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


class Samples:
    """The samples in a file, a line each; what is not there yet is synthesised and added.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.samples = [Sample.from_json(json.loads(line)) for line in lines]
        self._known = {_key(sample.stage, sample.family) for sample in self.samples}

    def measure(self, stage: Stage, component: Callable[[], Any], family: str) -> Sample | None:
        """The new sample, None where there is one."""
        if _key(stage, family) in self._known:
            return None
        sample = synthesised(stage, component(), family)
        self._known.add(_key(stage, family))
        self.samples.append(sample)
        with self.path.open("a") as file:
            file.write(json.dumps(sample.to_json()) + "\n")
        return sample


def _key(stage: Stage, family: str) -> str:
    numbers = {name: value for name, value in stage.to_json().items() if name not in UNSEEN}
    return hashlib.sha256(json.dumps([family, numbers], sort_keys=True).encode()).hexdigest()


def synthesised(stage: Stage, component: Any, family: str) -> Sample:
    with tempfile.TemporaryDirectory(prefix="hwgen-sample-") as folder:
        verilog = write_verilog(component, Path(folder), "stage", target_of(family))[0]
        found = counts(verilog, "stage", family)
    return Sample(stage, family, found.lut, found.dsp, found.block_ram)


@dataclass(frozen=True)
class Room:
    """A board that holds every plan."""

    family: str
    name: str = "no board"
    dsp: int = 1 << 20
    lut: int = 500 << 20
    block_ram_bits: int = 1 << 40


def planned(seed: int, family: str) -> tuple[PackedNetwork, Plan] | None:
    """A random network with a plan for a family, slow or fast; None where there is no plan."""
    rng = np.random.default_rng(seed + 99)
    packed, mode, room = pack_network(network(seed)), MODES[seed % len(MODES)], Room(family)
    try:
        slowest = plan = make_plan(packed, board=room, mode=mode, cycles=SLOWEST)
    except PlanError:
        return None
    share = float(rng.choice([1, 0.5, 0.2, 0.1, 0.05, 0.02]))
    while share < 1:
        try:
            plan = make_plan(packed, board=room, mode=mode, cycles=max(8, int(slowest.cycles_per_word * share)))
            if plan.multipliers <= MOST_MULTIPLIERS:
                break
        except PlanError:
            pass
        plan, share = slowest, share * 2
    return packed, plan


def of_plan(packed: PackedNetwork, plan: Plan) -> Iterator[tuple[Stage, Callable[[], Any]]]:
    """The stages of a plan that are small enough, each with what makes its component."""
    for stage in plan.stages:
        if not isinstance(stage, stages.Unrolled) or stage.adder_bits <= MOST_ADDER_BITS:
            yield stage, partial(stage_component, plan, packed, stage)


# (channels, outputs, kernel, size of the map, non-zeros an output): convolutions of many lanes, whose accumulators drain
# in turn.
SERIAL = ((16, 32, 5, 8, 50), (32, 32, 5, 8, 100), (16, 64, 5, 8, 25))


def serial(family: str) -> Iterator[tuple[Stage, Callable[[], Any]]]:
    """Large stages that random networks hardly have; a minute or two of synthesis each."""
    for number, (channels, outputs, kernel, size, nonzeros) in enumerate(SERIAL):
        packed = pack_network(_complementary(number, channels, outputs, kernel, size, nonzeros))
        positions = (size - kernel + 1) ** 2
        plan = make_plan(packed, board=Room(family), mode="sparse-dense", cycles=42 * positions)
        yield from ((stage, make) for stage, make in of_plan(packed, plan) if isinstance(stage, stages.Mac))


def _complementary(seed: int, channels: int, outputs: int, kernel: int, size: int, nonzeros: int) -> IntegerNetwork:
    """A convolution behind a ReLU, since an unrolled layer is the first; kernels that share out their columns."""
    rng, columns = np.random.default_rng(seed), channels * kernel**2
    mask, together = np.zeros((outputs, columns), bool), columns // nonzeros
    for output in range(outputs):
        if output % together == 0:
            order = rng.permutation(columns)
        start = output % together * nonzeros
        mask[output, order[start : start + nonzeros]] = True
    weight = (rng.integers(1, 128, mask.shape) * rng.choice([-1, 1], mask.shape) * mask).astype(np.int8)
    shape = (outputs, channels, kernel, kernel)
    bias = rng.integers(-100, 100, outputs).astype(np.int32)
    layers = (
        ReLU("relu"),
        Conv2d("conv", weight.reshape(shape), mask.reshape(shape), bias),
        Requantise("conv.requantise", np.full(outputs, 30_000, np.int32), 24, True),
    )
    return IntegerNetwork(Input((channels, size, size), 1.0, True), layers, np.ones(outputs))


def network(seed: int) -> IntegerNetwork:
    """Up to two convolutions with pools and k-WTA, and linear layers."""
    return _Draw(np.random.default_rng(seed)).network()


class _Draw:
    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.layers: list[Layer] = []
        self.scale = 0

    def network(self) -> IntegerNetwork:
        rng = self.rng
        style = int(rng.integers(0, 6))
        rectified = rng.random() < 0.25
        if style == 5:
            features = self.integer(20, 200)
            source = Input((features,), 1.0, True)
        else:
            channels, size = int(rng.choice([1, 1, 1, 3])), self.integer(8, 16) & ~1
            source = Input((channels, size, size), 1.0, bool(rng.integers(0, 2)))
            features = self.convolutions(channels, size, rectified)
        for number in range(self.integer(0, 1) + (style == 5)):
            outputs = int(rng.choice([16, 32, 64, 100]))
            self.layers.append(
                Linear(f"linear{number}", *self.weights((outputs, features), self.density()), self.bias(outputs))
            )
            self.requantise(f"requantise_linear{number}", outputs)
            if not rectified:
                self.layers.append(KWinners(f"winners_linear{number}", max(1, outputs // 10), False))
            features = outputs
        density = 1 if rng.random() < 0.7 else 0.25
        self.layers.append(Linear("output", *self.weights((10, features), density), self.bias(10)))
        return IntegerNetwork(source, tuple(self.layers), np.ones(10))

    def convolutions(self, channels: int, size: int, rectified: bool) -> int:
        rng = self.rng
        for number in range(self.integer(1, 2)):
            kernel = int(rng.choice([3, 3, 5]))
            padding = kernel // 2 if rng.random() < 0.3 else 0
            if size + 2 * padding < kernel + 1:
                break
            outputs = int(rng.choice([6, 8, 12, 16, 24, 32]))
            weights = self.weights((outputs, channels, kernel, kernel), self.density())
            self.layers.append(Conv2d(f"conv{number}", *weights, self.bias(outputs), (1, 1), (padding, padding)))
            size, channels = size + 2 * padding - kernel + 1, outputs
            place = int(rng.integers(0, 3))
            pool = MaxPool2d(f"pool{number}", (2, 2), (2, 2))
            if place == 0 and size >= 4:
                self.layers.append(pool)
                size //= 2
            self.requantise(f"requantise{number}", outputs)
            if place == 1 and size >= 4:
                self.layers.append(pool)
                size //= 2
            if not rectified:
                winners = max(1, outputs // int(rng.choice([4, 8, 10])))
                self.layers.append(KWinners(f"winners{number}", winners, bool(rng.random() < 0.8)))
        self.layers.append(Flatten("flatten"))
        return channels * size * size

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def density(self) -> float:
        return float(self.rng.choice([1, 0.5, 0.25, 0.125]))

    def weights(self, shape: tuple[int, ...], density: float) -> tuple[np.ndarray, np.ndarray]:
        outputs, columns = shape[0], int(np.prod(shape[1:]))
        nonzeros = max(1, round(columns * density))
        mask = np.ones((outputs, columns), bool)
        if density < 1:
            mask[:] = False
            for start in range(0, outputs, max(1, columns // nonzeros)):
                order = self.rng.permutation(columns)
                for place, output in enumerate(range(start, min(outputs, start + max(1, columns // nonzeros)))):
                    mask[output, order[place * nonzeros : (place + 1) * nonzeros]] = True
        weight = np.where(mask, self.rng.integers(-127, 128, mask.shape), 0).astype(np.int8)
        self.scale = nonzeros * 60 * 64
        return weight.reshape(shape), mask.reshape(shape)

    def bias(self, outputs: int) -> np.ndarray:
        return self.rng.integers(-5000, 5000, outputs).astype(np.int32)

    def requantise(self, name: str, channels: int) -> None:
        multiplier = self.rng.integers(1 << 14, 1 << 16, channels).astype(np.int32)
        self.layers.append(Requantise(name, multiplier, int(np.log2(self.scale)) + 9, bool(self.rng.integers(0, 2))))
