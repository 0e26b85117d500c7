"""From a packed network and a goal to a plan: pure arithmetic, milliseconds to seconds, no hardware generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

from hwgen.errors import PlanError
from hwgen.format.network import Conv2d, KWinners, Linear
from hwgen.format.packed import PackedNetwork
from hwgen.format.shapes import tensors
from hwgen.plan import scatter
from hwgen.plan.chain import Chain, Form, Step, TooSlow, can_list, can_scatter, follow
from hwgen.plan.mac import Request, candidates, with_drain
from hwgen.plan.schedule import Slots, dense_packing
from hwgen.plan.stages import Layout, Mac, Output, Plan, Scatter, Source
from hwgen.plan.stream import Stream, narrowed, torch_layout

MODES = ("dense", "sparse-dense", "sparse-sparse", "auto")
SLOWEST = 1 << 32
Engine: TypeAlias = Mac | Scatter


@runtime_checkable
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
        heads = self._source(limit)
        done: list = []
        for index, segment in enumerate(self.segments[1:], start=1):
            head, engine, heads = self._choose(segment, heads, self._following(index), limit)
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
        if self.mode == "sparse-sparse" and "lists" in tails:
            tails.pop("values", None)
        return list(tails.values())

    def _choose(
        self, segment: Segment, heads: Sequence[Chain], following: Linear | Conv2d | None, limit: int
    ) -> tuple[Chain, Engine, list[Chain]]:
        """An engine with what reaches it, one of `heads`, and what can reach the next."""
        assert segment.mac is not None
        layer = segment.mac.layer
        options: list[tuple[Chain, Engine]] = []
        for head in heads:
            if head.stream.bits != 8 or head.bias_of is not None:
                raise PlanError(f"layer {layer.name!r}: its input is not requantised to 8 bits")
            scatters = scatter.serves(layer, head.stream)
            for mode, slots in self._modes(layer.name, head.stream.entries is not None):
                request = Request(layer, slots, segment.mac.after, mode, head.stream, limit)  # type: ignore[arg-type]
                engines = scatter.candidates(request) if scatters else candidates(request)
                options += [(head, engine) for engine in engines]
        for head, engine in self._by_cost(options):
            fits = partial(_drains_within, engine, limit)
            chain = Chain(_drained(segment, engine), limit, bias_of=engine.name, fits=fits)
            try:
                return head, engine, self._tails(chain, segment.steps, following)
            except TooSlow:
                continue
        raise TooSlow(f"layer {layer.name!r}: no MAC array serves it in {limit} cycles a word; ask for more cycles")

    def _by_cost(self, options: Sequence[tuple[Chain, Engine]]) -> list[tuple[Chain, Engine]]:
        """Fewest multipliers first; among equals, under "sparse-sparse", a scatter engine that also takes less time."""
        fastest: dict[int, int] = {}
        for _, engine in options:
            if isinstance(engine, Mac):
                fastest[engine.multipliers] = min(fastest.get(engine.multipliers, SLOWEST), engine.cycles)

        def cost(option: tuple[Chain, Engine]) -> tuple:
            engine = option[1]
            if isinstance(engine, Mac):
                return engine.multipliers, 1, engine.weight_bits, engine.cycles, engine.readers
            skips = self.mode == "sparse-sparse" and engine.cycles < fastest.get(engine.multipliers, SLOWEST)
            return engine.multipliers, 0 if skips else 1, engine.memory_bits, engine.cycles, 1

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


def _drained(segment: Segment, mac: Engine) -> Stream:
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


def _drains_within(engine: Engine, limit: int, following: Sequence) -> bool:
    """Whether results leave fast enough; a scatter engine's whole map leaves while the next fills, beat by beat."""
    return isinstance(engine, Scatter) or with_drain(engine, _drain(engine, following)).cycles <= limit


def _with_drains(stages: Sequence) -> list:
    return [
        with_drain(stage, _drain(stage, stages[index + 1 :])) if isinstance(stage, Mac) else stage
        for index, stage in enumerate(stages)
    ]
