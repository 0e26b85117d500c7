"""Every pipeline of a network that keeps to a limit of cycles, as a graph: its edges are stages.

A path from START to END is a plan. On its way it meets an Entrance for the stream into each MAC layer and an Exit for
the results that leave each engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

from hwgen.errors import PlanError
from hwgen.format.network import Conv2d, KWinners, Linear
from hwgen.format.packed import PackedNetwork
from hwgen.format.shapes import tensors
from hwgen.plan import lanes, mac, scatter, unrolled, window_lanes
from hwgen.plan.between import Form, Step, can_list, can_list_whole, can_scatter, drain_beats, follow
from hwgen.plan.budget import Budget, Needs
from hwgen.plan.chain import UNLIMITED, Chain, TooSlow
from hwgen.plan.mac import Request, with_drain
from hwgen.plan.paths import END, START, Edge
from hwgen.plan.schedule import Slots, dense_packing
from hwgen.plan.stages import WORD_GAP, Lanes, Mac, Scatter, Source, Stage, Unrolled, WindowLanes
from hwgen.plan.stream import Stream, narrowed, torch_layout
from rtl_templates.target import target_of

Engine: TypeAlias = Mac | Scatter | Lanes | WindowLanes | Unrolled

# Under "sparse-sparse", what reading all values costs more, in multipliers, where reading the winners takes no more.
RELUCTANCE = 1e4


@dataclass(frozen=True)
class Segment:
    """A MAC layer (None at the network's start) and the layers up to the next."""

    mac: Step | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Entrance:
    """A node: the stream into a MAC layer or, behind the last one, the output."""

    stream: Stream


@dataclass(frozen=True, eq=False)
class Exit:
    """A node: results that leave an engine, each of their beats in so many parts, with the stages that may follow."""

    parts: int
    tails: dict[Form, list[Chain]]


@dataclass(frozen=True, eq=False)
class Option:
    """An engine: where it begins, the input stage if it has one of its own, where it leads, and what it takes."""

    begin: object
    source: tuple[Stage, ...]
    engine: Engine
    exits: list[Exit]
    needs: Needs
    price: float

    def outdoes(self, other: Option) -> bool:
        """Whether it leads wherever the other does and takes no more of anything."""
        forms, others = ({form for exit in option.exits for form in exit.tails} for option in (self, other))
        return others <= forms and all(a <= b for a, b in zip(self.needs, other.needs, strict=True))


class Pipelines:
    """The pipelines of one network, mode and budget."""

    def __init__(self, packed: PackedNetwork, mode: str, budget: Budget):
        self.packed, self.mode, self.budget = packed, mode, budget
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
        self._sparse = {name: Slots.of(packing) for name, packing in packed.packings.items()}
        self._dense = {
            segment.mac.layer.name: Slots.of(dense_packing(segment.mac.layer))  # type: ignore[arg-type]
            for segment in self.segments
            if segment.mac is not None and mode in ("dense", "auto")
        }
        self._forms: dict[int, list[Form]] = {}
        self._widths = 1

    def within(self, limit: int, widths: int = 1) -> list[Edge]:
        """The edges of all pipelines that take at most `limit` cycles a word.

        Of every stream they have the narrowest that keeps up, and with it `widths` in all. The edges that end at a node come before those that begin there, and START leads to every node. The Entrance
        before END is the output.

        Raises:
            TooSlow: there is no pipeline.
        """
        self._widths = widths
        edges = self._sources(limit)
        entrances = _entrances(edges)
        for index in range(1, len(self.segments)):
            more = self._segment(index, entrances, limit)
            entrances = _entrances(more)
            edges += more
        return edges + [self._edge(entrance, END, ()) for entrance in entrances]

    def _edge(self, begin: object, end: object, stages: Iterable[Stage], price: float = 0.0) -> Edge:
        """An edge; `price` is what it costs beside its stages."""
        stages = tuple(stages)
        needs = self.budget.needs(stages)
        return Edge(begin, end, stages, needs, price + self.budget.price(needs))

    def _sources(self, limit: int) -> list[Edge]:
        """From START to the streams into the first MAC layer or, without one, to the output."""
        try:
            tails = self._tails(0, Chain(self._input(), limit))
        except TooSlow:
            # An unrolled layer takes more pixels a beat than one.
            if not any(self._unrolled(limit)):
                raise
            return []
        entrances: dict[Stream, Entrance] = {}
        return [
            self._edge(START, entrances.setdefault(chain.stream, Entrance(chain.stream)), self._with_source(chain))
            for chain in itertools.chain.from_iterable(tails.values())
        ]

    def _with_source(self, chain: Chain) -> list[Stage]:
        """The chain behind an input that has the width of its first stage: the host narrows."""
        stages, stream = list(chain.stages), self._input()
        lanes = stream.lanes
        while stages and stages[0].kind == "narrow":
            lanes = stages.pop(0).lanes_out  # type: ignore[attr-defined]
        layout = narrowed(stream.layout, lanes)
        beats = len(layout) * stream.positions
        return [Source(name="input", cycles=beats, lanes=lanes, layout=layout, positions=stream.positions), *stages]

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

    def _segment(self, index: int, entrances: Sequence[Entrance], limit: int) -> list[Edge]:
        """The edges through a MAC layer: from its entrances to exits, from there to the next layer's entrances."""
        segment = self.segments[index]
        assert segment.mac is not None
        name = segment.mac.layer.name

        @cache
        def exits_of(stream: Stream, taken: int, rests: bool) -> list[Exit]:
            # Results leave a MAC engine before it rests.
            within = limit - WORD_GAP if rests else limit
            try:
                tails = self._tails(index, Chain(stream, limit, name, within), taken)
            except TooSlow:
                return []
            exits: dict[int, Exit] = {}
            for form, chains in tails.items():
                for chain in chains:
                    parts = max(1, drain_beats(chain.stages) // stream.beats)
                    exits.setdefault(parts, Exit(parts, {})).tails.setdefault(form, []).append(chain)
            return list(exits.values())

        options = []
        for begin, source, engine in self._engines(index, entrances, limit):
            exits = exits_of(_results(segment, engine), _taken(engine), isinstance(engine, Mac))
            if exits:
                needs = self.budget.needs([*source, engine])
                options.append(Option(begin, source, engine, exits, needs, self.budget.price(needs)))
        if not options:
            raise TooSlow(
                f"layer {name!r}: no engine serves it in {limit} cycles a word{self.budget}; ask for more cycles"
            )
        if self.mode == "sparse-sparse":
            options = _reluctant(options)

        edges: list[Edge] = []
        reached: dict[Exit, None] = {}
        for option in _worthwhile(options):
            for exit in option.exits:
                engine = option.engine
                if isinstance(engine, Mac):
                    engine = with_drain(engine, engine.kernels * exit.parts)
                extra = option.price - self.budget.price(option.needs)
                edges.append(self._edge(option.begin, exit, (*option.source, engine), extra))
                reached[exit] = None
        entrances_behind: dict[Stream, Entrance] = {}
        for exit in reached:
            for chain in itertools.chain.from_iterable(exit.tails.values()):
                entrance = entrances_behind.setdefault(chain.stream, Entrance(chain.stream))
                edges.append(self._edge(exit, entrance, chain.stages))
        return edges

    def _tails(self, index: int, chain: Chain, taken: int = 0) -> dict[Form, list[Chain]]:
        """What can reach the next MAC layer: values, and lists where the mode wants them and the data allows them."""
        steps, following = self.segments[index].steps[taken:], self._following(index)
        tails: dict[Form, list[Chain]] = {}
        problem: TooSlow | None = None
        for form in self._forms_behind(index, steps, chain):
            try:
                tails[form] = follow(chain, steps, following, form, self._widths)
            except TooSlow as error:
                problem = problem or error
        if problem is not None and not tails:
            raise problem
        if self.mode == "sparse-sparse" and ("lists" in tails or "whole lists" in tails):
            tails.pop("values", None)
        if following is None:
            for tail in tails["values"]:
                tail.add_bias()
        return tails

    def _forms_behind(self, index: int, steps: Sequence[Step], chain: Chain) -> list[Form]:
        """The forms in which the stream behind a segment can be wanted, whatever engine its MAC layer has."""
        if index not in self._forms:
            forms: list[Form] = ["values"]
            following = self._following(index)
            if self.mode in ("sparse-sparse", "auto") and following is not None:
                # Lists may keep up where values do not, so their stream is asked for without the limit.
                stream = follow(Chain(chain.stream, UNLIMITED, chain.bias_of), steps, following, "values")[0].stream
                if can_list(steps, following, stream):
                    forms.append("lists")
                if can_list_whole(steps, following, stream):
                    forms.append("whole lists")
                if can_scatter(steps, following, stream):
                    forms.append("word list")
            self._forms[index] = forms
        return self._forms[index]

    def _following(self, index: int) -> Linear | Conv2d | None:
        if index + 1 < len(self.segments):
            mac = self.segments[index + 1].mac
            assert mac is not None
            return mac.layer  # type: ignore[return-value]
        return None

    def _engines(
        self, index: int, entrances: Sequence[Entrance], limit: int
    ) -> Iterator[tuple[object, tuple[Stage, ...], Engine]]:
        """Where each engine for a MAC layer begins, the input stage that is its own, and the engine."""
        segment = self.segments[index]
        assert segment.mac is not None
        layer, result = segment.mac.layer, segment.mac.after
        for entrance in entrances:
            stream = entrance.stream
            if stream.bits != 8:
                raise PlanError(f"layer {layer.name!r}: its input is not requantised to 8 bits")
            for mode, slots in self._modes(layer.name, stream.entries is not None):
                request = Request(layer, slots, result, mode, stream, limit, self.budget.most_multipliers)  # type: ignore[arg-type]
                yield from ((entrance, (), engine) for engine in _serving(request))
        if index == 1:
            for source, engine in self._unrolled(limit):
                yield START, (source,), engine

    def _modes(self, name: str, listed: bool) -> list[tuple[str, Slots]]:
        sparse = self._sparse[name]
        if listed:
            return [("sparse-sparse", sparse)]
        match self.mode:
            case "dense":
                return [("dense", self._dense[name])]
            case "auto":
                return [("sparse-dense", sparse), ("dense", self._dense[name])]
            case _:
                return [("sparse-dense", sparse)]

    def _unrolled(self, limit: int) -> Iterator[tuple[Source, Unrolled]]:
        """The unrolled engine with its input, where the first layer sees the input as it comes."""
        stream = self._input()
        if self.mode == "dense" or self.segments[0].steps or len(self.segments) < 2:
            return
        segment = self.segments[1]
        assert segment.mac is not None
        layer, steps, result = segment.mac.layer, segment.steps, segment.mac.after
        if not isinstance(layer, Conv2d) or not unrolled.serves(layer, stream):
            return
        pool = unrolled.pool_of(steps[0].layer if steps else None, result, steps[0].after if steps else result)
        slots = self._sparse[layer.name]
        request = Request(layer, slots, result, "sparse-dense", stream, limit, self.budget.most_multipliers)
        target = target_of(self.budget.family)
        for engine in unrolled.candidates(request, pool, target, self._widths):
            width, positions = stream.channels * engine.pixels, stream.positions // engine.pixels
            yield (
                Source(
                    name="input",
                    cycles=positions,
                    lanes=width,
                    pixels=engine.pixels,
                    layout=torch_layout(width, width),
                    positions=positions,
                ),
                engine,
            )


def _entrances(edges: Iterable[Edge]) -> list[Entrance]:
    """Those that edges lead to."""
    return list(dict.fromkeys(edge.end for edge in edges if isinstance(edge.end, Entrance)))


def _serving(request: Request) -> Iterator[Engine]:
    """The engines that take the stream's form."""
    if scatter.serves(request.layer, request.stream):
        return scatter.candidates(request)
    if lanes.serves(request.layer, request.stream):
        return itertools.chain(lanes.candidates(request), window_lanes.candidates(request))
    return mac.candidates(request)


def _reluctant(options: Sequence[Option]) -> list[Option]:
    """The options, dearer where an engine reads all values though a scatter engine has no more multipliers or cycles."""
    skipping = [option.engine for option in options if isinstance(option.engine, Scatter)]

    def is_outdone(engine: Engine) -> bool:
        return isinstance(engine, Mac) and any(
            other.multipliers <= engine.multipliers and other.cycles < engine.cycles for other in skipping
        )

    return [
        replace(option, price=option.price + RELUCTANCE) if is_outdone(option.engine) else option for option in options
    ]


def _worthwhile(options: Sequence[Option]) -> list[Option]:
    """Of the options with the same beginning, those that no cheaper one outdoes."""
    kept: dict[object, list[Option]] = {}
    for option in sorted(options, key=lambda option: option.price):
        others = kept.setdefault(option.begin, [])
        if not any(other.outdoes(option) for other in others):
            others.append(option)
    return [option for others in kept.values() for option in others]


def _taken(engine: Engine) -> int:
    """How many of the layers behind an engine it takes in."""
    return int(isinstance(engine, Unrolled) and engine.pool != (1, 1))


def _results(segment: Segment, engine: Engine) -> Stream:
    """The accumulators that leave an engine."""
    assert segment.mac is not None
    after = segment.steps[0].after if _taken(engine) else segment.mac.after
    channels, height, width = after.map_shape
    return Stream(
        channels=channels,
        map=(height, width),
        bits=engine.accumulator_bits,
        signed=True,
        layout=engine.layout,
        most=channels,
        most_word=channels * height * width,
    )
