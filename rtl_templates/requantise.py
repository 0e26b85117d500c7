"""From accumulators to 8-bit values."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.constant_table import ConstantTable, by_beat
from rtl_templates.layouts import channel_count, checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.streams import Layout

BLOCK_WIDTH = timing.BLOCK_WIDTH


class Requantise(wiring.Component):
    """y = saturate(((x + bias[c]) * multiplier[c] + 2^(shift-1)) >> shift), without rounding where shift is 0.

    The bias is multiplied beforehand, so that bias and rounding are one addition behind the multiplier:

        x --|--|--> * multiplier --|--> + (bias * multiplier + 2^(shift-1)) --|--> >> shift, saturate --> StreamBuffer

    Every register is enabled by the buffer's registered ready. A multiplier block of the ECP5 takes 18 bits: of an
    accumulator of 19 the lowest is multiplied apart, as one more addend, instead of taking a second block; of a wider
    one the low bits are, in a block of their own, and the products are added behind a register.

    Arguments:
        layout: of both streams; what a lane that carries nothing yields is arbitrary.
        multipliers: of each channel, 1 <= multiplier < 2^16; without a multiplier in hardware where all are 1.
        biases: of each channel.
        shift: 0 <= shift <= 47.
        in_shape: of an accumulator.
        out_shape: signed(8) or unsigned(8); saturates to it.

    Members:
        x, y: value streams.

    Latency: see `latency`. Initiation interval: 1 cycle a beat.
    """

    def __init__(
        self,
        layout: Layout,
        multipliers: Sequence[int],
        biases: Sequence[int],
        shift: int,
        in_shape: Shape,
        out_shape: Shape,
    ):
        self._layout = checked(layout)
        channels = channel_count(self._layout)
        if len(multipliers) != channels or not all(1 <= int(value) < 1 << 16 for value in multipliers):
            raise ValueError(f"multipliers must be {channels} numbers from 1 to 65535, not {multipliers!r}")
        if len(biases) != channels:
            raise ValueError(f"biases must be {channels} numbers, not {biases!r}")
        if not 0 <= shift <= 47:
            raise ValueError(f"shift must be 0 to 47, not {shift!r}")
        if out_shape.width != 8:
            raise ValueError(f"out_shape must be signed(8) or unsigned(8), not {out_shape!r}")
        half = (1 << shift) >> 1
        self._multipliers = [int(value) for value in multipliers]
        self._addends = [int(b) * m + half for b, m in zip(biases, self._multipliers, strict=True)]
        self._shift, self._in_shape, self._out_shape = shift, in_shape, out_shape
        lanes = len(self._layout[0])
        super().__init__({"x": In(streams.values(in_shape, lanes)), "y": Out(streams.values(out_shape, lanes))})

    @property
    def latency(self) -> int:
        """Cycles from a beat to its result."""
        return timing.requantise_latency(self._in_shape.width, self._in_shape.signed, set(self._multipliers) != {1})

    def elaborate(self, platform) -> Module:
        m = Module()
        beats, lanes = len(self._layout), len(self._layout[0])
        m.submodules.buffer = buffer = StreamBuffer(self.y.payload.shape())
        m.submodules.multipliers = multipliers = ConstantTable(by_beat(self._layout, self._multipliers, 1))
        m.submodules.addends = addends = ConstantTable(by_beat(self._layout, self._addends, 0))
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        advance = buffer.x.ready

        def later(value: Value, name: str) -> Signal:
            """A register behind a value."""
            register = Signal(value.shape(), name=name, reset_less=True)
            with m.If(advance):
                m.d.sync += register.eq(value)
            return register

        def constant(value: Value, name: str) -> Value:
            """Block memory is slow: a register beside it. What never changes needs none."""
            return later(value, name) if beats > 1 else value

        # Registers of a beat: as it comes, operands, products, (sum of partial products,) total.
        valid = Signal(self.latency - 1)
        scales = set(self._multipliers) != {1}
        split = scales and self._in_shape.signed and self._in_shape.width == BLOCK_WIDTH + 1
        partial = scales and timing.requantise_parts(self._in_shape.width, self._in_shape.signed) > 1
        beat = Signal(range(beats))
        # The addend is needed beside the product, or a cycle earlier where more is added to it.
        addend_row: Value = beat
        for age in range(int(not split) + int(partial)):
            addend_row = later(addend_row, f"beat_{age}")
        m.d.comb += [
            self.x.ready.eq(advance),
            multipliers.row.eq(beat),
            multipliers.enable.eq(advance),
            addends.row.eq(addend_row),
            addends.enable.eq(advance),
            buffer.x.valid.eq(valid[-1]),
        ]
        with m.If(advance):
            m.d.sync += valid.eq((valid << 1) | self.x.valid)
            with m.If(self.x.valid):
                m.d.sync += beat.eq(Mux(beat == beats - 1, 0, beat + 1))

        for lane in range(lanes):
            value = later(later(self.x.payload[lane], f"arrived_{lane}"), f"value_{lane}")
            multiplier = constant(multipliers.constants[lane], f"multiplier_{lane}")
            addend = constant(addends.constants[lane], f"addend_{lane}")
            if not scales:
                product = later(value, f"product_{lane}")
            elif split:
                product = later(value[1:].as_signed() * multiplier, f"product_{lane}")
                addend = later(addend + Mux(value[0], multiplier, 0), f"with_lowest_{lane}")
            elif partial:
                low = later(value[: timing.PART_BITS] * multiplier, f"low_{lane}")
                high = later(_sign_kept(value, timing.PART_BITS) * multiplier, f"high_{lane}")
                product = later(low + (high << timing.PART_BITS), f"product_{lane}")
            else:
                product = later(value * multiplier, f"product_{lane}")
            total = later((product << int(split)) + addend, f"total_{lane}")
            m.d.comb += buffer.x.payload[lane].eq(self._saturated(m, total >> self._shift, lane))
        return m

    def _saturated(self, m: Module, value: Value, lane: int) -> Value:
        """By the highest bits alone: comparators would be carry chains as wide as the accumulator."""
        width = self._out_shape.width
        exact = Signal(signed(max(len(value) + (not value.shape().signed), width + 1)), name=f"exact_{lane}")
        m.d.comb += exact.eq(value)
        beyond = exact[width - 1 : -1] if self._out_shape.signed else exact[width:-1]
        low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if self._out_shape.signed else (0, (1 << width) - 1)
        too_low = exact[-1] & ~beyond.all() if self._out_shape.signed else exact[-1]
        too_high = ~exact[-1] & beyond.any()
        saturated = Signal(self._out_shape, name=f"saturated_{lane}")
        m.d.comb += saturated.eq(exact)
        with m.If(too_low):
            m.d.comb += saturated.eq(low)
        with m.Elif(too_high):
            m.d.comb += saturated.eq(high)
        return saturated


def _sign_kept(value: Value, start: int) -> Value:
    """The bits from `start` on; a slice alone is unsigned."""
    return value[start:].as_signed() if value.shape().signed else value[start:]
