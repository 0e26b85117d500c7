"""cocotb tests of AdderPipeline: a vector every cycle."""

from __future__ import annotations

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from sim.streams import pack, parameters, unpack

P = parameters()
WEIGHTS = np.array(P["weights"])


@cocotb.test()
async def is_the_product_a_vector_a_cycle(dut):
    draw = np.random.default_rng(2)
    inputs, outputs = WEIGHTS.shape
    x = draw.integers(P["low"], P["high"] + 1, (200, inputs))
    x[:4] = [[P["low"]] * inputs, [P["high"]] * inputs, [0] * inputs, draw.choice([P["low"], P["high"]], inputs)]
    wanted = (x @ WEIGHTS).tolist()
    dut.rst.value = 0
    Clock(dut.clk, 10, unit="ns").start()
    results = []
    for cycle in range(len(x) + P["latency"]):
        dut.x.value = pack(x[min(cycle, len(x) - 1)], P["bits"])
        # The inputs are there for a whole cycle before the edge; the outputs of the edge before are seen at it.
        await RisingEdge(dut.clk)
        results.append(unpack(int(dut.y.value), P["accumulator"], outputs, True))
    assert results[P["latency"] :] == wanted
