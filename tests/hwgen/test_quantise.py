from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from host.reference import run_int, trace
from hwgen.errors import DataError, ModelError
from hwgen.float_network import AvgPool2d, Conv2d, Layer, Linear, Network, run
from hwgen.format import network as integer
from hwgen.format.io import dequantise_output, quantise_input
from hwgen.format.network import Flatten, IntegerNetwork, KWinners, MaxPool2d, ReLU, Requantise, SumPool2d
from hwgen.format.shapes import tensors
from hwgen.importer import import_torch
from hwgen.quantise import quantise


def linear(name: str, weight: object, bias: object = None) -> Linear:
    values = np.array(weight, dtype=np.float64)
    return Linear(name, values, values != 0, np.zeros(len(values)) if bias is None else np.array(bias, np.float64))


def conv(name: str, outputs: int, inputs: int, kernel: int, seed: int = 0, **settings: object) -> Conv2d:
    random = np.random.default_rng(seed)
    weight = random.normal(size=(outputs, inputs, kernel, kernel)) * (
        random.random((outputs, inputs, kernel, kernel)) < 0.5
    )
    return Conv2d(name, weight, weight != 0, random.normal(size=outputs), **settings)  # type: ignore[arg-type]


def network(shape: tuple[int, ...], *layers: Layer, head: str | None = None) -> Network:
    return Network(shape, layers, head)


