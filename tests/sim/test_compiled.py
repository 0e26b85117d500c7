"""Compiled simulators of designs whose results are obvious: values, cycles, stalls, resets, failures and the cache."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import DataError, FormatError, InputError, ToolError
from hwgen.format import cache
from hwgen.format.port import Port
from hwgen.verilog import write_verilog
from sim import build
from sim.compiled import CompiledSimulator
from tests.sim.designs import AddOne, Fickle, LookUp, Pairs, StopsAfter, Wires


def vector(lanes: int, bits: int, signed: bool) -> Port:
    return Port(lanes, bits, signed, (lanes,), (tuple(range(lanes)),))


def add_one(lanes: int, **options) -> CompiledSimulator:
    return CompiledSimulator.from_component(AddOne(lanes), vector(lanes, 8, True), vector(lanes, 9, True), **options)


def draw(words: int, lanes: int) -> np.ndarray:
    return np.random.default_rng(words + lanes).integers(-128, 128, (words, lanes))


@pytest.fixture(scope="module")
def simulator():
    with add_one(3) as made:
        yield made


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache without models. It has the runtime, which takes seconds to compile."""
    (runtime,) = build._runtime(build.Options().optimise, "", cache.folder())
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    shutil.copytree(runtime, cache.folder() / runtime.name)


# Payloads of 8, 32, 64 and 72 bits: each of the types that Verilator has for a port.
@pytest.mark.parametrize("lanes", [1, 4, 8, 9])
def test_values_for_every_width_of_payload(lanes):
    x = draw(50, lanes)
    with add_one(lanes) as simulator:
        y, _ = simulator.run(x)
    assert (y == x + 1).all()


def test_a_beat_a_cycle_and_their_cycles(simulator):
    _, result = simulator.run(draw(20, 3))
    # Taken in cycle 0, given one cycle later.
    assert result.beat_cycles[:, 0].tolist() == list(range(1, 21))
    assert result.cycles_per_word == 1.0
    assert result.cycles == 21


def test_a_map_has_several_beats_a_word():
    layout = ((2, 0), (-1, 1))
    ports = [Port(2, bits, True, (3, 2, 2), layout) for bits in (8, 9)]
    x = np.random.default_rng(0).integers(-128, 128, (5, 3, 2, 2))
    with CompiledSimulator.from_component(AddOne(2), *ports) as simulator:
        y, result = simulator.run(x)
    assert (y == x + 1).all()
    assert result.beat_cycles.shape == (5, 8)
    assert result.cycles_per_word == 8.0


def test_stalls_change_the_time_and_not_the_values(simulator):
    x = draw(400, 3)
    runs = [
        simulator.run(x, input_stalls=into, output_stalls=out, seed=seed)
        for into, out, seed in [(0.5, 0.0, 1), (0.0, 0.5, 1), (0.6, 0.3, 1), (0.6, 0.3, 2)]
    ]
    assert all((y == x + 1).all() for y, _ in runs)
    # A beat moves in every second cycle on average, give or take a few standard deviations (20 cycles or more each).
    assert all(1.7 < result.cycles_per_word < 2.3 for _, result in runs[:2])
    assert (runs[2][1].beat_cycles != runs[3][1].beat_cycles).any()
    again = simulator.run(x, input_stalls=0.6, output_stalls=0.3, seed=1)[1]
    assert (again.beat_cycles == runs[2][1].beat_cycles).all()


@pytest.mark.parametrize("cycle", [0, 1, 2, 7, 11])
def test_a_reset_in_flight_restarts_the_batch(cycle):
    x = np.arange(40).reshape(20, 2, 1, 1).repeat(1, axis=1)
    ports = Port(1, 8, False, (2, 1, 1), ((0,), (1,))), Port(1, 9, False, (1,), ((0,),))
    with CompiledSimulator.from_component(Pairs(), *ports) as simulator:
        y, result = simulator.run(x, reset_at=cycle)
    # 0 + 1, 2 + 3, ...: had the reset missed the remembered half, sums would pair 1 with 2.
    assert y.ravel().tolist() == list(range(1, 80, 4))
    assert result.beat_cycles.min() > cycle


