"""The way between a serial line and the streams of an accelerator.

A beat travels as ceil(bits / 8) bytes, its lowest bits first, whatever its lanes are: the bytes of a word are those of
`hwgen.format.port.encode_words`, without the bytes of each beat's last limbs that lie beyond it.
"""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from boards.uart import UartReceiver, UartTransmitter
from rtl_templates.pipe import StreamBuffer


def beat_bytes(bits: int) -> int:
    """Bytes that a beat of so many bits travels as."""
    return -(-bits // 8)


class BytesToBeats(wiring.Component):
    """Joins bytes to beats.

    Arguments:
        bits: of a beat.

    Members:
        x: stream of bytes, the lowest of a beat first.
        y: stream of beats.

    Latency: 1 cycle after a beat's last byte. Initiation interval: `beat_bytes(bits)` + 1 cycles a beat.
    """

    def __init__(self, bits: int):
        self._bits = bits
        super().__init__({"x": In(stream.Signature(8)), "y": Out(stream.Signature(bits))})

    def elaborate(self, platform) -> Module:
        m = Module()
        count = beat_bytes(self._bits)
        shift, position = Signal(8 * count), Signal(range(count))
        m.d.comb += [self.x.ready.eq(~self.y.valid), self.y.payload.eq(shift[: self._bits])]
        with m.If(self.y.valid & self.y.ready):
            m.d.sync += self.y.valid.eq(0)
        with m.If(self.x.valid & self.x.ready):
            m.d.sync += [shift.eq(Cat(shift, self.x.payload)[8:]), position.eq(position + 1)]
            with m.If(position == count - 1):
                m.d.sync += [position.eq(0), self.y.valid.eq(1)]
        return m


class BeatsToBytes(wiring.Component):
    """Cuts beats into bytes; what a beat lacks of its last byte is 0.

    Arguments:
        bits: of a beat.

    Members:
        x: stream of beats.
        y: stream of bytes, the lowest of a beat first.

    Latency: 1 cycle. Initiation interval: `beat_bytes(bits)` + 1 cycles a beat.
    """

    def __init__(self, bits: int):
        self._bits = bits
        super().__init__({"x": In(stream.Signature(bits)), "y": Out(stream.Signature(8))})

    def elaborate(self, platform) -> Module:
        m = Module()
        count = beat_bytes(self._bits)
        shift, position = Signal(8 * count), Signal(range(count))
        m.d.comb += [self.x.ready.eq(~self.y.valid), self.y.payload.eq(shift[:8])]
        with m.If(self.x.valid & self.x.ready):
            m.d.sync += [shift.eq(self.x.payload), position.eq(0), self.y.valid.eq(1)]
        with m.If(self.y.valid & self.y.ready):
            m.d.sync += [shift.eq(shift[8:]), position.eq(position + 1)]
            with m.If(position == count - 1):
                m.d.sync += self.y.valid.eq(0)
        return m


class SerialLink(wiring.Component):
    """A serial line as the two streams of an accelerator.

    The line has no flow control: where the accelerator does not take what comes, because the outputs of earlier words
    have not left, bytes are lost, and `lost` says so.

    Arguments:
        input_bits, output_bits: of a beat of x and of y.
        divider: cycles of a bit of the line.

    Members:
        rx, tx: the line, from and to the host.
        x: stream of beats to the accelerator.
        y: stream of beats from it.
        lost: 1 for a cycle for every byte lost.
        active: 1 for a cycle for every byte that came or began to leave.

    Latency: of the line. Initiation interval: 10 bit times a byte of a beat.
    """

    def __init__(self, input_bits: int, output_bits: int, divider: int):
        self._input_bits, self._output_bits, self._divider = input_bits, output_bits, divider
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "x": Out(stream.Signature(input_bits)),
                "y": In(stream.Signature(output_bits)),
                "lost": Out(1),
                "active": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self._divider)
        m.submodules.join = join = BytesToBeats(self._input_bits)
        # These two keep the accelerator's paths its own.
        m.submodules.input_buffer = input_buffer = StreamBuffer(self._input_bits)
        m.submodules.output_buffer = output_buffer = StreamBuffer(self._output_bits)
        m.submodules.cut = cut = BeatsToBytes(self._output_bits)
        m.submodules.transmitter = transmitter = UartTransmitter(self._divider)
        wiring.connect(m, receiver.y, join.x)
        wiring.connect(m, join.y, input_buffer.x)
        wiring.connect(m, input_buffer.y, wiring.flipped(self.x))
        wiring.connect(m, wiring.flipped(self.y), output_buffer.x)
        wiring.connect(m, output_buffer.y, cut.x)
        wiring.connect(m, cut.y, transmitter.x)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx), self.lost.eq(receiver.lost)]
        m.d.sync += self.active.eq((receiver.y.valid & receiver.y.ready) | (cut.y.valid & cut.y.ready))
        return m
