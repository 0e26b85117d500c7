"""k-WTA over the values of each position."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Cat, Module, Mux, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.beat_emitter import BeatEmitter
from rtl_templates.entry_emitter import EntryEmitter, marked
from rtl_templates.layouts import channel_count, checked
from rtl_templates.list_gatherer import ListGatherer
from rtl_templates.position_loader import PositionLoader
from rtl_templates.radix_search import RadixSearch
from rtl_templates.streams import Layout
from rtl_templates.trees import any_of


class LocalWinners(wiring.Component):
    """Keeps exactly the k largest values of each position; ties go to the lowest torch index.

        x --> PositionLoader --> RadixSearch x stages --> BeatEmitter ----------------------------------> y (values)
                                                    '--> marks --> EntryEmitter ------------------------> y (entries)
                                                           '--> (EntryEmitter --> ListGatherer) x emitters --> y (lists)

    The parts work on successive positions at once.

    Arguments:
        layout: of the stream x.
        shape: of a value, signed or unsigned.
        k: winners; with k of at least the number of channels all win.
        emit: "values" for the same beats with losers zeroed (lanes that carry nothing are 0 too); "entries" for
            min(k, channels) entries a position, those above the k-th largest value by increasing index and then those
            equal to it by increasing index; "lists" for the same entries, all of a position in one beat.
        stages: search units in a row; each costs registers for a whole position and shortens the interval.
        emitters: of lists; they take positions in turn, and each takes a cycle an entry.

    Members:
        x: value stream.
        y: value stream of the same layout, or list stream, or stream of arrays of min(k, channels) entries.

    Latency: from a position's last beat to the first of its output, see `rtl_templates.timing.local_latency`.
    Initiation interval: see `rtl_templates.timing.local_interval`.
    """

    def __init__(self, layout: Layout, shape: Shape, k: int, emit: str = "values", stages: int = 1, emitters: int = 1):
        self._layout = checked(layout)
        self._channels = channel_count(self._layout)
        if emit not in ("values", "entries", "lists"):
            raise ValueError(f"emit must be 'values', 'entries' or 'lists', not {emit!r}")
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k!r}")
        self._steps = timing.search_steps(self._channels, emit, shape.width)
        if not 1 <= stages <= self._steps:
            raise ValueError(f"stages must be 1 to {self._steps}, the number of steps, not {stages!r}")
        self._shape, self._k, self._emit, self._stages = shape, min(k, self._channels), emit, stages
        if emit != "lists" and emitters != 1:
            raise ValueError(f"emitters must be 1, not {emitters!r}: they share lists")
        if not 1 <= emitters <= self._k:
            raise ValueError(f"emitters must be 1 to {self._k}, the entries of a list, not {emitters!r}")
        self._emitters = emitters
        values = streams.values(shape, len(self._layout[0]))
        y = {
            "values": values,
            "entries": streams.entries(shape, self._channels),
            "lists": stream.Signature(data.ArrayLayout(streams.entry(shape, self._channels), self._k)),
        }
        super().__init__({"x": In(values), "y": Out(y[emit])})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.loader = loader = PositionLoader(self._layout, self._shape)
        wiring.connect(m, wiring.flipped(self.x), loader.x)
        searches = [
            RadixSearch(self._shape, self._channels, self._k, self._steps, first, last)
            for first, last in timing.search_ranges(self._steps, self._stages)
        ]
        m.submodules += searches
        m.d.comb += [
            searches[0].x.valid.eq(loader.y.valid),
            searches[0].x.payload.values.as_value().eq(loader.y.payload.as_value()),
            loader.y.ready.eq(searches[0].x.ready),
        ]
        for before, behind in pairwise(searches):
            wiring.connect(m, before.y, behind.x)
        state = searches[-1].y
        if self._emit == "values":
            self._emit_values(m, state)
        else:
            self._emit_entries(m, state)
        return m

    def _emit_values(self, m: Module, state) -> None:
        m.submodules.emitter = emitter = BeatEmitter(self._layout, self._shape)
        found = state.payload
        winners = Signal(self._channels)
        m.d.comb += [
            winners.eq(found.above | found.alive),
            emitter.x.valid.eq(state.valid),
            state.ready.eq(emitter.x.ready),
        ]
        m.d.comb += [emitter.x.payload[c].eq(Mux(winners[c], found.values[c], 0)) for c in range(self._channels)]
        wiring.connect(m, emitter.y, wiring.flipped(self.y))

    def _emit_entries(self, m: Module, state) -> None:
        # Between the last step and the emitters, both of which have long paths. It takes a position every other cycle
        # at most, so that neither side's ready depends on the other's.
        found = Signal(marked(self._shape, self._channels), reset_less=True)
        found_valid, taken = Signal(), Signal()
        m.d.comb += state.ready.eq(~found_valid)
        with m.If(state.ready):
            m.d.sync += [
                found_valid.eq(state.valid),
                found.values.as_value().eq(state.payload.values.as_value()),
                found.first.eq(state.payload.above),
                found.then.eq(state.payload.alive),
            ]
        with m.If(taken):
            m.d.sync += found_valid.eq(0)

        # All emitters take equally long, a multiple of their number, so that their turns come at equal distances.
        size = self._k + -self._k % self._emitters
        emitters = [EntryEmitter(self._shape, self._channels, size) for _ in range(self._emitters)]
        turn = Signal(self._emitters, init=1)
        m.d.comb += taken.eq(found_valid & (turn & Cat(emitter.x.ready for emitter in emitters)).any())
        with m.If(taken):
            m.d.sync += turn.eq(turn.rotate_left(1))
        for number, emitter in enumerate(emitters):
            m.submodules[f"emitter_{number}"] = emitter
            m.d.comb += [emitter.x.valid.eq(found_valid & turn[number]), emitter.x.payload.eq(found)]
        if self._emit == "entries":
            wiring.connect(m, emitters[0].y, wiring.flipped(self.y))
            return

        gatherers = [
            ListGatherer(self._shape, self._channels, self._k, dropped=size - self._k) for _ in range(self._emitters)
        ]
        for number, (emitter, gatherer) in enumerate(zip(emitters, gatherers, strict=True)):
            m.submodules[f"gatherer_{number}"] = gatherer
            wiring.connect(m, emitter.y, gatherer.x)
        self._in_turn(m, [gatherer.y for gatherer in gatherers])

    def _in_turn(self, m: Module, lists: list) -> None:
        """Lists in the order of their positions."""
        turn = Signal(len(lists), init=1)
        offered = Signal()
        bits = self.y.payload.shape().size
        chosen = [one.payload.as_value() & turn[i].replicate(bits) for i, one in enumerate(lists)]
        m.d.comb += [
            offered.eq((turn & Cat(one.valid for one in lists)).any()),
            self.y.valid.eq(offered),
            self.y.payload.eq(any_of(chosen)),
        ]
        m.d.comb += [one.ready.eq(turn[i] & self.y.ready) for i, one in enumerate(lists)]
        with m.If(offered & self.y.ready):
            m.d.sync += turn.eq(turn.rotate_left(1))
