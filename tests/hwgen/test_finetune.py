from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import host
import hwgen
from host import reference
from hwgen.errors import DataError, InputError, ModelError
from hwgen.finetune import QuantisationAware, quantisation_aware
from hwgen.format.io import dequantise_output, quantise_input
from hwgen.format.network import IntegerNetwork, Requantise
from hwgen.nn import KWinners, KWinners2d


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small models run no faster on several threads, and much slower where other tests use them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def reference_output(network: IntegerNetwork, x: np.ndarray) -> np.ndarray:
    return dequantise_output(network, reference.run_int(network, quantise_input(network.input, x)))


def data(shape: tuple[int, ...], seed: int = 0, count: int = 24, signed: bool = True) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
    return x if signed else np.abs(x)


def check_equal(prepared: QuantisationAware, x: np.ndarray) -> None:
    """The module and its integer network give the same float32, bit for bit."""
    with torch.no_grad():
        output = prepared.eval()(torch.from_numpy(x)).numpy()
    assert output.dtype == np.float32
    np.testing.assert_array_equal(output, reference_output(prepared.integer_network(), x))


def train(prepared: QuantisationAware, x: np.ndarray, steps: int = 3, rate: float = 0.01, decay: float = 0.0) -> None:
    """Steps towards random targets."""
    optimiser = torch.optim.AdamW(prepared.parameters(), lr=rate, weight_decay=decay)
    inputs = torch.from_numpy(x)
    target = torch.randn(prepared(inputs).shape, generator=torch.Generator().manual_seed(0))
    prepared.train()
    for _ in range(steps):
        optimiser.zero_grad()
        functional.mse_loss(prepared(inputs), target).backward()
        optimiser.step()


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "vectors": (
        lambda: nn.Sequential(
            nn.Linear(7, 12),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(12, 9),
            KWinners(3),
            nn.Linear(9, 4),
        ),
        (7,),
    ),
    "padding, stride, dilation": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, padding="same", groups=2, bias=False),
            nn.Flatten(),
            nn.Softmax(dim=1),
        ),
        (2, 9, 8),
    ),
    "max-pools": (
        lambda: nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(2, 5, 3),
            nn.MaxPool2d((3, 2), stride=2, padding=1, ceil_mode=True),
            nn.ReLU(),
            nn.Conv2d(5, 3, 2),
            nn.MaxPool2d(2, stride=1, dilation=2),
        ),
        (2, 10, 9),
    ),
    "average pools": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.AvgPool2d((2, 3), stride=1, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(3, stride=2, ceil_mode=True, divisor_override=5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 6),
            nn.LogSoftmax(dim=1),
        ),
        (2, 8, 8),
    ),
    "k-WTA": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            KWinners2d(3),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3),
            KWinners2d(20, local=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 20),
            KWinners(5),
        ),
        (1, 8, 8),
    ),
    "dead layer": (lambda: nn.Sequential(dead(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)), (4,)),
}


def dead(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, -1.0)
    return layer


