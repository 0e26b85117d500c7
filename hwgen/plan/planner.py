"""From a packed network and a goal to a plan: pure arithmetic, milliseconds to seconds, no hardware generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

from hwgen.errors import PlanError
from hwgen.format.network import Conv2d, KWinners, Linear
from hwgen.format.packed import PackedNetwork
from hwgen.format.shapes import tensors
from hwgen.plan import lanes, scatter, unrolled
from hwgen.plan.chain import Chain, Form, Step, TooSlow, can_list, can_list_whole, can_scatter, follow
from hwgen.plan.mac import Request, candidates, with_drain
from hwgen.plan.resources import resources, total
from hwgen.plan.schedule import Slots, dense_packing
from hwgen.plan.stages import Lanes, Layout, Mac, Output, Plan, Scatter, Source, Unrolled
from hwgen.plan.stream import Stream, narrowed, torch_layout

MODES = ("dense", "sparse-dense", "sparse-sparse", "auto")
SLOWEST = 1 << 32
# Without a board: the most multipliers of a plan.
MOST_MULTIPLIERS = 1 << 12
# Of the board's look-up tables a design can use so many and still be routed.
LUT_SHARE = 0.9
# What a multiplier is worth where no board says it.
LUT_PER_MULTIPLIER = 500
Engine: TypeAlias = Mac | Scatter | Lanes | Unrolled


@runtime_checkable
class Board(Protocol):
    """What the planner asks of a board."""

    @property
    def name(self) -> str: ...

    @property
    def dsp(self) -> int: ...

    @property
    def lut(self) -> int: ...

    @property
    def block_ram_bits(self) -> int: ...


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
        board: its multipliers, look-up tables and block memories bound the plan; None for no bound.
        mode: "dense", "sparse-dense", "sparse-sparse" or "auto" (the cheapest, layer by layer). Modes skip what they
            can: a layer whose input is not sparse runs sparse-dense under "sparse-sparse".
        cycles: the most cycles a word may take: the plan with the fewest multipliers is chosen. None: the fastest plan
            that the board holds.

    Raises:
        PlanError: no such mode, or no plan reaches the goal; the line names the layer that stands in the way.
    """
    if mode not in MODES:
        raise PlanError(f"mode {mode!r} does not exist; choose one of {', '.join(MODES)}")
    if cycles is not None and (not isinstance(cycles, int) or cycles < 1):
        raise PlanError(f"cycles must be a positive integer or None, not {cycles!r}")
    if board is not None and not isinstance(board, Board):
        raise PlanError(f"board must be a Board or None, not {board!r}; boards.catalogue has them by name")
    network = _Network(packed, mode, board)
    if cycles is not None:
        try:
            plan = network.plan(cycles)
        except TooSlow:
            # The search goes layer by layer and may corner itself at one limit while a tighter one has a plan.
            plan = _fastest(network, board)
            if plan.cycles_per_word > cycles:
                raise
        if board is not None and (lack := _lack(plan, board)):
            raise PlanError(f"{cycles} cycles a word take {lack}; allow more cycles or choose a larger board")
        return plan
    return _fastest(network, board)


def _lack(plan: Plan, board: Board) -> str:
    """What the plan takes more of than the board has; empty where it fits."""
    taken = total(plan.stages)
    for what, needed, there in (
        ("multipliers", taken.dsp, board.dsp),
        ("look-up tables", round(taken.lut), round(board.lut * LUT_SHARE)),
        ("bits of block memory", taken.block_bits, board.block_ram_bits),
    ):
        if needed > there:
            return f"{needed} {what}, but {board.name} has {there}"
    return ""


