"""A layer engine that goes from its inputs: every winner of a map adds to the outputs that it reaches.

The MAC engine goes from the outputs and gathers a window for each, which needs a bound on the winners of every
position. Behind a k-WTA over a whole map only their total is known: so Select is turned round, and the accumulators of
all positions are kept. The augmented weight tensor is that of Complementary Sparsity (arXiv 2112.13896, figure 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from rtl_templates import streams
from rtl_templates.constant_divider import ConstantDivider
from rtl_templates.mac_engine import delayed
from rtl_templates.map_accumulators import BANKS, MapAccumulators
from rtl_templates.timing import SCATTER_GAP
from rtl_templates.weight_memory import WEIGHT_BITS, weight_memory
from rtl_templates.word_buffer import WordBuffer


@dataclass(frozen=True, eq=False)
class Reach:
    """Which outputs an input reaches along one axis.

    Attributes:
        outputs: extent of the output along the axis.
        inside: bool (inputs, offsets): whether there is such an output.
        output: int, same shape: its place along the axis.
        kernel: int, same shape: the weight's place in the kernel along the axis.
    """

    outputs: int
    inside: NDArray[np.bool_]
    output: NDArray[np.int64]
    kernel: NDArray[np.int64]

    def __post_init__(self) -> None:
        shapes = {self.inside.shape, self.output.shape, self.kernel.shape}
        if self.inside.ndim != 2 or not self.inside.size or len(shapes) > 1:
            raise ValueError(f"inside, output and kernel must be (inputs, offsets), not {self.inside.shape!r}")

    @property
    def inputs(self) -> int:
        return self.inside.shape[0]

    @property
    def offsets(self) -> int:
        return self.inside.shape[1]


class ScatterEngine(wiring.Component):
    """Buffer, weight memory, multipliers and the accumulators of a whole map, for one Conv2d layer behind winners.

        x -> WordBuffer -> index -> channel, row, column -> Reach --> place ---------------.
                 |                                            '-----> weight memory --.    |
                 '---------> value ----------------------------------------------> (x) -> MapAccumulators -> y

    For each entry of a word, for each vertical and each horizontal offset, for each row of a column of the augmented
    weight tensor, for each fold: one activation meets `sets` weights. Offsets that reach no output take their cycle
    and add nothing: the schedule is static.

    Arguments:
        shape: of an activation.
        entries: of a word.
        vertical, horizontal: from the input map to the output map.
        weights: int (channels, kernel rows, kernel columns, rows, folds, sets), in [-127, 127].
        kernel_ids: int, same shape, below `kernels`.
        kernels: accumulators a set, fold and position.
        accumulator: shape.

    Members:
        x: list stream, `entries` a word; an index is (channel * map rows + row) * map columns + column.
        y: value stream of accumulators, `sets` lanes, `kernels` beats a fold, all folds of a position in order.

    Latency: from a word's last entry to its first result `steps` + LATENCY cycles.
    Initiation interval: `steps` + SCATTER_GAP cycles a word, or the word's beats where they are more.
    After reset the accumulators are cleared, a cycle each, before the first word is begun.
    """

    # Of the pipeline from the schedule to the accumulators.
    DEPTH = 10
    LATENCY = DEPTH + MapAccumulators.LATENCY

    def __init__(
        self,
        *,
        shape,
        entries: int,
        vertical: Reach,
        horizontal: Reach,
        weights: NDArray[np.integer],
        kernel_ids: NDArray[np.integer],
        kernels: int,
        accumulator,
    ):
        if entries < 1:
            raise ValueError(f"entries must be positive, not {entries!r}")
        if weights.ndim != 6 or weights.shape != kernel_ids.shape:
            raise ValueError(
                "weights and kernel IDs must be (channels, kernel rows, kernel columns, rows, folds, sets), "
                f"not {weights.shape!r} and {kernel_ids.shape!r}"
            )
        if not 0 <= kernel_ids.min() <= kernel_ids.max() < kernels:
            raise ValueError(f"kernel IDs must be below {kernels}")
        if np.abs(weights.astype(np.int64)).max() > 127:
            raise ValueError("weights must be in [-127, 127]")
        self.shape, self.entries, self.vertical, self.horizontal = shape, entries, vertical, horizontal
        self.weights, self.kernel_ids, self.kernels = weights, kernel_ids, kernels
        self.accumulator = accumulator
        self._channels, _, self._kernel_columns, self._rows, self._folds, self._sets = weights.shape
        self._positions = vertical.inputs * horizontal.inputs
        self._steps_of_entry = vertical.offsets * horizontal.offsets * self._rows * self._folds
        # Accumulators of one position.
        self._results = self._folds * kernels
        super().__init__(
            {
                "x": In(streams.entries(shape, self._channels * self._positions)),
                "y": Out(streams.values(accumulator, self._sets)),
            }
        )

    @property
    def steps(self) -> int:
        """Of a word."""
        return self.entries * self._steps_of_entry

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = WordBuffer(self.x.payload.shape(), 1, self.entries)
        places = self.vertical.outputs * self.horizontal.outputs * self._results
        m.submodules.accumulators = accumulators = MapAccumulators(self.accumulator, sets=self._sets, places=places)
        wiring.connect(m, wiring.flipped(self.x), buffer.x)
        wiring.connect(m, accumulators.y, wiring.flipped(self.y))

        # The trailing number of a name is the cycle of the pipeline; the schedule's own is 0.
        valid_0, last_0 = self._schedule(m, buffer, accumulators)
        entry_1 = buffer.data[0][0]
        column_weights = self._rows * self._folds
        kernel_weights = int(np.prod(self.weights.shape[1:5]))
        m.submodules.channel = channel = ConstantDivider(
            self._channels * self._positions, self._positions, kernel_weights
        )
        m.submodules.row = row = ConstantDivider(self._positions, self.horizontal.inputs)
        m.d.comb += [channel.number.eq(entry_1.index), row.number.eq(channel.remainder)]
        channel_6 = delayed(m, channel.quotient, 3, "channel")

        valid_5 = delayed(m, valid_0, 5, "valid")
        down_5, across_5, inner_5, fold_5 = self._offsets(m, valid_5)
        down_6 = self._table(
            m, "down", self.vertical, down_5, row.quotient, self.horizontal.outputs * self._results,
            self._kernel_columns * column_weights,
        )  # fmt: skip
        across_6 = self._table(m, "across", self.horizontal, across_5, row.remainder, self._results, column_weights)
        inner_6, fold_7 = delayed(m, inner_5, 1, "inner"), delayed(m, fold_5, 2, "fold")

        inside_7, place_7, place_8 = Signal(), Signal(range(places)), Signal(range(places))
        depth = self._channels * kernel_weights
        kernel_7, channel_7, weight_8 = Signal(range(depth)), Signal(range(depth)), Signal(range(depth))
        m.d.sync += [
            inside_7.eq(down_6.inside & across_6.inside),
            place_7.eq(down_6.place + across_6.place),
            kernel_7.eq(down_6.weight + across_6.weight),
            channel_7.eq(channel_6 + inner_6),
            place_8.eq(place_7 + fold_7),
            weight_8.eq(kernel_7 + channel_7),
        ]
        kernel_bits = (self.kernels - 1).bit_length()
        m.submodules.weights = weights = weight_memory(
            self.weights.reshape(depth, -1), self.kernel_ids.reshape(depth, -1), kernel_bits
        )
        port = weights.read_port()
        m.d.comb += [port.en.eq(1), port.addr.eq(weight_8)]

        place_9 = delayed(m, place_8, 1, "place")
        activation_10 = delayed(m, entry_1.value, 9, "activation")
        m.d.comb += [
            accumulators.valid.eq(delayed(m, valid_5, 5, "valid_late")),
            accumulators.last.eq(delayed(m, last_0, self.DEPTH, "last")),
            accumulators.inside.eq(delayed(m, inside_7, 3, "inside")),
        ]
        for index in range(self._sets):
            bit = index * (WEIGHT_BITS + kernel_bits)
            weight_10 = Signal(signed(WEIGHT_BITS), name=f"weight_10_{index}")
            place_10 = Signal(range(places), name=f"place_10_{index}")
            product_11 = Signal(signed(17), name=f"product_11_{index}")
            m.d.sync += [
                weight_10.eq(port.data[bit : bit + WEIGHT_BITS]),
                place_10.eq(place_9 + port.data[bit + WEIGHT_BITS : bit + WEIGHT_BITS + kernel_bits]),
                product_11.eq(activation_10 * weight_10),
            ]
            m.d.comb += [accumulators.address[index].eq(place_10), accumulators.products[index].eq(product_11)]
        return m

    def _schedule(self, m, buffer, accumulators):
        """Reads each entry of a word for all its steps; returns whether this is a step, and the word's last."""
        steps, of_entry = self.steps, self._steps_of_entry
        cycle, under_way = Signal(range(steps + SCATTER_GAP)), Signal(range(BANKS + 1))
        step, entry = Signal(range(of_entry)), Signal(range(self.entries))
        start, run, valid, last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            start.eq((cycle == 0) & buffer.available & accumulators.cleared & (under_way != BANKS)),
            run.eq(start | (cycle != 0)),
            valid.eq(run & (cycle < steps)),
            last.eq(valid & (cycle == steps - 1)),
            buffer.address[0].eq(entry),
            buffer.release.eq(last),
        ]
        m.d.sync += under_way.eq(under_way + start - accumulators.returned)
        with m.If(run):
            m.d.sync += cycle.eq(cycle + 1)
            with m.If(cycle == steps + SCATTER_GAP - 1):
                m.d.sync += cycle.eq(0)
        with m.If(valid):
            m.d.sync += step.eq(step + 1)
            with m.If(step == of_entry - 1):
                m.d.sync += [step.eq(0), entry.eq(entry + 1)]
                with m.If(entry == self.entries - 1):
                    m.d.sync += entry.eq(0)
        return valid, last

    def _offsets(self, m, valid):
        """Counters of a step: vertical and horizontal offset, weight row and fold in one, first result of the fold."""
        down, across = Signal(range(self.vertical.offsets)), Signal(range(self.horizontal.offsets))
        inner, fold = Signal(range(self._rows * self._folds)), Signal(range(self._results))
        last_fold = fold == self._results - self.kernels
        last_inner = inner == self._rows * self._folds - 1
        last_across = across == self.horizontal.offsets - 1
        with m.If(valid):
            m.d.sync += [inner.eq(inner + 1), fold.eq(fold + self.kernels)]
            with m.If(last_fold):
                m.d.sync += fold.eq(0)
            with m.If(last_inner):
                m.d.sync += [inner.eq(0), across.eq(across + 1)]
                with m.If(last_across):
                    m.d.sync += [across.eq(0), down.eq(down + 1)]
                    with m.If(down == self.vertical.offsets - 1):
                        m.d.sync += down.eq(0)
        return down, across, inner, fold

    def _table(self, m, name: str, reach: Reach, offset, at, place_step: int, weight_step: int):
        """Whether, where in the accumulators and with which weight row an input reaches, a cycle after its place."""
        places, weights = np.where(reach.inside, reach.output, 0), np.where(reach.inside, reach.kernel, 0)
        row = data.StructLayout(
            {
                "inside": 1,
                "place": range(int(places.max()) * place_step + 1),
                "weight": range(int(weights.max()) * weight_step + 1),
            }
        )
        padding: list[dict[str, int]] = [{}] * ((1 << len(offset)) - reach.offsets)
        init = []
        for inside, place, weight in zip(reach.inside, places * place_step, weights * weight_step, strict=True):
            init += [
                {"inside": int(inside[i]), "place": int(place[i]), "weight": int(weight[i])}
                for i in range(reach.offsets)
            ] + padding
        m.submodules[name] = table = Memory(shape=row, depth=len(init), init=init)
        port = table.read_port()
        m.d.comb += [port.en.eq(1), port.addr.eq(Cat(offset, at))]
        return port.data
