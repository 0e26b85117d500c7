"""k-WTA over the values of each position."""

from __future__ import annotations

from amaranth import Module, Mux, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.beat_emitter import BeatEmitter
from rtl_templates.entry_emitter import EntryEmitter
from rtl_templates.layouts import channel_count, checked
from rtl_templates.position_loader import PositionLoader
from rtl_templates.radix_search import RadixSearch, SearchStart
from rtl_templates.streams import Layout


class LocalWinners(wiring.Component):
    """Keeps exactly the k largest values of each position; ties go to the lowest torch index.

        x --> PositionLoader --> RadixSearch x stages --> BeatEmitter or EntryEmitter --> y

    The parts work on successive positions at once.

    Arguments:
        layout: of the stream x.
        shape: of a value, signed or unsigned.
        k: winners; with k of at least the number of channels all win.
        emit: "values" for the same beats with losers zeroed (lanes that carry nothing are 0 too); "entries" for
            min(k, channels) entries a position, those above the k-th largest value by increasing index and then those
            equal to it by increasing index.
        stages: search units in a row; each costs registers for a whole position and shortens the interval.

    Members:
        x: value stream.
        y: value stream of the same layout, or list stream.

    Latency: from a position's last beat to the first of its output, see `rtl_templates.timing.local_latency`.
    Initiation interval: see `rtl_templates.timing.interval`.
    """

    def __init__(self, layout: Layout, shape: Shape, k: int, emit: str = "values", stages: int = 1):
        self._layout = checked(layout)
        self._channels = channel_count(self._layout)
        if emit not in ("values", "entries"):
            raise ValueError(f"emit must be 'values' or 'entries', not {emit!r}")
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k!r}")
        self._steps = timing.search_steps(self._channels, emit, shape.width)
        if not 1 <= stages <= self._steps:
            raise ValueError(f"stages must be 1 to {self._steps}, the number of steps, not {stages!r}")
        self._shape, self._k, self._emit, self._stages = shape, min(k, self._channels), emit, stages
        values = streams.values(shape, len(self._layout[0]))
        super().__init__(
            {"x": In(values), "y": Out(values if emit == "values" else streams.entries(shape, self._channels))}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.loader = loader = PositionLoader(self._layout, self._shape)
        m.submodules.start = start = SearchStart(self._shape, self._channels, self._k)
        wiring.connect(m, wiring.flipped(self.x), loader.x)
        wiring.connect(m, loader.y, start.x)
        state = start.y
        for number, (first, last) in enumerate(timing.search_ranges(self._steps, self._stages)):
            search = RadixSearch(self._shape, self._channels, self._k, self._steps, first, last)
            m.submodules[f"search_{number}"] = search
            wiring.connect(m, state, search.x)
            state = search.y

        found = state.payload
        if self._emit == "values":
            m.submodules.emitter = values_emitter = BeatEmitter(self._layout, self._shape)
            winners = Signal(self._channels)
            m.d.comb += winners.eq(found.above | found.alive)
            m.d.comb += [
                values_emitter.x.payload[c].eq(Mux(winners[c], found.values[c], 0)) for c in range(self._channels)
            ]
            emitter: BeatEmitter | EntryEmitter = values_emitter
        else:
            m.submodules.emitter = entries_emitter = EntryEmitter(self._shape, self._channels, self._k)
            marked = entries_emitter.x.payload
            m.d.comb += [marked.first.eq(found.above), marked.first_count.eq(found.found), marked.then.eq(found.alive)]
            m.d.comb += [marked.values[c].eq(found.values[c]) for c in range(self._channels)]
            emitter = entries_emitter
        m.d.comb += [emitter.x.valid.eq(state.valid), state.ready.eq(emitter.x.ready)]
        wiring.connect(m, emitter.y, wiring.flipped(self.y))
        return m
