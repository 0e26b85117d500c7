"""A design as a compiled simulator: numpy in, numpy out, cycle-accurate, no process per inference.

    with CompiledSimulator.from_bundle("build/net") as simulator:
        y, result = simulator.run(x)
        result.cycles_per_word

The design is any component with one stream input `x` and one stream output `y`. Simulators are independent of each
other: several may run in one process, and in threads, since a run releases the GIL.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, FormatError, InputError, ToolError
from hwgen.format.bundle import read_manifest
from hwgen.format.port import Port, decode_words, encode_words
from sim import build
from sim.waveform import to_fst

# A call of at most this many cycles lets Ctrl-C through soon.
CYCLES_A_CALL = 1 << 14
MAX_IDLE_CYCLES = 200_000

_RUNNING, _DONE, _DEADLOCK, _UNSTABLE, _FAILED = range(5)


@dataclass(frozen=True, eq=False)
class SimulationResult:
    """What a run gave and when.

    Attributes:
        raw_out: uint32 (N, beats, limbs): the output beats.
        beat_cycles: int64 (N, beats): the cycle in which each was taken, counted from the end of the first reset.
    """

    raw_out: NDArray[np.uint32]
    beat_cycles: NDArray[np.int64]

    @property
    def cycles(self) -> int:
        """Cycles until the last output beat was taken."""
        return int(self.beat_cycles[-1, -1]) + 1 if self.beat_cycles.size else 0

    @property
    def cycles_per_word(self) -> float:
        """Cycles between the last beats of successive words, on average; not a number for fewer than two words."""
        ends = self.beat_cycles[:, -1] if self.beat_cycles.size else self.beat_cycles[:, 0:0].ravel()
        return float(ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else float("nan")


class CompiledSimulator:
    """A design, compiled.

    Every run starts with a reset; memories keep what they hold, as they do in hardware.

    Arguments:
        verilog: path of the Verilog file; its memory images lie beside it.
        top: name of its top module.
        input, output: how the beats of `x` and `y` carry tensors; None if only `run_words` will be used.
        optimise: g++'s -O level; 2 was measured to run 5 % faster and to compile 25 % longer than 1.
        max_idle_cycles: cycles without a beat in or out after which a run counts as deadlocked.

    Raises:
        ToolError: Verilator or g++ is missing or failed.
        FormatError: the design has no streams `x` and `y` or they do not have the ports' widths.
    """

    input: Port | None
    output: Port | None

    def __init__(
        self,
        verilog: Path,
        top: str,
        input: Port | None,
        output: Port | None,
        *,
        optimise: int = 1,
        max_idle_cycles: int = MAX_IDLE_CYCLES,
    ) -> None:
        self.name = top
        self.input, self.output = input, output
        self._max_idle = max_idle_cycles
        self._optimise = optimise
        self._text = verilog.read_text()
        self._images = verilog.parent.absolute()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        widths = _port_widths(self._text, top)
        self._in_bits = _payload_bits(verilog, widths, "x", input)
        self._out_bits = _payload_bits(verilog, widths, "y", output)
        for image in build.image_names(self._text):
            if not (self._images / image).is_file():
                raise FormatError(f"{self._images / image}: missing, though {verilog.name} reads it")
        self._lock = threading.Lock()
        self._model: _Model | None = self._make()

    @classmethod
    def from_bundle(cls, directory: str | os.PathLike[str], trace: bool = False) -> Self:
        """The simulator of a bundle, which is checked against its manifest first.

        Args:
            directory: the bundle.
            trace: compiles the variant that writes waveforms now rather than at the first traced run.
        """
        manifest = read_manifest(directory)
        # The latency of the first word is that of a whole pipeline, hence the generous factor.
        idle = MAX_IDLE_CYCLES + 20 * int(manifest.expected.get("cycles_per_word", 0))
        verilog = Path(directory) / f"{manifest.top}.v"
        simulator = cls(verilog, manifest.top, manifest.input, manifest.output, max_idle_cycles=idle)
        if trace:
            build.library(simulator._text, simulator.name, build.Options(simulator._optimise, "vcd"))
        return simulator

    @classmethod
    def from_component(
        cls,
        component: Any,
        input: Port | None = None,
        output: Port | None = None,
        name: str = "component",
        *,
        optimise: int = 1,
        max_idle_cycles: int = MAX_IDLE_CYCLES,
    ) -> Self:
        """The simulator of an Amaranth component with a stream input `x` and a stream output `y`.

        Args:
            component: an `amaranth.lib.wiring.Component`; further inputs than `x` are held at 0.
            input, output: how the beats carry tensors; None if only `run_words` will be used.
            name: of the Verilog module.
            optimise, max_idle_cycles: see the class.
        """
        from hwgen.verilog import write_verilog

        scratch = tempfile.TemporaryDirectory(prefix="hwgen-component-")
        try:
            verilog = write_verilog(component, Path(scratch.name), name)[0]
            simulator = cls(verilog, name, input, output, optimise=optimise, max_idle_cycles=max_idle_cycles)
        except BaseException:
            scratch.cleanup()
            raise
        simulator._scratch = scratch
        return simulator

    def run(self, x: NDArray[np.integer], **options: Any) -> tuple[NDArray[np.int64], SimulationResult]:
        """Runs tensors through the design.

        Args:
            x: integers (N, *input.shape).
            options: see `run_words`.

        Returns:
            int64 (N, *output.shape), and the beats with their cycles.

        Raises:
            InputError: the design's ports are not known, or x does not suit them.
        """
        if self.input is None or self.output is None:
            raise InputError(f"simulator {self.name!r}: run needs the ports: name them, or use run_words")
        result = self.run_words(encode_words(self.input, x), **options)
        return decode_words(self.output, result.raw_out), result

    def run_words(
        self,
        raw_in: NDArray[np.uint32],
        *,
        input_stalls: float = 0.0,
        output_stalls: float = 0.0,
        seed: int = 0,
        reset_at: int | None = None,
        trace: str | os.PathLike[str] | None = None,
        output_beats: int | None = None,
    ) -> SimulationResult:
        """Runs beats through the design.

        Args:
            raw_in: uint32 (N, beats, limbs): N words, one after the other; lane 0 in the lowest bits.
            input_stalls, output_stalls: probability, in every cycle, that no new beat is offered, or none is taken.
            seed: of the stalls.
            reset_at: the cycle in which a reset strikes: what was sent and received is dropped and the batch starts
                again.
            trace: a .vcd or .fst file to write the waveforms to.
            output_beats: beats of an output word, where `output` is None.

        Raises:
            DataError: the array does not fit the design.
            ToolError: the design stopped moving, broke the rules of a stream, or could not be evaluated.
        """
        raw_in = self._checked(raw_in)
        beats = self.output.beats if output_beats is None and self.output is not None else output_beats
        if beats is None or beats < 1:
            raise InputError(f"simulator {self.name!r}: output_beats must be at least 1 where there is no output port")
        for option, value in (("input_stalls", input_stalls), ("output_stalls", output_stalls)):
            if not 0 <= value < 1:
                raise InputError(f"{option} must be at least 0 and less than 1, not {value}")
        if reset_at is not None and reset_at < 0:
            raise InputError(f"reset_at must not be negative, not {reset_at}")
        with self._lock:
            if self._model is None:
                raise InputError(f"simulator {self.name!r}: is closed: make another")
            arguments = (raw_in, beats, (input_stalls, output_stalls), seed, reset_at)
            return self._simulate(self._model, *arguments) if trace is None else self._traced(Path(trace), *arguments)

    def close(self) -> None:
        """Frees the model; a second call does nothing."""
        with self._lock:
            if self._model is not None:
                self._model.close()
                self._model = None
            if self._scratch is not None:
                self._scratch.cleanup()
                self._scratch = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, waveform: Path | None = None) -> _Model:
        kind = "" if waveform is None else "vcd"
        path = build.library(self._text, self.name, build.Options(self._optimise, kind))
        return _Model(path, self.name, self._images, waveform)

    def _traced(self, waveform: Path, *arguments: Any) -> SimulationResult:
        """A run on a model of its own, which writes every signal's changes."""
        if waveform.suffix not in (".vcd", ".fst"):
            raise InputError(f"waveform {waveform}: the name must end in .vcd or .fst")
        if not waveform.absolute().parent.is_dir():
            raise InputError(f"waveform {waveform}: there is no folder {waveform.absolute().parent}")
        with tempfile.TemporaryDirectory(prefix="hwgen-waveform-") as scratch:
            vcd = waveform if waveform.suffix == ".vcd" else Path(scratch) / "run.vcd"
            model = self._make(vcd)
            try:
                result = self._simulate(model, *arguments)
            finally:
                model.close()
            if vcd != waveform:
                to_fst(vcd, waveform)
        return result

    def _checked(self, raw_in: NDArray[np.uint32]) -> NDArray[np.uint32]:
        raw_in = np.ascontiguousarray(raw_in)
        limbs = -(-self._in_bits // 32)
        beats = self.input.beats if self.input is not None else raw_in.shape[1] if raw_in.ndim == 3 else 1
        if raw_in.dtype != np.uint32 or raw_in.ndim != 3 or raw_in.shape[1:] != (beats, limbs) or beats < 1:
            raise DataError(
                f"simulator {self.name!r}: takes uint32 (N, {beats}, {limbs}), not {raw_in.dtype} {raw_in.shape}"
            )
        if self._in_bits % 32 and (raw_in[..., -1] >> np.uint32(self._in_bits % 32)).any():
            raise DataError(f"simulator {self.name!r}: bits above the payload's {self._in_bits} must be 0")
        return raw_in

    def _simulate(
        self,
        model: _Model,
        raw_in: NDArray[np.uint32],
        beats: int,
        stalls: tuple[float, float],
        seed: int,
        reset_at: int | None,
    ) -> SimulationResult:
        raw_out = np.zeros((len(raw_in), beats, -(-self._out_bits // 32)), np.uint32)
        beat_cycles = np.zeros((len(raw_in), beats), np.int64)
        sends, gives = len(raw_in) * raw_in.shape[1], len(raw_in) * beats
        idle = int(self._max_idle / ((1 - stalls[0]) * (1 - stalls[1])))
        call = model.library
        call.hwgen_begin(
            model.handle,
            *(raw_in.ctypes.data, sends, raw_out.ctypes.data, beat_cycles.ctypes.data, gives),
            *(int(stall * 2**32) for stall in stalls),
            *(-1 if reset_at is None else reset_at, idle, seed % 2**63),
        )
        status = _RUNNING
        while status == _RUNNING:
            status = call.hwgen_advance(model.handle, CYCLES_A_CALL)
        cycle = call.hwgen_cycle(model.handle)
        at = f"simulator {self.name!r}: at cycle {cycle}"
        if status == _DEADLOCK:
            raise ToolError(
                f"{at}: deadlock: no beat moved for {idle} cycles; {call.hwgen_sent(model.handle)} of {sends} beats "
                f"were taken and {call.hwgen_received(model.handle)} of {gives} given"
            )
        if status == _UNSTABLE:
            raise ToolError(f"{at}: stream y changed or withdrew a beat that had not been taken")
        if status == _FAILED:
            raise ToolError(f"{at}: {call.hwgen_message(model.handle).decode(errors='replace')}")
        if reset_at is not None and cycle <= reset_at:
            raise InputError(f"reset_at={reset_at} lies behind the run, which ended at cycle {cycle}")
        return SimulationResult(raw_out, beat_cycles)


class _Model:
    """One instance of a compiled library."""

    def __init__(self, path: Path, name: str, images: Path, waveform: Path | None) -> None:
        self.library = _load(path)
        self.handle = self.library.hwgen_create(os.fsencode(images))
        if not self.handle:
            raise ToolError(f"simulator {name!r}: the model cannot be evaluated in its initial state")
        self.close = weakref.finalize(self, self.library.hwgen_destroy, self.handle)
        if waveform is not None and not self.library.hwgen_open_waveform(self.handle, os.fsencode(waveform)):
            raise ToolError(f"waveform {waveform}: cannot be written")


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, count, cycle = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64
    # name: (result, arguments)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "create": (pointer, [ctypes.c_char_p]),
        "destroy": (None, [pointer]),
        "open_waveform": (ctypes.c_int, [pointer, ctypes.c_char_p]),
        "begin": (
            None,
            [pointer, pointer, count, pointer, pointer, count, ctypes.c_uint32, ctypes.c_uint32, cycle, count, count],
        ),
        "advance": (ctypes.c_int, [pointer, count]),
        "cycle": (cycle, [pointer]),
        "sent": (count, [pointer]),
        "received": (count, [pointer]),
        "message": (ctypes.c_char_p, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"hwgen_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _port_widths(verilog: str, top: str) -> dict[str, int]:
    """Width of every port of the top module."""
    module = re.search(rf"^module {re.escape(top)}\b.*?^endmodule", verilog, re.DOTALL | re.MULTILINE)
    ports = re.findall(r"^ *(?:input|output) (?:\[(\d+):0\] )?(\w+) ?;", module.group() if module else "", re.MULTILINE)
    return {name: int(high or 0) + 1 for high, name in ports}


def _payload_bits(verilog: Path, widths: dict[str, int], stream: str, port: Port | None) -> int:
    for member in ("payload", "valid", "ready"):
        if f"{stream}__{member}" not in widths:
            raise FormatError(f"{verilog.name}: has no stream {stream!r}: port {stream}__{member} is missing")
    bits = widths[f"{stream}__payload"]
    if port is not None and port.payload_bits != bits:
        raise FormatError(
            f"{verilog.name}: {stream}__payload has {bits} bits, but the port has "
            f"{port.lanes} lanes of {port.bits}, {port.payload_bits} in all"
        )
    return bits
