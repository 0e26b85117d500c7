from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize, prune

from hwgen import nn as hwgen_nn
from hwgen.errors import ModelError
from hwgen.float_network import AvgPool2d, Conv2d, KWinners, Linear, Network, ReLU, run
from hwgen.importer import import_torch


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, generator=generator)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model


def check_equal(model: nn.Module, shape: tuple[int, ...]) -> Network:
    """Imports in training mode, which must not matter, and compares with torch in evaluation mode."""
    torch.manual_seed(1)
    model = randomise(model).double()
    network = import_torch(model, shape)
    x = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    actual = run(network, x.numpy())
    if network.head is not None:
        actual = getattr(functional, network.head)(torch.from_numpy(actual), dim=1).numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
    return network


class StubKWinners(nn.Module):
    """The inference of k-winner layers of nupic.torch: rank boosted values, keep the original ones."""

    def __init__(self, k: int, units: int, *, boost: float = 0.0, relu: bool = False) -> None:
        super().__init__()
        self.n = units
        self.k = k + 1  # in training
        self.k_inference = k
        self.relu = relu
        self.break_ties = True
        self.register_buffer("boost_strength", torch.tensor(boost))
        self.register_buffer("duty_cycle", torch.zeros(self.duty_shape(units)))

    @staticmethod
    def duty_shape(units: int) -> tuple[int, ...]:
        return (units,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        boosted = x * torch.exp(-self.get_buffer("boost_strength") * self.get_buffer("duty_cycle"))
        if not getattr(self, "local", True):
            boosted = boosted.flatten(1)
        winners = boosted.topk(self.k_inference, dim=1).indices
        kept = torch.zeros_like(boosted).scatter(1, winners, 1.0).reshape(x.shape) * x
        return kept.relu() if self.relu else kept


class StubKWinners2d(StubKWinners):
    def __init__(self, k: int, units: int, *, local: bool, boost: float = 0.0, relu: bool = False) -> None:
        super().__init__(k, units, boost=boost, relu=relu)
        self.local = local

    @staticmethod
    def duty_shape(units: int) -> tuple[int, ...]:
        return (1, units, 1, 1)


StubKWinners.__name__ = "KWinners"
StubKWinners2d.__name__ = "KWinners2d"


class PlainKWinners2d(nn.Module):
    def __init__(self, k: int, local: bool) -> None:
        super().__init__()
        self.k, self.local = k, local

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.local else x.flatten(1)
        kept = torch.zeros_like(y).scatter(1, y.topk(min(self.k, y.shape[1]), dim=1).indices, 1.0) * y
        return kept.reshape(x.shape)


PlainKWinners2d.__name__ = "KWinners2d"


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear alone": (lambda: nn.Linear(5, 3), (5,)),
    "no bias": (lambda: nn.Sequential(nn.Linear(5, 3, bias=False)), (5,)),
    "vector": (
        lambda: nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 4)),
        (7,),
    ),
    "conv": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (3, 9, 8)),
    "groups": (lambda: nn.Conv2d(6, 4, 3, groups=2, padding="same"), (6, 5, 7)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, padding="valid", bias=False), (6, 5, 7)),
    "same dilated": (lambda: nn.Conv2d(2, 3, (1, 3), padding="same", dilation=(1, 2)), (2, 5, 7)),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.Identity(), nn.BatchNorm2d(5, affine=False), nn.BatchNorm2d(5)),
        (2, 6, 6),
    ),
    "max pool": (lambda: nn.MaxPool2d((3, 2), stride=(2, 3), padding=1, ceil_mode=True), (2, 8, 10)),
    "max pool floor": (lambda: nn.MaxPool2d(2), (2, 7, 5)),
    "max pool dilated": (lambda: nn.MaxPool2d(2, stride=1, dilation=2, padding=1), (2, 7, 6)),
    "avg pool": (lambda: nn.AvgPool2d((2, 3), stride=1, padding=1), (3, 5, 6)),
    "avg pool divisor": (lambda: nn.AvgPool2d(3, stride=2, ceil_mode=True, divisor_override=5), (3, 6, 6)),
    "avg pool unpadded": (lambda: nn.AvgPool2d(2, count_include_pad=False, ceil_mode=True), (3, 6, 4)),
    "adaptive": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d((2, None)), nn.Flatten(), nn.LogSoftmax(-1)), (2, 4, 3)),
    "softmax": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Softmax(dim=1)), (4,)),
    "softmax of maps": (lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.Softmax(dim=1)), (1, 3, 4)),
    "local winners": (lambda: nn.Sequential(nn.Conv2d(2, 6, 3), PlainKWinners2d(2, True)), (2, 5, 5)),
    "global winners": (lambda: nn.Sequential(PlainKWinners2d(9, False), nn.MaxPool2d(2)), (2, 5, 5)),
    "all win": (lambda: nn.Sequential(PlainKWinners2d(50, False)), (2, 5, 5)),
    "nupic local": (lambda: nn.Sequential(StubKWinners2d(2, 4, local=True, relu=True)), (4, 5, 5)),
    "nupic global": (lambda: nn.Sequential(StubKWinners2d(20, 4, local=False, boost=1.5)), (4, 5, 5)),
    "nupic vector": (lambda: nn.Sequential(nn.Linear(4, 9), StubKWinners(3, 9, relu=True), nn.Linear(9, 2)), (4,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_computes_what_torch_computes(name: str) -> None:
    make, shape = MODELS[name]
    check_equal(make(), shape)


@pytest.mark.parametrize("seed", range(12))
def test_random_chains_compute_what_torch_computes(seed: int) -> None:
    random = np.random.default_rng(seed)
    channels, size = int(random.integers(1, 4)), int(random.integers(9, 16))
    shape = (channels, size, size + 1)
    layers: list[nn.Module] = []
    for _ in range(2):
        outputs = int(random.integers(1, 4)) * channels
        kernel = int(random.integers(1, 4))
        groups = int(random.choice([1, channels]))
        layers.append(nn.Conv2d(channels, outputs, kernel, padding=int(random.integers(0, 3)), groups=groups))
        channels = outputs
        options = [nn.BatchNorm2d(channels), nn.ReLU(), PlainKWinners2d(max(1, channels // 2), True)]
        layers += [option for option in options if random.random() < 0.6]
        pools = (nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1))
        layers.append(pools[random.integers(3)])
    layers += [nn.Flatten(), nn.LazyLinear(5), nn.Softmax(dim=1)]
    model = nn.Sequential(*layers)
    model(torch.zeros(2, *shape))
    check_equal(model, shape)


class Functional(nn.Module):
    """One chain with a nested module, reused modules, functions, methods and sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(16, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.features(x)))
        x = self.pool(torch.relu(self.conv(x)))
        x = functional.avg_pool2d(functional.max_pool2d(x, 2, stride=1), 1)
        x = functional.adaptive_avg_pool2d(x, 2)
        x = functional.dropout(x.view(x.size(0), -1), 0.5, self.training).relu()
        x = self.fc(x.reshape(x.shape[0], -1)).relu_()
        return functional.log_softmax(self.out(x.flatten(1)), dim=1)


def test_functions_and_reused_modules() -> None:
    network = check_equal(Functional(), (1, 12, 12))
    names = [layer.name for layer in network.layers]
    assert len(set(names)) == len(names)
    assert {"features.0", "conv", "pool", "pool_1", "fc", "out"} <= set(names)
    assert network.head == "log_softmax"


def test_a_layer_of_the_users_own_that_calls_linear() -> None:
    class MaskedLinear(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 3)
            self.register_buffer("keep", torch.tensor([[1.0, 0, 1, 0, 1]] * 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.linear(x, self.weight * self.get_buffer("keep"), self.bias)

    class PlainConv(nn.Conv2d):
        pass

    (linear,) = check_equal(nn.Sequential(MaskedLinear()), (5,)).layers
    assert isinstance(linear, Linear)
    assert linear.mask.tolist() == [[True, False, True, False, True]] * 3
    (conv,) = check_equal(nn.Sequential(PlainConv(2, 3, 3, padding=1, stride=2)), (2, 5, 5)).layers
    assert isinstance(conv, Conv2d) and conv.name == "0"


def test_the_model_is_left_as_it_was() -> None:
    class WithConstant(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.linear(super().forward(x), torch.ones(2, 3))

    model = WithConstant(nn.Linear(4, 3), nn.Dropout())
    model[1].eval()
    attributes = set(vars(model))
    import_torch(model, (4,))
    assert model.training and model[0].training and not model[1].training
    assert set(vars(model)) == attributes


def test_zeros_are_pruned_weights() -> None:
    model = nn.Linear(3, 2)
    model.weight.data = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0]])
    (layer,) = check_equal(model, (3,)).layers
    assert isinstance(layer, Linear)
    assert layer.mask.tolist() == [[True, False, True], [False, False, False]]


def test_the_mask_of_torch_prune_wins_over_zeros() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, (1, 3)), nn.BatchNorm2d(1))
    prune.custom_from_mask(model[0], "weight", torch.tensor([[[[1, 0, 1]]]]))
    model[0].weight_orig.data = torch.tensor([[[[0.0, 5.0, 2.0]]]])
    (layer,) = check_equal(model, (1, 4, 4)).layers
    assert isinstance(layer, Conv2d)
    assert layer.mask.tolist() == [[[[True, False, True]]]]
    assert layer.weight[0, 0, 0, 0] == 0 and layer.weight[0, 0, 0, 1] == 0 and layer.weight[0, 0, 0, 2] != 0


def test_a_pruned_bias_is_masked() -> None:
    model = nn.Linear(2, 2)
    prune.custom_from_mask(model, "bias", torch.tensor([1, 0]))
    model.bias_orig.data = torch.tensor([3.0, 4.0])
    (layer,) = import_torch(model, (2,)).layers
    assert isinstance(layer, Linear) and layer.bias.tolist() == [3.0, 0.0]


def test_a_mask_parametrisation() -> None:
    class Mask(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    model = nn.Sequential(nn.Linear(2, 2))
    parametrize.register_parametrization(model[0], "weight", Mask())
    (layer,) = check_equal(model, (2,)).layers
    assert isinstance(layer, Linear) and layer.mask.tolist() == [[True, False], [False, True]]


def test_a_zero_batch_norm_keeps_the_mask() -> None:
    model = nn.Sequential(nn.Linear(2, 2), with_values(nn.BatchNorm1d(2), "weight", 0))
    (layer,) = import_torch(model, (2,)).layers
    assert isinstance(layer, Linear) and layer.mask.all() and not layer.weight.any()


def test_winners_of_hwgen_nn() -> None:
    model = nn.Sequential(hwgen_nn.KWinners2d(k=2, local=True), hwgen_nn.KWinners2d(k=7, local=False), nn.Flatten())
    network = check_equal(nn.Sequential(model, hwgen_nn.KWinners(k=3)), (4, 3, 3))
    assert [(layer.k, layer.local) for layer in network.layers if isinstance(layer, KWinners)] == [
        (2, True),
        (7, False),
        (3, False),
    ]


def test_equal_values_win_by_index() -> None:
    values = np.random.default_rng(0).integers(0, 4, size=(1, 12, 5, 5)).astype(np.float64)
    network = Network((12, 5, 5), (KWinners("k", 131, False),))
    flat = values.ravel().tolist()
    winners = set(sorted(range(300), key=lambda index: -flat[index])[:131])
    expected = [value if index in winners else 0.0 for index, value in enumerate(flat)]
    assert run(network, values).ravel().tolist() == expected


def test_equal_duty_cycles_do_not_boost() -> None:
    layer = StubKWinners(2, 5, boost=2.0)
    layer.get_buffer("duty_cycle").fill_(0.3)
    check_equal(layer, (5,))


def test_a_global_layer_that_never_ran_has_its_share_of_winners() -> None:
    layer = StubKWinners2d(0, 4, local=False)
    vars(layer).update(n=0, percent_on_inference=0.15)
    assert import_torch(layer, (4, 5, 5)).layers == (KWinners("0", 15, False),)


def test_the_divisor_of_an_average() -> None:
    assert import_torch(nn.AvgPool2d((2, 3)), (1, 4, 6)).layers == (AvgPool2d("0", (2, 3), (2, 3), 6),)


def test_relu_of_a_winners_layer_has_a_name_of_its_own() -> None:
    assert import_torch(StubKWinners(2, 5, relu=True), (5,)).layers == (KWinners("0", 2, False), ReLU("0.relu"))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc(x)


def lambda_module(function: Callable[..., object]) -> nn.Module:
    class Custom(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return function(x)

    return Custom()


def with_values(module: nn.Module, name: str, value: float) -> nn.Module:
    getattr(module, name).data.fill_(value)
    return module


def boosted() -> nn.Module:
    layer = StubKWinners(2, 5, boost=1.0)
    layer.get_buffer("duty_cycle")[0] = 0.5
    return layer


def hooked() -> nn.Module:
    layer = nn.Linear(5, 5)
    layer.register_forward_hook(lambda *_: None)
    return nn.Sequential(layer)


def unused_in_place(x: torch.Tensor) -> torch.Tensor:
    functional.relu(x, inplace=True)
    return x


REFUSED: dict[str, tuple[Callable[[], object], tuple[int, ...], str]] = {
    "not a module": (lambda: "model.onnx", (4,), "torch.nn.Module"),
    "shape": (lambda: nn.Linear(4, 4), (4, 4), "input shape"),
    "residual": (Residual, (4,), "'add' .*takes .* skip connections are not supported"),
    "lstm": (lambda: nn.Sequential(nn.LSTM(4, 4)), (4,), r"'0' \(LSTM\): is not supported; supported are Conv2d"),
    "conv1d": (lambda: nn.Conv1d(1, 1, 3), (4,), r"'0' \(Conv1d\)"),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(1, 1, 3)), (1, 4, 4), "ConvTranspose2d"),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.GELU())), (4,), r"'0.0' \(GELU\)"),
    "concatenation": (lambda: lambda_module(lambda x: torch.cat([x, x], 1)), (4,), r"'cat' \(cat\)"),
    "addition": (lambda: lambda_module(lambda x: x + 1), (4,), r"'add' \(add\): is not supported"),
    "method": (lambda: lambda_module(lambda x: x.sigmoid()), (4,), r"'sigmoid' \(sigmoid\)"),
    "two outputs": (lambda: lambda_module(lambda x: (x, x)), (4,), "must return one tensor"),
    "control flow": (lambda: lambda_module(lambda x: x if x.sum() > 0 else -x), (4,), "torch.fx cannot trace"),
    "in place": (lambda: lambda_module(unused_in_place), (4,), "result is not used"),
    "batch fixed": (lambda: lambda_module(lambda x: x.view(1, -1)), (1, 2, 2), r"'view' .*\(batch, -1\)"),
    "unflatten": (lambda: lambda_module(lambda x: x.view(-1, 1, 2, 2)), (4,), r"'view' .*\(batch, -1\)"),
    "active dropout": (lambda: lambda_module(lambda x: functional.dropout(x)), (4,), "training=self.training"),
    "hooks": (hooked, (5,), r"'0' \(Linear\): has forward hooks"),
    "map into linear": (lambda: nn.Sequential(nn.Linear(4, 4)), (1, 4, 4), r"'0' \(Linear\): .*nn.Flatten"),
    "features": (lambda: nn.Sequential(nn.Linear(4, 4)), (5,), "takes 4 features"),
    "channels": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3)), (3, 4, 4), "map of 2 channels"),
    "window": (lambda: nn.Sequential(nn.Conv2d(1, 4, 5)), (1, 4, 4), "5x5 window does not fit a 4x4 map"),
    "padding mode": (lambda: nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), (1, 4, 4), "'reflect'"),
    "uneven same": (lambda: nn.Conv2d(1, 1, 2, padding="same"), (1, 4, 4), "uneven"),
    "batch norm first": (lambda: nn.Sequential(nn.BatchNorm1d(4)), (4,), r"'0' \(BatchNorm1d\): must come right after"),
    "batch norm after relu": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)),
        (1, 4, 4),
        r"'2' \(BatchNorm2d\): must come right after",
    ),
    "batch norm without statistics": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        (4,),
        "no running statistics",
    ),
    "batch norm of nan": (
        lambda: nn.Sequential(nn.Linear(4, 4), with_values(nn.BatchNorm1d(4), "running_var", float("nan"))),
        (4,),
        r"'1': its running variance contains NaN",
    ),
    "nan": (lambda: with_values(nn.Linear(4, 4), "weight", float("nan")), (4,), "'0': its weight contains NaN"),
    "inf": (lambda: with_values(nn.Linear(4, 4), "bias", float("inf")), (4,), "'0': its bias contains NaN or inf"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), (4,), "LazyLinear"),
    "meta": (lambda: nn.Linear(4, 4, device="meta"), (4,), "has no values, only a shape"),
    "complex": (lambda: nn.Linear(4, 4, dtype=torch.complex64), (4,), "complex64"),
    "indices": (lambda: nn.MaxPool2d(2, return_indices=True), (1, 4, 4), "return_indices"),
    "border average": (lambda: nn.AvgPool2d(2, padding=1, count_include_pad=False), (1, 4, 4), "count_include_pad"),
    "partial average": (lambda: nn.AvgPool2d(2, ceil_mode=True), (1, 5, 4), "partial windows"),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d(3), (1, 4, 4), "does not divide evenly"),
    "too much padding": (lambda: nn.MaxPool2d(2, padding=2), (1, 4, 4), "more than half"),
    "window in the padding": (
        lambda: nn.MaxPool2d(2, dilation=3, padding=2, stride=1),
        (1, 1, 4),
        "wholly in the padding",
    ),
    "flatten all": (lambda: lambda_module(torch.flatten), (1, 4, 4), "start_dim=0"),
    "softmax rows": (lambda: nn.Softmax(dim=2), (1, 4, 4), "dim=2"),
    "softmax inside": (lambda: nn.Sequential(nn.Softmax(dim=1), nn.Linear(4, 4)), (4,), "must come last"),
    "winners without k": (lambda: nn.Sequential(type("KWinners", (nn.Module,), {})()), (4,), "no integer k"),
    "no winners": (lambda: StubKWinners(0, 5), (5,), "keeps 0 winners"),
    "winners of a map": (lambda: StubKWinners(2, 5), (5, 1, 1), "takes a vector"),
    "winners of others": (lambda: nn.Sequential(nn.Linear(5, 8), hwgen_nn.KWinners(2, 9)), (5,), "made for n = 9, but"),
    "winners of a vector": (lambda: PlainKWinners2d(2, True), (5,), "takes a map"),
    "boosting": (boosted, (5,), "boosted values in evaluation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_line(name: str) -> None:
    make, shape, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as caught:
        import_torch(make(), shape)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_second_input_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(ModelError, match="second input, 'y'"):
        import_torch(Two(), (4,))


def test_importing_the_importer_does_not_import_torch() -> None:
    import subprocess

    code = "import sys, hwgen.importer, hwgen.quantise; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
