"""Division by a constant without a divider."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class ConstantDivider(wiring.Component):
    """Quotient and remainder of a number, for a constant divisor.

        high bits --> table of quotient and remainder --.
                                                        (+) --> less than the divisor? --> quotient, remainder
        low bits ---------------------------------------'

    The low bits number no more than the divisor, so that their sum with a remainder needs one correction at most. The
    table has about size / divisor rows, twice as many at worst.

    Arguments:
        size: numbers are below it.
        divisor: at least 1.
        scale: the quotient comes multiplied by it.

    Members:
        number: to divide.
        quotient, remainder: of the number two cycles before.

    Latency: 2 cycles. Initiation interval: 1 cycle.
    """

    LATENCY = 2

    def __init__(self, size: int, divisor: int, scale: int = 1):
        for name, value in (("size", size), ("divisor", divisor), ("scale", scale)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        self._size, self._divisor, self._scale = size, divisor, scale
        super().__init__(
            {
                "number": In(range(size)),
                "quotient": Out(range((size - 1) // divisor * scale + 1)),
                "remainder": Out(range(min(size, divisor))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        divisor, scale = self._divisor, self._scale
        low_bits = divisor.bit_length() - 1
        rows = [divmod(high << low_bits, divisor) for high in range(((self._size - 1) >> low_bits) + 1)]
        row = data.StructLayout({"quotient": self.quotient.shape(), "remainder": range(divisor)})
        low = Signal(low_bits)
        total = Signal(range(2 * divisor))
        quotient = Signal(self.quotient.shape())
        m.d.sync += low.eq(self.number[:low_bits])
        if row.size and len(rows) > 1:
            init = [{"quotient": quotient * scale, "remainder": remainder} for quotient, remainder in rows]
            m.submodules.table = table = Memory(shape=row, depth=len(rows), init=init)
            port = table.read_port()
            m.d.comb += [
                port.en.eq(1),
                port.addr.eq(self.number[low_bits:]),
                quotient.eq(port.data.quotient),
                total.eq(port.data.remainder + low),
            ]
        else:
            m.d.comb += total.eq(low)
        over = total >= divisor
        m.d.sync += [
            self.quotient.eq(quotient + Mux(over, scale, 0)),
            self.remainder.eq(Mux(over, total - divisor, total)),
        ]
        return m
