"""What a caller sees of the device "cpu": real values, batches, threads, errors and what is kept on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import host
from host import reference
from host.cpu import device as device_module
from host.cpu import store
from host.cpu.isa import PATHS, choose
from host.cpu.threads import Threads
from hwgen.errors import DataError, InputError
from hwgen.format import cache
from hwgen.format.network import Flatten, Input, IntegerNetwork, KWinners, ReLU, Requantise
from hwgen.packing import pack_network
from tests.host.cpu.test_networks import conv, linear, scaled

SHAPE = (1, 9, 8)
LAYERS = (
    conv("a", 20, 1, 3, 3), scaled("b", 20), KWinners("c", 4, True), Flatten("d"), linear("e", 7, 20 * 7 * 6, 0.2),
)  # fmt: skip


def network(signed: bool = True, head: str | None = None) -> IntegerNetwork:
    return IntegerNetwork(Input(SHAPE, 0.013, signed), LAYERS, np.random.default_rng(0).random(7) / 999, head)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hwpack(tmp_path):
    path = tmp_path / "net.hwpack"
    pack_network(network()).save(path)
    return path


def reals(count: int) -> np.ndarray:
    """Values that round up and down at .5, saturate, and are infinite."""
    rng = np.random.default_rng(count)
    x = (rng.normal(size=(count, *SHAPE))).astype(np.float32)
    x[:, 0, 0] = np.float32(0.013) * (np.arange(8) + 0.5).astype(np.float32)
    x[:, 0, 1, :4] = [np.inf, -np.inf, 1e30, -0.0]
    return x


@pytest.mark.parametrize("head", [None, "softmax"])
@pytest.mark.parametrize("signed", [False, True])
def test_real_values_are_those_of_the_reference(tmp_path, signed, head):
    path = tmp_path / "net.hwpack"
    pack_network(network(signed, head)).save(path)
    with host.open(path, device="reference") as reference, host.open(path, device="cpu") as accelerator:
        for x in (reals(1), reals(2), reals(50), reals(5).astype(np.float64), reals(8)[::2], reals(3).tolist()):
            wanted = np.asarray(x)
            y = accelerator.run(x)
            assert y.dtype == np.float32
            np.testing.assert_array_equal(y, reference.run(wanted))
        assert accelerator.run(reals(3)[:0]).shape == (0, 7)
        assert accelerator.stats.words == 1 + 2 + 50 + 5 + 4 + 3


@pytest.mark.parametrize("signed", [False, True])
def test_real_values_of_wide_ends(tmp_path, signed):
    layers = (conv("a", 21, 18, 2, 1),)
    scales = np.random.default_rng(0).random(21)
    pack_network(IntegerNetwork(Input((18, 6, 5), 0.013, signed), layers, scales)).save(tmp_path / "net.hwpack")
    x = np.random.default_rng(1).normal(size=(3, 18, 6, 5)).astype(np.float32)
    x[0, 5, 2, :4] = [np.inf, -np.inf, 1e30, -0.0]
    with host.open(tmp_path / "net.hwpack", device="reference") as reference:
        expected = reference.run(x)
    with host.open(tmp_path / "net.hwpack", device="cpu") as accelerator:
        np.testing.assert_array_equal(accelerator.run(x), expected)
        np.testing.assert_array_equal(accelerator.run(x[:1]), expected[:1])
        x[2, 17, 5, 4] = np.nan
        with pytest.raises(DataError, match="input: contains NaN"):
            accelerator.run(x)


# Of multiples of 49 the quotients are exact, and products with the inverse of 49 fall short of them.
@pytest.mark.parametrize("scale", [49.0, 0.013, 1 / 3, 0.0078125, 3e-8, 1e-160])
@pytest.mark.parametrize("shape", [(1, 3, 37), (16, 4, 5), (1, 5, 4)])
def test_real_values_close_to_halves(tmp_path, shape, scale):
    """Each half of a step, and the float32 beside it on either side."""
    network = IntegerNetwork(Input(shape, scale, True), (ReLU("r"),), np.ones(shape[0]))
    pack_network(network).save(tmp_path / "net.hwpack")
    halves = ((np.arange(-135, 135) + 0.5) * scale).astype(np.float32)
    values = np.concatenate(
        [np.nextafter(halves, np.float32(-np.inf)), halves, np.nextafter(halves, np.float32(np.inf))]
    )
    x = np.resize(values, (20, *shape))
    with host.open(tmp_path / "net.hwpack", device="reference") as reference:
        expected = reference.run(x)
    with host.open(tmp_path / "net.hwpack", device="cpu") as accelerator:
        np.testing.assert_array_equal(accelerator.run(x), expected)


@pytest.mark.parametrize("size", [(3, 2), (6, 5)])
def test_a_flattened_output_has_a_scale_a_value(tmp_path, size):
    """As `hwgen.pack` makes of a convolution and a Flatten; small maps, and wide ones that are moved in blocks."""
    layers = (conv("a", 18, 2, 1, 1), Flatten("f"))
    scales = np.random.default_rng(0).random(18 * size[0] * size[1])
    pack_network(IntegerNetwork(Input((2, *size), 0.1, True), layers, scales)).save(tmp_path / "net.hwpack")
    x = np.random.default_rng(1).normal(size=(3, 2, *size)).astype(np.float32)
    with host.open(tmp_path / "net.hwpack", device="reference") as reference:
        expected = reference.run(x)
    with host.open(tmp_path / "net.hwpack", device="cpu") as accelerator:
        np.testing.assert_array_equal(accelerator.run(x), expected)


@pytest.mark.parametrize("head", [None, "softmax"])
def test_any_order_in_memory(tmp_path, head):
    layers = (conv("a", 7, 3, 3, 3), Flatten("f"))
    scales = np.random.default_rng(0).random(7 * 12)
    pack_network(IntegerNetwork(Input((3, 6, 5), 0.02, True), layers, scales, head)).save(tmp_path / "net.hwpack")
    rng = np.random.default_rng(1)
    real = rng.normal(size=(3, 6, 5, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    whole = rng.integers(-128, 128, (3, 6, 5, 3)).transpose(0, 3, 1, 2)
    with host.open(tmp_path / "net.hwpack", device="reference") as reference:
        expected, integers = reference.run(real), reference.run_int(whole)
    with host.open(tmp_path / "net.hwpack", device="cpu") as accelerator:
        for view in (lambda x: x, np.asfortranarray, lambda x: np.broadcast_to(x[:1], x.shape)):
            wanted = expected if np.array_equal(view(real), real) else expected[[0] * 3]
            np.testing.assert_array_equal(accelerator.run(view(real)), wanted)
            np.testing.assert_array_equal(accelerator.run(view(real).astype(np.float64)), wanted)
            np.testing.assert_array_equal(accelerator.submit(view(real)).result(), wanted)
        np.testing.assert_array_equal(accelerator.run_int(whole), integers)
        np.testing.assert_array_equal(accelerator.run_int(np.asfortranarray(whole)), integers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_goes_on(hwpack):
    x = reals(40)
    with host.open(hwpack, device="cpu") as accelerator:
        expected = accelerator.run(x)
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(accelerator.run(x), expected) else 1)
        deadline = time.monotonic() + 60
        while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        if done == (0, 0):
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert done == (child, 0)


def test_no_two_threads_share_a_workspace(monkeypatch):
    """Threads of a call that was interrupted may still compute when the next one comes."""
    made = device_module.Cpu(network(), PATHS["portable"])
    monkeypatch.setattr(made, "_cores", 4)
    x = np.random.default_rng(0).integers(-128, 128, (64, *SHAPE))
    expected, compute = reference.run_int(network(), x), made._program.integers
    used, twice = [], []

    def slow(words, results, count, work, block):
        twice.extend([work] * (work in used))
        used.append(work)
        time.sleep(0.05)
        bad = compute(words, results, count, work, block)
        used.remove(work)
        return bad

    monkeypatch.setattr(made._program, "integers", slow)
    callers = [threading.Thread(target=made.run_int, args=(x,)) for _ in range(3)]
    for caller in callers:
        caller.start()
    np.testing.assert_array_equal(made.run_int(x), expected)
    for caller in callers:
        caller.join()
    assert not twice and not used
    made.close()


def test_a_cache_that_cannot_be_written(hwpack, tmp_path, monkeypatch):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    cache.folder()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_locked", full)
        with pytest.warns(RuntimeWarning, match="cache folder .*: No space left on device: make room there"):
            accelerator = host.open(hwpack, device="cpu")
    with host.open(hwpack, device="cpu") as other, accelerator:
        np.testing.assert_array_equal(accelerator.run(reals(2)), other.run(reals(2)))


@pytest.mark.parametrize("content", ["{}", '{"program.o": "0"}', "[]", ""])
def test_digests_that_do_not_name_every_file(own_cache, hwpack, content):
    with host.open(hwpack, device="cpu") as accelerator:
        expected = accelerator.run(reals(2))
    (entry,) = (path for path in cache.folder().glob("cpu-*") if path.is_dir())
    (entry / "sha256.json").write_text(content)
    (entry / "tables.bin").unlink()
    with host.open(hwpack, device="cpu") as accelerator:
        np.testing.assert_array_equal(accelerator.run(reals(2)), expected)


def test_results_are_the_callers_own(hwpack):
    with host.open(hwpack, device="cpu") as accelerator:
        x = reals(2)
        first, copy = accelerator.run(x[:1]), accelerator.run(x[:1]).copy()
        accelerator.run(x[1:])
        np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize("count", [1, 40])
def test_not_a_number(hwpack, count):
    x = reals(count)
    x[-1, 0, 3, 3] = np.nan
    with host.open(hwpack, device="cpu") as accelerator:
        with pytest.raises(DataError, match="input: contains NaN"):
            accelerator.run(x)
        with pytest.raises(DataError, match="input: contains NaN"):
            accelerator.submit(x)
        # It goes on working.
        assert np.isfinite(accelerator.run(reals(count))).all()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux moves threads")
def test_threads_keep_off_the_callers_core():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        pytest.skip("there is one core")
    threads = Threads(1)
    try:
        threads.submit(int).result()
        for core in cores * 2:
            os.sched_setaffinity(0, {core})
            threads.keep_off()
            assert threads.submit(os.sched_getaffinity, 0).result() == set(cores) - {core}
    finally:
        os.sched_setaffinity(0, cores)
        threads.close()


def test_several_callers(hwpack):
    x = reals(24)
    with host.open(hwpack, device="cpu") as accelerator:
        expected = accelerator.run(x)
        wrong = []

        def call() -> None:
            for _ in range(20):
                if not np.array_equal(accelerator.run(x), expected) or not np.array_equal(
                    accelerator.run(x[:1]), expected[:1]
                ):
                    wrong.append(threading.get_ident())

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        futures = [accelerator.submit(x[start : start + 3]) for start in range(0, 24, 3)]
        np.testing.assert_array_equal(np.concatenate([future.result() for future in futures]), expected)
        np.testing.assert_array_equal(np.concatenate(list(accelerator.stream([x[:5], x[5:]]))), expected)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 31])
def test_every_share_of_a_batch(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    monkeypatch.setattr(device_module, "LEAST_WORDS", 2)
    made = device_module.Cpu(network(), PATHS["portable"])
    x = np.random.default_rng(count).integers(-128, 128, (count, *SHAPE))
    np.testing.assert_array_equal(made.run_int(x), reference.run_int(network(), x))
    made.close()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sse9", "device 'cpu:sse9': no such path: use one of amx, avx512, avx2, portable"),
        ("avx2,portable", "device 'cpu:avx2,portable': takes one of amx, avx512, avx2, portable, and 'dense'"),
    ],
)
def test_wrong_paths(hwpack, argument, message):
    with pytest.raises(InputError, match=message):
        host.open(hwpack, device=f"cpu:{argument}")


def test_what_the_processor_lacks_is_named():
    with pytest.raises(InputError, match="device 'cpu:avx512': this processor lacks avx512f.*: use avx2, portable"):
        choose("avx512", dict.fromkeys(PATHS["avx2"].features, True))
    assert choose("", {}).name == "portable"


def test_machine_code_is_made_once(own_cache, hwpack, monkeypatch):
    x = reals(3)
    with host.open(hwpack, device="cpu") as accelerator:
        expected = accelerator.run(x)
    (entry,) = (path for path in cache.folder().glob("cpu-*") if path.is_dir())
    assert cache.folder().stat().st_mode & 0o777 == 0o700

    def fail(*_) -> None:
        raise AssertionError("compiled again")

    with monkeypatch.context() as patch:
        patch.setattr(device_module, "_compiled", fail)
        with host.open(hwpack, device="cpu") as accelerator:
            np.testing.assert_array_equal(accelerator.run(x), expected)
        # A byte that differs is noticed before the code runs.
        code = bytearray((entry / "program.o").read_bytes())
        code[len(code) // 2] ^= 1
        (entry / "program.o").write_bytes(code)
        with pytest.raises(AssertionError, match="compiled again"):
            host.open(hwpack, device="cpu")
    with host.open(hwpack, device="cpu") as accelerator:
        np.testing.assert_array_equal(accelerator.run(x), expected)


@pytest.mark.parametrize("name", ["program.o", "tables.bin", "workspace.bin", "sha256.json"])
def test_a_lost_file_is_made_again(own_cache, hwpack, name):
    with host.open(hwpack, device="cpu") as accelerator:
        expected = accelerator.run(reals(2))
    (entry,) = (path for path in cache.folder().glob("cpu-*") if path.is_dir())
    (entry / name).unlink()
    with host.open(hwpack, device="cpu") as accelerator:
        np.testing.assert_array_equal(accelerator.run(reals(2)), expected)


def test_networks_that_differ_have_different_digests():
    def of(**changed) -> bytes:
        layers = (Requantise("b", np.array([1, 2], np.int32), 3, True), ReLU("r"))
        fields = {"input": Input((2,), 0.5, True), "layers": layers, "output_scale": np.ones(2)}
        return store.digest(IntegerNetwork(**fields | changed))

    others = [
        of(output_scale=np.array([1.0, 2.0])),
        of(input=Input((2,), 0.5, False)),
        of(layers=(Requantise("b", np.array([1, 3], np.int32), 3, True), ReLU("r"))),
        of(layers=(ReLU("r"),)),
        of(head="softmax"),
    ]
    assert len({of(), *others}) == 6 and of() == of()


def test_a_process_without_torch_opens_it_quickly(own_cache, hwpack):
    """What is stored needs neither torch nor Amaranth nor a compiler, nor the code generator."""
    program = (
        "import sys, time, numpy as np; start = time.perf_counter(); import host\n"
        f"a = host.open({str(hwpack)!r}, device='cpu'); a.run(np.zeros((1, 1, 9, 8), np.float32))\n"
        "print(time.perf_counter() - start, *(m for m in ('torch', 'amaranth', 'numba', 'host.cpu.dense') if m in sys.modules))"
    )
    for _ in range(2):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert time.perf_counter() - start < 60
    seconds, *modules = done.stdout.split()
    assert modules == [] and float(seconds) < 10
