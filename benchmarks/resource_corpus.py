"""Single stages, synthesised: what the resource model is fitted to.

The stages are those of plans for random networks like the keyword-spotting network, small enough to be synthesised in
seconds, and, of the kinds that such plans seldom have, stages with random numbers and contents.
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
from amaranth.hdl import Shape, signed, unsigned

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
from hwgen.plan import Plan, make_plan, scatter, stages
from hwgen.plan.stages import Layout, Stage
from hwgen.verilog import write_verilog
from rtl_templates import timing
from rtl_templates.global_winners import GlobalWinners
from rtl_templates.list_conv import ListConv
from rtl_templates.local_winners import LocalWinners
from rtl_templates.parallel_winners import ParallelGlobalWinners
from rtl_templates.requantise import Requantise as Requantiser
from rtl_templates.scatter_engine import Reach, ScatterEngine
from rtl_templates.sub_lists import SubLists
from rtl_templates.target import target_of
from rtl_templates.window_conv import WindowConv
from rtl_templates.window_parts import WindowParts
from rtl_templates.windows import Windows

# What no synthesis of a stage depends on, or no sample told when it was made.
UNSEEN = ("name", "cycles", "bias_of", "nonzeros")
MODES = ("dense", "sparse-dense", "sparse-sparse", "sparse-sparse")
SLOWEST = 1 << 31
# What is larger takes minutes to synthesise.
MOST_MULTIPLIERS = 120
MOST_ADDER_BITS = 6000
# Of random stages that are as large as those of a full chip.
LARGE = 2

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


def rare(seed: int, family: str) -> Iterator[tuple[Stage, Callable[[], Any]]]:
    """A stage of each kind that those networks seldom have, with random numbers and contents."""
    for number, make in enumerate((_lanes, _local_winners, _global_winners, _scatter, _requantise)):
        yield make(np.random.default_rng([seed, number]))
    yield _lanes(np.random.default_rng([seed, 6]), fractions=True)
    yield _window_lanes(np.random.default_rng([seed, 7]), family)
    if seed < LARGE:
        yield _window_lanes(np.random.default_rng([seed, 8]), family, large=True)
    nothing = Linear("output", np.ones((1, 1), np.int8), np.ones((1, 1), bool), np.zeros(1, np.int32))
    packed = pack_network(IntegerNetwork(Input((1,), 1.0, True), (nothing,), np.ones(1)))
    plan = make_plan(packed)
    for stage in _small(np.random.default_rng([seed, 5])):
        yield stage, partial(stage_component, plan, packed, stage)


def _small(rng: np.random.Generator) -> Iterator[Stage]:
    """Pools, rectification, lists of non-zero values and streams without their empty beats."""
    lanes, beats, size = int(rng.choice([1, 2, 4, 8])), int(rng.integers(1, 9)), int(rng.integers(6, 15))
    bits, signed_values = int(rng.choice([8, 8, 16, 20])), bool(rng.integers(0, 2))
    kernel, padding, stride = int(rng.integers(2, 4)), int(rng.integers(0, 2)), int(rng.integers(1, 3))
    for function in ("max", "sum"):
        more = 0 if function == "max" else (kernel * kernel - 1).bit_length()
        values: dict[str, Any] = {"bits": bits, "signed": signed_values, "lanes": lanes, "beats": beats}
        results: dict[str, Any] = {"result_bits": bits + more, "result_signed": signed_values}
        yield stages.StreamPool(
            name="pool", cycles=1, function=function, map=(size, size), kernel=(2, 2), **values, **results
        )
        window = _window(size, kernel, stride, padding, (size + 2 * padding - kernel) // stride + 1)
        yield stages.Pool(name="pool", cycles=1, function=function, window=window, **values, **results)
    yield stages.ReLU(name="relu", cycles=1, bits=bits, signed=True, lanes=lanes)
    channels = int(rng.choice([6, 8, 12, 16, 24, 32]))
    layout = _layout(channels, min(lanes, channels))
    yield stages.Compact(name="compact", cycles=1, size=4, positions=9, signed=signed_values, layout=layout)
    holes = (*layout, *[(-1,) * len(layout[0])] * 2)
    yield stages.DropEmpty(name="drop", cycles=1, bits=bits, signed=signed_values, in_layout=holes, layout=layout)


def _lanes(rng: np.random.Generator, fractions: bool = False) -> tuple[Stage, Callable[[], Any]]:
    """A chain of lanes, each for a kernel offset, or for a few fractions of them."""
    kernel, size = int(rng.choice([1, 2, 2, 3])), int(rng.integers(5, 15))
    padding = int(rng.random() < 0.3) * (kernel // 2)
    outputs = size + 2 * padding - kernel + 1
    channels, entries = int(rng.choice([8, 12, 16, 32, 64])), int(rng.choice([2, 3, 4, 8]))
    sets, kernels = int(rng.integers(1, 9 if kernel < 3 else 5)), int(rng.choice([1, 2, 4, 8, 8, 16]))
    rows, bits, signed_values = int(rng.choice([1, 1, 1, 2])), int(rng.integers(14, 23)), bool(rng.integers(0, 2))
    windows = Windows((size, size), (kernel, kernel), padding=(padding, padding))
    splits = SubLists(entries).splits()
    split = int(rng.choice(splits)) if fractions else 1
    parts = int(rng.integers(1, kernel * kernel * split + 1)) if fractions else 1
    lists = SubLists(entries, split)
    interval = max(lists.reads * rows * parts, kernels)
    shape = (kernel * kernel, rows, channels, sets)
    weights, kernel_ids = rng.integers(-127, 128, shape), rng.integers(0, kernels, shape)
    stage = stages.Lanes(
        name="lanes",
        cycles=max(outputs**2 * interval, windows.pixels * lists.rows * parts),
        multipliers=-(-kernel * kernel * split // parts) * sets,
        mode="sparse-sparse",
        window=_window(size, kernel, 1, padding, outputs),
        signed=signed_values,
        entries=entries,
        index_size=channels,
        sets=sets,
        kernels=kernels,
        list_rows=rows,
        interval=interval,
        parts=parts,
        split=split,
        accumulator_bits=bits,
        weight_bits=0,
        layout=_layout(sets * kernels, sets),
    )
    return stage, lambda: ListConv(
        shape=_shape(signed_values),
        entries=entries,
        windows=windows,
        weights=weights,
        kernel_ids=kernel_ids,
        kernels=kernels,
        accumulator=signed(bits),
        parts=parts,
        split=split,
    )


def _window_lanes(rng: np.random.Generator, family: str, large: bool = False) -> tuple[Stage, Callable[[], Any]]:
    """Lanes that take windows in turn."""
    kernel, size = int(rng.choice([1, 2, 3, 3, 5])), int(rng.integers(6, 15))
    padding = int(rng.random() < 0.3) * (kernel // 2)
    outputs = size + 2 * padding - kernel + 1
    channels, entries = int(rng.choice([8, 16, 32, 64])), int(rng.choice([2, 3, 4, 8]))
    sets, kernels = int(rng.integers(1, 9)), int(rng.choice([1, 2, 4, 8, 8, 16]))
    rows, bits, signed_values = int(rng.choice([1, 1, 1, 2])), int(rng.integers(14, 23)), bool(rng.integers(0, 2))
    windows = Windows((size, size), (kernel, kernel), padding=(padding, padding))
    chains = min(int(rng.choice([1, 1, 2, 2, 3])), kernel * kernel)
    lanes = int(rng.integers(1, 13 - sets // 2)) // chains + 1
    if large:
        kernel, size, padding, outputs, channels, entries, sets, kernels, rows, chains = 5, 14, 0, 10, 64, 8, 8, 8, 1, 2
        lanes = int(rng.integers(8, 13))
        windows = Windows((size, size), (kernel, kernel))
    busy = WindowParts(windows, entries, rows, kernels, kernels, chains).busy
    parts = WindowParts(windows, entries, rows, kernels, max(kernels, -(-busy // lanes)), chains)
    unpaired = int(rng.integers(0, chains * parts.lanes + 1))
    shape = (kernel * kernel, rows, channels, sets)
    weights, kernel_ids = rng.integers(-127, 128, shape), rng.integers(0, kernels, shape)
    stage = stages.WindowLanes(
        name="lanes",
        cycles=parts.cycles,
        multipliers=chains * parts.lanes * sets,
        mode="sparse-sparse",
        window=_window(size, kernel, 1, padding, outputs),
        signed=signed_values,
        entries=entries,
        index_size=channels,
        sets=sets,
        kernels=kernels,
        list_rows=rows,
        interval=parts.interval,
        chains=chains,
        unpaired=unpaired,
        accumulator_bits=bits,
        weight_bits=0,
        layout=_layout(sets * kernels, sets),
    )
    return stage, lambda: WindowConv(
        shape=_shape(signed_values),
        entries=entries,
        windows=windows,
        weights=weights,
        kernel_ids=kernel_ids,
        kernels=kernels,
        accumulator=signed(bits),
        interval=parts.interval,
        chains=chains,
        unpaired=unpaired,
        offset=target_of(family).pair_offset,
    )


def _local_winners(rng: np.random.Generator) -> tuple[Stage, Callable[[], Any]]:
    channels = int(rng.choice([8, 12, 16, 24, 32, 48, 64]))
    emit, k = str(rng.choice(["values", "entries", "lists", "lists"])), max(1, channels // int(rng.choice([4, 8])))
    units = int(rng.choice([1, 1, 2, 3, 4, timing.search_steps(channels, emit)]))
    emitters = min(k, int(rng.choice([1, 2, k]))) if emit == "lists" else 1
    layout, signed_values = _layout(channels, int(rng.choice([1, 2, 4, 8, channels]))), bool(rng.integers(0, 2))
    stage = stages.LocalWinners(
        name="winners",
        cycles=1,
        k=k,
        units=units,
        emitters=emitters,
        positions=9,
        signed=signed_values,
        emit=emit,
        layout=layout,
    )
    return stage, lambda: LocalWinners(layout, _shape(signed_values), k, emit, units, emitters)


def _global_winners(rng: np.random.Generator) -> tuple[Stage, Callable[[], Any]]:
    channels = int(rng.choice([8, 16, 32, 100, 300]))
    positions = 1 if channels >= 100 else int(rng.integers(4, 51))
    parallel, signed_values = rng.random() < 0.6, bool(rng.integers(0, 2))
    lanes, units = (int(rng.choice([2, 4, 8])), int(rng.integers(2, 5))) if parallel else (1, 1)
    emit = "entries" if parallel else str(rng.choice(["values", "entries"]))
    layout, k = _layout(channels, lanes), max(1, channels * positions // int(rng.choice([4, 10])))
    stage = stages.GlobalWinners(
        name="winners",
        cycles=1,
        k=k,
        units=units,
        positions=positions,
        signed=signed_values,
        emit=emit,
        layout=layout,
    )
    arguments = (layout, positions, _shape(signed_values), k, emit)
    return stage, lambda: ParallelGlobalWinners(*arguments, units) if parallel else GlobalWinners(*arguments)


def _scatter(rng: np.random.Generator) -> tuple[Stage, Callable[[], Any]]:
    kernel, size, stride = int(rng.choice([1, 3, 3, 5])), int(rng.integers(5, 11)), int(rng.choice([1, 1, 2]))
    padding = int(rng.random() < 0.4) * (kernel // 2)
    outputs = (size + 2 * padding - kernel) // stride + 1
    channels, parallel, folds = int(rng.choice([4, 8, 16])), int(rng.integers(1, 7)), int(rng.integers(1, 4))
    kernels, rows, bits = int(rng.choice([1, 2, 4])), int(rng.choice([1, 1, 2])), int(rng.integers(14, 22))
    signed_values, entries = bool(rng.integers(0, 2)), int(rng.integers(4, 41))
    window = _window(size, kernel, stride, padding, outputs)
    shape = (channels, kernel, kernel, rows, folds, parallel)
    weights, kernel_ids = rng.integers(-127, 128, shape), rng.integers(0, kernels, shape)
    vertical, horizontal = (
        Reach(window.size[axis], table.inside, table.output, table.kernel)
        for axis in (0, 1)
        for table in (scatter.reach(window, axis),)
    )
    stage = stages.Scatter(
        name="scatter",
        cycles=1,
        multipliers=parallel,
        mode="sparse-sparse",
        window=window,
        signed=signed_values,
        channels=channels,
        entries=entries,
        sets=parallel * folds,
        kernels=kernels,
        parallel=parallel,
        folds=folds,
        list_rows=rows,
        steps=1,
        places=outputs**2 * folds * kernels,
        accumulator_bits=bits,
        weight_bits=0,
        layout=_layout(parallel * folds * kernels, parallel),
    )
    return stage, lambda: ScatterEngine(
        shape=_shape(signed_values),
        entries=entries,
        vertical=vertical,
        horizontal=horizontal,
        weights=weights,
        kernel_ids=kernel_ids,
        kernels=kernels,
        accumulator=signed(bits),
    )


def _requantise(rng: np.random.Generator) -> tuple[Stage, Callable[[], Any]]:
    lanes, beats, bits = int(rng.choice([1, 2, 4, 8, 16])), int(rng.choice([1, 2, 4, 8, 16])), int(rng.integers(14, 26))
    layout, signed_values = _layout(lanes * beats, lanes), bool(rng.integers(0, 2))
    multipliers = [int(m) for m in rng.integers(1 << 14, 1 << 16, lanes * beats)]
    biases = [int(b) for b in rng.integers(-(1 << (bits - 4)), 1 << (bits - 4), lanes * beats)]
    shift = bits + int(rng.integers(6, 10))
    stage = stages.Requantise(
        name="requantise",
        cycles=1,
        multipliers=lanes,
        bits=bits,
        in_signed=True,
        signed=signed_values,
        layout=layout,
        bias_of="layer",
    )
    return stage, lambda: Requantiser(layout, multipliers, biases, shift, signed(bits), _shape(signed_values))


def _window(size: int, kernel: int, stride: int, padding: int, outputs: int) -> stages.Window:
    return stages.Window(
        map=(size, size),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(1, 1),
        size=(outputs, outputs),
    )


def _layout(channels: int, lanes: int) -> Layout:
    places = [*range(channels), *[-1] * (-channels % lanes)]
    return tuple(tuple(places[start : start + lanes]) for start in range(0, len(places), lanes))


def _shape(is_signed: bool) -> Shape:
    return signed(8) if is_signed else unsigned(8)
