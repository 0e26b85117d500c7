"""Rows of results, and how the results of a group leave while those of others come."""

from __future__ import annotations

from typing import Protocol

from amaranth.hdl import Module, Mux, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams


class Banked(Protocol):
    """What has finished banks and lets them leave kernel by kernel."""

    banks: int
    kernels: int
    returned: Signal


def drain_banks(
    m: Module, of: Banked, done: Signal, bank: Signal, drained: Signal, kernel: Signal
) -> tuple[Signal, Signal]:
    """Counts the banks: `bank` is being filled, and kernel `kernel` of `drained` is to leave next.

    Args:
        done: strobe: `bank` is full.

    Returns:
        `advance`, to be driven: the place behind the banks is free; `take`: a kernel goes there.
    """
    waiting, advance, take = Signal(range(of.banks + 1)), Signal(), Signal()
    last_kernel = kernel == of.kernels - 1
    m.d.comb += [take.eq(advance & (waiting != 0)), of.returned.eq(take & last_kernel)]
    m.d.sync += waiting.eq(waiting + done - of.returned)
    with m.If(done):
        m.d.sync += bank.eq(Mux(bank == of.banks - 1, 0, bank + 1))
    with m.If(take):
        m.d.sync += kernel.eq(Mux(last_kernel, 0, kernel + 1))
        with m.If(last_kernel):
            m.d.sync += drained.eq(Mux(drained == of.banks - 1, 0, drained + 1))
    return advance, take


class ResultBanks(wiring.Component):
    """A row of memory for the results of each group: beat 0 of a group carries it, all others carry zeros.

    For complementary sets of several kernels of which only the first has weights, or of one.

    Arguments:
        shape: of a result.
        sets: results a row.
        kernels: beats a group.
        banks: rows.

    Members:
        done: strobe: `row` holds a group's results.
        row: a result of each set.
        y: value stream, `sets` lanes, `kernels` beats a group.
        returned: strobe: a bank has been read to its end.

    Latency: from `done` to a group's first beat 2 cycles. Initiation interval: `kernels` cycles a group, as long as there
    are banks enough.
    """

    LATENCY = 2

    def __init__(self, shape: Shape, *, sets: int, kernels: int, banks: int):
        for name, value in (("sets", sets), ("kernels", kernels), ("banks", banks)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        self.sets, self.kernels, self.banks = sets, kernels, banks
        super().__init__(
            {
                "done": In(1),
                "row": In(shape.width * sets),
                "y": Out(streams.values(shape, sets)),
                "returned": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bank, drained, kernel = Signal(range(self.banks)), Signal(range(self.banks)), Signal(range(self.kernels))
        advance, take = drain_banks(m, self, self.done, bank, drained, kernel)
        # Kernels without weights leave as a last row that nobody writes: a multiplexer would cost a LUT a bit.
        results = Memory(shape=len(self.row), depth=self.banks + (self.kernels > 1), init=[])
        m.submodules.results = results
        write, read = results.write_port(), results.read_port(domain="comb")
        leaving, valid = Signal(len(self.row)), Signal()
        m.d.comb += [
            write.addr.eq(bank),
            write.en.eq(self.done),
            write.data.eq(self.row),
            read.addr.eq(Mux(kernel == 0, drained, self.banks)),
            # Whole rows: an assignment to a lane takes time in proportion to the row.
            self.y.payload.as_value().eq(leaving),
            self.y.valid.eq(valid),
            advance.eq(self.y.ready | ~valid),
        ]
        with m.If(advance):
            m.d.sync += [leaving.eq(read.data), valid.eq(take)]
        return m
