"""k-WTA over a whole map, on several values a cycle."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.layouts import channel_count, checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.streams import Layout
from rtl_templates.threshold_search import ThresholdSearch
from rtl_templates.trees import any_of
from rtl_templates.winners_reader import WinnersReader


class ParallelGlobalWinners(wiring.Component):
    """Keeps exactly the k largest values of a map; ties go to the lowest torch index.

        x --.--> ThresholdSearch --.
            |                      | thresholds
            '--> WinnersReader <---'
            '--> WinnersReader <---'   x units, in turn --> y

    The search is through with a word about as soon as the word has come; reading it takes a cycle a value, which is why
    several readers share the words.

    Arguments:
        layout: of the stream x; lanes that carry nothing are left out.
        positions: of a word.
        shape: of a value, signed or unsigned.
        k: winners; with k of at least the number of values all win.
        emit: "entries" for min(k, values) entries a word, in torch's order, where an index is
            channel * positions + position; of a vector also "values" for every value, the losers as zeros.
        units: readers, at least 2; each stores two words and two lists.

    Members:
        x: value stream.
        y: list stream, or value stream of one lane.

    Latency: from a word's last beat to its first entry, see `rtl_templates.timing.parallel_global_latency`.
    Initiation interval: a word in `rtl_templates.timing.parallel_global_interval` cycles.
    After reset the histograms are cleared, one cycle a bin, before the first beat is accepted.
    """

    def __init__(self, layout: Layout, positions: int, shape: Shape, k: int, emit: str = "entries", units: int = 2):
        self._layout = checked(layout)
        if positions < 1:
            raise ValueError(f"positions must be at least 1, not {positions!r}")
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k!r}")
        if emit not in ("entries", "values") or (emit == "values" and positions > 1):
            raise ValueError(f"emit must be 'entries', or of one position 'values', not {emit!r}")
        if units < 2:
            raise ValueError(f"units must be at least 2, not {units!r}")
        self._positions, self._shape, self._units = positions, shape, units
        count = channel_count(self._layout) * positions
        self._k, self._values = min(k, count), emit == "values"
        self._entries = count if self._values else self._k
        leaving = streams.values(shape, 1) if self._values else streams.entries(shape, count)
        super().__init__({"x": In(streams.values(shape, len(self._layout[0]))), "y": Out(leaving)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.search = search = ThresholdSearch(self._layout, self._positions, self._shape, self._k)
        readers = [
            WinnersReader(self._layout, self._positions, self._shape, self._k, all_values=self._values)
            for _ in range(self._units)
        ]
        for number, reader in enumerate(readers):
            m.submodules[f"reader_{number}"] = reader

        # A beat goes to the search and to the reader whose turn it is, when both take it.
        filling = self._turn(m, "filling", self.x.valid & self.x.ready, len(self._layout) * self._positions)
        free = Signal()
        m.d.comb += [
            free.eq((filling & Cat(reader.x.ready for reader in readers)).any()),
            self.x.ready.eq(search.x.ready & free),
            search.x.valid.eq(self.x.valid & free),
            search.x.payload.eq(self.x.payload),
        ]
        searching = self._turn(m, "searching", search.y.valid & search.y.ready, 1)
        # Words start at equal distances, also where the readers limit them: else those would bunch.
        pace = timing.reader_interval(channel_count(self._layout) * self._positions, self._units)
        rest = Signal(range(pace))
        with m.If(search.y.valid & search.y.ready):
            m.d.sync += rest.eq(pace - 1)
        with m.Elif(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        due = Signal()
        m.d.comb += [
            due.eq(rest == 0),
            search.y.ready.eq(due & (searching & Cat(reader.threshold.ready for reader in readers)).any()),
        ]
        for number, reader in enumerate(readers):
            m.d.comb += [
                reader.x.valid.eq(self.x.valid & search.x.ready & filling[number]),
                reader.x.payload.eq(self.x.payload),
                reader.threshold.valid.eq(search.y.valid & due & searching[number]),
                reader.threshold.payload.eq(search.y.payload),
            ]

        m.submodules.buffer = buffer = StreamBuffer(self.y.payload.shape())
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        leaving = self._turn(m, "leaving", buffer.x.valid & buffer.x.ready, self._entries)
        taken = [reader.y.payload.value if self._values else reader.y.payload.as_value() for reader in readers]
        entries = [value & leaving[number].replicate(len(value)) for number, value in enumerate(taken)]
        m.d.comb += [
            buffer.x.valid.eq((leaving & Cat(reader.y.valid for reader in readers)).any()),
            buffer.x.payload.eq(any_of(entries)),
        ]
        m.d.comb += [reader.y.ready.eq(leaving[number] & buffer.x.ready) for number, reader in enumerate(readers)]
        return m

    def _turn(self, m: Module, name: str, moved, beats: int) -> Signal:
        """Whose turn it is; after so many beats it is the next one's."""
        turn, beat = Signal(self._units, init=1, name=f"{name}_turn"), Signal(range(beats), name=f"{name}_beat")
        last = beat == beats - 1
        with m.If(moved):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
            with m.If(last):
                m.d.sync += turn.eq(turn.rotate_left(1))
        return turn
