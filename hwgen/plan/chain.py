"""What follows a MAC engine up to the next: pools, requantisation, k-WTA, and how wide each stream must be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from hwgen.errors import PlanError
from hwgen.format.network import Conv2d, Flatten, KWinners, Layer, Linear, MaxPool2d, ReLU, Requantise, SumPool2d
from hwgen.format.shapes import Tensor
from hwgen.plan import stages
from hwgen.plan.mac import distinct_parts
from hwgen.plan.stages import WORD_GAP, Stage
from hwgen.plan.stream import Stream, narrowed, torch_layout, without_empty
from rtl_templates import timing

# What reaches a MAC layer: all values; a list for each position, or for a vector, entry by entry or a list a beat; one
# list for a whole map.
Form: TypeAlias = Literal["values", "lists", "whole lists", "word list"]

# More cycles than any stage takes.
UNLIMITED = 1 << 32
# Units of a global k-WTA that take words in turn.
MOST_GLOBAL_UNITS = 8
# Up to this many values a k-WTA holds them all in registers; beyond, in a memory.
REGISTER_WINNERS = 256


class TooSlow(PlanError):
    """A stage cannot keep up with the asked-for cycles."""


@dataclass
class Chain:
    """Stages under construction, one after the other.

    Attributes:
        stream: what flows out of the last stage.
        limit: cycles a word that no stage may exceed.
        bias_of: layer whose bias is still to be added to the stream, or None.
        drained_within: cycles in which the engine before them must have handed over a word's results.
    """

    stream: Stream
    limit: int
    bias_of: str | None = None
    drained_within: int = UNLIMITED
    stages: list[Stage] = field(default_factory=list)

    def add(self, stage: Stage, stream: Stream) -> None:
        self._check(stage.name, stage.kind, stage.cycles)
        self.stages.append(stage)
        self.stream = stream

    def _check(self, name: str, kind: str, cycles: int) -> None:
        if cycles > self.limit:
            raise TooSlow(
                f"layer {name!r}: its {kind} stage takes {cycles} cycles a word, "
                f"more than the {self.limit} asked for; ask for {cycles} or more"
            )

    def narrow(self, name: str, lanes: int) -> None:
        stream = self.stream
        if lanes == stream.lanes:
            return
        # Layouts are long: none is made for a stage that takes too long.
        self._check(name, stages.Narrow.kind, stream.beats * -(-stream.lanes // lanes))
        layout = narrowed(stream.layout, lanes)
        after = replace(stream, layout=layout)
        self.add(
            stages.Narrow(
                name=name,
                cycles=after.beats,
                bits=stream.bits,
                signed=stream.signed,
                lanes_in=stream.lanes,
                lanes_out=lanes,
                layout=layout,
            ),
            after,
        )

    def drop_empty(self, name: str) -> None:
        stream = self.stream
        layout = without_empty(stream.layout)
        if layout == stream.layout:
            return
        self.add(
            stages.DropEmpty(
                name=name,
                cycles=stream.beats,
                bits=stream.bits,
                signed=stream.signed,
                in_layout=stream.layout,
                layout=layout,
            ),
            replace(stream, layout=layout),
        )

    def run(self, layer: Layer, after: Tensor, emit: str = "values") -> None:
        """One layer of the network that is not a MAC layer."""
        match layer:
            case Flatten():
                pass
            case Requantise():
                self._requantise(layer)
            case MaxPool2d():
                self._pool(layer, "max", layer.dilation, after)
            case SumPool2d():
                self.add_bias()
                self._pool(layer, "sum", (1, 1), after)
            case ReLU():
                self.add_bias()
                self._relu(layer)
            case KWinners():
                self._winners(layer, emit)
            case _:
                raise PlanError(f"layer {layer.name!r}: {type(layer).__name__} cannot stand here")

    def add_bias(self) -> None:
        """Adds a bias that no requantisation has added yet."""
        if self.bias_of is None:
            return
        stream, name = self.stream, self.bias_of
        self.bias_of = None
        self.add(
            stages.AddBias(
                name=name,
                cycles=stream.beats,
                bits=stream.bits,
                signed=stream.signed,
                layout=stream.layout,
                bias_of=name,
            ),
            stream,
        )

    def _requantise(self, layer: Requantise) -> None:
        stream = self.stream
        scaled = bool((layer.multiplier != 1).any())
        by_position = layer.multiplier.size // stream.channels
        if by_position > 1 and np.ptp(layer.multiplier.reshape(-1, by_position), axis=1).any():
            raise PlanError(
                f"layer {layer.name!r}: its multipliers differ within a channel of the map that was flattened before it; "
                "flatten after the requantisation"
            )
        self.add(
            stages.Requantise(
                name=layer.name,
                cycles=stream.beats,
                multipliers=stream.lanes if scaled else 0,
                products=stream.channels * stream.positions if scaled else 0,
                bits=stream.bits,
                in_signed=stream.signed,
                signed=layer.signed,
                layout=stream.layout,
                bias_of=self.bias_of,
            ),
            replace(stream, bits=8, signed=layer.signed),
        )
        self.bias_of = None

    def _pool(self, layer: MaxPool2d | SumPool2d, function: Literal["max", "sum"], dilation, after: Tensor) -> None:
        stream = self.stream
        window = stages.Window(
            map=stream.map,
            kernel=layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            dilation=dilation,
            size=(after.shape[1], after.shape[2]),
        )
        signed = after.signed if function == "sum" else stream.signed
        bits = after.bits if function == "sum" else stream.bits
        beats = len(stream.layout)
        stage: stages.StreamPool | stages.Pool
        apart = _apart(window)
        if apart:
            stage = stages.StreamPool(
                name=layer.name,
                cycles=stream.beats,
                function=function,
                map=window.map,
                kernel=window.kernel,
                bits=stream.bits,
                signed=stream.signed,
                result_bits=bits,
                result_signed=signed,
                lanes=stream.lanes,
                beats=beats,
            )
        else:
            stage = stages.Pool(
                name=layer.name,
                cycles=window.positions * beats * window.area + WORD_GAP,
                function=function,
                window=window,
                bits=stream.bits,
                signed=stream.signed,
                result_bits=bits,
                result_signed=signed,
                lanes=stream.lanes,
                beats=beats,
            )
        self.add(
            stage,
            replace(
                stream,
                map=window.size,
                bits=bits,
                signed=signed,
                # Only a pool with a buffer takes a burst in and sends it on at the pace of what follows.
                burst=stream.burst and apart,
                most=min(stream.channels, stream.most * window.area),
                most_word=min(stream.channels * window.positions, stream.most_word * window.area),
            ),
        )

    def _relu(self, layer: ReLU) -> None:
        stream = self.stream
        self.add(
            stages.ReLU(
                name=layer.name, cycles=stream.beats, bits=stream.bits, signed=stream.signed, lanes=stream.lanes
            ),
            stream,
        )

    def _winners(self, layer: KWinners, emit: str) -> None:
        stream = self.stream
        if self.bias_of is not None or stream.bits != 8:
            raise PlanError(f"layer {layer.name!r}: k-WTA works on requantised values only")
        beats, positions = len(stream.layout), stream.positions
        if (layer.local or positions == 1) and stream.channels <= REGISTER_WINNERS:
            k = min(layer.k, stream.channels)
            if stream.burst and self._fastest_search(beats, k, emit) > beats:
                self._end_burst(layer.name)
                stream = self.stream
            cycles, units, emitters = self._search(beats, k, emit)
            self.add(
                stages.LocalWinners(
                    name=layer.name,
                    cycles=cycles,
                    k=k,
                    units=units,
                    emitters=emitters,
                    positions=positions,
                    signed=stream.signed,
                    emit=emit,
                    layout=stream.layout,
                ),
                replace(
                    stream,
                    most=k,
                    most_word=k * positions,
                    layout=stream.layout if emit == "values" else (),
                    entries=None if emit == "values" else k,
                    whole=emit == "lists",
                ),
            )
            return
        if layer.local and positions > 1:
            raise PlanError(
                f"layer {layer.name!r}: local k-WTA over {stream.channels} channels; up to {REGISTER_WINNERS} are supported"
            )
        cycles, units = self._parallel(layer, emit)
        if cycles <= self.limit and units == 1:
            self.drop_empty(layer.name)
            stream = self.stream
        k = min(layer.k, stream.channels * positions)
        # Several units give the values in torch's order.
        values = stream.layout if units == 1 else torch_layout(stream.channels, 1)
        self.add(
            stages.GlobalWinners(
                name=layer.name,
                cycles=cycles,
                k=k,
                units=units,
                positions=positions,
                signed=stream.signed,
                emit=emit,
                layout=stream.layout,
            ),
            replace(
                stream,
                most=min(k, stream.channels),
                most_word=k,
                layout=values if emit == "values" else (),
                entries=k if emit == "entries" else None,
                flat=emit == "entries",
                burst=True,
            ),
        )

    def _fastest_search(self, beats: int, k: int, emit: str) -> int:
        """Cycles a position of a local k-WTA with all units that it can have."""
        channels = self.stream.channels
        steps = timing.search_steps(channels, emit)
        return timing.local_interval(beats, k, emit, channels=channels, stages=steps, emitters=k)

    def _search(self, beats: int, k: int, emit: str) -> tuple[int, int, int]:
        """Cycles a word of a local k-WTA, and the fewest search units and emitters with which it keeps to the limit."""
        channels, positions = self.stream.channels, self.stream.positions
        steps = timing.search_steps(channels, emit)
        # A burst must not be held up: its source counts on one cycle a beat.
        limit = min(self.limit, positions * beats) if self.stream.burst else self.limit
        emitters = 1
        if emit == "lists":
            emitters = min(k, max(1, -(-k * positions // limit)))
            while emitters < k and -(-k // emitters) * positions > limit:
                emitters += 1
        cycles = positions * timing.local_interval(beats, k, emit, channels=channels, emitters=emitters)
        for units in range(1, steps + 1):
            cycles = positions * timing.local_interval(
                beats, k, emit, channels=channels, stages=units, emitters=emitters
            )
            if cycles <= limit:
                return cycles, units, emitters
        return cycles, steps, emitters

    def _end_burst(self, name: str) -> None:
        """The same stream at any pace: a pool over single values, which holds two words."""
        stream = self.stream
        single = (1, 1)
        self.add(
            stages.Pool(
                name=name,
                cycles=stream.beats + WORD_GAP,
                function="max",
                window=stages.Window(
                    map=stream.map, kernel=single, stride=single, padding=(0, 0), dilation=single, size=stream.map
                ),
                bits=stream.bits,
                signed=stream.signed,
                result_bits=stream.bits,
                result_signed=stream.signed,
                lanes=stream.lanes,
                beats=len(stream.layout),
            ),
            replace(stream, burst=False),
        )

    def _parallel(self, layer: KWinners, emit: str) -> tuple[int, int]:
        """Cycles a word of a global k-WTA, and the fewest units with which it keeps to the limit."""
        stream = self.stream
        alone = timing.global_interval(stream.channels, stream.positions, emit)
        values_of_map = emit == "values" and stream.positions > 1
        if stream.lanes == 1 and (alone <= self.limit or values_of_map):
            return alone, 1
        if values_of_map:
            raise TooSlow(f"layer {layer.name!r}: global k-WTA that emits values of a map takes one value a beat")
        for units in range(2, MOST_GLOBAL_UNITS + 1):
            cycles = timing.parallel_global_interval(
                stream.channels, stream.positions, stream.beats, emit, units, k=layer.k
            )
            if cycles <= self.limit:
                break
        return cycles, units

    def compact(self, name: str) -> None:
        """Lists of the non-zero values of each position, from a value stream known to be sparse."""
        stream = self.stream
        size = stream.most
        self.add(
            stages.Compact(
                name=f"{name}.compact",
                cycles=stream.positions * timing.compact_interval(len(stream.layout), size),
                size=size,
                positions=stream.positions,
                signed=stream.signed,
                layout=stream.layout,
            ),
            replace(stream, layout=(), entries=size),
        )


def _apart(window: stages.Window) -> bool:
    """Whether the windows of a pool lie side by side, each inside the map."""
    inside = all(
        size * part <= extent for size, part, extent in zip(window.size, window.kernel, window.map, strict=True)
    )
    return window.kernel == window.stride and window.padding == (0, 0) and window.dilation == (1, 1) and inside


@dataclass(frozen=True)
class Step:
    """A layer with the tensors on both its sides."""

    layer: Layer
    before: Tensor
    after: Tensor


def can_list(steps: Sequence[Step], following: Linear | Conv2d | None, stream: Stream) -> bool:
    """Whether the stream that reaches `following` can be lists; `stream` is the one behind `steps`, as values."""
    if following is None or not steps:
        return False
    last = _last_winners(steps)
    if last is None or last.local or stream.positions == 1:
        return stream.most < stream.channels and (stream.channels <= REGISTER_WINNERS or last is not None)
    if isinstance(following, Linear):
        return stream.most_word < stream.channels * stream.positions
    return stream.most < stream.channels <= REGISTER_WINNERS


def can_list_whole(steps: Sequence[Step], following: Linear | Conv2d | None, stream: Stream) -> bool:
    """Whether the stream that reaches `following` can be whole lists: straight behind a local k-WTA of a map."""
    last = _last_winners(steps)
    return (
        isinstance(following, Conv2d)
        and last is not None
        and (last.local or stream.positions == 1)
        and stream.most < stream.channels <= REGISTER_WINNERS
    )


def can_scatter(steps: Sequence[Step], following: Linear | Conv2d | None, stream: Stream) -> bool:
    """Whether `following` can start from the winners of the whole map; `stream` is the one behind `steps`, as values."""
    last = _last_winners(steps)
    return (
        isinstance(following, Conv2d)
        and last is not None
        and not last.local
        and stream.positions > 1
        and stream.most_word < stream.channels * stream.positions
    )


def _last_winners(steps: Sequence[Step]) -> KWinners | None:
    for step in reversed(steps):
        if not isinstance(step.layer, Flatten):
            return step.layer if isinstance(step.layer, KWinners) else None
    return None


def follow(
    chain: Chain, steps: Sequence[Step], following: Linear | Conv2d | None, form: Form, widths: int = 1
) -> list[Chain]:
    """Adds the stages of `steps`, every stream as narrow as the limit allows; raises TooSlow where none will do.

    Args:
        chain: what stands before them; not changed.
        steps: up to the next MAC layer.
        following: that layer, if there is one.
        form: in which the stream shall reach it.
        widths: how many are tried of each stream, from the narrowest that keeps up.
    """
    first = next((index for index, step in enumerate(steps) if isinstance(step.layer, Requantise)), len(steps))
    if chain.bias_of is None:
        first = 0

    def through(lanes: int) -> list[Chain]:
        head = replace(chain, stages=list(chain.stages))
        head.narrow(chain.bias_of or "input", lanes)
        _through(head, steps[:first], None, "values")
        return _tails(head, steps[first:], following, form, widths)

    return _narrowest(chain.stream.lanes, through, widths)


def _tails(head: Chain, steps: Sequence[Step], following, form: Form, widths: int) -> list[Chain]:
    def through(lanes: int) -> list[Chain]:
        tail = replace(head, stages=list(head.stages))
        if steps or following is not None:
            tail.narrow(tail.bias_of or "input", lanes)
        _through(tail, steps, following, form)
        if drain_beats(tail.stages) > tail.drained_within:
            raise TooSlow(f"layer {tail.bias_of or 'input'!r}: its results leave on too narrow a stream")
        return [tail]

    if any(_in_memory(step) for step in steps) and not _emits_entries(steps, following, form):
        return through(1)
    return _narrowest(head.stream.lanes, through, widths)


def _narrowest(lanes: int, through: Callable[[int], list[Chain]], widths: int) -> list[Chain]:
    """What comes of the narrowest streams that keep up, so many of them; raises TooSlow where none does."""
    found: list[list[Chain]] = []
    problem: PlanError = TooSlow("no width of stream keeps up")
    for parts in distinct_parts(lanes):
        try:
            found.append(through(parts))
        except TooSlow as error:
            problem = error
        if len(found) == widths:
            break
    if not found:
        raise problem
    return [chain for chains in found for chain in chains]


def drain_beats(following: Sequence[Stage]) -> int:
    """Beats a word of the stream behind the Narrow stages that directly follow an engine; 0 where there are none."""
    narrow = itertools.takewhile(lambda stage: stage.kind == "narrow", following)
    return max((stage.cycles for stage in narrow), default=0)


def _in_memory(step: Step) -> bool:
    """Whether the layer is a k-WTA whose values surely go to a memory, which takes one value a beat."""
    channels, height, width = step.before.map_shape
    is_global = isinstance(step.layer, KWinners) and not step.layer.local
    return is_global and (height * width > 1 or channels > REGISTER_WINNERS)


def _emits_entries(steps: Sequence[Step], following, form: Form) -> bool:
    """Whether the last k-WTA before `following` leaves as entries."""
    winners = _last_winners(steps)
    return winners is not None and (
        form in ("word list", "whole lists")
        or (form == "lists" and (winners.local or chain_positions(steps) == 1 or isinstance(following, Linear)))
    )


def _through(chain: Chain, steps: Sequence[Step], following, form: Form) -> None:
    winners = _last_winners(steps) if _emits_entries(steps, following, form) else None
    for step in steps:
        emit = ("lists" if form == "whole lists" else "entries") if step.layer is winners else "values"
        chain.run(step.layer, step.after, emit)
    if form != "values" and chain.stream.entries is None:
        chain.compact(steps[-1].layer.name)
    if chain.stream.entries is None and chain.stream.beats > chain.limit:
        name = steps[-1].layer.name if steps else chain.bias_of or "input"
        raise TooSlow(
            f"layer {name!r}: {chain.stream.beats} beats a word are more than the {chain.limit} cycles asked for"
        )


def chain_positions(steps: Sequence[Step]) -> int:
    """Positions of the map behind the last layer that is not a Flatten."""
    for step in reversed(steps):
        if not isinstance(step.layer, Flatten):
            _, height, width = step.after.map_shape
            return height * width
    return 1
