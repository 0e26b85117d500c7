"""What the stages of a plan take of an FPGA: estimates, before any synthesis.

One LUT is a LUT4 site of the ECP5, where carry chains and distributed memories occupy the sites that they need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hwgen.plan import stages
from hwgen.plan.stages import Stage

# Sites of a bit of an accumulator that is added to and drained at once, or one after the other (distributed memory with
# two or one read port, the adder, a multiplexer).
_ACCUMULATOR_BIT = 5.0
_SERIAL_ACCUMULATOR_BIT = 3.0


@dataclass(frozen=True)
class Resources:
    """Look-up tables, multiplier blocks, bits of block memory."""

    lut: float = 0
    dsp: int = 0
    block_bits: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.lut + other.lut, self.dsp + other.dsp, self.block_bits + other.block_bits)


def total(plan: Iterable[Stage]) -> Resources:
    """An estimate for all stages of a plan."""
    return sum((resources(stage) for stage in plan), Resources())


def resources(stage: Stage) -> Resources:
    """An estimate for one stage."""
    match stage:
        case stages.Unrolled():
            outputs = len(stage.layout) * stage.lanes
            pooling = outputs * stage.accumulator_bits * (2 if stage.pool != (1, 1) else 0)
            leaving = 2 * outputs * stage.accumulator_bits
            return Resources(stage.adder_bits + pooling + leaving)
        case stages.Lanes():
            lanes, bits = stage.window.area, stage.accumulator_bits
            # Two distributed memory ports, the adder of the accumulator and that of the chain; a shared multiplier.
            site = 12 * -(-bits // 4) + 2 * bits + 20
            return Resources(lanes * stage.sets * site, lanes * -(-stage.sets // 2), stage.weight_bits + lanes * 18432)
        case stages.Mac():
            lanes = stage.multipliers // stage.parallel
            bit = _SERIAL_ACCUMULATOR_BIT if stage.serial else _ACCUMULATOR_BIT
            depth = 1 if stage.serial else max(1, stage.banks * stage.kernels / 16)
            each = stage.accumulator_bits * (bit * depth if stage.kernels > 1 else 2)
            return Resources(stage.multipliers * each + 30 * lanes + 200, stage.multipliers, stage.weight_bits)
        case stages.Scatter():
            return Resources(stage.multipliers * stage.accumulator_bits * 4 + 500, stage.multipliers, stage.memory_bits)
        case stages.LocalWinners():
            channels = 1 + max(channel for row in stage.layout for channel in row)
            return Resources(channels * (12 * stage.units + 6 * stage.emitters + 4))
        case stages.GlobalWinners():
            return Resources(500 * stage.units, 0, stage.units * 4 * 18432)
        case stages.Requantise():
            blocks = stage.multipliers * -(-stage.bits // 18)
            return Resources(len(stage.layout[0]) * (stage.bits + 60), blocks)
        case stages.Narrow():
            return Resources(stage.lanes_in * stage.bits)
        case stages.StreamPool():
            return Resources(stage.lanes * stage.result_bits * 4)
        case stages.Pool():
            return Resources(stage.lanes * stage.result_bits * 3 + 150)
    return Resources(50)