def test_a_reset_behind_the_end_is_refused(simulator):
    with pytest.raises(InputError, match=r"reset_at=1000 lies behind the run, which ended at cycle"):
        simulator.run(draw(5, 3), reset_at=1000)


def test_runs_are_independent_of_each_other(simulator):
    x = draw(30, 3)
    first, _ = simulator.run(x)
    second, result = simulator.run(x[:4])
    assert (second == first[:4]).all()
    assert result.beat_cycles[0, 0] == 1


def test_no_words_and_one_word(simulator):
    y, result = simulator.run(draw(0, 3))
    assert y.shape == (0, 3) and result.cycles == 0 and math.isnan(result.cycles_per_word)
    assert math.isnan(simulator.run(draw(1, 3))[1].cycles_per_word)


def test_beats_without_ports():
    with CompiledSimulator.from_component(Wires(5)) as simulator:
        raw = np.array([[[0x04030201, 0x05]], [[0xFFFFFFFF, 0xFF]]], np.uint32)
        result = simulator.run_words(raw, output_beats=1)
        assert (result.raw_out == raw).all()
        with pytest.raises(DataError, match="bits above the payload's 40 must be 0"):
            simulator.run_words(raw | np.uint32(0x100), output_beats=1)
        with pytest.raises(DataError, match=r"takes uint32 \(N, 1, 2\), not uint32 \(2, 1, 1\)"):
            simulator.run_words(raw[..., :1].copy(), output_beats=1)
        with pytest.raises(InputError, match="output_beats must be at least 1"):
            simulator.run_words(raw)
        with pytest.raises(InputError, match="run needs the ports"):
            simulator.run(raw)


def test_memory_images_are_read_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = [(7 * i + 3) % 256 for i in range(256)]
    port = vector(1, 8, False)
    with CompiledSimulator.from_component(LookUp(1, table), port, port) as simulator:
        y, _ = simulator.run(np.arange(256)[:, None])
    assert y.ravel().tolist() == table


def test_designs_that_differ_in_their_memories_only_share_a_library(tmp_path, monkeypatch):
    # A cache of its own: other tests may compile meanwhile.
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    port = vector(1, 8, False)
    answers = []
    for table in (list(range(256)), list(range(255, -1, -1))):
        with CompiledSimulator.from_component(LookUp(1, table), port, port, "shared_table") as simulator:
            answers.append(simulator.run(np.array([[1]]))[0].item())
    assert answers == [1, 254]
    assert len(list(cache.folder().glob("model-*.lock"))) == 1


def test_a_deadlock_names_the_cycle_and_what_moved():
    ports = vector(1, 8, True), vector(1, 9, True)
    with CompiledSimulator.from_component(StopsAfter(7), *ports, max_idle_cycles=100) as simulator:
        assert (simulator.run(draw(7, 1))[0] == draw(7, 1) + 1).all()
        with pytest.raises(
            ToolError, match=r"at cycle 108: deadlock: .* 100 cycles; 7 of 8 beats were taken and 7 of 8"
        ):
            simulator.run(draw(8, 1))
        # The simulator itself is still good.
        assert (simulator.run(draw(7, 1))[0] == draw(7, 1) + 1).all()


def test_a_beat_that_changes_while_it_waits_is_caught():
    port = vector(1, 8, False)
    simulator = CompiledSimulator.from_component(Fickle(), port, port)
    with simulator, pytest.raises(ToolError, match=r"stream y changed or withdrew a beat"):
        simulator.run(np.arange(50)[:, None], output_stalls=0.5)


@pytest.mark.parametrize("options", [{"input_stalls": 1.0}, {"output_stalls": -0.1}, {"reset_at": -1}])
def test_options_out_of_range(simulator, options):
    with pytest.raises(InputError, match=next(iter(options))):
        simulator.run(draw(1, 3), **options)


