"""How often each value occurred, with a register behind the memory."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for


class RegisteredHistogram(wiring.Component):
    """A memory of counters that is read, added to and written in three cycles. Reading one for a scan clears it.

    Reset does not clear the counters: after it every bin has to be scanned once before the first is counted.

    Arguments:
        bin_bits: of a bin's number.
        largest: count that a bin can reach.

    Members:
        count, count_bin: adds 1 to a bin; not in the same cycle as a scan, nor in the two after.
        scan, scan_bin: reads a bin; not in the same cycle as a count, nor in the two after.
        counts: of the bin that was scanned two cycles before.

    Latency: 2 cycles. Initiation interval: 1 cycle, also on equal bins.
    """

    LATENCY = 2

    def __init__(self, bin_bits: int, largest: int):
        self._bin_bits, self._largest = bin_bits, largest
        super().__init__(
            {
                "count": In(1),
                "count_bin": In(bin_bits),
                "scan": In(1),
                "scan_bin": In(bin_bits),
                "counts": Out(bits_for(largest)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        # What is read while it is written is not used.
        m.submodules.memory = memory = Memory(
            shape=bits_for(self._largest), depth=1 << self._bin_bits, init=[], attrs={"no_rw_check": 1}
        )
        write, read = memory.write_port(), memory.read_port()
        # Of the last three cycles: bins, and whether they were counted.
        bins = [read.addr, *(Signal(self._bin_bits, name=f"bin_{age}") for age in (1, 2, 3))]
        counted = [self.count, *(Signal(name=f"counted_{age}") for age in (1, 2, 3))]
        scanned, written = Signal(2), Signal(memory.shape)
        m.d.sync += [new.eq(old) for old, new in pairwise(bins)]
        m.d.sync += [new.eq(old) for old, new in pairwise(counted)]

        # The count before is still to be written: both add to the same number. The one before that was being written
        # while this one was read.
        follows = Signal()
        m.d.sync += [
            scanned.eq((scanned << 1) | self.scan),
            follows.eq(counted[2] & (bins[1] == bins[2])),
            self.counts.eq(Mux(counted[3] & (bins[1] == bins[3]), written, read.data)),
            written.eq(write.data),
        ]
        m.d.comb += [
            read.addr.eq(Mux(self.scan, self.scan_bin, self.count_bin)),
            write.addr.eq(bins[2]),
            write.en.eq(counted[2] | scanned[1]),
            write.data.eq(Mux(scanned[1], 0, self.counts + Mux(follows, 2, 1))),
        ]
        return m
