"""A search for the k largest of many values, one bit a step: radix selection.

Every value is *above* the k-th largest, still *alive* (all bits looked at so far equal the k-th's) or out. A step looks
at the next bit of those alive: if at least as many ones as there are winners left to find, the k-th has a one there and
the zeros are out; else the ones are above and the zeros stay alive. No comparator, and no sorting network.

After the bits of the value those alive are the ties. Steps on the bits of the index, where a zero counts as a one, then
leave of them the lowest indices.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth import C, Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import timing
from rtl_templates.target import target
from rtl_templates.trees import any_of, total

# Ones are counted within groups before a register and over the groups after it: about equally long paths.
_GROUP = 16


def marks(channels: int) -> data.StructLayout:
    """Which values are above the k-th largest, and which are alive still."""
    return data.StructLayout({"above": channels, "alive": channels})


class _State(NamedTuple):
    """What a step turns into what the next one needs.

    `planes` are the bits of all values that later steps look at, one of each value, in the steps' order. Of the winners
    that are missing one is left out of the count: then fewer ones than those is the sign of a difference.
    """

    planes: list[Value]
    above: Value
    alive: Value
    missing_but_one: Value


class _Control(NamedTuple):
    """Of a group of channels in a unit: at which step it is, whether that is marked now, whether the last one is.

    `take` holds while what comes is taken, `ends` where the last step will be marked in the next cycle.
    """

    step: Signal
    mark: Value
    at_end: Value
    ends: Value
    take: Signal


class RadixSearch(wiring.Component):
    """The steps of a search, shared by units in a row that each have a position, `timing.STEP_CYCLES` cycles a step.

    A step counts the ones within groups, then over the groups, decides, and then marks: a register after each, because
    the decision reaches every channel. What a unit marks last the next one takes, in the same cycle. Whether a unit takes
    what comes is decided a cycle ahead, for all units at once, since that too reaches every channel; a unit without a
    position always does.

    Arguments:
        shape: of a value.
        channels: values of a position.
        k: winners, at most `channels`.
        steps: of the whole search: the value's bits from the highest on, then the index's.
        units: in a row, at most `steps`.

    Members:
        x: stream of positions: an array of all channels' values in torch's order.
        y: stream of marks, from registers.

    Latency: `timing.STEP_CYCLES` a step, and 1. Initiation interval: see `rtl_templates.timing.search_interval`.
    """

    def __init__(self, shape: Shape, channels: int, k: int, steps: int, units: int):
        self._shape, self._channels, self._k, self._steps = shape, channels, k, steps
        self._units = [range(*bounds) for bounds in timing.search_ranges(steps, units)]
        super().__init__(
            {
                "x": In(stream.Signature(data.ArrayLayout(shape, channels))),
                "y": Out(stream.Signature(marks(channels))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        # The parts of a position lie far apart on a chip: each group of channels has the control to itself. Copies stay
        # copies in synthesis because each depends on its own state.
        groups = target(platform).control_groups(self._channels)
        # Of the next cycle: whether a unit has a position, and whether it takes one; the last one is y.
        stays, takes = (Signal(len(self._units) + 1, name=name) for name in ("stays", "takes"))
        everyone, nobody = C(-1, self._channels), C(0, self._channels)
        missing = C(self._k - 1, range(max(2, self._k)))
        state = _State([self._plane(step) for step in range(self._steps)], nobody, everyone, missing)
        coming = self.x.valid
        units = []
        for number, steps in enumerate(self._units):
            controls = [
                self._control(m, f"{number}_{i}", steps, stays[number], takes[number + 1]) for i in range(len(groups))
            ]
            state = self._unit(m, str(number), steps, state, list(zip(groups, controls, strict=True)))
            busy = Signal(name=f"busy_{number}")
            units.append((coming, busy, controls[0]))
            coming = busy & controls[0].at_end

        take_y = Signal(init=1)
        taken = [control.take for _, _, control in units] + [take_y]
        for number, (comes, busy, control) in enumerate(units):
            leaves = control.at_end & taken[number + 1]
            m.d.comb += [
                stays[number].eq(Mux(control.take, comes, busy & ~leaves)),
                takes[number].eq(~stays[number] | (control.ends & takes[number + 1])),
            ]
            m.d.sync += busy.eq(stays[number])
        m.d.comb += [
            self.x.ready.eq(taken[0]),
            stays[-1].eq(Mux(take_y, coming, self.y.valid & ~self.y.ready)),
            takes[-1].eq(~stays[-1]),
        ]
        m.d.sync += [self.y.valid.eq(stays[-1]), take_y.eq(takes[-1])]
        with m.If(take_y):
            m.d.sync += [self.y.payload.above.eq(state.above), self.y.payload.alive.eq(state.alive)]
        return m

    def _unit(
        self, m: Module, name: str, steps: range, incoming: _State, controls: list[tuple[range, _Control]]
    ) -> _State:
        """A unit that does those steps; the state that its last one leaves."""
        width = self._channels

        def held(value: Value, what: str) -> Signal:
            # What a search begins with, as an initial value too, leaves a register that never changes.
            init = value.value if isinstance(value, Const) else 0
            return Signal(len(value), init=init, name=f"{what}_{name}", reset_less=True)

        planes = [held(plane, f"plane_{i}") for i, plane in enumerate(incoming.planes[1:], start=steps.start + 1)]
        above, alive = held(incoming.above, "above"), held(incoming.alive, "alive")
        missing = held(incoming.missing_but_one, "missing")
        # Those alive with a one in the step's plane: known from the marks on, so that counting begins at a register.
        ones = Signal(width, name=f"ones_{name}", reset_less=True)

        counts = []
        for start in range(0, width, _GROUP):
            group = ones[start : start + _GROUP]
            within = total(m, list(group), len(group), f"within_{start}_{name}")
            count = Signal.like(within, name=f"count_{start}_{name}", reset_less=True)
            m.d.sync += count.eq(within)
            counts.append(count)
        rest = Signal(Shape(len(missing) + width.bit_length(), signed=True), name=f"rest_{name}")
        fewer = Signal(name=f"fewer_{name}", reset_less=True)
        missing_after = Signal.like(missing, name=f"missing_after_{name}", reset_less=True)
        m.d.comb += rest.eq(missing - total(m, counts, width, f"count_{name}"))
        # Nothing that these depend on changes while a position waits to move on.
        m.d.sync += [fewer.eq(rest >= 0), missing_after.eq(rest)]
        chosen = fewer.replicate(width)
        after = _State(
            planes[len(steps) - 1 :],
            above | (ones & chosen),
            ones ^ (alive & chosen),
            Mux(fewer, missing_after, missing),
        )

        for number, (group, control) in enumerate(controls):
            part = slice(group.start, group.stop)
            now = control.step[: len(steps) - 1]
            if number == 0:
                with m.If(control.take):
                    m.d.sync += missing.eq(incoming.missing_but_one)
                with m.Elif(control.mark & now.any()):
                    m.d.sync += missing.eq(after.missing_but_one)
            with m.If(control.take):
                m.d.sync += [plane[part].eq(new[part]) for plane, new in zip(planes, incoming.planes[1:], strict=True)]
                m.d.sync += [
                    ones[part].eq(incoming.alive[part] & incoming.planes[0][part]),
                    above[part].eq(incoming.above[part]),
                    alive[part].eq(incoming.alive[part]),
                ]
            if len(now):
                gated = [plane[part] & now[i].replicate(len(group)) for i, plane in enumerate(planes[: len(now)])]
                with m.Elif(control.mark & now.any()):
                    m.d.sync += [
                        ones[part].eq(after.alive[part] & any_of(gated)),
                        above[part].eq(after.above[part]),
                        alive[part].eq(after.alive[part]),
                    ]
        return after

    def _control(self, m: Module, name: str, steps: range, stays: Value, next_takes: Value) -> _Control:
        """Where in its steps a unit is; see `elaborate` for what will be in the next cycle."""
        phase, step = (
            Signal(timing.STEP_CYCLES, init=1, name=f"phase_{name}"),
            Signal(len(steps), init=1, name=f"step_{name}"),
        )
        take = Signal(init=1, name=f"take_{name}")
        at_end = phase[-1] & step[-1]
        ends = ~take & step[-1] & (phase[-2] | phase[-1])
        m.d.sync += take.eq(~stays | (ends & next_takes))
        with m.If(take):
            m.d.sync += [phase.eq(1), step.eq(1)]
        with m.Elif(~at_end):
            m.d.sync += phase.eq(phase.rotate_left(1))
            with m.If(phase[-1]):
                m.d.sync += step.eq(step.rotate_left(1))
        return _Control(step, phase[-1], at_end, ends, take)

    def _plane(self, step: int) -> Value:
        """The bit of every channel that a step looks at."""
        width = self._shape.width
        if step < width:
            plane = Cat(self.x.payload[c].as_unsigned()[width - 1 - step] for c in range(self._channels))
            return ~plane if self._shape.signed and step == 0 else plane
        index_bit = self._steps - 1 - step
        return Const(sum(1 << c for c in range(self._channels) if not (c >> index_bit) & 1), self._channels)
