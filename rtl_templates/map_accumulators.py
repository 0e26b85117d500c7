"""Accumulators of a whole map, for products that come in no order of its positions."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.pipe import StreamBuffer

BANKS = 2


class MapAccumulators(wiring.Component):
    """`sets` complementary sets with an accumulator for each place of a map, two banks of each.

        product[set] --> (+) <--> RAM[bank][set] --> StreamBuffer --> y

    One bank is added to while the other drains: place by place, each cleared as soon as it has been read. A place may
    be added to in successive cycles: a read sees what is written in the same cycle.

    Arguments:
        shape: of the accumulators; wide enough for every partial sum (the packer proves it).
        sets: as above.
        places: accumulators a set.

    Members:
        cleared: false for `places` cycles after reset; nothing may be added meanwhile.
        valid, last: this cycle carries a step of a word; its last step.
        inside: whether the step's products count.
        address: of each set: the place to add to.
        products: of each set, to come one cycle after the address.
        y: value stream, `sets` lanes, `places` beats a word.
        returned: strobe: a bank has been drained to its end.

    Latency: 3 cycles from the last step of a word to its first beat. Initiation interval: `places` cycles a word.
    """

    LATENCY = 3

    def __init__(self, shape, *, sets: int, places: int):
        for name, value in (("sets", sets), ("places", places)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        self.shape, self.sets, self.places = shape, sets, places
        super().__init__(
            {
                "cleared": Out(1),
                "valid": In(1),
                "last": In(1),
                "inside": In(1),
                "address": In(range(places)).array(sets),
                "products": In(signed(17)).array(sets),
                "y": Out(streams.values(shape, sets)),
                "returned": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = StreamBuffer(data.ArrayLayout(self.shape, self.sets))
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        advance = buffer.x.ready

        clearing = Signal(init=1)
        filling, draining, waiting = Signal(), Signal(), Signal(range(BANKS + 1))
        place, take, last_place = Signal(range(self.places)), Signal(), Signal()
        done, drained = Signal(), Signal()
        m.d.comb += [
            self.cleared.eq(~clearing),
            take.eq(advance & (waiting != 0)),
            last_place.eq(place == self.places - 1),
            done.eq(self.valid & self.last),
            drained.eq(take & last_place),
        ]
        m.d.sync += waiting.eq(waiting + done - drained)
        with m.If(done):
            m.d.sync += filling.eq(~filling)
        with m.If(drained):
            m.d.sync += draining.eq(~draining)
        with m.If(take | clearing):
            m.d.sync += place.eq(Mux(last_place, 0, place + 1))
        with m.If(last_place):
            m.d.sync += clearing.eq(0)

        shown, shown_bank, shown_last = Signal(), Signal(), Signal()
        with m.If(advance):
            m.d.sync += [shown.eq(waiting != 0), shown_bank.eq(draining), shown_last.eq(last_place)]
        # Not before the last value has moved on: until then it stands in the bank's read register.
        m.d.comb += [buffer.x.valid.eq(shown), self.returned.eq(advance & shown & shown_last)]

        values = []
        for bank in range(BANKS):
            adds, added, clears = (Signal(name=f"{name}_{bank}") for name in ("adds", "added", "clears"))
            m.d.comb += adds.eq(self.valid & (filling == bank))
            m.d.sync += [added.eq(adds & self.inside), clears.eq(clearing | (take & (draining == bank)))]
            values.append(
                [self._place(m, bank, index, adds, added, clears, advance, place) for index in range(self.sets)]
            )
        for index in range(self.sets):
            m.d.comb += buffer.x.payload[index].eq(Mux(shown_bank, values[1][index], values[0][index]))
        return m

    def _place(self, m, bank: int, index: int, adds, added, clears, advance, place):
        """The memory of one bank and set; returns what it shows."""
        memory = Memory(shape=self.shape, depth=self.places, init=[])
        m.submodules[f"bank_{bank}_{index}"] = memory
        write = memory.write_port()
        read = memory.read_port(transparent_for=(write,))
        before = Signal(range(self.places), name=f"address_{bank}_{index}")
        m.d.sync += before.eq(read.addr)
        m.d.comb += [
            read.addr.eq(Mux(adds, self.address[index], place)),
            read.en.eq(adds | advance),
            write.addr.eq(before),
            write.en.eq(added | clears),
            write.data.eq(Mux(clears, 0, read.data + self.products[index])),
        ]
        return read.data