def model(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(1)
    make, shape = MODELS[name]
    made = make()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"))
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
    return made, shape


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_training_leaves_the_module_equal_to_its_packed_network(name: str, power_of_two: bool) -> None:
    made, shape = model(name)
    x = data(shape)
    prepared = quantisation_aware(made, x, power_of_two=power_of_two)
    # Inputs beyond the calibration saturate.
    extremes = np.stack([np.full(shape, value, np.float32) for value in (0.0, np.inf, -np.inf)])
    inputs = np.concatenate([data(shape, 1), 3 * data(shape, 2), extremes])
    check_equal(prepared, inputs)
    before = copy.deepcopy(prepared.state_dict())
    train(prepared, x)
    # A dead layer has no gradient, what follows it has.
    assert any(not torch.equal(before[key], value) for key, value in prepared.state_dict().items())
    check_equal(prepared, inputs)
    for layer in prepared.integer_network().layers:
        if isinstance(layer, Requantise) and power_of_two:
            assert set(layer.multiplier.tolist()) == {1}


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_before_training_it_is_what_packing_the_model_gives(name: str, power_of_two: bool) -> None:
    made, shape = model(name)
    x = data(shape, signed=False)
    packed = hwgen.pack(made, calibration=x, power_of_two=power_of_two)
    prepared = hwgen.quantisation_aware(made, x, power_of_two=power_of_two)
    np.testing.assert_array_equal(reference_output(packed.network, x), prepared(torch.from_numpy(x)).detach().numpy())


def random_model(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """One or two convolutions and as many linear layers with anything that may stand between them."""
    random = np.random.default_rng(seed)

    def pick(*choices: Callable[[], nn.Module] | None) -> list[nn.Module]:
        chosen = choices[random.integers(len(choices))]
        return [] if chosen is None else [chosen()]

    def between(channels: int) -> list[nn.Module]:
        k, k_global = int(random.integers(1, channels + 2)), int(random.integers(1, 3 * channels))
        activation = pick(None, nn.ReLU, lambda: KWinners2d(k), lambda: KWinners2d(k_global, local=False))
        pool = pick(None, lambda: nn.MaxPool2d(2, 1), lambda: nn.AvgPool2d(2, 1), lambda: nn.MaxPool2d(3, 2, 1))
        norm = pick(None, lambda: nn.BatchNorm2d(channels))
        return norm + (activation + pool if random.random() < 0.5 else pool + activation)

    channels, size = int(random.integers(1, 4)), int(random.integers(5, 10))
    shape = (channels, size, size)
    modules: list[nn.Module] = []
    for _ in range(random.integers(1, 3)):
        groups = channels if random.random() < 0.3 else 1
        width = channels * int(random.integers(1, 5))
        kernel, stride, padding = (int(random.integers(low, high)) for low, high in ((1, 4), (1, 3), (0, 3)))
        modules.append(nn.Conv2d(channels, width, kernel, stride, padding, groups=groups, bias=random.random() < 0.7))
        modules += between(width)
        channels = width
    modules.append(nn.Flatten())
    trial = nn.Sequential(*modules).eval()
    features = trial(torch.zeros(1, *shape)).shape[1]
    modules += [
        nn.Linear(features, 11),
        *pick(nn.ReLU, lambda: KWinners(int(random.integers(1, 12)))),
        nn.Linear(11, 5),
    ]
    modules += pick(None, lambda: nn.Softmax(dim=1), lambda: nn.LogSoftmax(dim=1), nn.ReLU)
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear) and random.random() < 0.5:
            prune.random_unstructured(module, "weight", float(random.random()))
    return nn.Sequential(*modules), shape


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_random_models(seed: int, power_of_two: bool, signed: bool) -> None:
    torch.manual_seed(seed)
    try:
        made, shape = random_model(seed)
    except RuntimeError:
        # A window that does not fit what is left of the map.
        return
    prepared = quantisation_aware(made, data(shape, seed, signed=signed), power_of_two=power_of_two)
    train(prepared, data(shape, seed + 1), steps=2, rate=0.05)
    check_equal(prepared, 2 * data(shape, seed + 2))


def test_every_device_gives_what_the_module_gives(tmp_path: Path) -> None:
    made, shape = model("k-WTA")
    prepared = quantisation_aware(made, data(shape))
    train(prepared, data(shape))
    hwgen.pack(prepared).save(tmp_path / "net.hwpack")
    x = data(shape, 5)
    expected = prepared.eval()(torch.from_numpy(x)).detach().numpy()
    for device in ("reference", "cpu"):
        with host.open(tmp_path / "net.hwpack", device=device) as accelerator:
            np.testing.assert_array_equal(accelerator.run(x), expected)


def test_equal_values_win_by_index_as_in_hardware() -> None:
    """Float winners that round to the same integer: the lowest index wins, whichever was larger."""
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data = torch.eye(4)
    x = np.array([[1.0, 1.0001, 1.0002, -1.0], [0.0, 0.0, 0.0, -1.0]], np.float32)
    prepared = quantisation_aware(nn.Sequential(layer, KWinners(1)), x)
    with torch.no_grad():
        winners = prepared(torch.from_numpy(x)) != 0
    assert winners.tolist() == [[True, False, False, False], [False] * 4]
    check_equal(prepared, x)


def test_pruned_weights_stay_zero() -> None:
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    for index in (0, 4):
        prune.l1_unstructured(layers[index], "weight", amount=0.7)
    masks = [layers[index].get_buffer("weight_mask").numpy() != 0 for index in (0, 4)]
    x = data((1, 6, 6))
    prepared = quantisation_aware(layers, x)
    train(prepared, x, steps=5, rate=0.1, decay=0.1)
    trained = [layer for layer in hwgen.pack(prepared).network.layers if hasattr(layer, "mask")]
    for mask, layer, float_layer in zip(masks, trained, prepared.layers, strict=True):
        np.testing.assert_array_equal(layer.mask, mask)
        assert not layer.weight[~mask].any()
        assert not float_layer.weight.detach().numpy()[~mask].any()  # type: ignore[operator, union-attr]


def test_the_gradient_is_that_of_the_real_formula() -> None:
    """One linear layer: dL/dw = gradient * x and dL/db = gradient, with x as the integers stand for it."""
    layer = nn.Linear(6, 3)
    x = data((6,))
    prepared = quantisation_aware(nn.Sequential(layer), x)
    output = prepared(torch.from_numpy(x))
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    output.backward(gradient)
    network = prepared.integer_network()
    seen = quantise_input(network.input, x) * network.input.scale
    trained = prepared.layers[0]
    np.testing.assert_allclose(trained.weight.grad.numpy(), gradient.double().numpy().T @ seen, rtol=1e-9)  # type: ignore[union-attr, operator]
    np.testing.assert_allclose(trained.bias.grad.numpy(), gradient.double().sum(0).numpy(), rtol=1e-9)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("name", ["vectors", "padding, stride, dilation", "average pools"])
def test_gradients_through_a_network_point_where_the_float_models_do(name: str, power_of_two: bool) -> None:
    made, shape = model(name)
    x = data(shape, count=64)
    float_model = copy.deepcopy(made).double().eval()
    prepared = quantisation_aware(made, x, power_of_two=power_of_two)
    target = torch.randn(prepared(torch.from_numpy(x)).shape, generator=torch.Generator().manual_seed(0))
    (prepared(torch.from_numpy(x)) * target).sum().backward()
    (float_model(torch.from_numpy(x).double()) * target).sum().backward()
    weighted = [module for module in float_model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer, module in zip(prepared.layers, weighted, strict=True):
        # Where batch norm follows, the prepared weight is the product: its gradient is divided by the factor.
        ours, theirs = layer.weight.grad, module.weight.grad  # type: ignore[union-attr]
        rows = functional.cosine_similarity(ours.flatten(1), theirs.flatten(1))  # type: ignore[union-attr, operator]
        assert rows[theirs.flatten(1).any(dim=1)].median() > 0.9, layer  # type: ignore[union-attr]


def test_saturated_values_have_no_gradient() -> None:
    layer = nn.Linear(1, 1)
    layer.weight.data.fill_(1.0), layer.bias.data.fill_(0.0)
    prepared = quantisation_aware(nn.Sequential(layer, nn.ReLU()), np.ones((1, 1), np.float32))
    (trained,) = prepared.layers
    for value, wanted in ((1.0, True), (-1.0, False)):
        trained.zero_grad()
        trained.bias.data.fill_(0.0 if wanted else 5.0)  # type: ignore[union-attr, operator]
        prepared(torch.tensor([[value]])).sum().backward()
        assert bool(trained.weight.grad.abs().sum() > 0) == wanted  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("power_of_two", [False, True])
def test_training_lowers_the_loss_of_the_integer_network(power_of_two: bool) -> None:
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Linear(8, 24), KWinners(12), nn.Linear(24, 2)) for _ in range(2))
    x = torch.from_numpy(data((8,), count=200))
    with torch.no_grad():
        wanted = teacher(x)
    prepared = quantisation_aware(student, x.numpy(), power_of_two=power_of_two)
    optimiser = torch.optim.Adam(prepared.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = functional.mse_loss(prepared(x), wanted)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_training_resumes_from_its_state() -> None:
    made, shape = model("k-WTA")
    x = data(shape)
    prepared = quantisation_aware(made, x, power_of_two=True)
    train(prepared, x)
    # Prepared with other data and other scales: the state brings its own.
    resumed = quantisation_aware(made, 5 * data(shape, 7))
    resumed.load_state_dict(prepared.state_dict())
    inputs = torch.from_numpy(data(shape, 3))
    with torch.no_grad():
        assert torch.equal(resumed(inputs), prepared(inputs))
    check_equal(resumed, inputs.numpy())


def test_the_model_is_left_alone_and_float32_works_too() -> None:
    made, shape = model("k-WTA")
    before = copy.deepcopy(made.state_dict())
    prepared = quantisation_aware(made, data(shape)).float()
    train(prepared, data(shape))
    check_equal(prepared, data(shape, 4))
    assert made.training
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name])


