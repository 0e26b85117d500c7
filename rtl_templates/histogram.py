"""How often each value occurred."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for


class Histogram(wiring.Component):
    """A memory of counters. Reading one for a scan clears it, in the following cycle.

    Reset does not clear the counters: after it every bin has to be scanned once before the first is counted.

    Arguments:
        bin_bits: of a bin's number.
        largest: count that a bin can reach.

    Members:
        count, count_bin: adds 1 to a bin; not in the same cycle as a scan, nor in the one after.
        scan, scan_bin: reads a bin; not in the same cycle as a count, nor in the one after.
        counts: of the bin that was scanned in the cycle before.

    Latency: 1 cycle. Initiation interval: 1 cycle, also on equal bins.
    """

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
        m.submodules.memory = memory = Memory(shape=bits_for(self._largest), depth=1 << self._bin_bits, init=[])
        write = memory.write_port()
        # Transparent, so that counting one bin in successive cycles reads what was just written.
        read = memory.read_port(transparent_for=(write,))
        counted, scanned, last_bin = Signal(), Signal(), Signal(self._bin_bits)
        m.d.sync += [counted.eq(self.count), scanned.eq(self.scan), last_bin.eq(read.addr)]
        m.d.comb += [
            read.addr.eq(Mux(self.scan, self.scan_bin, self.count_bin)),
            self.counts.eq(read.data),
            write.addr.eq(last_bin),
            write.en.eq(counted | scanned),
            write.data.eq(Mux(scanned, 0, read.data + 1)),
        ]
        return m
