"""Networks on the device "cpu": every path gives the reference's integers."""

from __future__ import annotations

import numpy as np
import pytest

import host
from benchmarks import gsc_network
from host import reference
from host.cpu import choice
from host.cpu.compiler import compiled
from host.cpu.device import Cpu
from host.cpu.fetched import Fetched
from host.cpu.isa import EMULATED, PATHS, choose, supported
from host.cpu.measured import Measured
from host.cpu.permuted import SHARED, Permuted
from host.cpu.plan import Planner
from host.cpu.program import Program, processor
from hwgen.errors import InputError
from hwgen.format.io import quantise_input
from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Linear,
    MaxPool2d,
    ReLU,
    Requantise,
    SumPool2d,
)
from tests.random_networks import random_network

# What this processor can run, and the decisions of AVX-512 in any case.
PATHS_HERE = [*supported(processor()[1]), *EMULATED]
# The units of `host.cpu.choice.Costs` whose ways are forced; those of `avx512` are the same in `amx`.
_OF_AVX512 = ("quad", "slot", "pair_slot", "shared_slot", "pair", "register")
PATHS_OF_WAYS = {
    "amx": ("tile",), "amx-emulated": ("tile",), "avx512": _OF_AVX512, "avx512-emulated": _OF_AVX512,
}  # fmt: skip
every_path = pytest.mark.parametrize("path", PATHS_HERE)


def words(network: IntegerNetwork, count: int, seed: int = 0) -> np.ndarray:
    """Integers of the whole range: the lowest, the highest, zeros, few values (ties), and random ones."""
    rng = np.random.default_rng(seed)
    low, high = (-128, 127) if network.input.signed else (0, 255)
    x = rng.integers(low, high + 1, (count, *network.input.shape))
    x[0], x[1], x[2] = low, high, 0
    x[3] = rng.integers(0, 2, network.input.shape)
    return x


def check(
    network: IntegerNetwork, path: str, *, dense: bool = False, count: int = 20, x: np.ndarray | None = None
) -> list[str]:
    """Compares with the reference, for x or for some words; returns the kinds of steps."""
    isa, x = choose(path, processor()[1]), words(network, count) if x is None else x
    device = Cpu(network, isa, dense=dense)
    try:
        y = device.run_int(x)
        again = device.run_int(x[::-1])
    finally:
        device.close()
    expected = reference.run_int(network, x)
    np.testing.assert_array_equal(y, expected)
    # Nothing of one word is left for the next.
    np.testing.assert_array_equal(again, expected[::-1])
    return [type(step).__name__ for step in Planner(network, isa).plan().steps]


def check_way(network: IntegerNetwork, path: str, unit: str, count: int = 9) -> None:
    """Compares with the reference, each product in the same way where it can be."""
    isa, x = choose(path, processor()[1]), words(network, count)
    plan = Planner(network, isa, choice.wherever_possible(unit)).plan()
    program = Program(compiled(plan, network.output_scale, isa), isa)
    expected = reference.run_int(network, x)
    stored = (x + (128 if network.input.signed else 0)).astype(np.uint8, order="C")
    y, work = np.zeros(expected.shape, np.int32), program.workspace()
    program.integers(stored.ctypes.data, y.ctypes.data, count, work.ctypes.data, program.block)
    np.testing.assert_array_equal(y, expected, err_msg=unit)


@every_path
@pytest.mark.parametrize("part", range(3))
def test_some_random_networks(part, path):
    for seed in range(4 * part, 4 * part + 4):
        check(random_network(seed), path)


@pytest.mark.slow
@every_path
def test_many_random_networks(path):
    for seed in range(1000, 1200):
        network = random_network(seed, max_channels=100 if seed % 2 else 12)
        check(network, path)
        check(network, path, dense=True)
        for unit in PATHS_OF_WAYS.get(path, ()):
            check_way(network, path, unit)


def mask(weight: np.ndarray) -> np.ndarray:
    return weight != 0


def weights(*shape: int, density: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-127, 128, shape) * (rng.random(shape) < density)
    return drawn.astype(np.int8)


