"""Max and sum pooling of maps while they stream by: windows that touch but do not overlap."""

from __future__ import annotations

from typing import Literal

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.result_fifo import ResultFifo, ram_style

# Beats after which a result can be read back from the memory: the read, its register, the operation, the write.
_ROUND_TRIP = 4


class StreamPool(wiring.Component):
    """The largest value, or the sum, of each window of a map, without a buffer for the map.

    The stride is the kernel, there is no padding; rows and columns that fill no window are dropped. One row of windows
    is under way: its partial results lie in a memory, and what has just been computed but cannot be read yet is handed
    on directly where beats of one window follow each other that closely.

        x --|------------------|--> (max, +) --|--> ResultFifo -> y
            '-> row memory ----|        ^      |
                   ^------------------- | -----'

    Arguments:
        kind: "max" or "sum".
        shape, result: of the values that come and go; equal for "max".
        lanes, beats: of the stream that comes.
        map: (rows, columns) of the map that comes.
        kernel: (rows, columns) of a window.

    Members:
        x, y: value streams of `lanes` values, the same layout.

    Latency: 6 cycles from a window's last beat. Initiation interval: 1 cycle a beat, a word in its beats
    (`timing.stream_pool_interval`).
    """

    LATENCY = 3 + ResultFifo.LATENCY

    def __init__(
        self,
        kind: Literal["max", "sum"],
        shape,
        result,
        *,
        lanes: int,
        beats: int,
        map: tuple[int, int],
        kernel: tuple[int, int],
    ):
        if kind not in ("max", "sum"):
            raise ValueError(f"kind must be 'max' or 'sum', not {kind!r}")
        if kind == "max" and shape != result:
            raise ValueError(f"a maximum has the shape of its values, {shape!r}, not {result!r}")
        for name, value in (("lanes", lanes), ("beats", beats)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        if not all(1 <= size <= extent for size, extent in zip(kernel, map, strict=True)):
            raise ValueError(f"kernel must be (1, 1) to map = {map!r}, not {kernel!r}")
        self.kind, self.shape, self.result, self.lanes = kind, shape, result, lanes
        self.beats, self.map, self.kernel = beats, map, kernel
        super().__init__({"x": In(streams.values(shape, lanes)), "y": Out(streams.values(result, lanes))})

    @property
    def _results(self) -> int:
        """Places for results: a row of windows ends within one row of the map, and may leave during all its rows."""
        row = self.map[1] // self.kernel[1] * self.beats
        return max(16, row - row // self.kernel[0] + self.beats // 2 + self.LATENCY + 2)

    @property
    def _closest(self) -> int:
        """Least number of beats from one of a window to the next of the same channels."""
        in_row, to_next_row = self.beats, (self.map[1] - self.kernel[1] + 1) * self.beats
        return in_row if self.kernel[1] > 1 else to_next_row

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.results = results = ResultFifo(self.y.payload.shape(), self._results)
        wiring.connect(m, results.y, wiring.flipped(self.y))
        accept = Signal()
        m.d.comb += [accept.eq(self.x.valid & results.room), self.x.ready.eq(results.room)]

        # Stage 0: place of the beat; the read of what its window has come to.
        beat = Signal(range(self.beats))
        last_beat = beat == self.beats - 1
        in_row, column, row_inside, last_column, row_ends = self._axis(m, 1, accept & last_beat)
        in_column, _, column_inside, last_row, _ = self._axis(m, 0, accept & last_beat & row_ends)
        inside, address = Signal(), Signal(len(beat) + len(column))
        m.d.comb += [inside.eq(accept & row_inside & column_inside), address.eq(Cat(beat, column))]
        m.d.comb += results.reserve.eq(inside & last_column & last_row)
        with m.If(accept):
            m.d.sync += beat.eq(Mux(last_beat, 0, beat + 1))
        memory = Memory(
            shape=data.ArrayLayout(self.result, self.lanes),
            depth=1 << len(address),
            init=[],
            # Beats that read what is being written take it from the pipeline.
            attrs={"no_rw_check": 1, "ram_style": ram_style(1 << len(address), platform)},
        )
        m.submodules.memory = memory
        reader, writer = memory.read_port(), memory.write_port()
        m.d.comb += [reader.addr.eq(address), reader.en.eq(1)]

        # Stages 1 to 3: memory, operands, result. Index 0 is what enters.
        valid, first, last, at = [inside], [(in_row == 0) & (in_column == 0)], [results.reserve], [address]
        for stage in (1, 2, 3, 4):
            for name, stages in (("valid", valid), ("first", first), ("last", last), ("address", at)):
                register = Signal(len(stages[0]), name=f"{name}_{stage}")
                m.d.sync += register.eq(stages[-1])
                stages.append(register)
        m.d.comb += [
            writer.addr.eq(at[3]),
            writer.en.eq(valid[3]),
            results.write.eq(last[3]),
        ]
        close = self._closest < _ROUND_TRIP
        follows = Signal()
        m.d.sync += follows.eq(valid[2] & (at[1] == at[2]) & ~first[1])
        for lane in range(self.lanes):
            value_1, value_2 = (Signal(self.shape, name=f"value_{stage}_{lane}") for stage in (1, 2))
            stored, before = Signal(self.result, name=f"stored_{lane}"), Signal(self.result, name=f"before_{lane}")
            best, best_before = Signal(self.result, name=f"best_{lane}"), Signal(self.result, name=f"written_{lane}")
            m.d.comb += [stored.eq(reader.data[lane]), writer.data[lane].eq(best), results.data[lane].eq(best)]
            m.d.sync += [value_1.eq(self.x.payload[lane]), value_2.eq(value_1), best_before.eq(best)]
            latest, other = stored, before
            if close:
                latest = Mux(valid[4] & (at[1] == at[4]), best_before, latest)
                latest = Mux(valid[3] & (at[1] == at[3]), best, latest)
                other = Signal(self.result, name=f"other_{lane}")
                m.d.comb += other.eq(Mux(follows, best, before))
            if self.kind == "max":
                # The sign of a difference comes out of its carry chain; a signed comparison takes more logic behind it.
                difference = Signal(signed(self.shape.width + 1), name=f"difference_{lane}")
                m.d.comb += difference.eq(other - value_2)
                m.d.sync += [before.eq(latest), best.eq(Mux(first[2] | difference[-1], value_2, other))]
            else:
                m.d.sync += [before.eq(Mux(first[1], 0, latest)), best.eq(value_2 + other)]
        return m

    def _axis(self, m: Module, axis: int, step):
        """Counters along an axis: place in the window, window, whether it is whole, and the ends of both."""
        extent, size = self.map[axis], self.kernel[axis]
        windows, name = extent // size, ("row", "column")[axis]
        place, window = Signal(range(size), name=f"{name}_in_window"), Signal(range(-(-extent // size)), name=name)
        place_ends = place == size - 1
        ends = (window == (extent - 1) // size) & (place == (extent - 1) % size)
        with m.If(step):
            m.d.sync += place.eq(place + 1)
            with m.If(place_ends):
                m.d.sync += [place.eq(0), window.eq(window + 1)]
            with m.If(ends):
                m.d.sync += [place.eq(0), window.eq(0)]
        return place, window, window != windows, place_ends, ends
