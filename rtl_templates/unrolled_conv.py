"""A convolution with constant weights, unrolled into adders, and the max-pool behind it."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.adder_graph import AdderGraph
from rtl_templates.adder_pipeline import AdderPipeline, fits, shape_of
from rtl_templates.mac_engine import delayed
from rtl_templates.result_fifo import ResultFifo
from rtl_templates.window_sweep import Blocks, Pair, WindowSweep

# Running maxima that read one register: more would lie too far apart.
_KERNELS_A_STROBE = 4
# Registers of its own that such a group has on the way of its strobe, as far as the adders are deep enough.
_STROBE_HOPS = 2
# Results that wait for their beats and read one register.
_RESULTS_A_STROBE = 8


class UnrolledConv(wiring.Component):
    """Conv2d without padding, dilation or groups, and max-pool whose stride is its window; a position a cycle.

        x -> WindowSweep -> AdderPipeline -> running maximum -> result -> lanes -> ResultFifo -> y
                 ^------------------------- room --------------------------------------'

    The positions of one pool window follow each other, so that pooling takes one register a channel. A block is only
    begun where there is room for its result: nothing stalls between the sweep and the FIFO. Biases are not added here;
    rows and columns that fill no window are dropped, as torch does.

    Arguments:
        graph: weights (channels * rows * columns, outputs), the rows in the order of a torch weight.
        shape: of an activation in the stream; what comes must lie in the graph's range.
        accumulator: shape of a result.
        channels: of the input.
        map, kernel, stride, pool: (rows, columns); pool is (1, 1) without one.
        pixels: a beat of the input; divides the map's columns.
        lanes: values a beat of the output.

    Members:
        x: value stream of the map, `pixels` neighbours a beat, all channels of the first, then of the next.
        y: value stream, ceil(outputs / lanes) beats a position; the outputs in order, the last beat filled with zeros.

    Latency: `latency` cycles from the last beat of the rows of a block to its first result, while nothing else waits.
    Initiation interval: a word in `timing.window_sweep_interval`.
    """

    def __init__(
        self,
        graph: AdderGraph,
        *,
        shape: Shape,
        accumulator: Shape,
        channels: int,
        map: Pair,
        kernel: Pair,
        stride: Pair = (1, 1),
        pool: Pair = (1, 1),
        pixels: int = 1,
        lanes: int = 1,
    ):
        outputs = len(graph.outputs)
        if graph.inputs != channels * kernel[0] * kernel[1]:
            raise ValueError(
                f"the graph must have {channels * kernel[0] * kernel[1]} inputs, the weights of a kernel, "
                f"not {graph.inputs}"
            )
        if not fits(graph.low, graph.high, shape):
            raise ValueError(f"shape must hold the graph's inputs, {graph.low} to {graph.high}, not be {shape!r}")
        if not 1 <= lanes <= outputs:
            raise ValueError(f"lanes must be 1 to {outputs}, the outputs, not {lanes!r}")
        self.graph, self.accumulator, self.lanes = graph, accumulator, lanes
        self.beats = -(-outputs // lanes)
        blocks = Blocks(map, kernel, stride, pool)
        self._pooled = blocks.positions > 1
        self._sweep = WindowSweep(
            shape,
            shape_of(graph.low, graph.input_bits),
            channels=channels,
            blocks=blocks,
            pixels=pixels,
            pace=max(blocks.positions, self.beats),
            reserved=self.beats,
        )
        self._adders = AdderPipeline(graph, accumulator)
        through = blocks.positions - 1 + graph.depth + ResultFifo.LATENCY
        through += timing.UNROLLED_POOL_LATENCY if self._pooled else 0
        through += timing.UNROLLED_NARROW_LATENCY if self.beats > 1 else 0
        self.latency = timing.WINDOW_SWEEP_LATENCY + self._sweep.first_reads + through
        # A place is taken when its block begins; with so many, one block always begins as early as it can, and a cycle later.
        turnaround = WindowSweep.LATENCY + through + self.beats + 1
        self._places = self.beats * -(-turnaround // self._sweep.pace)
        super().__init__(
            {
                "x": In(streams.values(shape, pixels * channels)),
                "y": Out(streams.values(accumulator, lanes)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.sweep = sweep = self._sweep
        m.submodules.adders = adders = self._adders
        m.submodules.results = results = ResultFifo(self.y.payload.shape(), self._places, burst=self.beats)
        wiring.connect(m, wiring.flipped(self.x), sweep.x)
        wiring.connect(m, results.y, wiring.flipped(self.y))
        depth = self.graph.depth
        hops = min(depth, _STROBE_HOPS)
        first, last = delayed(m, sweep.first, depth - hops, "first"), delayed(m, sweep.last, depth - hops, "last")
        m.d.comb += [sweep.room.eq(results.room), results.reserve.eq(sweep.reserve), adders.x.eq(sweep.taps)]

        values: list[Value] = []
        begins: list[Value] = []
        for index, output in enumerate(self.graph.outputs):
            if self._pooled and index % _KERNELS_A_STROBE == 0:
                begins.append(delayed(m, self._begins(m, first, last, index), hops, f"begins_{index}"))
            # Only as wide as it can be: maximum and registers take less.
            value = Signal(shape_of(output.low, output.bits), name=f"sum_{index}")
            m.d.comb += value.eq(adders.y[index])
            values.append(self._largest(m, value, begins[-1], index) if self._pooled else value)
        behind = hops + (timing.UNROLLED_POOL_LATENCY if self._pooled else 0)
        if self.beats == 1:
            done = delayed(m, last, behind, "done")
            m.d.comb += [results.write.eq(done), *(results.data[i].eq(value) for i, value in enumerate(values))]
        else:
            self._narrow(m, values, last, behind, results)
        return m

    def _begins(self, m: Module, first: Value, last: Value, index: int) -> Signal:
        """Whether no position of the block has passed yet. Copies of it stay apart: each depends on its own state."""
        begins = Signal(init=1, name=f"begins_{index}")
        m.d.sync += begins.eq(last | (begins & ~first))
        return begins

    def _largest(self, m: Module, value: Signal, first: Value, index: int) -> Signal:
        """The largest value since the first of the block."""
        largest = Signal(value.shape(), name=f"largest_{index}", reset_less=True)
        # The sign of the difference: a comparison would take twice the LUTs on the ECP5.
        lead = Signal(signed(len(value) + 1), name=f"lead_{index}")
        m.d.comb += lead.eq(value - largest)
        with m.If(first | ~lead[-1]):
            m.d.sync += largest.eq(value)
        return largest

    def _narrow(self, m: Module, values: list[Value], last: Value, behind: int, results: ResultFifo) -> None:
        """A result, there so many cycles behind `last`, beat by beat; the next comes no earlier than in `beats` cycles."""
        before = delayed(m, last, behind - 1, "before_done") if behind else last

        def done(name: str) -> Value:
            # It never lasts two cycles: copies that say so of themselves stay apart.
            if not behind:
                return last
            copy = Signal(name=name)
            m.d.sync += copy.eq(before & ~copy)
            return copy

        left = Signal(range(self.beats + 1))
        with m.If(done("done")):
            m.d.sync += left.eq(self.beats)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        held: list[Value] = []
        for index, value in enumerate(values):
            if index % _RESULTS_A_STROBE == 0:
                # Until the last beat has been read, when the next result may come.
                holds = Signal(name=f"holds_{index}")
                m.d.sync += holds.eq(done(f"done_{index}") | (holds & (left != 2)))
            register = Signal(value.shape(), name=f"result_{index}", reset_less=True)
            with m.If(~holds):
                m.d.sync += register.eq(value)
            held.append(register)
        m.d.sync += results.write.eq(left != 0)
        beat = Signal(data.ArrayLayout(self.accumulator, self.lanes), reset_less=True)
        m.d.comb += results.data.eq(beat)
        for lane in range(self.lanes):
            # Each lane counts for itself: one counter would have too many readers.
            number = Signal(range(self.beats), name=f"beat_{lane}", reset_less=True)
            m.d.sync += number.eq(Mux(done(f"done_of_lane_{lane}"), 0, number + 1))
            of_lane = held[lane :: self.lanes]
            zeros = [0] * (self.beats - len(of_lane))
            m.d.sync += beat[lane].eq(Array([*of_lane, *zeros])[number])
