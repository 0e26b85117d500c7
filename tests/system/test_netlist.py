"""The synthesised netlist computes what the source computes, bit for bit and cycle for cycle."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from host import reference
from hwgen.format.bundle import read_manifest
from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Linear,
    MaxPool2d,
    Requantise,
)
from hwgen.generator import write
from hwgen.packing import pack_network
from hwgen.plan import make_plan
from hwgen.verilog import write_verilog
from sim.compiled import CompiledSimulator
from sim.netlist import synthesise
from tests.random_networks import inputs

WORDS = 10


def weights(rng: np.random.Generator, shape: tuple[int, ...], density: float):
    """Random int8 weights and their mask."""
    mask = rng.random(shape) < density
    return np.where(mask, rng.integers(-127, 128, shape), 0).astype(np.int8), mask


def small_network() -> IntegerNetwork:
    """Convolution, pooling, local k-WTA and a linear layer that takes the winners."""
    rng = np.random.default_rng(11)
    return IntegerNetwork(
        Input((1, 10, 10), 1.0, False),
        (
            Conv2d("conv", *weights(rng, (6, 1, 3, 3), 0.5), rng.integers(-500, 500, 6).astype(np.int32)),
            MaxPool2d("pool", (2, 2), (2, 2)),
            Requantise("requantise", rng.integers(1, 200, 6).astype(np.int32), 13, True),
            KWinners("winners", 2, True),
            Flatten("flatten"),
            Linear("linear", *weights(rng, (12, 96), 0.3), rng.integers(-500, 500, 12).astype(np.int32)),
        ),
        np.ones(12),
    )


def larger_network() -> IntegerNetwork:
    """Two convolutions, both kinds of k-WTA and a linear layer."""
    rng = np.random.default_rng(5)
    return IntegerNetwork(
        Input((1, 8, 8), 1.0, True),
        (
            Conv2d("conv1", *weights(rng, (8, 1, 3, 3), 0.4), rng.integers(-500, 500, 8).astype(np.int32)),
            MaxPool2d("pool", (2, 2), (1, 1)),
            Requantise("requantise1", rng.integers(1, 200, 8).astype(np.int32), 14, True),
            KWinners("winners1", 3, True),
            Conv2d("conv2", *weights(rng, (16, 8, 3, 3), 0.25), rng.integers(-500, 500, 16).astype(np.int32)),
            Requantise("requantise2", rng.integers(1, 200, 16).astype(np.int32), 14, False),
            KWinners("winners2", 9, False),
            Flatten("flatten"),
            Linear("linear", *weights(rng, (10, 144), 0.2), rng.integers(-500, 500, 10).astype(np.int32)),
        ),
        np.ones(10),
    )


@pytest.mark.parametrize(
    ("network", "multiplier_blocks"),
    [
        pytest.param(small_network(), True, id="small"),
        pytest.param(small_network(), False, id="small, multipliers in LUTs", marks=pytest.mark.slow),
        pytest.param(larger_network(), True, id="larger", marks=pytest.mark.slow),
        pytest.param(larger_network(), False, id="larger, multipliers in LUTs", marks=pytest.mark.slow),
    ],
)
def test_netlist_equals_reference(network, multiplier_blocks, tmp_path):
    packed = pack_network(network)
    plan = make_plan(packed, mode="sparse-sparse", cycles=1500)
    assert plan.multipliers >= 2
    bundle = write(plan, packed, tmp_path / "bundle").path
    manifest = read_manifest(bundle)
    netlist = synthesise(bundle / f"{manifest.top}.v", manifest.top, tmp_path, multiplier_blocks=multiplier_blocks)
    assert netlist.cells["TRELLIS_DPR16X4"] > 0
    assert netlist.cells["DP16KD"] > 0
    assert ("MULT18X18D" in netlist.cells) == multiplier_blocks

    x = inputs(network, WORDS, seed=3)
    expected = reference.run_int(network, x)
    with CompiledSimulator(netlist.verilog, manifest.top, manifest.input, manifest.output, optimise=0) as simulator:
        y, result = simulator.run(x)
        np.testing.assert_array_equal(y, expected)
        assert result.cycles_per_word == plan.cycles_per_word
        y, _ = simulator.run(x, input_stalls=0.5, output_stalls=0.5, seed=3, reset_at=3 * plan.cycles_per_word)
        np.testing.assert_array_equal(y, expected)
    with CompiledSimulator.from_bundle(bundle) as simulator:
        _, of_source = simulator.run(x)
    np.testing.assert_array_equal(result.beat_cycles, of_source.beat_cycles)


class MemoryBench(Component):
    """Answers a beat {address, data, write enable of each byte} with what the memory holds at the address.

    Arguments:
        offset: the data go to `address ^ offset`, after the read; 0 shares one port, 1 takes two.
        hold: a beat that writes does not read: its answer is the last one.
    """

    def __init__(self, width: int, contents: list[int], offset: int, hold: bool) -> None:
        self._memory = Memory(shape=width, depth=len(contents), init=contents)
        self._width, self._address_bits = width, (len(contents) - 1).bit_length()
        self._offset, self._hold = offset, hold
        beat = self._address_bits + width + byte_count(width)
        super().__init__({"x": In(stream.Signature(beat)), "y": Out(stream.Signature(width))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.memory = memory = self._memory
        read, write_ = memory.read_port(), memory.write_port(granularity=self._width // byte_count(self._width))
        taken = self.x.valid & self.x.ready
        enables = self.x.payload[self._address_bits + self._width :]
        m.d.comb += [
            self.x.ready.eq(~self.y.valid | self.y.ready),
            Cat(read.addr, write_.data).eq(self.x.payload),
            write_.addr.eq(read.addr ^ self._offset),
            read.en.eq(taken & ~enables.any() if self._hold else taken),
            write_.en.eq(taken.replicate(byte_count(self._width)) & enables),
            self.y.payload.eq(read.data),
        ]
        with m.If(self.x.ready):
            m.d.sync += self.y.valid.eq(self.x.valid)
        return m


def byte_count(width: int) -> int:
    """9-bit bytes of a word that can be written on their own."""
    return max(1, width // 9)


class MultiplierBench(Component):
    """Multiplies the two halves of a beat, combinationally."""

    def __init__(self, signs: tuple[bool, bool], bits: int) -> None:
        self._signs, self._bits = signs, bits
        super().__init__({"x": In(stream.Signature(2 * bits)), "y": Out(stream.Signature(2 * bits))})

    def elaborate(self, platform) -> Module:
        m = Module()
        halves = self.x.payload[: self._bits], self.x.payload[self._bits :]
        a, b = (half.as_signed() if sign else half for half, sign in zip(halves, self._signs, strict=True))
        m.d.comb += [self.y.payload.eq(a * b), self.y.valid.eq(self.x.valid), self.x.ready.eq(self.y.ready)]
        return m


class RegisteredMultiplierBench(Component):
    """Multiplies the two halves of a beat between registers, which an enable may hold.

    Arguments:
        reset: of the registers; those of a multiplier block are not used then.
    """

    def __init__(self, bits: int, enabled: bool, reset: bool) -> None:
        self._bits, self._enabled, self._reset = bits, enabled, reset
        super().__init__({"x": In(stream.Signature(2 * bits)), "y": Out(stream.Signature(2 * bits))})

    def elaborate(self, platform) -> Module:
        m = Module()
        a, b = (Signal(signed(self._bits), name=name, reset_less=not self._reset) for name in ("a", "b"))
        product = Signal(signed(2 * self._bits), reset_less=not self._reset)
        valid, advance = Signal(2), Signal()
        m.d.comb += [
            advance.eq(~self.y.valid | self.y.ready if self._enabled else 1),
            self.x.ready.eq(advance),
            self.y.valid.eq(valid[1]),
            self.y.payload.eq(product),
        ]
        with m.If(advance):
            m.d.sync += [
                valid.eq(Cat(self.x.valid, valid[0])),
                a.eq(self.x.payload[: self._bits]),
                b.eq(self.x.payload[self._bits :]),
                product.eq(a * b),
            ]
        return m


def run_netlist(component: Component, beats: np.ndarray, tmp_path, cell: str, output_stalls: float = 0.2) -> np.ndarray:
    """One answer a beat of the synthesised component, which must have `cell`; both arrays are uint64 (N,)."""
    netlist = synthesise(write_verilog(component, tmp_path, "bench")[0], "bench", tmp_path)
    assert cell in netlist.cells
    raw = beats.astype("<u8").view(np.uint32).reshape(len(beats), 1, 2)
    limbs = -(-component.x.payload.shape().width // 32)
    with CompiledSimulator(netlist.verilog, "bench", None, None, optimise=0) as simulator:
        result = simulator.run_words(raw[..., :limbs], output_beats=1, input_stalls=0.2, output_stalls=output_stalls)
    raw_out = np.zeros((len(beats), 2), np.uint32)
    raw_out[:, : result.raw_out.shape[2]] = result.raw_out[:, 0]
    return raw_out.view("<u8")[:, 0]


@pytest.mark.parametrize(
    ("width", "offset", "hold"),
    [(1, 1, False), (2, 1, False), (4, 1, False), (9, 1, False), (18, 1, False), (36, 1, False)]
    + [(18, 0, False), (18, 0, True), (4, 0, False)],
)
def test_block_memory_model(width, offset, hold, tmp_path):
    rng = np.random.default_rng(width)
    depth = {1: 16384, 2: 8192, 4: 4096, 9: 2048, 18: 1024, 36: 512}[width]
    contents = rng.integers(0, 1 << width, depth)
    # Few addresses, so that most reads meet an earlier write; then all of them.
    few = 2 * rng.integers(0, depth // 2, 10)[:, None] + [0, 1]
    addresses = np.concatenate([rng.choice(few.ravel(), 500), np.arange(depth)])
    data = rng.integers(0, 1 << width, len(addresses))
    enables = rng.integers(0, 1 << byte_count(width), len(addresses))
    enables[500:] = 0
    byte = (1 << width // byte_count(width)) - 1
    held, expected = contents.copy(), []
    for address, value, enable in zip(addresses, data, enables, strict=True):
        last = expected[-1] if expected else 0
        expected.append(last if hold and enable else held[address])
        mask = sum(byte << 9 * index for index in range(byte_count(width)) if enable >> index & 1)
        held[address ^ offset] = held[address ^ offset] & ~mask | value & mask
    address_bits = (depth - 1).bit_length()
    beats = addresses | data << address_bits | enables << address_bits + width
    answers = run_netlist(MemoryBench(width, contents.tolist(), offset, hold), beats, tmp_path, "DP16KD")
    np.testing.assert_array_equal(answers, np.array(expected))


class RegisteredMemoryBench(Component):
    """Answers with the word at an address, from a register behind the memory, which an enable may hold.

    Arguments:
        reset: of the register; that of the block is not used then.
    """

    def __init__(self, width: int, contents: list[int], enabled: bool, reset: bool) -> None:
        self._memory = Memory(shape=width, depth=len(contents), init=contents)
        self._enabled, self._reset = enabled, reset
        super().__init__(
            {"x": In(stream.Signature((len(contents) - 1).bit_length())), "y": Out(stream.Signature(width))}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.memory = memory = self._memory
        read = memory.read_port()
        word = Signal.like(self.y.payload, reset_less=not self._reset)
        valid, advance = Signal(2), Signal()
        m.d.comb += [
            advance.eq(~self.y.valid | self.y.ready if self._enabled else 1),
            self.x.ready.eq(advance),
            self.y.valid.eq(valid[1]),
            self.y.payload.eq(word),
            read.addr.eq(self.x.payload),
            read.en.eq(advance),
        ]
        with m.If(advance):
            m.d.sync += [valid.eq(Cat(self.x.valid, valid[0])), word.eq(read.data)]
        return m


@pytest.mark.parametrize("width", [9, 18, 36, 40])
@pytest.mark.parametrize(("enabled", "reset"), [(False, False), (True, False), (False, True)])
def test_memory_registers(width, enabled, reset, tmp_path):
    draw = np.random.default_rng(width)
    contents = draw.integers(0, 1 << width, 512)
    addresses = draw.integers(0, 512, 400)
    bench = RegisteredMemoryBench(width, contents.tolist(), enabled, reset)
    answers = run_netlist(bench, addresses, tmp_path, "DP16KD", output_stalls=0.2 if enabled else 0)
    np.testing.assert_array_equal(answers, contents[addresses])
    netlist = (tmp_path / "bench_netlist.v").read_text().split("`define NO_INCLUDES")[0]
    assert ("OUTREG" in netlist) == (not reset)
    # What remains are the two stages' valid bits.
    assert reset or netlist.count("  TRELLIS_FF #(") == 2


@pytest.mark.parametrize("signs", [(False, False), (False, True), (True, False), (True, True)])
def test_multiplier_model(signs, tmp_path):
    # All 36 bits of the product are used: the upper half depends on the signs.
    bits = 18
    rng = np.random.default_rng(7)
    limits = [(-(1 << bits - 1), (1 << bits - 1) - 1) if sign else (0, (1 << bits) - 1) for sign in signs]
    pairs = np.array([[a, b] for a in limits[0] for b in limits[1]])
    pairs = np.concatenate([pairs, np.stack([rng.integers(*limit, 200) for limit in limits], axis=1)])
    mask = (1 << bits) - 1
    beats = (pairs[:, 0] & mask) | (pairs[:, 1] & mask) << bits
    answers = run_netlist(MultiplierBench(signs, bits), beats, tmp_path, "MULT18X18D")
    np.testing.assert_array_equal(answers, pairs.prod(axis=1) & ((1 << 2 * bits) - 1))


@pytest.mark.parametrize(("enabled", "reset"), [(False, False), (True, False), (False, True)])
def test_multiplier_registers(enabled, reset, tmp_path):
    bits = 16
    draw = np.random.default_rng(8)
    edges = [-(1 << bits - 1), -1, 0, 1, (1 << bits - 1) - 1]
    pairs = np.array([[a, b] for a in edges for b in edges])
    pairs = np.concatenate([pairs, draw.integers(-(1 << bits - 1), 1 << bits - 1, (300, 2))])
    mask = (1 << bits) - 1
    beats = (pairs[:, 0] & mask) | (pairs[:, 1] & mask) << bits
    bench = RegisteredMultiplierBench(bits, enabled, reset)
    answers = run_netlist(bench, beats, tmp_path, "MULT18X18D", output_stalls=0.2 if enabled else 0)
    np.testing.assert_array_equal(answers, pairs.prod(axis=1) & ((1 << 2 * bits) - 1))
    netlist = (tmp_path / "bench_netlist.v").read_text().split("`define NO_INCLUDES")[0]
    assert ("REG_INPUTA_CLK" in netlist and "REG_OUTPUT_CLK" in netlist) == (not reset)
    # What remains are the two stages' valid bits.
    assert reset or netlist.count("  TRELLIS_FF #(") == 2
