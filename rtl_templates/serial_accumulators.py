"""Route and Sum in one bank: accumulators that fill and drain in turn, for groups of many more steps than kernels."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.result_fifo import ResultFifo


class SerialAccumulators(wiring.Component):
    """`sets` complementary sets of `kernels` accumulators, fed by `lanes` products a set and cycle.

        RAM[kernel ID] --|--> (+) --> RAM[kernel ID]
        product[lane][set] --|-^ '--|--> sum over lanes --|--> ResultFifo -> y

    What Accumulators does, with half of its RAM and read ports: the accumulators leave kernel by kernel between two
    groups, through the address that the steps use. A drain begins when the FIFO has room for all of it, and then
    nothing stops it.

    A sum that the next step needs goes straight on: the RAM has it one cycle later.

    The RAM is not cleared: each accumulator carries the parity of the group that wrote it last, and counts as zero to
    the other parity. The drain writes them all, so that none is left from the group before; so does a sweep after
    reset.

    Arguments:
        shape: of the accumulators; wide enough for every partial sum (the packer proves it).
        lanes, sets, kernels: as above.
        lead: cycles that go by at least from `returned` to the next group's first step.

    Members:
        ready: the sweep after reset is over; no step may come before.
        valid, first, last: this cycle carries a step of a group. `first` is not looked at.
        products: of each lane and set, lane-major.
        kernel_ids: of each product.
        y: value stream, `sets` lanes, `kernels` beats a group.
        returned: strobe: the next group may start.

    Latency: from a group's last step to its first beat, see `latency`. Initiation interval: while y is not stalled,
    steps + max(kernels, lead) cycles a group (`timing.serial_interval`); `returned` comes so that the next group's
    first step may follow the last step by max(kernels, lead) + 1 cycles.
    """

    def __init__(self, shape, *, lanes: int, sets: int, kernels: int, lead: int):
        for name, value in (("lanes", lanes), ("sets", sets), ("kernels", kernels), ("lead", lead)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        self.shape, self.lanes, self.sets, self.kernels, self.lead = shape, lanes, sets, kernels, lead
        self.kernel_bits = (kernels - 1).bit_length()
        self._levels = (lanes - 1).bit_length()
        super().__init__(
            {
                "ready": Out(1),
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "products": In(signed(17)).array(lanes * sets),
                "kernel_ids": In(unsigned(self.kernel_bits)).array(lanes * sets),
                "y": Out(streams.values(shape, sets)),
                "returned": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a group's last step to its first beat: address, RAM, value, a register a level, FIFO."""
        return 3 + self._levels + ResultFifo.LATENCY

    def elaborate(self, platform) -> Module:
        m = Module()
        # Room for a drain, and for the beats of the one before that cannot have left yet.
        m.submodules.results = results = ResultFifo(
            self.y.payload.shape(), self.kernels + 2 + self._levels + ResultFifo.LATENCY, burst=self.kernels
        )
        wiring.connect(m, results.y, wiring.flipped(self.y))

        # The sweep after reset is a drain that nobody sees.
        draining, kernel = Signal(init=1), Signal(range(self.kernels))
        drain, emit, drained, swept = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            drain.eq(draining & ((kernel != 0) | results.room)),
            emit.eq(drain & swept),
            drained.eq(drain & (kernel == self.kernels - 1)),
            self.returned.eq(emit & (kernel == max(0, self.kernels - self.lead))),
            results.reserve.eq(emit),
        ]
        with m.If(drain):
            m.d.sync += kernel.eq(Mux(drained, 0, kernel + 1))
        with m.If(drained):
            m.d.sync += [draining.eq(0), swept.eq(1)]
        # Its readers are far away, and it changes once.
        m.d.sync += self.ready.eq(swept)
        with m.If(self.valid & self.last):
            m.d.sync += draining.eq(1)

        # The cycle of the sum: a step adds; the drain leaves the group's parity. The RAM was read a cycle before.
        write, parity, turn = Signal(), Signal(), Signal()
        m.d.sync += [write.eq(self.valid | drain), turn.eq(drained), parity.eq(parity ^ turn)]
        finished = [
            [
                self._accumulator(m, lane * self.sets + index, draining, kernel, write, parity, turn)
                for lane in range(self.lanes)
            ]
            for index in range(self.sets)
        ]
        for level in range(self._levels):
            finished = [
                [self._sum(m, terms[i : i + 2], f"sum_{level}_{index}_{i}") for i in range(0, len(terms), 2)]
                for index, terms in enumerate(finished)
            ]
        arrived = emit
        for stage in range(2 + self._levels):
            later = Signal(name=f"emit_{stage}")
            m.d.sync += later.eq(arrived)
            arrived = later
        m.d.comb += results.write.eq(arrived)
        for index, (total,) in enumerate(finished):
            m.d.comb += results.data[index].eq(total)
        return m

    def _accumulator(self, m: Module, place: int, draining, kernel, write, parity, turn) -> Signal:
        """The RAM of one lane and set; the register behind its sum so far."""
        width = self.shape.width
        memory = Memory(shape=unsigned(width + 1), depth=1 << max(1, self.kernel_bits), init=[])
        m.submodules[f"accumulators_{place}"] = memory
        writer, reader = memory.write_port(), memory.read_port(domain="comb")
        following, address = (Signal(len(writer.addr), name=f"{name}_{place}") for name in ("following", "address"))
        again = Signal(name=f"again_{place}")
        product = Signal(signed(17), name=f"product_{place}")
        present, value = Signal(self.shape, name=f"present_{place}"), Signal(self.shape, name=f"value_{place}")
        total = Signal(self.shape, name=f"total_{place}")
        m.d.sync += [
            address.eq(following),
            present.eq(
                Mux(
                    again,
                    # What the drain left is of the group before, and the RAM does not tell yet.
                    Mux(turn, 0, total),
                    Mux(reader.data[width] == parity ^ turn, reader.data[:width], 0),
                )
            ),
            product.eq(self.products[place]),
            value.eq(present),
        ]
        m.d.comb += [
            following.eq(Mux(draining, kernel, self.kernel_ids[place])),
            again.eq(write & (following == address)),
            reader.addr.eq(following),
            writer.addr.eq(address),
            writer.en.eq(write),
            total.eq(present + product),
            # In the drain the sum is noise, which the next group takes for zero.
            writer.data.eq(Cat(total, parity)),
        ]
        return value

    def _sum(self, m: Module, terms: list[Signal], name: str) -> Signal:
        total = Signal(self.shape, name=name)
        m.d.sync += total.eq(sum(terms[1:], start=terms[0]))
        return total