def conv(name: str, *shape: int, density: float = 1.0, **options) -> Conv2d:
    weight = weights(*shape, density=density)
    bias = np.random.default_rng(1).integers(-1000, 1000, shape[0]).astype(np.int32)
    return Conv2d(name, weight, mask(weight), bias, **options)


def linear(name: str, outputs: int, inputs: int, density: float = 1.0) -> Linear:
    weight = weights(outputs, inputs, density=density)
    bias = np.random.default_rng(2).integers(-1000, 1000, outputs).astype(np.int32)
    return Linear(name, weight, mask(weight), bias)


def scaled(name: str, channels: int, shift: int = 23, signed: bool = True) -> Requantise:
    multiplier = np.random.default_rng(3).integers(1 << 14, 1 << 16, channels).astype(np.int32)
    return Requantise(name, multiplier, shift, signed)


def network_of(shape: tuple[int, ...], outputs: int, *layers, signed: bool = True) -> IntegerNetwork:
    return IntegerNetwork(Input(shape, 1.0, signed), layers, np.ones(outputs))


NETWORKS = {
    "wide local winners": network_of(
        (3, 6, 5), 20, conv("a", 200, 3, 3, 3), scaled("b", 200), KWinners("c", 9, True), conv("d", 20, 200, 2, 2)
    ),
    "winners of a map, ties in torch's order": network_of(
        (2, 5, 7), 6, conv("a", 40, 2, 2, 3), scaled("b", 40, 29), KWinners("c", 77, False), conv("d", 6, 40, 3, 3, padding=(1, 1))
    ),
    "winners of a map to a linear layer": network_of(
        (2, 5, 7), 11, conv("a", 40, 2, 2, 3), scaled("b", 40, 29), KWinners("c", 77, False), Flatten("f"),
        linear("d", 11, 800, 0.1),
    ),
    "many features": network_of(
        (70,), 33, linear("a", 700, 70, 0.2), scaled("b", 700), KWinners("c", 31, False), linear("d", 33, 700, 0.1)
    ),
    "one winner": network_of(
        (8, 3, 3), 5, conv("a", 16, 8, 1, 1), scaled("b", 16), KWinners("c", 1, True), conv("d", 5, 16, 1, 1)
    ),
    "all win": network_of((4, 3, 3), 5, conv("a", 7, 4, 1, 1), scaled("b", 7), KWinners("c", 7, True), conv("d", 5, 7, 2, 2)),
    "pool behind sums, odd size, rest dropped": network_of(
        (1, 11, 9), 17, conv("a", 17, 1, 3, 3), MaxPool2d("p", (2, 2), (2, 2)), scaled("b", 17, signed=False), ReLU("r")
    ),
    "pools of bytes with padding": network_of(
        (5, 6, 6), 5, MaxPool2d("p", (3, 3), (2, 2), (1, 1)), SumPool2d("s", (2, 2), (1, 1), (1, 1)), scaled("b", 5, 15)
    ),
    "no weight": network_of(
        (4, 4, 4), 9, conv("a", 33, 4, 3, 3, density=0.0), scaled("b", 33), KWinners("k", 3, True), conv("c", 9, 33, 2, 2, density=0.0)
    ),
    "no shift and a large one": network_of(
        (6,), 40, linear("a", 40, 6), scaled("b", 40, 0), linear("c", 40, 40), scaled("d", 40, 40, signed=False)
    ),
    "scaled after flattening": network_of(
        (3, 4, 4), 5, conv("a", 6, 3, 2, 2), Flatten("f"), scaled("b", 54), KWinners("k", 11, False), linear("c", 5, 54)
    ),
    "grouped and dilated": network_of(
        (6, 9, 9), 12, conv("a", 12, 1, 3, 3, groups=6, dilation=(2, 1), stride=(1, 2), padding=(2, 0)), scaled("b", 12)
    ),
    "wide ends": network_of((35, 5, 7), 37, conv("a", 37, 35, 1, 1)),
    "wide ends of bytes": network_of((33, 17, 1), 33, ReLU("r"), signed=True),
    "padding wider than the kernel": network_of(
        (3, 1, 2), 5, conv("a", 5, 3, 1, 3, padding=(3, 9), stride=(2, 1)), scaled("b", 5)
    ),
    "local winners of a vector": network_of(
        (3, 4, 4), 5, conv("a", 6, 3, 2, 2), scaled("b", 6), Flatten("f"), KWinners("k", 7, True), linear("c", 5, 54)
    ),
    "strided": network_of(
        (32, 9, 11), 20, conv("a", 20, 32, 3, 3, density=0.3, stride=(2, 2), padding=(1, 1)), scaled("b", 20)
    ),
    "strided and pooled": network_of(
        (32, 4, 45), 40, conv("a", 40, 32, 2, 2, stride=(1, 2)), MaxPool2d("p", (3, 2), (3, 2)), scaled("b", 40)
    ),
    "two blocks and a pool": network_of(
        (32, 6, 9), 64, conv("a", 64, 32, 3, 3, density=0.2), MaxPool2d("p", (2, 2), (2, 2)), scaled("b", 64)
    ),
    "pixels of a line, padded": network_of(
        (64, 5, 7), 40, conv("a", 40, 64, 3, 3, density=0.1, padding=(1, 1)), MaxPool2d("p", (1, 2), (1, 2)), scaled("b", 40)
    ),
    "many slots of pixels of two lines": network_of(
        (128, 4, 5), 64, conv("a", 64, 128, 3, 3, density=0.25, stride=(1, 2)), scaled("b", 64)
    ),
    "windows of a pool in a table": network_of(
        (1, 13, 12), 33, conv("a", 33, 1, 5, 5, density=0.4, padding=(1, 2)), MaxPool2d("p", (2, 2), (2, 2)), scaled("b", 33)
    ),
    "oblong windows of a pool in a table": network_of(
        (3, 9, 12), 20, conv("a", 20, 3, 2, 3, density=0.3, stride=(1, 2), dilation=(2, 1)), MaxPool2d("p", (2, 1), (2, 1)), scaled("b", 20)
    ),
    "sparse and wide": network_of(
        (512, 2, 2), 128, KWinners("k", 51, True), conv("a", 128, 512, 1, 1, density=0.05)
    ),
}  # fmt: skip


