"""What memories, adders and multipliers take of a family of FPGAs: the rules by which Yosys maps them.

A memory becomes what costs least in the measure of Yosys' `memory_libmap`: 128 for a block of 18 kbit (129 on
UltraScale+), 4 for 64 bits of distributed memory (16 for eight LUTs of it), 1/16 (1/64) for a bit
of a read-only memory in LUTs, 1/2 for an input of the multiplexers that join what lies above each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, comb, expm1

FAMILIES = ("ecp5", "ultrascale+")

# Widths of a block of 18 kbit and its rows at that width; the widest has a port to read and one to write, the others
# serve two ports that each do either.
_BLOCK_ROWS = {1: 16384, 2: 8192, 4: 4096, 9: 2048, 18: 1024, 36: 512}
_BYTE = 9
# Rows of a block of UltraRAM, and bits of a row.
_ULTRA_ROWS, _ULTRA_BITS = 4096, 72
_BLOCK_COST = {"ecp5": 128.0, "ultrascale+": 129.0}
_ROM_BIT_COST = {"ecp5": 1 / 16, "ultrascale+": 1 / 64}
_JOIN_COST = 1 / 2


@dataclass(frozen=True)
class Memory:
    """What a memory takes.

    Attributes:
        lut: of distributed memory and the multiplexers that join its parts, or of a read-only memory without structure.
        blocks: of block memory: of 18 kbit on the ECP5; of 36 kbit on UltraScale+, where half a block may be used.
        ultra_ram: blocks of UltraRAM.
    """

    lut: float = 0.0
    blocks: float = 0.0
    ultra_ram: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.lut + other.lut, self.blocks + other.blocks, self.ultra_ram + other.ultra_ram)

    def __mul__(self, copies: int) -> Memory:
        return Memory(self.lut * copies, self.blocks * copies, self.ultra_ram * copies)


def bits_for(number: int) -> int:
    """Bits of numbers below `number`."""
    return max(0, number - 1).bit_length()


def adder(bits: int, family: str) -> float:
    """LUTs of an adder: on the ECP5 a cell of two is spent on the carry in."""
    if family == "ecp5":
        return 2 * (bits // 2 + 1) if bits > 4 else 1.5 * bits
    return float(bits)


@lru_cache(maxsize=1 << 14)
def memory(
    family: str,
    depth: int,
    width: int,
    *,
    reads: int = 1,
    asynchronous: bool = False,
    rom: bool = False,
    style: str = "auto",
    granule: int = 0,
    density: float = 1.0,
) -> Memory:
    """A memory with one write port, or none.

    Args:
        family: "ecp5" or "ultrascale+".
        depth, width: rows, and bits of a row.
        reads: read ports.
        asynchronous: they have no register.
        rom: nothing is written.
        style: "auto", "distributed", "block" or "ultra", as the attribute `ram_style`.
        granule: bits that are written apart from others; 0 for whole rows.
        density: of a read-only memory: the share of its contents that is not zero because it has to be.
    """
    if depth < 1 or width < 1:
        return Memory()
    if rom and depth == 1:
        return Memory()
    if style == "ultra":
        return Memory(ultra_ram=ceil(depth / _ULTRA_ROWS) * ceil(width / _ULTRA_BITS))
    distributed, cost_distributed = _distributed(family, depth, width, reads)
    if asynchronous or style == "distributed":
        return distributed
    half_blocks, cost = _half_blocks(family, depth, width, granule, 2 if rom and reads > 1 else 1)
    blocks = half_blocks / (1 if family == "ecp5" else 2)
    if style == "block":
        return Memory(blocks=blocks)
    if rom:
        if depth * width * _ROM_BIT_COST[family] <= cost:
            return Memory(lut=_rom_luts(family, depth, width, density) * reads)
        return Memory(blocks=blocks)
    return distributed if cost_distributed <= cost else Memory(blocks=blocks)


def banked(family: str, depth: int, width: int, density: float = 1.0) -> tuple[Memory, int]:
    """A BankedMemory: its memory, and the banks of which one is chosen."""
    rows = bank_rows(depth, width)
    full, rest = divmod(depth, rows)
    found = memory(family, rows, width, rom=True, density=density) * full
    return found + memory(family, rest, width, rom=True, density=density), full + bool(rest)


@lru_cache(maxsize=1 << 14)
def bank_rows(depth: int, width: int) -> int:
    """Rows of a bank, as rtl_templates.banked_memory chooses them."""

    def blocks(rows: int) -> int:
        return -(-width // max(wide for wide, deep in _BLOCK_ROWS.items() if deep >= rows))

    def cost(rows: int) -> tuple[int, int]:
        full, rest = divmod(depth, rows)
        return full * blocks(rows) + (blocks(rest) if rest else 0), full + bool(rest)

    return min(sorted(_BLOCK_ROWS.values()), key=cost)


def _distributed(family: str, depth: int, width: int, reads: int) -> tuple[Memory, float]:
    """What distributed memory takes, and its cost to Yosys."""
    if family == "ecp5":
        rows = -(-depth // 16)
        cells = rows * -(-width // 4) * reads
        joins = (rows - 1) * width * reads
        return Memory(6 * cells + _join_luts(family, rows, width) * reads), 4 * cells + _JOIN_COST * joins
    # Eight LUTs hold 14 bits of 32 rows or 7 bits of 64.
    bits, deep = (14, 32) if depth <= 32 else (7, 64)
    rows = -(-depth // deep)
    cells = rows * -(-width // bits) * reads
    joins = (rows - 1) * width * reads
    cost = 16 * rows * width / bits * reads + _JOIN_COST * joins
    return Memory(8 * cells + _join_luts(family, rows, width) * reads), cost


def _join_luts(family: str, rows: int, width: int) -> float:
    if rows <= 1:
        return 0
    # A LUT4 takes two of them, a LUT6 four; wide multiplexers beside the LUTs join what is more.
    return width * (rows / 2 if family == "ecp5" else -(-rows // 4))


def _rom_luts(family: str, depth: int, width: int, density: float) -> float:
    """A row's bit is a function of the address; small ones take what their inputs need at least."""
    if bits_for(depth) < 3:
        return 0.6 * width
    # On the ECP5 four LUT4s make 64 rows, on UltraScale+ four LUT6s 256, with multiplexers beside the LUTs.
    rows = 16 if family == "ecp5" else 64
    wide = ceil(depth / (4 * rows))
    if wide > 1:
        joins, parts = wide - 1, 4 * wide
    else:
        joins, parts = 0, ceil(depth / rows)
    return width * joins + parts * _different(min(depth, rows), width, density)


