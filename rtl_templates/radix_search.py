"""Part of a search for the k largest of many values, one bit a step: radix selection.

Every value is *above* the k-th largest, still *alive* (all bits looked at so far equal the k-th's) or out. A step looks
at the next bit of those alive: if at least as many ones as there are winners left to find, the k-th has a one there and
the zeros are out; else the ones are above and the zeros stay alive. No comparator, and no sorting network.

After the bits of the value those alive are the ties. Steps on the bits of the index, where a zero counts as a one, then
leave of them the lowest indices.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth import C, Cat, Module, Shape, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import timing
from rtl_templates.target import target
from rtl_templates.trees import any_of, total

# Ones are counted within groups before a register and over the groups after it: about equally long paths.
_GROUP = 16


def search_state(shape: Shape, channels: int, k: int) -> data.StructLayout:
    """What a step turns into what the next one needs.

    Fields: the values; who is above and who is alive; how many winners but one are not above.
    """
    return data.StructLayout(
        {
            "values": data.ArrayLayout(unsigned(shape.width), channels),
            "above": channels,
            "alive": channels,
            # Less one: then fewer ones than missing winners is the sign of a difference.
            "missing_but_one": range(max(2, k)),
        }
    )


class _Control(NamedTuple):
    """Of a group of channels: a position is there, at which step, whether it is marked for the next one, or done."""

    busy: Signal
    step: Signal
    marks: Value
    ended: Value


class RadixSearch(wiring.Component):
    """Some consecutive steps of a search, `rtl_templates.timing.STEP_CYCLES` cycles each.

    A step counts the ones within groups, then over the groups, decides, and then marks: a register after each, because
    the decision reaches every channel. A unit hands its position over before it takes another, so that no ready
    depends on another.

    Arguments:
        shape: of a value.
        channels: values of a position.
        k: winners, at most `channels`.
        steps: of the whole search: the value's bits from the highest on, then the index's.
        first, last: the steps that this unit does, `last` not included; `first` 0 starts a search, whatever marks and
            missing winners the state that comes has.

    Members:
        x, y: streams of states; y follows combinationally from registers, so its consumer should register it.

    Latency: `STEP_CYCLES` a step. Initiation interval: one cycle more.
    """

    def __init__(self, shape: Shape, channels: int, k: int, steps: int, first: int, last: int):
        if not 0 <= first < last <= steps:
            raise ValueError(f"first and last must be a range of the {steps} steps, not {first!r} and {last!r}")
        self._shape, self._channels, self._k = shape, channels, k
        self._steps = range(first, last)
        self._all_steps = steps
        state = stream.Signature(search_state(shape, channels, k))
        super().__init__({"x": In(state), "y": Out(state)})

    def elaborate(self, platform) -> Module:
        m = Module()
        begins = self._steps.start == 0
        everyone = (1 << self._channels) - 1
        # A search begins with these marks: as initial values they leave registers that never change.
        values = Signal(self.x.payload.values.shape(), reset_less=True)
        above = Signal(self._channels, reset_less=True)
        alive = Signal(self._channels, init=everyone if begins else 0, reset_less=True)
        missing = Signal.like(self.x.payload.missing_but_one, init=self._k - 1 if begins else 0, reset_less=True)
        # Those alive with a one in the step's bit: known from the marks on, so that counting begins at a register.
        ones = Signal(self._channels, reset_less=True)

        # The parts of a position lie far apart on a chip: each group of channels has the control to itself. Copies stay
        # copies in synthesis because each depends on its own state.
        groups = target(platform).control_groups(self._channels)
        controls = [self._control(m, number) for number in range(len(groups))]
        m.d.comb += [self.x.ready.eq(~controls[0].busy), self.y.valid.eq(controls[0].busy & controls[0].ended)]
        incoming = self.x.payload
        first_key = self._key(incoming.values, self._steps.start)
        with m.If(~controls[0].busy):
            m.d.sync += missing.eq(self._k - 1 if begins else incoming.missing_but_one)
        for group, control in zip(groups, controls, strict=True):
            channels = slice(group.start, group.stop)
            with m.If(~control.busy):
                m.d.sync += [values[c].eq(incoming.values[c]) for c in group]
                if begins:
                    m.d.sync += [above[channels].eq(0), alive[channels].eq(-1), ones[channels].eq(first_key[channels])]
                else:
                    m.d.sync += [
                        ones[channels].eq((incoming.alive & first_key)[channels]),
                        above[channels].eq(incoming.above[channels]),
                        alive[channels].eq(incoming.alive[channels]),
                    ]

        counts = []
        for start in range(0, self._channels, _GROUP):
            group = ones[start : start + _GROUP]
            within = total(m, list(group), len(group), f"within_{start}")
            count = Signal.like(within, name=f"count_{start}", reset_less=True)
            m.d.sync += count.eq(within)
            counts.append(count)
        rest = Signal(Shape(len(missing) + self._channels.bit_length(), signed=True))
        fewer, missing_after = Signal(reset_less=True), Signal.like(missing, reset_less=True)
        m.d.comb += rest.eq(missing - total(m, counts, self._channels, "count"))
        # Nothing that these depend on changes while a position waits to be handed over.
        m.d.sync += [fewer.eq(rest >= 0), missing_after.eq(rest)]

        after = self.y.payload
        m.d.comb += [
            after.values.eq(values),
            after.alive.eq(ones ^ (alive & fewer.replicate(self._channels))),
            after.above.eq(above | (ones & fewer.replicate(self._channels))),
        ]
        with m.If(fewer):
            m.d.comb += after.missing_but_one.eq(missing_after)
        with m.Else():
            m.d.comb += after.missing_but_one.eq(missing)
        if len(self._steps) > 1:
            keys = [self._key(values, position) for position in self._steps[1:]]
            with m.If(controls[0].busy & controls[0].marks):
                m.d.sync += missing.eq(after.missing_but_one)
            for group, control in zip(groups, controls, strict=True):
                channels = slice(group.start, group.stop)
                gated = [key[channels] & control.step[number].replicate(len(group)) for number, key in enumerate(keys)]
                with m.If(control.busy & control.marks):
                    m.d.sync += [
                        ones[channels].eq(after.alive[channels] & any_of(gated)),
                        above[channels].eq(after.above[channels]),
                        alive[channels].eq(after.alive[channels]),
                    ]
        return m

    def _control(self, m: Module, number: int) -> _Control:
        """Where in its steps a position is."""
        busy, step = Signal(name=f"busy_{number}"), Signal(len(self._steps), init=1, name=f"step_{number}")
        phase = Signal(timing.STEP_CYCLES, init=1, name=f"phase_{number}")
        marking = phase[-1]
        with m.If(~busy):
            m.d.sync += busy.eq(self.x.valid)
        with m.Elif(~marking | ~step[-1] | self.y.ready):
            m.d.sync += phase.eq(phase.rotate_left(1))
            with m.If(marking):
                m.d.sync += step.eq(step.rotate_left(1))
                with m.If(step[-1]):
                    m.d.sync += busy.eq(0)
        return _Control(busy, step, marks=marking & ~step[-1], ended=marking & step[-1])

    def _key(self, values, position: int) -> Value:
        """The bit of every channel that step `position` looks at."""
        width = self._shape.width
        if position < width:
            key = Cat(values[c][width - 1 - position] for c in range(self._channels))
            return ~key if self._shape.signed and position == 0 else key
        index_bit = self._all_steps - 1 - position
        return C(sum(1 << c for c in range(self._channels) if not (c >> index_bit) & 1), self._channels)
