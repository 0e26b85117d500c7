"""The stages that follow a MAC engine: what serves each layer that is not a MAC layer, and the stream behind it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from hwgen.errors import PlanError
from hwgen.format.network import Flatten, KWinners, Layer, MaxPool2d, ReLU, Requantise, SumPool2d
from hwgen.format.shapes import Tensor
from hwgen.plan import stages
from hwgen.plan.stages import WORD_GAP, Stage
from hwgen.plan.stream import Stream, narrowed, torch_layout, without_empty
from rtl_templates import timing

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
