"""The command line: `hwgen COMMAND --help` says what each command does."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boards.catalogue import BOARDS
from hwgen import printed, terminal
from hwgen.errors import DataError, HwgenError, InputError, PlanError, ToolError, install

if TYPE_CHECKING:
    import numpy as np

    from hwgen.format.packed import PackedNetwork
    from hwgen.plan import Plan

BATCH = 64

app = typer.Typer(
    name="hwgen",
    help="Turns a pruned, k-WTA-sparse PyTorch network into an FPGA accelerator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")]
Network = Annotated[Path, typer.Argument(metavar="NET.hwpack", help="A packed network, from hwgen pack.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, from hwgen generate.")]
BoardName = Annotated[
    str,
    typer.Option(
        "--board",
        help=f"One of {', '.join(board.name for board in BOARDS)}; or none, for no board's bounds: give "
        "--cycles, too, or big layers become designs that take minutes to compile.",
    ),
]
Mode = Annotated[str, typer.Option("--mode", help="dense, sparse-dense, sparse-sparse or auto.")]
Cycles = Annotated[
    int | None,
    typer.Option(
        "--cycles", help="The most cycles a word may take, by the smallest accelerator for that. Default: the fastest."
    ),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0, 2 for bad input, 1 for a failure, 130 for Ctrl-C, 143 for SIGTERM."""
    # As with Ctrl-C, what is half done is taken away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app(arguments)
    except HwgenError as error:
        terminal.say(f"hwgen: {error}")
        sys.exit(error.exit_code)
    except MemoryError:
        terminal.say("hwgen: out of memory; use a smaller network or fewer words")
        sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        print(f"hwgen {importlib.metadata.version('hwgen')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    # Its docstring would take the place of the application's help.
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the bundles.")] = Path("build/demo"),
    json: Json = False,
) -> None:
    """Train a sparse network on handwritten digits, make an accelerator in each mode and simulate every test image.

    The trained networks are kept in $HWGEN_CACHE, or ~/.cache/hwgen.
    """
    with _needs(f"examples: {install('torch,sim')}"), terminal.progress() as report:
        from hwgen.examples import demo as example

        result = example.run(out, report)
    if json:
        terminal.print_json(result.to_json())
    else:
        printed.demo(result)
    if not result.bit_exact:
        raise ToolError("the simulated hardware and the reference differ")


@app.command()
def pack(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="file.py:callable or module:callable, a function without arguments that returns the trained "
            "torch.nn.Module. Its code runs; no pickle is read.",
        ),
    ],
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help="Typical inputs, float32 (N, C, H, W) or (N, F), as .npy. A model from hwgen.quantisation_aware has "
            "its scales and needs none.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The .hwpack file to write.")] = Path("net.hwpack"),
    power_of_two: Annotated[
        bool, typer.Option("--power-of-two", help="Scales whose ratios are powers of two: no multiplier requantises.")
    ] = False,
    json: Json = False,
) -> None:
    """Import, quantise and pack a trained model."""
    import warnings

    from hwgen import user_files

    user_files.check_output(out)
    with terminal.progress() as report:
        report("loading", None)
        inputs = None if calibration is None else user_files.load_array(calibration)
        loaded = user_files.load_model(model)
        report("packing", None)
        import hwgen
        from hwgen.finetune import QuantisationAware

        if inputs is None and not isinstance(loaded, QuantisationAware):
            raise InputError(
                f"model {model!r}: needs --calibration, a .npy file of typical inputs, float32 (N, C, H, W) or (N, F)"
            )
        # The model's own code may print when it is traced.
        with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("always", UserWarning)
            packed = hwgen.pack(loaded, calibration=inputs, power_of_two=power_of_two)
        packed.save(out)
    for warning in warned:
        terminal.say(f"hwgen: warning: {warning.message}")
    printed.network(packed, json, str(out))


@app.command()
def plan(
    network: Network,
    board: BoardName = "ulx3s-85f",
    mode: Mode = "auto",
    cycles: Cycles = None,
    json: Json = False,
) -> None:
    """Show what an accelerator would be made of, without making it."""
    with terminal.progress() as report:
        report("planning", None)
        made = _plan(_load(network), board, mode, cycles)
    printed.plan(made, json)


