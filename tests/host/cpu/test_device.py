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
from host.cpu import device as device_module
from host.cpu import store
from host.cpu.isa import PATHS, choose
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
    y = made.run_int(x)
    np.testing.assert_array_equal(y, np.concatenate([made.run_int(word[None]) for word in x]))
    made.close()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sse9", "device 'cpu:sse9': no such path: use one of avx512, avx2, portable"),
        ("avx2,portable", "device 'cpu:avx2,portable': takes one of avx512, avx2, portable, and 'dense'"),
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
        "print(time.perf_counter() - start, *(m for m in ('torch', 'amaranth', 'numba', 'host.cpu.matrix') if m in sys.modules))"
    )
    for _ in range(2):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert time.perf_counter() - start < 60
    seconds, *modules = done.stdout.split()
    assert modules == [] and float(seconds) < 10