def test_a_closed_simulator_refuses():
    simulator = add_one(1)
    simulator.close()
    simulator.close()
    with pytest.raises(InputError, match="is closed"):
        simulator.run(draw(1, 1))


def test_ports_that_do_not_fit_the_design():
    with pytest.raises(FormatError, match="x__payload has 24 bits, but the port has 4 lanes of 8, 32 in all"):
        CompiledSimulator.from_component(AddOne(3), vector(4, 8, True), vector(3, 9, True))


def test_a_design_without_the_streams(tmp_path):
    (tmp_path / "odd.v").write_text("module odd(a);\n  input a;\nendmodule\n")
    with pytest.raises(FormatError, match="has no stream 'x': port x__payload is missing"):
        CompiledSimulator(tmp_path / "odd.v", "odd", None, None)


def test_verilog_that_does_not_compile(tmp_path):
    ports = "".join(f"  input {s}__{m};\n" for s in "xy" for m in ("payload", "valid", "ready"))
    (tmp_path / "bad.v").write_text(f"module bad();\n{ports}  assign nothing =;\nendmodule\n")
    with pytest.raises(ToolError, match=r"^verilator_bin failed \(exit status 1\): %Error: top.v:\d+") as caught:
        CompiledSimulator(tmp_path / "bad.v", "bad", None, None)
    assert "\n" not in str(caught.value)


RING = """module ring(clk, x__payload, x__valid, x__ready, y__payload, y__valid, y__ready);
  input clk;
  input x__payload;
  input x__valid;
  output x__ready;
  output y__payload;
  output y__valid;
  input y__ready;
  wire ring;
  assign ring = ~(ring & x__payload);
  assign x__ready = 1'h1;
  assign y__valid = x__valid;
  assign y__payload = ring;
endmodule
"""


def test_a_ring_that_oscillates_is_an_error_and_not_the_end_of_python(tmp_path):
    (tmp_path / "ring.v").write_text(RING)
    simulator = CompiledSimulator(tmp_path / "ring.v", "ring", None, None)
    with simulator, pytest.raises(ToolError, match=r"'ring': at cycle 0: .*converge"):
        simulator.run_words(np.ones((1, 1, 1), np.uint32), output_beats=1)


def test_a_memory_image_that_is_missing(tmp_path):
    verilog, image = write_verilog(LookUp(1, [0] * 255 + [1]), tmp_path, "looked_up")
    image.unlink()
    with pytest.raises(FormatError, match=rf"{image.name}: missing, though looked_up\.v reads it"):
        CompiledSimulator(verilog, "looked_up", None, None)


def test_simulators_in_threads():
    simulators = [add_one(lanes) for lanes in (2, 3)]
    # Two threads share the first simulator, too.
    jobs = [simulators[i % 2] for i in range(6)]
    barrier = threading.Barrier(3)

    def work(index: int) -> bool:
        barrier.wait()
        x = draw(3000, index % 2 + 2)
        return bool((jobs[index].run(x, input_stalls=0.2, seed=index)[0] == x + 1).all())

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(6)))


def test_a_corrupted_library_is_built_again(empty_cache, tmp_path):
    options = build.Options()
    (verilog,) = write_verilog(AddOne(3), tmp_path, "component")
    library = build.library(verilog.read_text(), "component", options)
    good = library.read_bytes()
    for bad in (good[: len(good) // 2], good[:-1] + bytes([good[-1] ^ 1])):
        library.write_bytes(bad)
        assert build.library(verilog.read_text(), "component", options).stat().st_size == len(good)
    with add_one(3) as simulator:
        assert (simulator.run(draw(9, 3))[0] == draw(9, 3) + 1).all()
    models = [path for path in cache.folder().glob("model-*") if path.is_dir()]
    assert models == [library.parent]
    assert [path.name for path in cache.folder().iterdir() if path.name.startswith(".")] == []


def test_entries_are_built_once_however_many_ask(tmp_path, monkeypatch):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    built = []

    def make(out: Path) -> None:
        built.append(out)
        (out / "content").write_text("x" * 1000)

    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda _: cache.entry("thing", make), range(32)))
    assert len(built) == 1
    assert {entry.joinpath("content").read_text() for entry in entries} == {"x" * 1000}


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))

    def fail(out: Path) -> None:
        (out / "half").write_text("half")
        raise ToolError("no")

    with pytest.raises(ToolError):
        cache.entry("thing", fail)
    assert [path.name for path in cache.folder().iterdir()] == ["thing.lock"]


