"""What differs between processors: the few operations that LLVM's generic vectors do not express well.

Everything else is generic LLVM IR on vectors of 16 channels, which LLVM splits or keeps as the processor likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hwgen.errors import InputError

# What each path needs of the processor, as LLVM names it.
_AVX2 = ("avx2", "bmi", "bmi2", "popcnt", "lzcnt", "fma")
_AVX512 = (
    *_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vbmi2", "avx512vnni",
    "avx512vpopcntdq", "gfni",
)  # fmt: skip
_AMX = (*_AVX512, "amx-tile", "amx-int8")


@dataclass(frozen=True)
class Isa:
    """A path through the code generator.

    Attributes:
        name: "amx", "avx512", "avx2" or "portable"; "amx-emulated" and "avx512-emulated" make the decisions of these
            with generic operations, for tests on processors without them.
        features: of LLVM, beyond the baseline of the architecture.
        register: bytes of a vector register.
        accumulators: vectors of 16 sums that a loop keeps in registers beside its operands.
        permuted_positions: positions whose bytes are chosen by the same choices.
        wide: whether dense products are of int16, two at a time, because bytes have no exact instruction.
        dot: how four products a lane are added: "vpdpbusd", "vpmaddwd" or "generic".
        permutes: whether bytes are chosen from one or two registers by an instruction.
        deposits: whether BMI2's pdep is there.
        emulated: generic operations stand for the special ones.
        tiles: whether bytes are multiplied in AMX's tiles.
    """

    name: str
    features: tuple[str, ...]
    register: int
    accumulators: int
    permuted_positions: int
    wide: bool
    dot: str
    permutes: bool
    deposits: bool
    emulated: bool = False
    tiles: bool = False


PATHS = {
    "amx": Isa("amx", _AMX, 64, 16, 5, False, "vpdpbusd", permutes=True, deposits=True, tiles=True),
    "avx512": Isa("avx512", _AVX512, 64, 16, 5, False, "vpdpbusd", permutes=True, deposits=True),
    "avx2": Isa("avx2", _AVX2, 32, 4, 4, True, "vpmaddwd", permutes=False, deposits=True),
    "portable": Isa("portable", (), 16, 2, 2, True, "generic", permutes=False, deposits=False),
}
EMULATED = {
    f"{name}-emulated": replace(
        PATHS[name], name=f"{name}-emulated", features=(), dot="generic", deposits=False, emulated=True
    )
    for name in ("amx", "avx512")
}


def supported(features: Mapping[str, bool]) -> list[str]:
    """Names of the paths that a processor with these features can run, the fastest first."""
    return [name for name, isa in PATHS.items() if all(features.get(feature, False) for feature in isa.features)]


def choose(name: str, features: Mapping[str, bool]) -> Isa:
    """The path of that name, or the fastest for "".

    Raises:
        InputError: there is no such path, or the processor lacks what it needs.
    """
    possible = supported(features)
    if name in EMULATED:
        return EMULATED[name]
    if name and name not in PATHS:
        raise InputError(f"device 'cpu:{name}': no such path: use one of {', '.join(PATHS)}")
    if name and name not in possible:
        missing = [feature for feature in PATHS[name].features if not features.get(feature, False)]
        refused = ", or the system refuses it to this process" if "amx-tile" in missing else ""
        raise InputError(
            f"device 'cpu:{name}': this processor lacks {', '.join(missing)}{refused}: use {', '.join(possible)}"
        )
    return PATHS[name or possible[0]]
