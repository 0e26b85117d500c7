"""A read-only memory deeper than a block of memory, with a register behind each block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from amaranth import Module, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

# Depths and widths of a block of 18 kbit.
_BLOCKS = {512: 36, 1024: 18, 2048: 9, 4096: 4, 8192: 2, 16384: 1}

# Banks of which one is chosen in a cycle.
_FEW = 4


def bank_depth(depth: int, width: int) -> int:
    """Rows of a bank, no more than a block has, for the fewest blocks and then the fewest banks."""

    def blocks(rows: int) -> int:
        return -(-width // next(across for down, across in _BLOCKS.items() if down >= rows))

    def cost(rows: int) -> tuple[int, int]:
        full, rest = divmod(depth, rows)
        return full * blocks(rows) + (blocks(rest) if rest else 0), full + bool(rest)

    return min(_BLOCKS, key=cost)


class BankedMemory(wiring.Component):
    """Rows of constants. Blocks answer slowly, so what they say is registered before one of them is chosen.

    Arguments:
        rows: unsigned.
        width: of a row.

    Members:
        address: of a row.
        data: the row.

    Latency: 5 cycles: the bank's address, the bank, the register behind it, the choice among a few banks, and that among
    their choices. Initiation interval: 1 cycle.
    """

    LATENCY = 5

    def __init__(self, rows: Sequence[int], width: int):
        self._rows, self._width = list(rows), width
        self.bank_depth = bank_depth(len(self._rows), width)
        super().__init__({"address": In(max(1, bits_for(len(self._rows) - 1))), "data": Out(unsigned(width))})

    def elaborate(self, platform) -> Module:
        m = Module()
        in_bank = max(1, (self.bank_depth - 1).bit_length())
        above = self.address[in_bank:]
        starts = range(0, len(self._rows), self.bank_depth)
        held = []
        for number, start in enumerate(starts):
            rows = self._rows[start : start + self.bank_depth]
            memory = Memory(shape=unsigned(self._width), depth=len(rows), init=rows)
            m.submodules[f"bank_{number}"] = memory
            port = memory.read_port()
            # Of its own, since one register would have to reach all blocks.
            address = Signal(in_bank, name=f"address_{number}", reset_less=True)
            with m.If(above == number if len(starts) > 1 else 1):
                m.d.sync += address.eq(self.address[:in_bank])
            register = Signal(self._width, name=f"held_{number}", reset_less=True)
            m.d.comb += [port.en.eq(1), port.addr.eq(address)]
            m.d.sync += register.eq(port.data)
            held.append(register)
        # Banks lie far apart, and so do the bits of a row: no more than a look-up table or two between two registers.
        of_few = [held[start : start + _FEW] for start in range(0, len(held), _FEW)]
        upper = [Signal(len(above), name=f"above_{age}", reset_less=True) for age in range(4)]
        m.d.sync += [later.eq(now) for now, later in pairwise([above, *upper])]
        few_bits = (_FEW - 1).bit_length()
        chosen = [self._chosen(m, few, upper[2][:few_bits], f"of_few_{i}") for i, few in enumerate(of_few)]
        m.d.comb += self.data.eq(self._chosen(m, chosen, upper[3][few_bits:], "of_all"))
        return m

    def _chosen(self, m: Module, words: Sequence[Signal], number: Value, name: str) -> Signal:
        """The word of that number, one cycle later."""
        register = Signal(self._width, name=name, reset_less=True)
        with m.Switch(number):
            for index, word in enumerate(words):
                with m.Case(index) if index < len(words) - 1 else m.Default():
                    m.d.sync += register.eq(word)
        return register