def test_the_cache_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "mine"))
    assert cache.folder().stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("HWGEN_CACHE", str(shared))
    with pytest.raises(ToolError, match="others can write there: chmod 700 it"):
        cache.folder()


def test_without_a_compiler_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"g\+\+ is not on PATH: install g\+\+"):
        add_one(3)


def test_without_verilator_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise build.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(build.importlib.metadata, "version", missing)
    with pytest.raises(ToolError, match=r"pip install -e '\.\[sim\]'"):
        add_one(3)


def test_what_is_in_the_cache_needs_no_compiler(simulator, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with add_one(3) as again:
        assert (again.run(draw(4, 3))[0] == draw(4, 3) + 1).all()


def test_large_designs_are_compiled_file_by_file(empty_cache, monkeypatch):
    monkeypatch.setattr(build, "UNIT_LIMIT", 0)
    x = draw(5, 6)
    with add_one(6) as simulator:
        assert (simulator.run(x)[0] == x + 1).all()


def test_other_processes_find_the_library():
    code = (
        "import numpy as np; from tests.sim.test_compiled import add_one, draw\n"
        "with add_one(3) as s: print(int((s.run(draw(9, 3))[0] == draw(9, 3) + 1).all()))"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [job.communicate(timeout=60)[0].strip() for job in jobs] == ["1", "1"]


def test_waveforms(simulator, tmp_path):
    path = tmp_path / "run.vcd"
    y, _ = simulator.run(draw(4, 3), trace=path)
    assert (y == draw(4, 3) + 1).all()
    text = path.read_text()
    assert "$enddefinitions" in text and re.search(r"\$var wire +24 \S+ x__payload", text)
    # Two cycles of reset, four words, one cycle of latency: two samples each.
    assert max(int(time) for time in re.findall(r"^#(\d+)", text, re.MULTILINE)) == 2 * (2 + 4 + 1) - 1
    with pytest.raises(InputError, match=r"must end in \.vcd or \.fst"):
        simulator.run(draw(4, 3), trace=tmp_path / "run.txt")
    with pytest.raises(InputError, match="there is no folder"):
        simulator.run(draw(4, 3), trace=tmp_path / "nowhere" / "run.vcd")


def test_fst_waveforms(simulator, tmp_path):
    from pylibfst import fstReaderIterBlocks, get_scopes_signals2, lib, string

    path = tmp_path / "run.fst"
    y, _ = simulator.run(draw(4, 3), trace=path)
    assert (y == draw(4, 3) + 1).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.fst"]
    reader = lib.fstReaderOpen(str(path).encode())
    _, signals = get_scopes_signals2(reader)
    handle = next(
        signal.handle for name, signal in signals.by_name.items() if name.split(" ")[0].endswith("x__payload")
    )
    values = []
    lib.fstReaderSetFacProcessMaskAll(reader)

    def change(_, time, facility, value):
        if facility == handle:
            values.append(int(string(value), 2))

    fstReaderIterBlocks(reader, change)
    lib.fstReaderClose(reader)
    # Three lanes of eight bits a word: every word that was sent was on the wires.
    sent = [sum((int(value) & 0xFF) << (8 * lane) for lane, value in enumerate(word.ravel())) for word in draw(4, 3)]
    assert [value for value in values if value in sent][: len(sent)] == sent
    with pytest.raises(InputError, match="there is no folder"):
        simulator.run(draw(4, 3), trace=tmp_path / "nowhere" / "run.fst")
