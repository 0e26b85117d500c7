"""A program without an operating system, on a processor that Bochs emulates."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hwgen.errors import ToolError

HERE = Path(__file__).parent
# As guest.ld has it.
START = 0x100000
# What boot.s reads at once, and what the disk is a multiple of.
CHUNK, CYLINDER = 64 * 512, 16 * 63 * 512
OPTIONS = ("-O2", "-ffreestanding", "-fno-pic", "-mgeneral-regs-only", "-fno-stack-protector")
# Debian's Bochs has its debugger in, which waits for commands: to begin, and to end when the program has.
COMMANDS = "c\nq\n"
CONFIGURATION = """
cpu: model={model}, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=256, host=256
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
display_library: term
ata0-master: type=disk, path=disk, mode=flat, cylinders=0, heads=16, spt=63
boot: disk
parport1: enabled=1, file=printed
log: log
debug: action=ignore
info: action=ignore
error: action=report
panic: action=fatal
"""
# The probe's words: an affine transform of bytes that changes none, and a byte put before the others.
_KEPT = bytes([*range(14), 128, 255])
_INSERTED = bytes([2, *_KEPT[1:]])


@dataclass(frozen=True)
class Instruction:
    """A line of a listing."""

    place: int
    code: bytes
    mnemonic: str
    operands: str


def run(folder: Path, *command: str) -> str:
    """What the command prints."""
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(f"{command[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout


def check_tools() -> None:
    for tool in ("bochs", "gcc", "ld", "objcopy"):
        if shutil.which(tool) is None:
            raise ToolError(
                f"{tool}: not found: install Debian's packages bochs, bochs-term, bochsbios, vgabios, gcc and binutils"
            )


def version() -> str:
    shown = subprocess.run(["bochs", "--help", "cpu"], check=True, capture_output=True, text=True)
    found = re.search(r"Bochs x86 Emulator (\S+)", shown.stdout + shown.stderr)
    return f"Bochs {found[1]}" if found else "Bochs"


def instructions(folder: Path, file: str) -> list[Instruction]:
    """Of the section .text of an object or a program."""
    found = []
    for line in run(folder, "objdump", "-d", "-j", ".text", "--insn-width=16", file).splitlines():
        if match := re.match(r"\s*([0-9a-f]+):\t([0-9a-f ]+)\t(?:\{\w+\} )?(\S+)\s*(.*)", line):
            found.append(Instruction(int(match[1], 16), bytes.fromhex(match[2]), match[3], match[4]))
    return found


def link(folder: Path, objects: list[str]) -> None:
    """Makes the files `linked` and, as it lies in memory, `program` of guest.c and the objects."""
    run(folder, "gcc", *OPTIONS, "-c", str(HERE / "guest.c"), "-o", "guest.o")
    run(folder, "ld", "-T", str(HERE / "guest.ld"), "-o", "linked", "guest.o", *objects)
    run(folder, "objcopy", "-O", "binary", "linked", "program")


def emulate(folder: Path, model: str, limit: float) -> bytes:
    """What `program` prints on Bochs's model of a processor, within `limit` seconds.

    Raises:
        ToolError: it did not come to its end.
    """
    program = (folder / "program").read_bytes()
    run(folder, "as", f"--defsym=CHUNKS={-(-len(program) // CHUNK)}", str(HERE / "boot.s"), "-o", "boot.o")
    run(folder, "ld", "-Ttext=0x7c00", "-e0x7c00", "--oformat=binary", "-o", "boot", "boot.o")
    disk = (folder / "boot").read_bytes() + program + bytes(CHUNK)
    (folder / "disk").write_bytes(disk + bytes(-len(disk) % CYLINDER))
    (folder / "bochsrc").write_text(CONFIGURATION.format(model=model))
    (folder / "commands").write_text(COMMANDS)
    with open(folder / "screen", "wb") as screen:
        # It draws a screen, on any terminal. Its exit status is that of an error in any case.
        try:
            subprocess.run(
                ["bochs", "-q", "-f", "bochsrc", "-rc", "commands"], cwd=folder, check=False,
                env={**os.environ, "TERM": "xterm"}, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen,
                timeout=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ToolError(f"bochs: {model} took more than {limit:g} s: give it more with --limit") from None
    log = (folder / "log").read_text() if (folder / "log").exists() else ""
    if "shutdown requested" not in log:
        # Its debugger names the last instruction.
        last = (folder / "screen").read_text(errors="replace").splitlines()[-1:]
        raise ToolError(f"bochs: {model} did not reach the program's end: {' '.join(last)}")
    return (folder / "printed").read_bytes()


def mistakes(folder: Path, model: str) -> list[str]:
    """Instructions that this Bochs gets wrong, of those in networks' code of which that is known."""
    run(folder, "as", str(HERE / "probe.s"), "-o", "probe.o")
    link(folder, ["probe.o"])
    printed = emulate(folder, model, 60.0)[4:]
    found = {"vgf2p8affineqb": printed[:16] != _KEPT, "vpinsrb": printed[16:32] != _INSERTED}
    return [mnemonic for mnemonic, wrong in found.items() if wrong]


def cancel(folder: Path, wrong: list[str]) -> Counter[str]:
    """Changes a byte of each such instruction in `program` so that Bochs computes what a processor would.

    Bochs 2.7 inverts what vgf2p8affineqb adds to (its later "fix GFNI instructions emulation" mends that): so is the
    byte that is added. Its table of instructions has two bytes for the operand of vpinsrb, which doubles the short
    displacement where registers from 16 on are among the operands: it is halved here.

    Returns:
        How many were changed. Where the displacement is odd the instruction stays, and the comparison tells.
    """
    program, changed = bytearray((folder / "program").read_bytes()), Counter[str]()
    for one in instructions(folder, "linked"):
        place, end = one.place - START, one.place - START + len(one.code)
        if one.mnemonic not in wrong:
            continue
        if one.mnemonic == "vgf2p8affineqb":
            program[end - 1] ^= 0xFF
        elif one.code[0] == 0x62 and program[place + 5] >> 6 == 1 and program[end - 2] % 2 == 0:
            distance = int.from_bytes(program[end - 2 : end - 1], signed=True)
            program[end - 2 : end - 1] = (distance // 2).to_bytes(1, signed=True)
        else:
            continue
        changed[one.mnemonic] += 1
    (folder / "program").write_bytes(program)
    return changed
