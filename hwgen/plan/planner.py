"""From a packed network and a goal to a plan: pure arithmetic, milliseconds to seconds, no hardware generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hwgen.errors import PlanError
from hwgen.format.network import Conv2d, Linear
from hwgen.format.packed import PackedNetwork
from hwgen.format.shapes import tensors
from hwgen.plan.chain import Chain, Step, TooSlow, can_list, follow
from hwgen.plan.mac import Request, candidates, with_drain
from hwgen.plan.schedule import Slots, dense_packing
from hwgen.plan.stages import Layout, Mac, Output, Plan, Source
from hwgen.plan.stream import Stream, narrowed, torch_layout

MODES = ("dense", "sparse-dense", "sparse-sparse", "auto")
SLOWEST = 1 << 32


class Board(Protocol):
    """What the planner asks of a board."""

    @property
    def name(self) -> str: ...

    @property
    def dsp(self) -> int: ...


@dataclass(frozen=True)
class Segment:
    """A MAC layer (None at the network's start) and the layers up to the next."""

    mac: Step | None
    steps: tuple[Step, ...]


def make_plan(
    packed: PackedNetwork, *, board: Board | None = None, mode: str = "auto", cycles: int | None = None
) -> Plan:
    """Chooses every stage of the pipeline.

    Args:
        packed: the network.
        board: its multipliers bound the plan; None for no bound.
        mode: "dense", "sparse-dense", "sparse-sparse" or "auto" (the cheapest, layer by layer). Modes skip what they
            can: a layer whose input is not sparse runs sparse-dense under "sparse-sparse".
        cycles: the most cycles a word may take: the plan with the fewest multipliers is chosen. None: the fastest plan
            whose multipliers the board has.

    Raises:
        PlanError: no such mode, or no plan reaches the goal; the line names the layer that stands in the way.
    """
    if mode not in MODES:
        raise PlanError(f"mode {mode!r} does not exist; choose one of {', '.join(MODES)}")
    if cycles is not None and cycles < 1:
        raise PlanError(f"cycles must be positive, not {cycles}")
    network = _Network(packed, mode, board)
    if cycles is not None:
        plan = network.plan(cycles)
        if board is not None and plan.multipliers > board.dsp:
            raise PlanError(
                f"{cycles} cycles a word take {plan.multipliers} multipliers, but {board.name} has {board.dsp}; "
                "allow more cycles or choose a larger board"
            )
        return plan
    return _fastest(network, board)


def _fastest(network: _Network, board: Board | None) -> Plan:
    """Bisection over the cycles: plans get cheaper as they get slower."""
    budget = board.dsp if board is not None else 1 << 12
    best = network.plan(SLOWEST)
    if best.multipliers > budget:
        raise PlanError(
            f"the smallest plan in mode {network.mode!r} takes {best.multipliers} multipliers, but "
            f"{board.name if board else 'the limit'} has {budget}"
        )
    low, high = 1, best.cycles_per_word
    while low < high:
        middle = (low + high) // 2
        try:
            plan = network.plan(middle)
        except TooSlow:
            plan = None
        if plan is None or plan.multipliers > budget:
            low = middle + 1
        else:
            best, high = plan, min(middle, plan.cycles_per_word)
    return best


class _Network:
    """The network cut into segments, with the packing of each MAC layer for each mode."""

    def __init__(self, packed: PackedNetwork, mode: str, board: Board | None):
        self.packed, self.mode, self.board = packed, mode, board
        network = packed.network
        flow = tensors(network)
        steps = [
            Step(layer, before, after) for layer, before, after in zip(network.layers, flow, flow[1:], strict=False)
        ]
        self.input, self.output = flow[0], flow[-1]
        self.segments: list[Segment] = []
        mac: Step | None = None
        tail: list[Step] = []
        for step in steps:
            if isinstance(step.layer, Linear | Conv2d):
                self.segments.append(Segment(mac, tuple(tail)))
                mac, tail = step, []
            else:
                tail.append(step)
        self.segments.append(Segment(mac, tuple(tail)))
        self.sparse = {name: Slots.of(packing) for name, packing in packed.packings.items()}
        self.dense = {
            segment.mac.layer.name: Slots.of(dense_packing(segment.mac.layer))  # type: ignore[arg-type]
            for segment in self.segments
            if segment.mac is not None and mode in ("dense", "auto")
        }

    def plan(self, limit: int) -> Plan:
        """The plan with the fewest multipliers within `limit` cycles; raises TooSlow where there is none."""
        heads = self._source(limit)
        done: list = []
        for index, segment in enumerate(self.segments[1:], start=1):
            head, mac = self._choose(segment, heads, limit)
            done += [*head.stages, mac]
            following = self._following(index)
            stream = _drained(segment, mac)
            chain = Chain(stream, limit, bias_of=mac.name)
            heads = self._tails(chain, segment.steps, following, mac, limit)
        last = heads[0]
        last.add_bias()
        done += last.stages
        stream = last.stream
        return Plan(
            board=self.board.name if self.board else None,
            mode=self.mode,
            stages=tuple(_with_drains(done)),
            output=Output(
                lanes=stream.lanes,
                bits=stream.bits,
                signed=stream.signed,
                layout=_flattened(stream) if len(self.output.shape) == 1 else stream.layout,
                shape=self.output.shape,
            ),
        )

    def _following(self, index: int) -> Linear | Conv2d | None:
        if index + 1 < len(self.segments):
            mac = self.segments[index + 1].mac
            assert mac is not None
            return mac.layer  # type: ignore[return-value]
        return None

    def _source(self, limit: int) -> list[Chain]:
        channels, height, width = self.input.map_shape
        stream = Stream(
            channels=channels,
            map=(height, width),
            bits=8,
            signed=self.input.signed,
            layout=torch_layout(channels, channels),
            most=channels,
            most_word=channels * height * width,
        )
        chain = Chain(stream, limit)
        heads = self._tails(chain, self.segments[0].steps, self._following(0), None, limit)
        for head in heads:
            # The host sends the width that the first stage wants: no Narrow stage at the input.
            lanes = stream.lanes
            if head.stages and head.stages[0].kind == "narrow":
                lanes = head.stages.pop(0).lanes_out  # type: ignore[attr-defined]
                if head.stages and head.stages[0].kind == "narrow":
                    lanes = head.stages.pop(0).lanes_out  # type: ignore[attr-defined]
            layout = narrowed(stream.layout, lanes)
            head.stages.insert(
                0,
                Source(
                    name="input",
                    cycles=len(layout) * stream.positions,
                    lanes=lanes,
                    layout=layout,
                    positions=stream.positions,
                ),
            )
        return heads

    def _tails(self, chain: Chain, steps: Sequence[Step], following, mac: Mac | None, limit: int) -> list[Chain]:
        """What can reach the next MAC layer: values, and lists where the mode wants them and the data allows them."""
        values = follow(chain, steps, following, listed=False)
        if self.mode in ("sparse-sparse", "auto") and can_list(steps, following, values.stream):
            try:
                lists = follow(chain, steps, following, listed=True)
            except TooSlow:
                return [values]
            return [lists] if self.mode == "sparse-sparse" else [values, lists]
        return [values]

    def _choose(self, segment: Segment, heads: Sequence[Chain], limit: int) -> tuple[Chain, Mac]:
        assert segment.mac is not None
        layer = segment.mac.layer
        options: list[tuple[tuple, Chain, Mac]] = []
        for head in heads:
            if head.stream.bits != 8 or head.bias_of is not None:
                raise PlanError(f"layer {layer.name!r}: its input is not requantised to 8 bits")
            for mode, slots in self._modes(layer.name, head.stream.entries is not None):
                request = Request(layer, slots, segment.mac.after, mode, head.stream, limit)  # type: ignore[arg-type]
                for mac in candidates(request):
                    cost = (mac.multipliers, mac.weight_bits, mac.cycles, mac.readers)
                    options.append((cost, head, mac))
        for _, head, mac in sorted(options, key=lambda option: option[0]):
            try:
                chain = Chain(_drained(segment, mac), limit, bias_of=mac.name)
                values = follow(chain, segment.steps, None, listed=False)
                _check_drain(mac, values.stages, limit)
            except TooSlow:
                continue
            return head, mac
        raise TooSlow(f"layer {layer.name!r}: no MAC array serves it in {limit} cycles a word; ask for more cycles")

    def _modes(self, name: str, listed: bool) -> list[tuple[str, Slots]]:
        sparse = self.sparse[name]
        if listed:
            return [("sparse-sparse", sparse)]
        match self.mode:
            case "dense":
                return [("dense", self.dense[name])]
            case "auto":
                return [("sparse-dense", sparse), ("dense", self.dense[name])]
            case _:
                return [("sparse-dense", sparse)]


def _drained(segment: Segment, mac: Mac) -> Stream:
    assert segment.mac is not None
    channels, height, width = segment.mac.after.map_shape
    return Stream(
        channels=channels,
        map=(height, width),
        bits=mac.accumulator_bits,
        signed=True,
        layout=mac.layout,
        most=channels,
        most_word=channels * height * width,
    )


def _flattened(stream: Stream) -> Layout:
    """A map's stream as that of one vector, in torch's order of C, H, W."""
    return tuple(
        tuple(channel * stream.positions + position if channel >= 0 else -1 for channel in row)
        for position in range(stream.positions)
        for row in stream.layout
    )


def _drain(mac: Mac, following: Sequence) -> int:
    """Cycles in which a group's accumulators leave, given the stages behind."""
    parts = 1
    for stage in following:
        if stage.kind != "narrow":
            break
        parts *= -(-stage.lanes_in // stage.lanes_out)
    return mac.kernels * parts


def _check_drain(mac: Mac, following: Sequence, limit: int) -> None:
    if with_drain(mac, _drain(mac, following)).cycles > limit:
        raise TooSlow(f"layer {mac.name!r}: its results take longer to leave than {limit} cycles")


def _with_drains(stages: Sequence) -> list:
    return [
        with_drain(stage, _drain(stage, stages[index + 1 :])) if isinstance(stage, Mac) else stage
        for index, stage in enumerate(stages)
    ]

