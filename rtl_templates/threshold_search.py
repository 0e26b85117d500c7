"""The k-th largest value of each word, by a histogram."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.constant_table import ConstantTable
from rtl_templates.layouts import channel_count, checked
from rtl_templates.registered_histogram import RegisteredHistogram
from rtl_templates.streams import Layout


def rank(value: Value, shape: Shape) -> Value:
    """Unsigned, in the values' order."""
    return value.as_unsigned() ^ C(1 << (shape.width - 1), shape.width) if shape.signed else value


def threshold(shape: Shape, k: int) -> data.StructLayout:
    """The rank of the k-th largest value of a word, and how many of the values equal to it are among the k."""
    return data.StructLayout({"rank": shape.width, "ties": range(k + 1)})


class ThresholdSearch(wiring.Component):
    """Finds the k-th largest value of each word.

    Every lane counts its values in a histogram of its own. When the word is complete their sums are scanned from the
    top, and cleared, while the next word is counted in other histograms.

    Arguments:
        layout: of the stream x.
        positions: of a word.
        shape: of a value, signed or unsigned.
        k: winners, at most the values of a word.

    Members:
        x: value stream.
        y: stream of thresholds, one a word.

    Latency: `rtl_templates.timing.threshold_interval` + 1 cycles from a word's last beat. Initiation interval: a word in
    its beats, or in `threshold_interval` cycles where that is more. After reset the histograms are cleared, one cycle a bin, before the first beat is accepted.
    """

    def __init__(self, layout: Layout, positions: int, shape: Shape, k: int):
        self._layout = checked(layout)
        self._positions, self._shape, self._k = positions, shape, k
        super().__init__(
            {
                "x": In(streams.values(shape, len(self._layout[0]))),
                "y": Out(stream.Signature(threshold(shape, k))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes, bits = len(self._layout[0]), self._shape.width
        full, fill_bank, scan_bank = Signal(2), Signal(), Signal()
        clearing = Signal(init=1)

        # Filling: a beat, registered, and which of its lanes carry a channel.
        beat, position = Signal(range(len(self._layout))), Signal(range(self._positions))
        accept, accepted, accepted_bank = Signal(), Signal(), Signal()
        values = Signal.like(self.x.payload)
        carried = Signal(lanes)
        if channel_count(self._layout) == lanes * len(self._layout):
            m.d.comb += carried.eq(C(-1, lanes))
        else:
            m.submodules.carries = carries = ConstantTable([[int(c != -1) for c in row] for row in self._layout])
            m.d.comb += [
                carries.row.eq(beat),
                carries.enable.eq(1),
                carried.eq(Cat(carries.constants[lane] for lane in range(lanes))),
            ]
        m.d.comb += [
            self.x.ready.eq(~clearing & ~full.bit_select(fill_bank, 1)),
            accept.eq(self.x.valid & self.x.ready),
        ]
        m.d.sync += [accepted.eq(accept), accepted_bank.eq(fill_bank), values.eq(self.x.payload)]
        with m.If(accept):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == len(self._layout) - 1):
                m.d.sync += [beat.eq(0), position.eq(position + 1)]
                with m.If(position == self._positions - 1):
                    m.d.sync += [position.eq(0), fill_bank.eq(~fill_bank), full.bit_select(fill_bank, 1).eq(1)]

        scan, scan_bin = Signal(), Signal(bits)
        # A lane carries at most one value a beat.
        largest = len(self._layout) * self._positions
        counts = []
        for lane in range(lanes):
            banks = []
            for bank in range(2):
                histogram = RegisteredHistogram(bits, largest)
                m.submodules[f"histogram_{lane}_{bank}"] = histogram
                m.d.comb += [
                    histogram.count.eq(accepted & (accepted_bank == bank) & carried[lane]),
                    histogram.count_bin.eq(rank(values[lane], self._shape)),
                    histogram.scan.eq(scan & (clearing | (scan_bank == bank))),
                    histogram.scan_bin.eq(scan_bin),
                ]
                banks.append(histogram.counts)
            count = Signal.like(banks[0], name=f"count_{lane}")
            m.d.sync += count.eq(Mux(scan_bank, banks[1], banks[0]))
            counts.append(count)
        levels = 0
        while len(counts) > 1:
            pairs = [Signal(len(counts[0]) + 1, name=f"sum_{levels}_{i}") for i in range(-(-len(counts) // 2))]
            m.d.sync += [pair.eq(sum(counts[2 * i : 2 * i + 2])) for i, pair in enumerate(pairs)]
            counts, levels = pairs, levels + 1
        delay = RegisteredHistogram.LATENCY + 1 + levels
        assert delay == timing.threshold_delay(lanes)

        # Scanning: a bin a cycle from the top, whose counts come `delay` cycles later, for `missing` winners.
        step, scanned = Signal(range((1 << bits) + delay + 1)), Signal(delay)
        scanned_bin, found, missing = Signal(bits), Signal(), Signal(range(self._k + 1))
        m.d.comb += scan_bin.eq(~step[:bits])
        m.d.sync += scanned.eq((scanned << 1) | scan)
        with m.If(scanned[-1]):
            m.d.sync += scanned_bin.eq(scanned_bin - 1)
            with m.If(~found):
                with m.If(counts[0] >= missing):
                    m.d.sync += [found.eq(1), self.y.payload.rank.eq(scanned_bin), self.y.payload.ties.eq(missing)]
                with m.Else():
                    m.d.sync += missing.eq(missing - counts[0])
        with m.If(self.y.ready):
            m.d.sync += self.y.valid.eq(0)
        m.d.sync += step.eq(step + 1)
        with m.FSM():
            with m.State("clear"):
                m.d.comb += scan.eq(~step[bits])
                with m.If(step == (1 << bits) + delay):
                    m.d.sync += clearing.eq(0)
                    m.next = "wait"
            with m.State("wait"):
                m.d.sync += [step.eq(0), scanned_bin.eq((1 << bits) - 1), found.eq(0), missing.eq(self._k)]
                with m.If(full.bit_select(scan_bank, 1)):
                    m.next = "settle"
            # The word's last counts are still to be written, and its threshold needs a place.
            with m.State("settle"), m.If((step >= RegisteredHistogram.LATENCY) & ~self.y.valid):
                m.d.sync += step.eq(0)
                m.next = "scan"
            with m.State("scan"):
                m.d.comb += scan.eq(~step[bits])
                with m.If(step == (1 << bits) + delay):
                    m.d.sync += [
                        self.y.valid.eq(1),
                        full.bit_select(scan_bank, 1).eq(0),
                        scan_bank.eq(~scan_bank),
                    ]
                    m.next = "wait"
        return m
