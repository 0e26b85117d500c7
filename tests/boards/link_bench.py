"""cocotb tests of SerialLink: `x` is what the accelerator takes, `y` what it gives."""

from __future__ import annotations

import random

import cocotb

from sim.streams import Bench, parameters
from tests.boards.serial_line import Counter, Listener, bit_picoseconds, send

P = parameters()
DRAW = random.Random(8)
BIT = bit_picoseconds(P["divider"])
FRAME = 10 * P["divider"] + 1
INPUTS = [DRAW.getrandbits(P["input_bits"]) for _ in range(8)]
OUTPUTS = [DRAW.getrandbits(P["output_bits"]) for _ in range(8)]


def as_bytes(beats: list[int], bits: int) -> list[int]:
    return [beat >> 8 * i & 0xFF for beat in beats for i in range(-(-bits // 8))]


SENT, HEARD = as_bytes(INPUTS, P["input_bits"]), as_bytes(OUTPUTS, P["output_bits"])


async def started(dut) -> Bench:
    dut.rx.value = 1
    bench = Bench(dut, inputs=("y",), outputs=("x",))
    await bench.reset()
    return bench


@cocotb.test()
async def carries_both_directions_at_once(dut):
    bench = await started(dut)
    lost, active = Counter(dut, "lost"), Counter(dut, "active")
    for idle, back_pressure in ((0.0, 0.0), (0.9, 0.5)):
        bench.stalls(idle, back_pressure)
        bench.sink.clear()
        active.count = 0
        listener = Listener(dut.tx, BIT)
        bench.source.send(OUTPUTS)
        await send(dut.rx, SENT, BIT)
        await bench.wait(FRAME * max(4, len(HEARD) - len(SENT) + 8))
        listener.close()
        assert bench.sink.beats == INPUTS
        assert listener.data == HEARD
        assert active.count == len(SENT) + len(HEARD)
    assert lost.count == 0


@cocotb.test()
async def an_accelerator_that_takes_nothing_loses_bytes_and_says_so(dut):
    bench = await started(dut)
    lost = Counter(dut, "lost")
    bench.stalls(0.0, 1.0)
    bench.sink.step(0)
    await send(dut.rx, SENT, BIT)
    await bench.wait(FRAME)
    # Two beats wait in the buffer, one before it, and a byte in the receiver.
    kept = 3 * -(-P["input_bits"] // 8) + 1
    assert lost.count == len(SENT) - kept
    bench.stalls(0.0, 0.0)
    await bench.wait(20)
    assert bench.sink.beats[:3] == INPUTS[:3]


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    bench = await started(dut)
    for delay in (7, FRAME // 2, FRAME + 3, 2 * FRAME + FRAME // 3):
        bench.source.send(OUTPUTS)
        sending = cocotb.start_soon(send(dut.rx, [0xFF] * 3, BIT))
        await bench.wait(delay)
        await bench.reset()
        await sending
        await bench.reset()
        bench.sink.clear()
        listener = Listener(dut.tx, BIT)
        bench.source.send(OUTPUTS[:2])
        await send(dut.rx, as_bytes(INPUTS[:2], P["input_bits"]), BIT)
        await bench.wait(4 * FRAME + 2 * FRAME * -(-P["output_bits"] // 8))
        listener.close()
        assert bench.sink.beats == INPUTS[:2], delay
        assert listener.data == as_bytes(OUTPUTS[:2], P["output_bits"]), delay
