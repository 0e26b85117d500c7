"""Part of a search for the k largest of many values, one bit a cycle: radix selection.

Every value is *above* the k-th largest, still *alive* (all bits looked at so far equal the k-th's) or out. A step looks
at the next bit of those alive: if at least as many ones as there are winners left to find, the k-th has a one there and
the zeros are out; else the ones are above and the zeros stay alive. No comparator, and no sorting network.

After the bits of the value those alive are the ties. Steps on the bits of the index, where a zero counts as a one, then
leave of them the lowest indices.
"""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates.trees import any_of, total

# Ones are counted within groups before the register and over the groups after it: about equally long paths.
_GROUP = 16


def search_state(shape: Shape, channels: int, k: int) -> data.StructLayout:
    """What a step turns into what the next one needs.

    Fields: the values; who is above and who is alive; the next bit of each; for each group of channels, how many of
    those alive have a one there; how many winners are not above.
    """
    groups = -(-channels // _GROUP)
    return data.StructLayout(
        {
            "values": data.ArrayLayout(unsigned(shape.width), channels),
            "above": channels,
            "alive": channels,
            "bits": channels,
            "counts": data.ArrayLayout(range(_GROUP + 1), groups),
            "missing": range(k + 1),
        }
    )


def group_counts(m: Module, bits: Value, name: str) -> list[Value]:
    """For each group of channels the number of ones."""
    return [
        total(m, list(bits[i : i + _GROUP]), min(_GROUP, len(bits) - i), f"{name}_{i // _GROUP}")
        for i in range(0, len(bits), _GROUP)
    ]


class SearchStart(wiring.Component):
    """Makes a position the first state of a search, without a register.

    Arguments:
        shape: of a value.
        channels: values of a position.
        k: winners, at most `channels`.

    Members:
        x: stream of positions: an array of all values in torch's order.
        y: stream of states.
    """

    def __init__(self, shape: Shape, channels: int, k: int):
        self._shape, self._channels, self._k = shape, channels, k
        super().__init__(
            {
                "x": In(stream.Signature(data.ArrayLayout(shape, channels))),
                "y": Out(stream.Signature(search_state(shape, channels, k))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        state = self.y.payload
        leading = Cat(self.x.payload[c][-1] for c in range(self._channels))
        m.d.comb += [
            self.y.valid.eq(self.x.valid),
            self.x.ready.eq(self.y.ready),
            state.bits.eq(~leading if self._shape.signed else leading),
            state.above.eq(0),
            state.alive.eq(C(-1, self._channels)),
            state.missing.eq(self._k),
        ]
        m.d.comb += [state.values[c].eq(self.x.payload[c]) for c in range(self._channels)]
        m.d.comb += [state.counts[i].eq(count) for i, count in enumerate(group_counts(m, state.bits, "count"))]
        return m


class RadixSearch(wiring.Component):
    """Some consecutive steps of a search, one a cycle.

    Arguments:
        shape: of a value.
        channels: values of a position.
        k: winners, at most `channels`.
        steps: of the whole search: the value's bits from the highest on, then the index's.
        first, last: the steps that this unit does, `last` not included.

    Members:
        x, y: streams of states; y follows combinationally from registers, so its consumer should register it.

    Latency, initiation interval: `last - first` cycles.
    """

    def __init__(self, shape: Shape, channels: int, k: int, steps: int, first: int, last: int):
        if not 0 <= first < last <= steps:
            raise ValueError(f"first and last must be a range of the {steps} steps, not {first!r} and {last!r}")
        self._shape, self._channels = shape, channels
        self._steps = range(first, last)
        self._all_steps = steps
        state = stream.Signature(search_state(shape, channels, k))
        super().__init__({"x": In(state), "y": Out(state)})

    def elaborate(self, platform) -> Module:
        m = Module()
        state, after = Signal(self.x.payload.shape()), self.y.payload
        # One bit a step. The values stay where they are: to choose their next bit costs less than to shift them all.
        step = Signal(len(self._steps), init=1)
        busy, last = Signal(), Signal()
        m.d.comb += [
            last.eq(step[-1]),
            self.y.valid.eq(busy & last),
            self.x.ready.eq(~busy | (last & self.y.ready)),
        ]
        with m.If(self.x.ready):
            m.d.sync += [busy.eq(self.x.valid), step.eq(1), state.eq(self.x.payload)]
        with m.Elif(~last):
            m.d.sync += step.eq(step << 1)
            m.d.sync += [state[field].eq(after[field]) for field in ("above", "alive", "bits", "counts", "missing")]

        following = Signal(self._channels)
        keys = [self._key(state.values, position + 1) for position in self._steps]
        m.d.comb += following.eq(
            any_of([key & step[number].replicate(self._channels) for number, key in enumerate(keys)])
        )

        # Those with a one in the next bit, for both outcomes of this step: the counts need not wait for it.
        if_taken, if_not, take = Signal(self._channels), Signal(self._channels), Signal()
        count = total(m, list(state.counts), self._channels, "count")
        counts_if_taken, counts_if_not = group_counts(m, if_taken, "taken"), group_counts(m, if_not, "not_taken")
        m.d.comb += [
            if_taken.eq(state.alive & state.bits & following),
            if_not.eq(state.alive & ~state.bits & following),
            take.eq(count >= state.missing),
            after.values.eq(state.values),
            after.alive.eq(state.alive & (state.bits ^ ~take.replicate(self._channels))),
            after.above.eq(state.above | (state.alive & state.bits & ~take.replicate(self._channels))),
            after.bits.eq(following),
            after.missing.eq(Mux(take, state.missing, state.missing - count)),
        ]
        m.d.comb += [
            after.counts[i].eq(Mux(take, taken, not_taken))
            for i, (taken, not_taken) in enumerate(zip(counts_if_taken, counts_if_not, strict=True))
        ]
        return m

    def _key(self, values, position: int) -> Value:
        """The bit of every channel that step `position` looks at; not the first, in which a sign would count."""
        width = self._shape.width
        if position < width:
            return Cat(values[c][width - 1 - position] for c in range(self._channels))
        if position >= self._all_steps:
            return C(0, self._channels)
        index_bit = self._all_steps - 1 - position
        return C(sum(1 << c for c in range(self._channels) if not (c >> index_bit) & 1), self._channels)
