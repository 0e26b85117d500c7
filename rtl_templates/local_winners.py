"""k-WTA over the values of each position."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.beat_emitter import BeatEmitter
from rtl_templates.entry_emitter import EntryEmitter
from rtl_templates.layouts import channel_count, checked
from rtl_templates.list_gatherer import ListGatherer
from rtl_templates.position_loader import PositionLoader
from rtl_templates.radix_search import RadixSearch
from rtl_templates.streams import Layout
from rtl_templates.trees import any_of


class LocalWinners(wiring.Component):
    """Keeps exactly the k largest values of each position; ties go to the lowest torch index.

        x --> PositionLoader --> RadixSearch --> marks --> BeatEmitter -------------------------------> y (values)
                                                      '--> EntryEmitter ------------------------------> y (entries)
                                                      '--> (EntryEmitter --> ListGatherer) x emitters --> y (lists)

    The parts work on successive positions at once. The values wait in the emitters' memories.

    Arguments:
        layout: of the stream x.
        shape: of a value, signed or unsigned.
        k: winners; with k of at least the number of channels all win.
        emit: "values" for the same beats with losers zeroed (lanes that carry nothing are 0 too); "entries" for
            min(k, channels) entries a position, those above the k-th largest value by increasing index and then those
            equal to it by increasing index; "lists" for the same entries, all of a position in one beat.
        stages: search units in a row; each costs registers for marks of a whole position and shortens the interval.
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
        m.submodules.search = search = RadixSearch(self._shape, self._channels, self._k, self._steps, self._stages)
        wiring.connect(m, wiring.flipped(self.x), loader.x)
        wiring.connect(m, loader.y, search.x)
        # All emitters take equally long, a multiple of their number, so that their turns come at equal distances.
        size = self._k + -self._k % self._emitters
        ahead = timing.local_positions(self._stages, self._emitters)
        if self._emit == "values":
            emitters = [BeatEmitter(self._layout, self._shape, ahead)]
        else:
            emitters = [EntryEmitter(self._layout, self._shape, size, ahead) for _ in range(self._emitters)]
        m.submodules += emitters
        self._distribute(m, search.y, emitters)
        if self._emit != "lists":
            wiring.connect(m, emitters[0].y, wiring.flipped(self.y))
            return m

        gatherers = [
            ListGatherer(self._shape, self._channels, self._k, dropped=size - self._k) for _ in range(self._emitters)
        ]
        for number, (emitter, gatherer) in enumerate(zip(emitters, gatherers, strict=True)):
            m.submodules[f"gatherer_{number}"] = gatherer
            wiring.connect(m, emitter.y, gatherer.x)
        self._in_turn(m, [gatherer.y for gatherer in gatherers])
        return m

    def _distribute(self, m: Module, found, emitters: list) -> None:
        """Positions to the emitters in turn: their beats when they come, their marks when they are found."""
        stored, last = Signal(), Signal()
        m.d.comb += stored.eq(self.x.valid & self.x.ready)
        beat = Signal(range(len(self._layout)))
        m.d.comb += last.eq(beat == len(self._layout) - 1)
        with m.If(stored):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
        storing = self._turn(m, "storing", stored & last)
        taking = self._turn(m, "taking", found.valid & found.ready)
        m.d.comb += found.ready.eq((taking & Cat(emitter.x.ready for emitter in emitters)).any())
        for number, emitter in enumerate(emitters):
            m.d.comb += [
                emitter.write.eq(stored & storing[number]),
                emitter.values.eq(self.x.payload),
                emitter.x.valid.eq(found.valid & taking[number]),
            ]
            if self._emit == "values":
                m.d.comb += emitter.x.payload.eq(found.payload.above | found.payload.alive)
            else:
                m.d.comb += [
                    emitter.x.payload.first.eq(found.payload.above),
                    emitter.x.payload.then.eq(found.payload.alive),
                ]

    def _in_turn(self, m: Module, lists: list) -> None:
        """Lists in the order of their positions."""
        offered = Signal()
        turn = self._turn(m, "leaving", offered & self.y.ready)
        bits = self.y.payload.shape().size
        chosen = [one.payload.as_value() & turn[i].replicate(bits) for i, one in enumerate(lists)]
        m.d.comb += [
            offered.eq((turn & Cat(one.valid for one in lists)).any()),
            self.y.valid.eq(offered),
            self.y.payload.eq(any_of(chosen)),
        ]
        m.d.comb += [one.ready.eq(turn[i] & self.y.ready) for i, one in enumerate(lists)]

    def _turn(self, m: Module, name: str, moved: Value) -> Signal:
        """Which emitter's turn it is, a bit each; the next one's after `moved`."""
        turn = Signal(self._emitters, init=1, name=f"{name}_turn")
        with m.If(moved):
            m.d.sync += turn.eq(turn.rotate_left(1))
        return turn