@every_path
@pytest.mark.parametrize("signed", [False, True])
def test_shifts(path, signed):
    """Sums are limited before they are scaled where products of them fit 32 bits, up to a shift of 24."""
    for shift in (1, 14, 15, 16, 17, 20, 22, 23, 24, 25):
        # So many inputs that sums reach both ends of a byte at every shift.
        check(network_of((200,), 40, linear("a", 40, 200), scaled("b", 40, shift, signed)), path, count=50)


@every_path
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_edges(name, path, dense):
    check(NETWORKS[name], path, dense=dense)


@pytest.mark.parametrize("path", [path for path in PATHS_HERE if PATHS_OF_WAYS.get(path)])
@pytest.mark.parametrize(
    "name",
    [
        "strided",
        "strided and pooled",
        "two blocks and a pool",
        "pixels of a line, padded",
        "many slots of pixels of two lines",
        "windows of a pool in a table",
        "oblong windows of a pool in a table",
        "sparse and wide",
        "many features",
    ],
)
def test_each_way_wherever_possible(name, path):
    for unit in PATHS_OF_WAYS[path]:
        check_way(NETWORKS[name], path, unit)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "in a table" in name])
def test_windows_of_a_pool_share_a_table(name):
    (step,) = Planner(NETWORKS[name], choose("avx512-emulated", {}), choice.wherever_possible("slot")).plan().steps
    assert isinstance(step, Permuted) and step.product.apart


