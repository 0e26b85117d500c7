"""Max and sum pooling of maps."""

from __future__ import annotations

from typing import Literal

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.mac_engine import delayed
from rtl_templates.walk import Walk, Walker
from rtl_templates.word_buffer import WordBuffer


class Pool(wiring.Component):
    """The largest value, or the sum, of each window; a fold of the walk is a beat of the position.

    What lies outside the map never wins a maximum and adds nothing to a sum.

    Arguments:
        kind: "max" or "sum".
        shape, result: of the values that come and go; equal for "max".
        lanes, positions, beats: of the stream that comes.
        walk: the schedule, with one reader and `beats` folds.

    Members:
        x, y: value streams of `lanes` values, the same layout.

    Latency: from a word's last beat to its first result `walk.steps` + 6 cycles.
    Initiation interval: `walk.cycles` a word, or the word's beats where there are more.
    """

    # Results that may be under way: a group of one cycle gets its credit back after 7.
    CREDITS = 8

    def __init__(
        self, kind: Literal["max", "sum"], shape, result, *, lanes: int, positions: int, beats: int, walk: Walk
    ):
        if kind not in ("max", "sum"):
            raise ValueError(f"kind must be 'max' or 'sum', not {kind!r}")
        if kind == "max" and shape != result:
            raise ValueError(f"a maximum has the shape of its values, {shape!r}, not {result!r}")
        if walk.readers != 1 or walk.folds != beats:
            raise ValueError(f"the walk must have 1 reader and {beats} folds, not {walk.readers} and {walk.folds}")
        self.kind, self.shape, self.result, self.lanes, self.walk = kind, shape, result, lanes, walk
        self.buffer = WordBuffer(data.ArrayLayout(shape, lanes), positions, beats)
        super().__init__({"x": In(streams.values(shape, lanes)), "y": Out(streams.values(result, lanes))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = self.buffer
        m.submodules.walker = walker = Walker(self.walk, buffer.address_bits, self.CREDITS)
        m.submodules.results = results = SyncFIFOBuffered(width=self.y.payload.shape().size, depth=self.CREDITS)
        wiring.connect(m, wiring.flipped(self.x), buffer.x)
        m.d.comb += [
            walker.available.eq(buffer.available),
            buffer.release.eq(walker.release),
            buffer.address[0].eq(walker.address[0]),
        ]
        valid, first, last, inside = (
            delayed(m, signal, 1, name)
            for signal, name in (
                (walker.valid, "valid"),
                (walker.first, "first"),
                (walker.last, "last"),
                (walker.inside[0], "inside"),
            )
        )
        # Before the first value inside the map there is nothing to compare with.
        seen, empty, finished = Signal(), Signal(), Signal()
        m.d.comb += empty.eq(first | ~seen)
        with m.If(valid):
            m.d.sync += seen.eq(inside | ~empty)
        m.d.sync += finished.eq(valid & last)
        gathered = []
        for lane in range(self.lanes):
            value, best = buffer.data[0][0][lane], Signal(self.result, name=f"best_{lane}")
            if self.kind == "max":
                chosen = Mux(empty | (value > best), value, best)
            else:
                chosen = value + Mux(empty, 0, best)
            with m.If(valid):
                with m.If(inside):
                    m.d.sync += best.eq(chosen)
                if self.kind == "sum":
                    # A window that lies wholly in the padding sums to nothing.
                    with m.Elif(first):
                        m.d.sync += best.eq(0)
            gathered.append(best)
        m.d.comb += [
            results.w_data.eq(Cat(gathered)),
            results.w_en.eq(finished),
            self.y.valid.eq(results.r_rdy),
            self.y.payload.as_value().eq(results.r_data),
            results.r_en.eq(self.y.ready),
            walker.returned.eq(results.r_rdy & self.y.ready),
        ]
        return m