def test_bad_input_is_one_line() -> None:
    made, shape = model("linear")
    x = data(shape)
    prepared = quantisation_aware(made, x)
    broken = copy.deepcopy(prepared)
    broken.layers[0].weight.data[0, 0] = torch.nan  # type: ignore[union-attr, index]
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (DataError, "calibration: must be a numpy array", lambda: quantisation_aware(made, torch.zeros(2, 5))),  # type: ignore[arg-type]
        (DataError, "has no samples", lambda: quantisation_aware(made, x[:0])),
        (InputError, "the model is one already", lambda: quantisation_aware(prepared, x)),
        (
            ModelError,
            r"5 features, but .* 3; each sample of .* shape \(3,\)",
            lambda: hwgen.pack(made, calibration=x[:, :3]),
        ),
        (ModelError, "layer '1'", lambda: quantisation_aware(nn.Sequential(made, nn.Tanh()), x)),
        (DataError, r"input: must be .* \(N, 5\), not torch.float32 \(2, 4\)", lambda: prepared(torch.zeros(2, 4))),
        (DataError, "not torch.int64", lambda: prepared(torch.zeros(2, 5, dtype=torch.int64))),
        (DataError, "NaN", lambda: prepared(torch.full((2, 5), torch.nan))),
        (ModelError, "layer '0': its weights are no longer finite", lambda: broken(torch.zeros(2, 5))),
        (InputError, "has its scales", lambda: hwgen.pack(prepared, calibration=x)),
        (InputError, "has its scales", lambda: hwgen.pack(prepared, power_of_two=True)),
        (DataError, "calibration: is missing", lambda: hwgen.pack(made)),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
