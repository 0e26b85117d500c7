"""cocotb tests of Product and ProductPair: operands of every cycle, products after the latency."""

from __future__ import annotations

import itertools
import random

import cocotb
from cocotb.triggers import RisingEdge

from sim.streams import parameters
from tests.rtl_templates.clocked import Clocked

P = parameters()
ACTIVATIONS = (-128, -127, -1, 0, 1, 127) if P["signed"] else (0, 1, 127, 128, 255)
WEIGHTS = (-127, -64, -32, -1, 0, 1, 31, 127)


@cocotb.test()
async def products_after_the_latency(dut):
    await Clocked(dut, []).reset()
    if P["pair"]:
        weights, products = [dut.weights__0, dut.weights__1], [dut.products__0, dut.products__1]
    else:
        weights, products = [dut.weight], [dut.product]
    draw = random.Random(4)
    operands = list(itertools.product(ACTIVATIONS, *[WEIGHTS for _ in weights]))
    activations = range(-128, 128) if P["signed"] else range(256)
    operands += [(draw.choice(activations), *(draw.randint(-127, 127) for _ in weights)) for _ in range(4000)]
    for cycle in range(len(operands) + P["latency"]):
        if cycle < len(operands):
            activation, *row = operands[cycle]
            dut.activation.value = activation & 0xFF
            for port, weight in zip(weights, row, strict=True):
                port.value = weight & 0xFF
        await RisingEdge(dut.clk)
        # Sampled at the edge that takes the operands of this cycle.
        if cycle >= P["latency"]:
            activation, *row = operands[cycle - P["latency"]]
            assert [product.value.to_signed() for product in products] == [activation * weight for weight in row]
