"""What the stages of a plan take of an FPGA, before any synthesis.

Blocks of memory and multipliers are counted as Yosys maps them (resource_primitives.py). LUTs are those of distributed
memories, which are counted too, and those of the logic: amounts that follow from a component's structure (bits that are
added, chosen, buffered), each with a coefficient that `python -m benchmarks.resource_model fit` finds by synthesising
single stages (resource_coefficients.py).

On the ECP5 one LUT is a LUT4 site, where carry chains and distributed memories occupy the sites that they need; on
UltraScale+ a LUT6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hwgen.plan.resource_coefficients import COEFFICIENTS
from hwgen.plan.resource_structure import structure
from hwgen.plan.stages import Stage
from rtl_templates.target import target_of

# Families that were not fitted count as a similar one: the same blocks of memory and about the same LUTs.
_LIKE = {"ecp5": "ecp5", "ultrascale+": "ultrascale+", "xilinx7": "ultrascale+", "gowin": "ecp5", "ice40": "ecp5"}

_BLOCK_BITS = {"ecp5": 18 << 10, "ultrascale+": 36 << 10}


@dataclass(frozen=True)
class Resources:
    """Look-up tables, multiplier blocks, blocks of memory (18 kbit on the ECP5, 36 kbit on UltraScale+) and UltraRAM."""

    lut: float = 0
    dsp: int = 0
    block_ram: float = 0
    ultra_ram: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.lut + other.lut,
            self.dsp + other.dsp,
            self.block_ram + other.block_ram,
            self.ultra_ram + other.ultra_ram,
        )


def blocks(bits: int, family: str) -> int:
    """Blocks, as Resources counts them, of a board that has so many bits of block memory."""
    return bits // _BLOCK_BITS[_LIKE[family]]


def total(
    plan: Iterable[Stage], family: str = "ecp5", written_for: str | None = None, *, ultra_ram: bool = False
) -> Resources:
    """An estimate for all stages of a plan; arguments as of `resources`."""
    return sum((resources(stage, family, written_for, ultra_ram=ultra_ram) for stage in plan), Resources())


def resources(
    stage: Stage, family: str = "ecp5", written_for: str | None = None, *, ultra_ram: bool = False
) -> Resources:
    """An estimate for one stage.

    Args:
        stage: of a plan.
        family: of the FPGA, "ecp5" or "ultrascale+"; of others, "xilinx7" is taken for UltraScale+, "gowin" and "ice40"
            for ECP5.
        written_for: the plan's family, where the FPGA is of another.
        ultra_ram: the plan's: whether buffers may go to UltraRAM.
    """
    fitted = _LIKE[family]
    found = structure(stage, fitted, target_of(written_for or family, ultra_ram))
    coefficients = COEFFICIENTS[fitted].get(found.kind)
    if coefficients is None:
        logic = sum(found.amounts.values())
    else:
        logic = sum(coefficients.get(name, 0.0) * amount for name, amount in found.amounts.items())
    return Resources(found.memory.lut + logic, found.dsp, found.memory.blocks, found.memory.ultra_ram)