@app.command()
def generate(
    network: Network,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="The bundle's folder; an older bundle there is replaced, unless it has a bitstream."
        ),
    ],
    board: BoardName = "ulx3s-85f",
    mode: Mode = "auto",
    cycles: Cycles = None,
    json: Json = False,
) -> None:
    """Make a bundle of bitstream sources."""
    with _needs(f"generating Verilog: {install('sim')}"), terminal.progress() as report:
        from hwgen import plan_table
        from hwgen.format.bundle import check_replaceable
        from hwgen.generator import write

        # Before the long work rather than after it.
        check_replaceable(out)
        report("planning", None)
        packed = _load(network)
        made = _plan(packed, board, mode, cycles)
        report("generating", None)
        bundle = write(made, packed, out)
    if json:
        terminal.print_json(
            {
                "bundle": str(out),
                "content_hash": bundle.manifest.content_hash,
                "files": sorted(bundle.manifest.files),
                "plan": plan_table.figures(made),
            }
        )
    else:
        printed.plan(made, False)
        print(f"{out}: {len(bundle.manifest.files)} files, {bundle.manifest.content_hash[:16]}")


@app.command()
def simulate(
    bundle: Bundle,
    words: Annotated[int, typer.Option("--words", min=1, help="How many words; of --input, the first ones.")] = 16,
    input: Annotated[Path | None, typer.Option("--input", help="Real inputs as .npy. Default: random.")] = None,
    trace: Annotated[Path | None, typer.Option("--trace", help="Write waveforms to this .vcd or .fst file.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random words.")] = 0,
    json: Json = False,
) -> None:
    """Simulate a bundle, compare every output with the reference and count the cycles."""
    import time

    import numpy as np

    from hwgen import user_files
    from hwgen.format.bundle import NETWORK, read_manifest

    if trace is not None:
        user_files.check_output(trace, (".vcd", ".fst"))
    with _needs(f"simulation: {install('sim')}"), terminal.progress() as report:
        from sim.compiled import CompiledSimulator

        manifest = read_manifest(bundle)
        network = _load(bundle / NETWORK).network
        x = _words(network, input, words, seed)
        report("compiling", None)
        with CompiledSimulator.from_bundle(bundle) as simulator:
            report("simulating", None)
            started = time.perf_counter()
            y, result = simulator.run(x, trace=trace)
            seconds = time.perf_counter() - started
        expected = _reference(network, x, report)
    differing = [int(word) for word in np.flatnonzero((y != expected).reshape(len(x), -1).any(axis=1))]
    figures = {
        "words": len(x),
        "bit_exact": not differing,
        "differing_words": differing,
        "cycles": result.cycles,
        "first_word_cycles": int(result.beat_cycles[0, -1]) + 1,
        "cycles_per_word": result.cycles_per_word if len(x) > 1 else None,
        "cycles_planned": manifest.expected.get("cycles_per_word"),
        "seconds": round(seconds, 3),
        "trace": None if trace is None else str(trace),
    }
    printed.figures(str(bundle), figures, json)
    if differing:
        raise ToolError(f"{bundle}: simulation and reference differ, first in word {differing[0]} of {len(x)}")


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or for cpu a .hwpack file.")],
    input: Annotated[Path, typer.Option("--input", help="float32 (N, C, H, W) or (N, F), as .npy.")],
    out: Annotated[Path, typer.Option("--out", help="The .npy file to write, float32 (N, outputs).")],
    device: Annotated[str, typer.Option("--device", help="reference, cpu or sim.")] = "cpu",
    json: Json = False,
) -> None:
    """Run inputs through an accelerator."""
    import numpy as np

    import host
    from hwgen import user_files

    user_files.check_output(out)
    x = user_files.load_array(input)
    with terminal.progress() as report:
        report("opening", None)
        with host.open(bundle, device=device) as accelerator:
            parts = []
            # At least once, so that an empty or wrong array is refused by the accelerator itself.
            for first in range(0, max(len(x) if x.ndim else 0, 1), BATCH):
                report("running", first / max(len(x) if x.ndim else 0, 1))
                parts.append(accelerator.run(x[first : first + BATCH] if x.ndim else x))
            stats = accelerator.stats
    user_files.save_array(out, np.concatenate(parts))
    figures = {"out": str(out), "device": device, **asdict(stats), "words_per_second": round(stats.words_per_second, 3)}
    figures["seconds"] = round(stats.seconds, 6)
    printed.figures(str(bundle), figures, json)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(metavar="NET.hwpack|BUNDLE", help="A packed network or a bundle.")],
    json: Json = False,
) -> None:
    """Show what packing made of each layer and, for a bundle, what its accelerator consists of."""
    from hwgen import plan_table
    from hwgen.format.bundle import NETWORK, read_manifest

    if not source.is_dir():
        printed.network(_load(source), json, str(source))
        return
    manifest = read_manifest(source)
    packed = _load(source / NETWORK)
    if json:
        terminal.print_json(
            {
                **printed.network_figures(packed, str(source)),
                "content_hash": manifest.content_hash,
                "expected": manifest.expected,
                "tools": manifest.tools,
                "plan": manifest.plan,
            }
        )
        return
    printed.network(packed, False, str(source))
    made = manifest.plan if isinstance(manifest.plan, dict) else {}
    plan_table.show_stored("stages", made)
    whole = {
        "board": made.get("board"),
        "mode": made.get("mode"),
        "cycles a word": manifest.expected.get("cycles_per_word"),
        "multipliers": manifest.expected.get("multipliers"),
        "content hash": manifest.content_hash,
    }
    printed.figures("as planned", whole, False)


