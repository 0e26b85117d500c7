"""A serial line, 8 data bits, no parity, one stop bit: the host's end of it is any USB adapter."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from hwgen.errors import PlanError

# What USB adapters make exactly, fastest first.
RATES = (3_000_000, 2_000_000, 1_500_000, 1_000_000, 500_000, 115_200)
# Of either end's bit time; a receiver samples the stop bit 9.5 bit times after the edge that it started from.
TOLERANCE = 0.02
FRAME_BITS = 10
MIN_DIVIDER = 8


def baud_divider(clock_hz: float, baud: int | None) -> tuple[int, int]:
    """The rate of a line and the clock cycles of a bit.

    Args:
        clock_hz: of the logic.
        baud: bits per second, or None for the fastest of `RATES` that the clock makes within `TOLERANCE`.

    Raises:
        PlanError: the clock does not make that rate.
    """
    for rate in RATES if baud is None else (baud,):
        divider = round(clock_hz / rate) if rate > 0 else 0
        if divider >= MIN_DIVIDER and abs(clock_hz / divider / rate - 1) < TOLERANCE:
            return rate, divider
    raise PlanError(
        f"baud must be at most 1/{MIN_DIVIDER} of the clock and within {TOLERANCE:.0%} of a whole fraction of it, "
        f"not {baud} at {clock_hz / 1e6:g} MHz: try {RATES[3]}"
    )


class UartReceiver(wiring.Component):
    """Bytes from a serial line.

    Arguments:
        divider: cycles of a bit.

    Members:
        rx: the line, asynchronous to the clock.
        y: stream of bytes.
        lost: 1 for a cycle for every byte that is lost: nobody took the one before it, or its stop bit is missing.

    Latency: 4 cycles from the middle of the stop bit. Initiation interval: that of the line, 10 bit times a byte.
    """

    def __init__(self, divider: int):
        if divider < MIN_DIVIDER:
            raise ValueError(f"divider must be at least {MIN_DIVIDER}, not {divider}")
        self._divider = divider
        super().__init__({"rx": In(1, init=1), "y": Out(stream.Signature(8)), "lost": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, line, init=1)
        busy, timer = Signal(), Signal(range(self._divider))
        position, shift = Signal(range(FRAME_BITS)), Signal(8)

        m.d.sync += self.lost.eq(0)
        with m.If(self.y.ready):
            m.d.sync += self.y.valid.eq(0)
        with m.If(~busy):
            # The start bit is sampled in its middle, and every other a bit time after the one before.
            m.d.sync += [busy.eq(~line), timer.eq(self._divider // 2 - 1), position.eq(0)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divider - 1), position.eq(position + 1), shift.eq(Cat(shift[1:], line))]
            with m.If((position == 0) & line):
                m.d.sync += busy.eq(0)  # a spike
            with m.If(position == FRAME_BITS - 1):
                m.d.sync += busy.eq(0)
                with m.If(line & (self.y.ready | ~self.y.valid)):
                    m.d.sync += [self.y.valid.eq(1), self.y.payload.eq(shift)]
                with m.Else():
                    m.d.sync += self.lost.eq(1)
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a serial line.

    Arguments:
        divider: cycles of a bit.

    Members:
        x: stream of bytes.
        tx: the line.

    Latency: the clock edge that takes a byte begins its start bit. Initiation interval: 10 bit times and a cycle.
    """

    def __init__(self, divider: int):
        if divider < MIN_DIVIDER:
            raise ValueError(f"divider must be at least {MIN_DIVIDER}, not {divider}")
        self._divider = divider
        super().__init__({"x": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        timer, left, shift = Signal(range(self._divider)), Signal(range(FRAME_BITS + 1)), Signal(FRAME_BITS - 1)
        m.d.comb += self.x.ready.eq(left == 0)
        with m.If(left == 0):
            m.d.sync += [timer.eq(self._divider - 1), shift.eq(Cat(self.x.payload, Const(1, 1)))]
            with m.If(self.x.valid):
                m.d.sync += [left.eq(FRAME_BITS), self.tx.eq(0)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divider - 1), left.eq(left - 1)]
            m.d.sync += Cat(self.tx, shift).eq(Cat(shift, Const(1, 1)))
        return m