def pooled_windows(seed: int) -> IntegerNetwork:
    """A convolution of which a window of the pool sees 64 bytes or less."""
    rng = np.random.default_rng(seed)
    while True:
        channels, outputs = int(rng.integers(1, 5)), int(rng.integers(1, 40))
        kernel, stride, dilation, padding, pool = (
            (int(a), int(b))
            for a, b in (rng.integers(low, high, 2) for low, high in ((1, 6), (1, 4), (1, 3), (0, 3), (1, 4)))
        )
        seen = [(p - 1) * s + (k - 1) * d + 1 for p, s, k, d in zip(pool, stride, kernel, dilation, strict=True)]
        if channels * seen[0] * seen[1] <= 64 and pool != (1, 1) and kernel != (1, 1):
            break
    height, width = (int(rng.integers(n, n + 12)) for n in seen)
    layer = conv(
        "a",
        outputs,
        channels,
        *kernel,
        density=float(rng.choice([0.15, 0.4, 1.0])),
        stride=stride,
        dilation=dilation,
        padding=padding,
    )
    return network_of(
        (channels, height, width),
        outputs,
        layer,
        MaxPool2d("p", pool, pool),
        scaled("b", outputs),
        signed=bool(rng.integers(2)),
    )


@pytest.mark.parametrize("path", [path for path in PATHS_HERE if "slot" in PATHS_OF_WAYS.get(path, ())])
def test_random_windows_of_a_pool(path):
    for seed in range(12):
        check_way(pooled_windows(seed), path, "slot")


def neighbouring_winners(seed: int) -> IntegerNetwork:
    """A convolution of few winners a pixel, whose neighbours in the output see neighbours."""
    rng = np.random.default_rng(seed)
    channels, outputs, winners = int(rng.integers(2, 65)), int(rng.integers(1, 40)), int(rng.integers(1, 17))
    kernel, dilation, padding, pool, extra = (
        (int(a), int(b))
        for a, b in (rng.integers(low, high, 2) for low, high in ((1, 5), (1, 3), (0, 3), (1, 4), (0, 21)))
    )
    height, width = ((k - 1) * d + p + e for k, d, p, e in zip(kernel, dilation, pool, extra, strict=True))
    layer = conv(
        "a",
        outputs,
        channels,
        *kernel,
        density=float(rng.choice([0.15, 0.4, 1.0])),
        dilation=dilation,
        padding=padding,
    )
    behind = (MaxPool2d("p", pool, pool),) if rng.integers(2) else ()
    return network_of(
        (channels, height, width),
        outputs,
        KWinners("k", min(winners, channels), True),
        layer,
        *behind,
        *((scaled("b", outputs),) if rng.integers(2) else ()),
        signed=bool(rng.integers(2)),
    )


@pytest.mark.parametrize("path", [path for path in PATHS_HERE if "register" in PATHS_OF_WAYS.get(path, ())])
def test_random_neighbouring_winners(path):
    isa, fetched = choose(path, processor()[1]), 0
    for seed in range(8 if isa.emulated else 20):
        network = neighbouring_winners(seed)
        check_way(network, path, "register")
        plan = Planner(network, isa, choice.wherever_possible("register")).plan()
        fetched += any(isinstance(step, Fetched) for step in plan.steps)
    # In some all win, or there is one position.
    assert fetched > 4


@every_path
def test_random_local_winners(path):
    """Of pixels that fill vectors and that do not, with ties of a few values and of none."""
    rng = np.random.default_rng(5)
    for levels in (1, 2, 5, 30, 256) * 5:
        channels, height, width = (int(rng.integers(low, high)) for low, high in ((2, 70), (1, 4), (1, 20)))
        winners, signed = int(rng.integers(1, channels + 1)), bool(rng.integers(2))
        network = IntegerNetwork(
            Input((channels, height, width), 1.0, signed), (KWinners("k", winners, True),), np.ones(channels)
        )
        low = -128 if signed else 0
        values = rng.choice(np.arange(low, low + 256), levels, replace=False)
        check(network, path, x=rng.choice(values, (8, channels, height, width)))


@pytest.mark.parametrize("path", [path for path in PATHS_HERE if "shared_slot" in PATHS_OF_WAYS.get(path, ())])
def test_random_linear_layers_of_shared_tables(path):
    rng, isa, shared = np.random.default_rng(7), choose(path, processor()[1]), 0
    for _ in range(20):
        inputs, outputs = int(rng.integers(1, 500)), int(rng.integers(1, 150))
        layer = linear("a", outputs, inputs, float(rng.choice([0.02, 0.1, 0.5])))
        network = network_of((inputs,), outputs, layer, scaled("b", outputs), signed=bool(rng.integers(2)))
        check_way(network, path, "shared_slot")
        plan = Planner(network, isa, choice.wherever_possible("shared_slot")).plan()
        shared += any(isinstance(step, Permuted) and step.tables == SHARED for step in plan.steps)
    # Small ones have no four tables.
    assert shared > 10