def _fastest(network: _Network, board: Board | None) -> Plan:
    """Bisection over the cycles: plans get cheaper as they get slower."""

    def lack(plan: Plan) -> str:
        if board is not None:
            return _lack(plan, board)
        return "" if plan.multipliers <= MOST_MULTIPLIERS else f"{plan.multipliers} multipliers"

    best = network.plan(SLOWEST)
    if missing := lack(best):
        raise PlanError(f"the smallest plan in mode {network.mode!r} takes {missing}; choose a larger board")
    low, high = 1, best.cycles_per_word
    while low < high:
        middle = (low + high) // 2
        try:
            plan = network.plan(middle)
        except TooSlow:
            plan = None
        if plan is None or lack(plan):
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
        # On a vector every k-WTA is one over all its values, whatever shape the stream still has.
        steps = [
            replace(step, layer=replace(step.layer, local=False))
            if isinstance(step.layer, KWinners) and len(step.before.shape) == 1
            else step
            for step in steps
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
        constant = self._unrolled(limit)
        try:
            heads = self._source(limit)
        except TooSlow:
            # An unrolled layer takes more pixels a beat than one.
            if not constant:
                raise
            heads = []
        done: list = []
        for index, segment in enumerate(self.segments[1:], start=1):
            options = [*self._options(segment, heads, limit), *(constant if index == 1 else [])]
            head, engine, heads = self._choose(segment, options, self._following(index), limit)
            done += [*head.stages, engine]
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

    def _input(self) -> Stream:
        """The network's input, a pixel a beat."""
        channels, height, width = self.input.map_shape
        return Stream(
            channels=channels,
            map=(height, width),
            bits=8,
            signed=self.input.signed,
            layout=torch_layout(channels, channels),
            most=channels,
            most_word=channels * height * width,
        )

    def _source(self, limit: int) -> list[Chain]:
        stream = self._input()
        chain = Chain(stream, limit)
        heads = self._tails(chain, self.segments[0].steps, self._following(0))
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

    def _tails(self, chain: Chain, steps: Sequence[Step], following: Linear | Conv2d | None) -> list[Chain]:
        """What can reach the next MAC layer: values, and lists where the mode wants them and the data allows them."""
        forms: list[Form] = ["values"]
        if self.mode in ("sparse-sparse", "auto") and following is not None:
            # Lists may keep up where values do not, so their stream is asked for without the limit.
            stream = follow(Chain(chain.stream, SLOWEST, chain.bias_of), steps, following, "values").stream
            if can_list(steps, following, stream):
                forms.append("lists")
            if can_list_whole(steps, following, stream):
                forms.append("whole lists")
            if can_scatter(steps, following, stream):
                forms.append("word list")
        tails: dict[Form, Chain] = {}
        problem: TooSlow | None = None
        for form in forms:
            try:
                tails[form] = follow(chain, steps, following, form)
            except TooSlow as error:
                problem = problem or error
        if problem is not None and not tails:
            raise problem
        if self.mode == "sparse-sparse" and ("lists" in tails or "whole lists" in tails):
            tails.pop("values", None)
        return list(tails.values())

    def _options(self, segment: Segment, heads: Sequence[Chain], limit: int) -> list[tuple[Chain, Engine]]:
        """Every engine for the segment's MAC layer, each with what reaches it, one of `heads`."""
        assert segment.mac is not None
        layer = segment.mac.layer
        options: list[tuple[Chain, Engine]] = []
        for head in heads:
            if head.stream.bits != 8 or head.bias_of is not None:
                raise PlanError(f"layer {layer.name!r}: its input is not requantised to 8 bits")
            for mode, slots in self._modes(layer.name, head.stream.entries is not None):
                request = Request(layer, slots, segment.mac.after, mode, head.stream, limit)  # type: ignore[arg-type]
                options += [(head, engine) for engine in _engines(request)]
        return options

    def _choose(
        self,
        segment: Segment,
        options: Sequence[tuple[Chain, Engine]],
        following: Linear | Conv2d | None,
        limit: int,
    ) -> tuple[Chain, Engine, list[Chain]]:
        """The cheapest engine behind which the rest keeps up, with what reaches it and what can reach the next."""
        assert segment.mac is not None
        for head, engine in self._by_cost(options):
            fits = partial(_drains_within, engine, limit)
            chain = Chain(_drained(segment, engine), limit, bias_of=engine.name, fits=fits)
            try:
                return head, engine, self._tails(chain, segment.steps[_taken(engine) :], following)
            except TooSlow:
                continue
        name = segment.mac.layer.name
        raise TooSlow(f"layer {name!r}: no MAC array serves it in {limit} cycles a word; ask for more cycles")

    def _unrolled(self, limit: int) -> list[tuple[Chain, Engine]]:
        """The unrolled engine, where the first layer sees the input as it comes."""
        stream = self._input()
        if self.mode == "dense" or self.segments[0].steps or len(self.segments) < 2:
            return []
        segment = self.segments[1]
        assert segment.mac is not None
        layer, steps, result = segment.mac.layer, segment.steps, segment.mac.after
        if not isinstance(layer, Conv2d) or not unrolled.serves(layer, stream):
            return []
        pool = unrolled.pool_of(steps[0].layer if steps else None, result, steps[0].after if steps else result)
        request = Request(layer, self.sparse[layer.name], result, "sparse-dense", stream, limit)
        return [(self._pixels(engine.pixels, limit), engine) for engine in unrolled.candidates(request, pool)]

    def _pixels(self, pixels: int, limit: int) -> Chain:
        """The input as a stream of `pixels` whole pixels a beat."""
        stream = self._input()
        layout = torch_layout(stream.channels * pixels, stream.channels * pixels)
        positions = stream.positions // pixels
        source = Source(
            name="input", cycles=positions, lanes=len(layout[0]), pixels=pixels, layout=layout, positions=positions
        )
        return Chain(stream, limit, stages=[source])

    def _by_cost(self, options: Sequence[tuple[Chain, Engine]]) -> list[tuple[Chain, Engine]]:
        """The cheapest first; among equals, under "sparse-sparse", a scatter engine that also takes less time."""
        lut_per_multiplier = self.board.lut / self.board.dsp if self.board is not None else LUT_PER_MULTIPLIER
        fastest: dict[int, int] = {}
        for _, engine in options:
            if isinstance(engine, Mac):
                fastest[engine.multipliers] = min(fastest.get(engine.multipliers, SLOWEST), engine.cycles)

        def cost(option: tuple[Chain, Engine]) -> tuple:
            engine = option[1]
            taken = resources(engine)
            price = round(taken.dsp + taken.lut / lut_per_multiplier)
            if isinstance(engine, Scatter):
                skips = self.mode == "sparse-sparse" and engine.cycles < fastest.get(engine.multipliers, SLOWEST)
                return (engine.multipliers, 0 if skips else 1, price, engine.memory_bits, engine.cycles, 1)
            return price, 1, price, taken.block_bits, engine.cycles, 1

        return sorted(options, key=cost)

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


def _engines(request: Request) -> Iterator[Engine]:
    """The engines that take the stream's form."""
    if scatter.serves(request.layer, request.stream):
        return scatter.candidates(request)
    if lanes.serves(request.layer, request.stream):
        return lanes.candidates(request)
    return candidates(request)


def _taken(engine: Engine) -> int:
    """How many of the layers behind an engine it takes in."""
    return int(isinstance(engine, Unrolled) and engine.pool != (1, 1))


def _drained(segment: Segment, mac: Engine) -> Stream:
    assert segment.mac is not None
    after = segment.steps[0].after if _taken(mac) else segment.mac.after
    channels, height, width = after.map_shape
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


def _drains_within(engine: Engine, limit: int, following: Sequence) -> bool:
    """Whether results leave fast enough; all but a MAC engine's leave beat by beat while the next are made."""
    return not isinstance(engine, Mac) or with_drain(engine, _drain(engine, following)).cycles <= limit


def _with_drains(stages: Sequence) -> list:
    return [
        with_drain(stage, _drain(stage, stages[index + 1 :])) if isinstance(stage, Mac) else stage
        for index, stage in enumerate(stages)
    ]