def data(shape: tuple[int, ...], seed: int = 0, count: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def run_quantised(quantised: IntegerNetwork, x: np.ndarray) -> np.ndarray:
    return dequantise_output(quantised, run_int(quantised, quantise_input(quantised.input, x)))


def kinds(quantised: IntegerNetwork) -> list[str]:
    return [type(layer).__name__ for layer in quantised.layers]


def requantisations(quantised: IntegerNetwork) -> list[Requantise]:
    return [layer for layer in quantised.layers if isinstance(layer, Requantise)]


def test_weights_by_hand() -> None:
    weight = [[127.0, -50.4, 0.0], [0.0, 0.0, 0.0], [1.0, 0.5, -1.0]]
    x = np.array([[255.0, 0.0, 3.0]], dtype=np.float32)
    quantised = quantise(network((3,), linear("fc", weight, [10.2, 4.0, -1.0])), x)
    assert (quantised.input.scale, quantised.input.signed) == (1.0, False)
    (layer,) = quantised.layers
    assert isinstance(layer, integer.Linear) and layer.name == "fc"
    # The scales are 1, the largest of the others for the empty channel, and 1 / 127.
    assert layer.weight.tolist() == [[127, -50, 0], [0, 0, 0], [127, 64, -127]]
    assert layer.mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert layer.bias.tolist() == [10, 4, -127]
    np.testing.assert_allclose(quantised.output_scale, [1, 1, 1 / 127])
    assert (layer.weight.dtype, layer.bias.dtype, quantised.output_scale.dtype) == (np.int8, np.int32, np.float64)


def test_the_mask_survives_weights_that_round_to_zero() -> None:
    layer = linear("fc", [[100.0, 1e-9]])
    (quantised,) = quantise(network((2,), layer), data((2,))).layers
    assert isinstance(quantised, integer.Linear)
    assert quantised.weight.tolist() == [[127, 0]] and quantised.mask.all()


def test_signed_input_uses_both_ends() -> None:
    layer = linear("fc", [[1.0]])
    quantised = quantise(network((1,), layer), np.array([[-128.0], [12.0]], np.float32))
    assert (quantised.input.scale, quantised.input.signed) == (1.0, True)
    quantised = quantise(network((1,), layer), np.array([[-12.0], [254.0]], np.float32))
    assert (quantised.input.scale, quantised.input.signed) == (2.0, True)


def test_requantisation_scales_as_the_calibration_says() -> None:
    """x in [0, 255] times 2, -1: the ReLU's range is [0, 510], so one step of it is 2."""
    layers = (linear("fc", [[2.0], [-1.0]]), ReLU("relu"), linear("out", [[1.0, 1.0]]))
    quantised = quantise(network((1,), *layers), np.array([[0.0], [255.0]], np.float32))
    assert kinds(quantised) == ["Linear", "Requantise", "Linear"]
    requantise = quantised.layers[1]
    assert isinstance(requantise, Requantise)
    assert requantise.name == "fc.requantise" and not requantise.signed
    # Weight scales 2 / 127 and 1 / 127, divided by the activation's 2.
    np.testing.assert_allclose(requantise.multiplier * 2.0**-requantise.shift, [1 / 127, 0.5 / 127], rtol=2e-5)
    assert 2**15 <= requantise.multiplier.max() < 2**16
    assert quantised.output_scale == pytest.approx([2 / 127])
    np.testing.assert_array_equal(run_quantised(quantised, np.array([[100.0], [200.0]], np.float32)), [[200], [400]])


def test_all_multipliers_are_one_on_request() -> None:
    layers = (
        conv("conv", 4, 2, 3),
        ReLU("relu"),
        AvgPool2d("pool", (2, 2), (2, 2), 4),
        Flatten("flatten"),
        linear("fc", np.random.default_rng(1).normal(size=(3, 16))),
        KWinners("k", 2, False),
    )
    float_network, x = network((2, 6, 6), *layers), data((2, 6, 6))
    quantised = quantise(float_network, x, power_of_two=True)
    assert len(requantisations(quantised)) == 3
    for layer in requantisations(quantised):
        assert set(layer.multiplier.tolist()) == {1} and layer.shift > 0
    error = run_quantised(quantised, x) - run(float_network, x)
    assert np.abs(error).mean() < 0.03 * np.abs(run(float_network, x)).max()


def test_a_power_of_two_below_the_best_scale_does_not_saturate() -> None:
    """The best output scale is 1.3, 165 steps of the sums: 128 is nearer than 256, so the weights give way."""
    layers = (linear("fc", [[1.0, 0.3]]), ReLU("relu"))
    x = np.array([[255.0, 255.0], [0.0, 100.0]], np.float32)
    quantised = quantise(network((2,), *layers), x, power_of_two=True)
    assert requantisations(quantised)[0].shift == 7
    np.testing.assert_allclose(run_quantised(quantised, x), [[331.5], [30.0]], rtol=0.01, atol=0.7)


def test_max_pool_and_relu_move_before_requantisation() -> None:
    for middle in (
        (ReLU("relu"), MaxPool2d("pool", (2, 2), (2, 2))),
        (MaxPool2d("pool", (2, 2), (2, 2)), ReLU("relu")),
    ):
        layers = (
            conv("conv", 4, 2, 3),
            *middle,
            KWinners("k", 2, True),
            Flatten("flatten"),
            linear("fc", np.ones((2, 16))),
        )
        quantised = quantise(network((2, 6, 6), *layers), data((2, 6, 6)))
        assert kinds(quantised) == ["Conv2d", "MaxPool2d", "Requantise", "KWinners", "Flatten", "Linear"]
        assert [layer.signed for layer in requantisations(quantised)] == [False]


def test_k_winners_keep_the_models_order() -> None:
    layers = (conv("conv", 4, 2, 3), KWinners("k", 2, True), MaxPool2d("pool", (2, 2), (2, 2)), ReLU("relu"))
    quantised = quantise(network((2, 6, 6), *layers), data((2, 6, 6)))
    assert kinds(quantised) == ["Conv2d", "Requantise", "KWinners", "MaxPool2d", "ReLU"]
    assert quantised.layers[1].signed  # type: ignore[union-attr]


def test_a_relu_behind_a_flatten_is_done_by_requantisation() -> None:
    layers = (conv("conv", 4, 2, 3), Flatten("flatten"), ReLU("relu"), linear("fc", np.ones((2, 64))))
    quantised = quantise(network((2, 6, 6), *layers), data((2, 6, 6)))
    assert kinds(quantised) == ["Conv2d", "Requantise", "Flatten", "Linear"]
    assert [layer.signed for layer in requantisations(quantised)] == [False]
    assert requantisations(quantised)[0].multiplier.shape == (4,)


def test_redundant_layers_go() -> None:
    layers = (
        ReLU("r0"),
        Flatten("f0"),
        linear("fc", np.eye(4)),
        ReLU("r1"),
        ReLU("r2"),
        KWinners("k", 4, False),
        ReLU("r3"),
    )
    quantised = quantise(network((4,), *layers), np.abs(data((4,))))
    assert kinds(quantised) == ["Linear", "Requantise"]


def test_what_the_input_passes_through() -> None:
    layers = (MaxPool2d("pool", (2, 2), (2, 2)), KWinners("k", 3, False), ReLU("relu"), Flatten("flatten"))
    quantised = quantise(network((2, 4, 4), *layers), data((2, 4, 4)))
    assert kinds(quantised) == ["MaxPool2d", "KWinners", "ReLU", "Flatten"]
    np.testing.assert_array_equal(quantised.output_scale, np.full(8, quantised.input.scale))


def test_an_average_is_a_sum_and_a_scale() -> None:
    layers = (AvgPool2d("pool", (2, 2), (2, 2), 4), MaxPool2d("max", (2, 2), (2, 2)))
    x = np.zeros((1, 1, 4, 4), np.float32)
    x[0, 0, :2, :2] = 255
    quantised = quantise(network((1, 4, 4), *layers), x)
    assert kinds(quantised) == ["SumPool2d", "Requantise", "MaxPool2d"]
    requantise = quantised.layers[1]
    assert isinstance(requantise, Requantise) and requantise.name == "pool.requantise" and not requantise.signed
    assert (requantise.multiplier.tolist(), requantise.shift) == ([2**15], 17)
    assert isinstance(quantised.layers[0], SumPool2d)
    assert quantised.output_scale.tolist() == [1.0]


@pytest.mark.parametrize("tail", [(), (MaxPool2d("pool", (2, 2), (2, 2)),), (Flatten("flatten"),)])
def test_the_last_sums_are_not_requantised(tail: tuple[Layer, ...]) -> None:
    layer = conv("conv", 3, 2, 3)
    quantised = quantise(network((2, 6, 6), layer, *tail), data((2, 6, 6)))
    assert not requantisations(quantised)
    scale = quantised.input.scale * np.abs(layer.weight).reshape(3, -1).max(axis=1) / 127
    positions = 16 if tail and isinstance(tail[0], Flatten) else 1
    np.testing.assert_allclose(quantised.output_scale, np.repeat(scale, positions))
    assert tensors(quantised)[-1].shape[0] == len(quantised.output_scale)


@pytest.mark.parametrize("last", [ReLU("relu"), KWinners("k", 2, False)])
def test_other_ends_are_activations(last: Layer) -> None:
    quantised = quantise(network((3,), linear("fc", np.eye(3)), last), data((3,)))
    assert isinstance(quantised.layers[1], Requantise)
    assert len(set(quantised.output_scale.tolist())) == 1 and len(quantised.output_scale) == 3


def test_the_scale_is_chosen_for_winners() -> None:
    """Winners in [0, 127], losers down to -1000: the scale is 1 and the losers saturate."""
    x = np.array([[127.0, -1000.0, 3.0]], np.float32)
    quantised = quantise(network((3,), linear("fc", np.eye(3) * 127), KWinners("k", 1, False)), x)
    assert quantised.output_scale == pytest.approx([127, 127, 127])
    values = [value for layer, value in trace(quantised, quantise_input(quantised.input, x))]
    assert values[1][0, 1] == -128


def test_a_layer_without_weights_has_its_bias() -> None:
    layers = (linear("fc", np.zeros((2, 3)), [1.0, 0.25]), linear("out", np.zeros((2, 2)), [3.0, 0.0]))
    quantised = quantise(network((3,), *layers), data((3,)))
    first = list(trace(quantised, quantise_input(quantised.input, data((3,)))))
    assert not first[0][0].weight.any()  # type: ignore[union-attr]
    np.testing.assert_allclose(run_quantised(quantised, data((3,)))[0], [3.0, 0.0], rtol=1e-4)
    activation = requantisations(quantised)[0]
    assert activation.multiplier.min() >= 1 and activation.multiplier.max() < 2**16
    assert first[1][1][0].tolist() == [127, 32]


@pytest.mark.parametrize("power_of_two", [False, True])
def test_a_bias_that_dwarfs_the_weights_fits(power_of_two: bool) -> None:
    layers = (linear("fc", [[1e-12, 0.0], [1.0, 2.0]], [5.0, 0.1]), linear("out", [[1.0, 1e-12]], [1e6]))
    x = data((2,))
    quantised = quantise(network((2,), *layers), x, power_of_two=power_of_two)
    for layer in quantised.layers:
        if isinstance(layer, integer.Linear):
            assert (np.sign(layer.bias) == [[1, 1], [1]][layer.name == "out"]).all()
    np.testing.assert_allclose(run_quantised(quantised, x), run(network((2,), *layers), x), rtol=1e-5)


@pytest.mark.parametrize("power_of_two", [False, True])
def test_channels_of_very_different_size_keep_their_values(power_of_two: bool) -> None:
    weight = np.diag([1.0, 1e-3, 1e-6, 1e6, 0.0])
    float_network = network((5,), linear("fc", weight), ReLU("relu"))
    x = np.abs(data((5,)))
    quantised = quantise(float_network, x, power_of_two=power_of_two)
    (layer,) = requantisations(quantised)
    assert layer.multiplier.min() >= 1 and layer.multiplier.max() < 2**16 and 0 <= layer.shift <= 47
    assert layer.multiplier.dtype == np.int32
    step = quantised.output_scale[0]
    assert np.abs(run_quantised(quantised, x) - run(float_network, x)).max() <= 3 * step


def test_a_dead_layer_is_zero() -> None:
    layers = (linear("fc", -np.ones((2, 3))), ReLU("relu"), linear("out", np.ones((1, 2)), [0.5]))
    quantised = quantise(network((3,), *layers), np.abs(data((3,))))
    np.testing.assert_allclose(run_quantised(quantised, np.abs(data((3,)))), 0.5, rtol=1e-2)


def test_values_that_overflow_are_refused_by_name() -> None:
    layers = (linear("fc", [[1e30]]), ReLU("relu"))
    with pytest.raises(ModelError, match="layer 'fc': its values overflow"):
        quantise(network((1,), *layers), np.full((1, 1), 1e30, np.float32))


def test_all_zero_calibration() -> None:
    with pytest.warns(UserWarning, match="calibration: every value is 0"):
        quantised = quantise(network((3,), linear("fc", np.ones((2, 3)), [1.0, 2.0])), np.zeros((2, 3), np.float32))
    assert quantised.input.scale == 1.0
    assert np.isfinite(quantised.output_scale).all()


@pytest.mark.parametrize("seed", range(10))
def test_random_networks_stay_close(seed: int) -> None:
    """No k-WTA, whose choice between near equals is free; everything else is within a few steps of 8 bits."""
    random = np.random.default_rng(seed)
    signed = bool(seed % 2)
    layers: list[Layer] = [conv("c1", 6, 3, 3, seed, padding=(1, 1))]
    layers += (
        [ReLU("r1"), MaxPool2d("p1", (2, 2), (2, 2))] if random.random() < 0.5 else [MaxPool2d("p1", (3, 3), (2, 2))]
    )
    layers += [conv("c2", 4, 3, 3, seed + 1, groups=2)]
    layers += [AvgPool2d("p2", (2, 2), (1, 1), 4)] if random.random() < 0.5 else [ReLU("r2")]
    layers += [Flatten("flatten")]
    size = int(np.prod(run(network((3, 9, 9), *layers), data((3, 9, 9), count=1)).shape))
    layers.append(linear("fc", random.normal(size=(5, size)), random.normal(size=5)))
    float_network, x = network((3, 9, 9), *layers), data((3, 9, 9), seed)
    x = x if signed else np.abs(x)
    quantised = quantise(float_network, x)
    tensors(quantised)
    names = [layer.name for layer in quantised.layers]
    assert len(set(names)) == len(names)
    expected = run(float_network, x)
    actual = run_quantised(quantised, x)
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(actual - expected).mean() < 0.015 * np.abs(expected).max()


def test_each_layer_stands_for_its_float_values() -> None:
    """Scale by scale, through a network where nothing moved."""
    layers = (conv("c", 4, 2, 3), KWinners("k", 2, True), Flatten("f"), linear("fc", np.ones((2, 64))))
    float_network, x = network((2, 6, 6), *layers), data((2, 6, 6))
    quantised = quantise(float_network, x)
    sums = next(value for layer, value in trace(quantised, quantise_input(quantised.input, x)) if layer.name == "c")
    expected = run(network((2, 6, 6), layers[0]), x)
    scale = quantised.input.scale * np.abs(layers[0].weight).reshape(4, -1).max(axis=1) / 127
    np.testing.assert_allclose(sums * scale[:, None, None], expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "calibration: must be a float32 numpy array"),
        ([[1.0, 2.0]], "not list"),
        (np.zeros((0, 2), np.float32), "has no samples"),
        (np.zeros((3, 3), np.float32), r"must have shape \(N, 2\), batch first, not \(3, 3\)"),
        (np.zeros(2, np.float32), r"must have shape \(N, 2\)"),
        (np.zeros((3, 2), np.int64), "not int64"),
        (np.full((3, 2), np.nan, np.float32), "NaN or infinity"),
        (np.full((3, 2), np.inf), "NaN or infinity"),
        (np.full((3, 2), 1e300), "finite float32"),
    ],
)
def test_refuses_calibration_in_one_line(calibration: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        quantise(network((2,), linear("fc", np.eye(2))), calibration)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    bunch = datasets.load_digits()
    return (bunch.images[:, None] / 16).astype(np.float32), bunch.target


class LocalWinners(nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k, self.local = k, True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x).scatter(1, x.topk(self.k, dim=1).indices, 1.0) * x


LocalWinners.__name__ = "KWinners2d"


@pytest.mark.parametrize("winners", [False, True])
def test_accuracy_on_digits_is_within_a_point(digits: tuple[np.ndarray, np.ndarray], winners: bool) -> None:
    images, labels = digits
    torch.manual_seed(0)
    # A small model runs no faster on several threads, and much slower where other tests use them.
    torch.set_num_threads(1)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.MaxPool2d(2),
        LocalWinners(4) if winners else nn.ReLU(),
        nn.Conv2d(16, 24, 3, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    x, y = torch.from_numpy(images[:1200]), torch.from_numpy(labels[:1200])
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(4):
        for batch in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    test = images[1200:]
    with torch.no_grad():
        expected = (model.eval()(torch.from_numpy(test)).argmax(1).numpy() == labels[1200:]).mean()
    assert expected > 0.85
    for power_of_two in (False, True):
        quantised = quantise(import_torch(model, (1, 8, 8)), images[:200], power_of_two=power_of_two)
        actual = (run_quantised(quantised, test).argmax(1) == labels[1200:]).mean()
        assert actual >= expected - 0.01