def _different(rows: int, width: int, density: float) -> float:
    """Bits of a row that differ as functions of the address: synthesis makes equal ones once, and zeros not at all.

    Half of the bits of what is not zero are ones, so that the ones of a bit's rows are binomially distributed; of the
    functions with as many ones each is as likely.
    """
    if density >= 1:
        return width
    one, found = density / 2, 0.0
    for ones in range(1, rows + 1):
        functions = comb(rows, ones)
        drawn = width * functions * one**ones * (1 - one) ** (rows - ones)
        # Expected number of functions that are drawn at least once.
        found += -functions * expm1(-drawn / functions)
    return found


def _half_blocks(family: str, depth: int, width: int, granule: int, ports: int) -> tuple[int, float]:
    """Blocks of 18 kbit, and their cost: rows beyond a block's become further columns, which are filled without a gap."""
    best = (0, float("inf"))
    for wide, rows in _BLOCK_ROWS.items():
        if ports > 1 and wide > 18:
            continue
        bits = width
        if granule:
            # Writes are enabled byte by byte, so that a granule takes whole bytes.
            unit = min(wide, _BYTE)
            bits = width // granule * -(-granule // unit) * unit
        above = ceil(depth / rows)
        count = ceil(above * bits / wide)
        cost = count * _BLOCK_COST[family] + _JOIN_COST * width * (above - 1)
        best = min(best, (count, cost), key=lambda found: found[1])
    return best
