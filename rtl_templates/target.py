"""What a family of FPGAs makes cheap: how the same component is best written for it. Data only, without Amaranth.

Given to Amaranth as the platform, a target reaches every component's `elaborate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Target:
    """How to write for a family.

    Attributes:
        family: as in the catalogue of boards.
        adder_operands: that one LUT a bit adds up: 2, or 3 where a LUT has two outputs.
        pair_offset: of ProductPair: as far apart as the operands of a multiplier block are wide enough for.
        distributed_depth: what is deeper becomes block RAM.
        table_depth: constant memories up to this depth become LUTs.
        sharing: outputs of a constant matrix that may have adders in common, None for all: where every output shares with
            every other, the adders are a tangle that fills the wires of a small chip (docs/place_and_route.md).
        control_channels: channels of a position that share registers of control, None for all: for tools that do not copy
            a register with many readers.
        links: stages are joined by stream buffers: a stall does not cross a chip in a cycle, at a look-up table and two
            flip-flops a bit.
        ultra_ram: large memories without initial content exist beside block RAM: those that could be either go there.
    """

    family: str
    adder_operands: int
    pair_offset: int
    distributed_depth: int
    table_depth: int
    sharing: int | None = None
    control_channels: int | None = None
    links: bool = False
    ultra_ram: bool = False

    @property
    def pairs_overlap(self) -> bool:
        """Whether two products of 16 bits overlap in a block: LUTs take them apart."""
        return self.pair_offset < 16

    def control_groups(self, channels: int) -> list[range]:
        """The channels of a position, by the registers of control that they share."""
        size = self.control_channels or channels
        return [range(start, min(start + size, channels)) for start in range(0, channels, size)]


# A distributed RAM has 16 rows; two of them take less than blocks, of which a wide and shallow memory would use a
# twentieth. A block multiplies 18 by 18 bits.
ECP5 = Target(
    "ecp5",
    adder_operands=2,
    pair_offset=10,
    distributed_depth=32,
    table_depth=16,
    sharing=1,
    control_channels=16,
    links=True,
)
# A LUT holds 64 rows of a bit. A block multiplies 27 by 18 bits: no product overlaps the other.
ULTRASCALE = Target("ultrascale+", adder_operands=3, pair_offset=18, distributed_depth=64, table_depth=64)
TARGETS = {target.family: target for target in (ECP5, ULTRASCALE)}


def target(platform: object) -> Target:
    """Of what `elaborate` is given; without any, as for the ECP5."""
    # Of `shared.Definitions`.
    platform = getattr(platform, "target", platform)
    return platform if isinstance(platform, Target) else ECP5


def target_of(family: str, ultra_ram: bool = False) -> Target:
    """Of a board's family; one that is not known is written for as the ECP5 is."""
    return replace(TARGETS.get(family, ECP5), ultra_ram=ultra_ram)