@app.command()
def audit(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA.npz",
            help="Labelled inputs: x, float32 (N, ...); y, integers (N,) from 0; if you like classes, their names.",
        ),
    ],
    dense: Annotated[
        str, typer.Option("--dense", metavar="MODEL", help="The reference: an .onnx file or file.py:callable.")
    ],
    sparse: Annotated[
        str | None, typer.Option("--sparse", metavar="MODEL", help="The pruned model, before quantisation.")
    ] = None,
    int8: Annotated[str | None, typer.Option("--int8", metavar="MODEL", help="The packed network, .hwpack.")] = None,
    noise: Annotated[
        list[float] | None,
        typer.Option(
            "--noise",
            min=0,
            help="A level of added noise, in deviations of the input; give it several times. Default: 0.1 0.2 0.5 1.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the noise.")] = 0,
    json: Json = False,
) -> None:
    """Compare dense, sparse and packed network on labelled inputs: by class, by confidence, under noise.

    Classes that lose more than five points against the dense network come first. Each model may be an .onnx file (with
    onnxruntime installed), an .hwpack file, or file.py:callable as for hwgen pack.
    """
    from hwgen import user_files
    from hwgen.audit import NOISE_LEVELS, predictor
    from hwgen.audit import audit as evaluate
    from hwgen.audit.tables import print_audit

    given = {"dense": dense, "sparse": sparse, "int8": int8}
    if sparse is None and int8 is None:
        raise InputError("audit: has nothing to compare with the dense model; give --sparse or --int8 or both")
    with terminal.progress() as report:
        report("loading", None)
        x, labels, classes = user_files.load_labelled(data)
        models = {
            name: predictor(source if source.endswith((".onnx", ".hwpack")) else user_files.load_model(source))
            for name, source in given.items()
            if source is not None
        }
        levels = NOISE_LEVELS if noise is None else noise
        try:
            result = evaluate(models, x, labels, classes=classes, noise=levels, seed=seed, report=report)
        except DataError as error:
            raise DataError(f"{data}: {error}") from None
    if json:
        terminal.print_json(result.to_json())
    else:
        print_audit(result)


