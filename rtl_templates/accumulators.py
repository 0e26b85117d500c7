"""Route and Sum: products to the accumulators that their kernel IDs name, and finished sums out as a stream."""

from __future__ import annotations

from itertools import product

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.result_banks import drain_banks


class Accumulators(wiring.Component):
    """`sets` complementary sets of `kernels` accumulators, `banks`-fold, fed by `lanes` products a set and cycle.

        product[lane][set] ---> (+) <--> accumulator RAM[bank, kernel ID] ---> sum over lanes ---> y

    While one bank fills with a group of steps, finished banks drain kernel by kernel: beat i of a group carries
    accumulator i of every set. Where products need no routing, since there is one kernel a set or since only the first
    one of each set has weights, those of a cycle are summed in a registered tree, one register a set takes the place of
    the RAM, and the other kernels leave as zeros.

    The RAM is not cleared: a flag for each accumulator says whether its group has touched it.

    Arguments:
        shape: of the accumulators; wide enough for every partial sum (the packer proves it).
        lanes, sets, kernels, banks: as above.
        routed: whether products go to other kernels than the first.

    Members:
        valid, first, last: this cycle carries a step of a group.
        products: of each lane and set, lane-major.
        kernel_ids: of each product.
        y: value stream, `sets` lanes, `kernels` beats a group.
        returned: strobe: a bank has been read to its end.

    Latency: from a group's last step to its first beat, see `latency`. Initiation interval: `kernels` cycles a group,
    as long as there are banks enough.
    """

    def __init__(self, shape, *, lanes: int, sets: int, kernels: int, banks: int, routed: bool = True):
        for name, value in (("lanes", lanes), ("sets", sets), ("kernels", kernels), ("banks", banks)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        self.shape, self.lanes, self.sets, self.kernels, self.banks = shape, lanes, sets, kernels, banks
        self.routed = routed and kernels > 1
        self.kernel_bits = (kernels - 1).bit_length() if self.routed else 0
        super().__init__(
            {
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
        """Cycles from a group's last step to its first beat: the bank, and a register for each level of the tree."""
        levels = (self.lanes - 1).bit_length()
        return 2 + max(1, levels) if self.routed else 3 + levels

    def elaborate(self, platform):
        m = Module()
        done, bank = Signal(), Signal(range(self.banks))
        drained, kernel = Signal(range(self.banks)), Signal(range(self.kernels))
        # One place a lane and set (or a set, after the tree) that shows accumulator `kernel` of bank `drained`.
        if self.routed:
            finished = self._routed(m, done, bank, Cat(kernel, drained))
        else:
            finished = self._single(m, done, bank, drained, kernel)

        advance, take = drain_banks(m, self, done, bank, drained, kernel)

        # Sum over lanes, a register a level; the whole short pipeline moves or stands.
        valid = take
        while True:
            valid_next = Signal()
            with m.If(advance):
                m.d.sync += valid_next.eq(valid)
            valid = valid_next
            sums = [[Signal(self.shape) for _ in range(-(-len(terms) // 2))] for terms in finished]
            for total, terms in zip(sums, finished, strict=True):
                for index, node in enumerate(total):
                    with m.If(advance):
                        m.d.sync += node.eq(sum(terms[2 * index + 1 : 2 * index + 2], start=terms[2 * index]))
            finished = sums
            if all(len(terms) == 1 for terms in finished):
                break
        m.d.comb += [self.y.valid.eq(valid), advance.eq(self.y.ready | ~self.y.valid)]
        for index, terms in enumerate(finished):
            m.d.comb += self.y.payload[index].eq(terms[0])
        return m

    def _single(self, m, done, bank, drained, kernel):
        """Weights of one kernel a set: tree over the lanes, one register, a row of results for each bank."""
        valid, first, last = self.valid, self.first, self.last
        terms = [[self.products[lane * self.sets + index] for lane in range(self.lanes)] for index in range(self.sets)]
        while len(terms[0]) > 1:
            nodes = [
                [Signal(self.shape, name=f"node_{index}") for _ in range(-(-len(column) // 2))]
                for index, column in enumerate(terms)
            ]
            for column, level in zip(terms, nodes, strict=True):
                for index, node in enumerate(level):
                    m.d.sync += node.eq(sum(column[2 * index + 1 : 2 * index + 2], start=column[2 * index]))
            terms = nodes
            flags = Signal(3)
            m.d.sync += flags.eq(Cat(valid, first, last))
            valid, first, last = flags[0], flags[1], flags[2]
        # Kernels without weights leave as a last row that nobody writes: a multiplexer would cost a LUT a bit.
        depth = self.banks + (self.kernels > 1)
        results = Memory(shape=data.ArrayLayout(self.shape, self.sets), depth=depth, init=[])
        m.submodules.results = results
        write, read = results.write_port(), results.read_port(domain="comb")
        m.d.sync += done.eq(valid & last)
        m.d.comb += [write.addr.eq(bank), write.en.eq(done)]
        m.d.comb += read.addr.eq(Mux(kernel == 0, drained, self.banks))
        for index, column in enumerate(terms):
            accumulator = Signal(self.shape, name=f"accumulator_{index}")
            with m.If(valid):
                m.d.sync += accumulator.eq(Mux(first, 0, accumulator) + column[0])
            m.d.comb += write.data[index].eq(accumulator)
        # A view's elements must become signals once: indexing anew in the tree would lose nothing but time.
        return [[read.data[index]] for index in range(self.sets)]

    def _routed(self, m, done, bank, drain_address):
        """Several kernels a set: a RAM for each lane and set, read, added to and written in one cycle."""
        m.d.sync += done.eq(self.valid & self.last)
        # `bank` moves on with `done`, a cycle after the last product: too late for a group that follows at once.
        filling = Signal.like(bank)
        with m.If(self.valid & self.last):
            m.d.sync += filling.eq(Mux(filling == self.banks - 1, 0, filling + 1))
        size, places = 1 << self.kernel_bits, self.lanes * self.sets
        flags = Memory(shape=unsigned(size * places), depth=self.banks, init=[])
        m.submodules.flags = flags
        keep, recall = flags.write_port(), flags.read_port(domain="comb")
        kernel, drained = drain_address[: self.kernel_bits], drain_address[self.kernel_bits :]
        m.d.comb += [keep.addr.eq(bank), keep.en.eq(done), recall.addr.eq(drained)]

        finished: list[list[Signal]] = [[] for _ in range(self.sets)]
        all_touched = []
        # Slices of a wide row are slow to elaborate: a set's flags at a time.
        recalled = [Signal(size * self.lanes, name=f"recalled_{index}") for index in range(self.sets)]
        for index, row in enumerate(recalled):
            m.d.comb += row.eq(recall.data[index * len(row) : (index + 1) * len(row)])
        for index, lane in product(range(self.sets), range(self.lanes)):
            place = lane * self.sets + index
            memory = Memory(shape=self.shape, depth=self.banks * size, init=[])
            m.submodules[f"accumulator_{place}"] = memory
            write = memory.write_port()
            present, drain = memory.read_port(domain="comb"), memory.read_port(domain="comb")
            touched, before = Signal(size, name=f"touched_{place}"), Signal(size, name=f"before_{place}")
            kernel_id = self.kernel_ids[place]
            address = Cat(kernel_id, filling)
            value = Signal(self.shape, name=f"finished_{place}")
            m.d.comb += [
                before.eq(Mux(self.first, 0, touched)),
                present.addr.eq(address),
                write.addr.eq(address),
                write.en.eq(self.valid),
                write.data.eq(Mux(before.bit_select(kernel_id, 1), present.data, 0) + self.products[place]),
                drain.addr.eq(drain_address),
                value.eq(Mux(recalled[index].word_select(lane, size).bit_select(kernel, 1), drain.data, 0)),
            ]
            with m.If(self.valid):
                m.d.sync += touched.eq(before | (1 << kernel_id))
            finished[index].append(value)
            all_touched.append(touched)
        m.d.comb += keep.data.eq(Cat(all_touched))
        return finished