def test_large_maps_keep_no_sums_of_winners():
    network = network_of(
        (64, 100, 100), 64, KWinners("k", 8, True), conv("a", 64, 64, 1, 1, padding=(0, 1)), scaled("b", 64)
    )
    plan = Planner(network, PATHS["avx512"], choice.wherever_possible("register")).plan()
    assert not any(isinstance(step, Fetched) for step in plan.steps)


def test_every_way_is_tried():
    kinds = {kind for name in NETWORKS for path in PATHS_HERE for kind in _kinds(NETWORKS[name], path)}
    assert kinds >= {
        "Dense", "Tiles", "Listed", "Fetched", "Permuted", "Permuted, 2 tables", "Permuted, 4 tables", "Patches", "Pool", "Elementwise", "LocalWinners", "GlobalWinners",
    }  # fmt: skip


def _kinds(network: IntegerNetwork, path: str) -> list[str]:
    found = []
    for step in Planner(network, choose(path, processor()[1])).plan().steps:
        for way in step.ways if isinstance(step, Measured) else (step,):
            tables = getattr(way, "tables", 1)
            found.append(type(way).__name__ + (f", {tables} tables" if tables > 1 else ""))
    return found


@pytest.fixture(scope="module")
def keyword_spotter(tmp_path_factory):
    path = tmp_path_factory.mktemp("keywords") / "net.hwpack"
    gsc_network.network(3).save(path)
    return path


def test_the_keyword_spotting_network(keyword_spotter):
    x = gsc_network.inputs(3, 11)
    with host.open(keyword_spotter, device="reference") as accelerator:
        integers = accelerator.run_int(quantise_input(accelerator.network.input, x))
        real = accelerator.run(x)
    for path in supported(processor()[1]):
        for device in (f"cpu:{path}", f"cpu:{path},dense"):
            with host.open(keyword_spotter, device=device) as accelerator:
                found = accelerator.run_int(quantise_input(accelerator.network.input, x))
                np.testing.assert_array_equal(found, integers)
                # In one batch, on all cores, and word by word.
                np.testing.assert_array_equal(accelerator.run(x), real)
                np.testing.assert_array_equal(np.concatenate([accelerator.run(word[None]) for word in x]), real)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((linear("a", 3, 60), linear("b", 3, 3)), "layer 'b': takes sums that were not requantised"),
        ((linear("a", 3, 60), KWinners("b", 1, False)), "layer 'b': ranks sums that were not requantised"),
    ],
)
def test_what_it_does_not_compute_it_refuses(layers, message):
    with pytest.raises(InputError, match=message):
        Planner(network_of((60,), 3, *layers), PATHS["portable"]).plan()


@pytest.mark.parametrize(("bias", "width"), [(2**31 - 1, 1), (-(2**31), 1), (0, 2**17)])
def test_sums_of_more_than_32_bits(bias, width):
    weight = np.full((1, width), 127 if bias >= 0 else -127, np.int8)
    layer = Linear("wide", weight, mask(weight), np.array([bias], np.int32))
    with pytest.raises(
        InputError, match="layer 'wide': sums from .* to .*, but device 'cpu' computes in 32 bits: use device"
    ):
        Planner(network_of((width,), 1, layer, signed=False), PATHS["portable"]).plan()


@every_path
def test_sums_of_exactly_32_bits(path):
    weight = np.array([[127, -127]], np.int8)
    for bias in (2**31 - 1 - 127 * 255, -(2**31) + 127 * 255):
        layer = Linear("wide", weight, mask(weight), np.array([bias], np.int32))
        network = network_of((2,), 1, layer, signed=False)
        x = np.array([[255, 0], [0, 255], [255, 255], [0, 0]])
        device = Cpu(network, choose(path, processor()[1]))
        np.testing.assert_array_equal(device.run_int(x), reference.run_int(network, x))
        device.close()