@app.command()
def build(
    bundle: Bundle,
    board: Annotated[
        str | None,
        typer.Option(
            "--board",
            help=f"One of {', '.join(board.name for board in BOARDS if board.platform)}. Default: the bundle's.",
        ),
    ] = None,
    clock: Annotated[
        float, typer.Option("--clock", min=3.2, max=400, help="MHz of the accelerator, within 1 %.")
    ] = 100.0,
    baud: Annotated[
        int | None, typer.Option("--baud", min=1, help="Of the serial line. Default: the fastest up to 3000000.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the placement; another gives another Fmax.")] = 1,
    router: Annotated[
        str, typer.Option("--router", help="router1 for speed; router2 ends soon even on a crowded FPGA.")
    ] = "router1",
    placer: Annotated[str, typer.Option("--placer", help="heap; static leaves shorter wires, more densely.")] = "heap",
    nextpnr: Annotated[str, typer.Option("--nextpnr", metavar="OPTIONS", help="More options of nextpnr-ecp5.")] = "",
    floorplan: Annotated[
        bool, typer.Option(help="Place multipliers and memories first, where they are many; else nextpnr does.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Do the steps again that an earlier build has done.")] = False,
    json: Json = False,
) -> None:
    """Make a bitstream of a bundle with open tools: synthesis, place and route; in BUNDLE/build/BOARD.

    Steps that are done already are skipped. The bitstream holds the accelerator, a PLL and a serial link to the host;
    the figures tell how fast the accelerator can run and what of the FPGA it takes.
    """
    import signal

    # Like Ctrl-C: the tool that is running must not go on for hours.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _needs(f"a bitstream: {install('boards')}"), terminal.progress() as report:
        from boards.catalogue import board as board_named
        from boards.ecp5_flow import Options
        from boards.ecp5_flow import build as make
        from hwgen.format.bundle import read_manifest

        if board is None:
            made_for = read_manifest(bundle, verify=False).plan
            board = made_for.get("board") if isinstance(made_for, dict) else None
            if not isinstance(board, str):
                raise InputError(f"{bundle}: was made for no board; name one with --board")
        options = Options(
            clock_mhz=clock, baud=baud, seed=seed, router=router, placer=placer, nextpnr=nextpnr, floorplan=floorplan
        )
        made = make(bundle, board_named(board), options, report=report, force=force)
    printed.build(made, json)


@contextlib.contextmanager
def _needs(what: str) -> Iterator[None]:
    """A missing package of an extra is one line that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ToolError(f"{error.name} is not installed, which is needed for {what}") from error


def _load(path: Path) -> PackedNetwork:
    from hwgen.format.packed import PackedNetwork

    return PackedNetwork.load(path)


def _plan(packed: PackedNetwork, board: str, mode: str, cycles: int | None) -> Plan:
    from boards.catalogue import board as board_named
    from hwgen.plan import make_plan

    chosen = None if board == "none" else board_named(board)
    try:
        return make_plan(packed, board=chosen, mode=mode, cycles=cycles)
    except PlanError as error:
        if cycles is None:
            raise
        fastest = make_plan(packed, board=chosen, mode=mode)
        raise PlanError(f"{error}; the least that is possible is --cycles {fastest.cycles_per_word}") from None


def _words(network: Any, path: Path | None, words: int, seed: int) -> np.ndarray:
    """Integers for a simulation: quantised real inputs, or random ones over the input's whole range."""
    import numpy as np

    from hwgen import user_files
    from hwgen.format.io import quantise_input

    if path is None:
        low, high = (-128, 127) if network.input.signed else (0, 255)
        return np.random.default_rng(seed).integers(low, high + 1, (words, *network.input.shape))
    x = quantise_input(network.input, user_files.load_array(path))
    if len(x) < words:
        raise InputError(f"{path}: holds {len(x)} words, fewer than the {words} asked for with --words")
    return x[:words]


def _reference(network: Any, x: np.ndarray, report: terminal.Report) -> np.ndarray:
    import numpy as np

    from host import reference

    parts = []
    for first in range(0, len(x), BATCH):
        report("reference", first / len(x))
        parts.append(reference.run_int(network, x[first : first + BATCH]))
    return np.concatenate(parts)
