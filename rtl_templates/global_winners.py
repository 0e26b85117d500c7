"""k-WTA over a whole map."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.histogram import Histogram
from rtl_templates.layouts import checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.stream_order import StreamOrder
from rtl_templates.streams import Layout


class GlobalWinners(wiring.Component):
    """Keeps exactly the k largest values of a map; ties go to the lowest torch index.

    A word is written to one of two banks, at its torch indices, while a histogram of its values is made. Once it is
    complete, the histogram is scanned from the top, and cleared, for the k-th largest value and for how many of those
    equal to it win. Then the values are read in torch's order. For "entries" that emits the winners. For "values" it
    finds the index of the last tie that wins, and a second reading, in the stream's order, emits. The next word is
    filled into the other bank meanwhile.

    Arguments:
        layout: of the stream x, one lane, no beat without a channel.
        positions: of a word.
        shape: of a value, signed or unsigned.
        k: winners; with k of at least the number of values all win.
        emit: "values" for the same beats with losers zeroed; "entries" for min(k, values) entries a word, in torch's
            order, where an index is channel * positions + position.

    Members:
        x: value stream.
        y: value stream of the same layout, or list stream.

    Latency: two words and more. Initiation interval: a word in `rtl_templates.timing.global_interval` cycles.
    After reset the histograms are cleared, one cycle a bin, before the first beat is accepted.
    """

    def __init__(self, layout: Layout, positions: int, shape: Shape, k: int, emit: str = "values"):
        self._layout = checked(layout)
        if len(self._layout[0]) != 1 or any(row == (-1,) for row in self._layout):
            raise ValueError(f"layout must have one lane and a channel in every beat, not {layout!r}")
        if positions < 1:
            raise ValueError(f"positions must be at least 1, not {positions!r}")
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k!r}")
        if emit not in ("values", "entries"):
            raise ValueError(f"emit must be 'values' or 'entries', not {emit!r}")
        self._positions, self._shape, self._emit = positions, shape, emit
        self._count = len(self._layout) * positions
        self._k = min(k, self._count)
        values = streams.values(shape, 1)
        super().__init__(
            {"x": In(values), "y": Out(values if emit == "values" else streams.entries(shape, self._count))}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bins = 1 << self._shape.width
        full, fill_bank, work_bank = Signal(2), Signal(), Signal()
        clearing = Signal(init=1)

        filled = Signal(range(self._count))
        accept, fill_ends = Signal(), Signal()
        value = self.x.payload[0]
        m.submodules.fill_order = fill_order = StreamOrder(self._layout, self._positions)
        m.d.comb += [
            self.x.ready.eq(~clearing & ~full.bit_select(fill_bank, 1) & fill_order.y.valid),
            accept.eq(self.x.valid & self.x.ready),
            fill_order.y.ready.eq(accept),
            fill_ends.eq(accept & (filled == self._count - 1)),
        ]
        with m.If(accept):
            m.d.sync += filled.eq(Mux(fill_ends, 0, filled + 1))
        with m.If(fill_ends):
            m.d.sync += [fill_bank.eq(~fill_bank), full.bit_select(fill_bank, 1).eq(1)]

        m.submodules.buffer = buffer = StreamBuffer(self.y.payload.shape())
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        advance = buffer.x.ready

        scan, scan_bin = Signal(), Signal(self._shape.width)
        address = Signal(range(self._count))
        counts_of, value_of = [], []
        for bank in range(2):
            histogram = Histogram(self._shape.width, self._count)
            # A bank is never written and read at once.
            memory = Memory(shape=self._shape, depth=self._count, init=[], attrs={"no_rw_check": 1})
            m.submodules[f"histogram_{bank}"], m.submodules[f"values_{bank}"] = histogram, memory
            write, read = memory.write_port(), memory.read_port()
            fills = accept & (fill_bank == bank)
            m.d.comb += [
                histogram.count.eq(fills),
                histogram.count_bin.eq(self._rank(value)),
                histogram.scan.eq(scan & (clearing | (work_bank == bank))),
                histogram.scan_bin.eq(scan_bin),
                write.en.eq(fills),
                write.addr.eq(fill_order.y.payload),
                write.data.eq(value),
                read.en.eq(advance),
                read.addr.eq(address),
            ]
            counts_of.append(histogram.counts)
            value_of.append(read.data)
        bin_count, read_value = Signal(range(self._count + 1)), Signal(self._shape)
        m.d.comb += [
            bin_count.eq(Mux(work_bank, counts_of[1], counts_of[0])),
            read_value.eq(Mux(work_bank, value_of[1], value_of[0])),
        ]

        # Reading: address, then value, then its comparison with the threshold.
        threshold = Signal(self._shape.width)
        issue, valid = Signal(), Signal(2)
        index, index_before = Signal(range(self._count)), Signal(range(self._count))
        candidate, above, tie = Signal(self._shape), Signal(), Signal()
        with m.If(advance):
            m.d.sync += [
                valid.eq(Cat(issue, valid[0])),
                index_before.eq(address),
                index.eq(index_before),
                candidate.eq(read_value),
                above.eq(self._rank(read_value) > threshold),
                tie.eq(self._rank(read_value) == threshold),
            ]

        step = Signal(range(max(bins, self._count + 1) + 1))
        scanned, scanned_bin, found = Signal(), Signal(self._shape.width), Signal()
        # Winners among those equal to the threshold that are still to be found; more than 0 when the scan has ended.
        missing, last_tie = Signal(range(self._k + 1)), Signal(range(self._count))
        torch_order, stream_order, ends = Signal(), Signal(), Signal()
        tie_wins = Signal()
        m.d.comb += [
            scan_bin.eq(~step),
            tie_wins.eq(Mux(torch_order, missing != 0, index <= last_tie)),
            issue.eq((torch_order | stream_order) & (step < self._count)),
            ends.eq(advance & (step == self._count + 1)),
        ]
        m.d.sync += [scanned.eq(scan), scanned_bin.eq(scan_bin)]
        with m.FSM():
            with m.State("clear"):
                m.d.comb += scan.eq(1)
                m.d.sync += step.eq(step + 1)
                with m.If(step == bins - 1):
                    m.next = "cleared"
            with m.State("cleared"):
                m.d.sync += clearing.eq(0)
                m.next = "wait"
            with m.State("wait"):
                m.d.sync += [step.eq(0), found.eq(0), missing.eq(self._k)]
                with m.If(full.bit_select(work_bank, 1)):
                    m.next = "scan"
            with m.State("scan"):
                m.d.comb += scan.eq(step != bins)
                m.d.sync += step.eq(step + 1)
                with m.If(scanned & ~found):
                    with m.If(bin_count >= missing):
                        m.d.sync += [found.eq(1), threshold.eq(scanned_bin)]
                    with m.Else():
                        m.d.sync += missing.eq(missing - bin_count)
                with m.If(step == bins):
                    m.d.sync += step.eq(0)
                    m.next = "torch order"
            with m.State("torch order"):
                m.d.comb += [torch_order.eq(1), address.eq(step)]
                with m.If(advance):
                    m.d.sync += step.eq(step + 1)
                    with m.If(valid[1] & tie & tie_wins):
                        m.d.sync += [missing.eq(missing - 1), last_tie.eq(index)]
                with m.If(ends):
                    if self._emit == "values":
                        m.d.sync += step.eq(0)
                        m.next = "stream order"
                    else:
                        m.d.sync += [full.bit_select(work_bank, 1).eq(0), work_bank.eq(~work_bank)]
                        m.next = "wait"
            if self._emit == "values":
                # Offers an index in every cycle: it had all the scan to begin.
                m.submodules.emit_order = emit_order = StreamOrder(self._layout, self._positions)
                m.d.comb += emit_order.y.ready.eq(stream_order & issue & advance)
                with m.State("stream order"):
                    m.d.comb += [stream_order.eq(1), address.eq(emit_order.y.payload)]
                    with m.If(advance):
                        m.d.sync += step.eq(step + 1)
                    with m.If(ends):
                        m.d.sync += [full.bit_select(work_bank, 1).eq(0), work_bank.eq(~work_bank)]
                        m.next = "wait"

        wins = above | (tie & tie_wins)
        if self._emit == "values":
            m.d.comb += [
                buffer.x.valid.eq(valid[1] & stream_order),
                buffer.x.payload[0].eq(Mux(wins, candidate, 0)),
            ]
        else:
            # Each winner waits for the next, the last for the end of the reading: so a word's last entry comes at the
            # same time wherever it lies, and words follow each other at an interval that does not depend on data.
            held, holding, flush, winner = Signal(self.y.payload.shape()), Signal(), Signal(), Signal()
            m.d.comb += [
                winner.eq(valid[1] & wins),
                buffer.x.valid.eq(holding & (winner | flush)),
                buffer.x.payload.eq(held),
            ]
            with m.If(advance):
                m.d.sync += flush.eq(ends)
                with m.If(winner):
                    m.d.sync += [holding.eq(1), held.index.eq(index), held.value.eq(candidate)]
                with m.Elif(flush):
                    m.d.sync += holding.eq(0)
        return m

    def _rank(self, value: Value) -> Value:
        """Unsigned, in the values' order."""
        width = self._shape.width
        return value.as_unsigned() ^ C(1 << (width - 1), width) if self._shape.signed else value
