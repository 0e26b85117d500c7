"""Tile-wise layers that compute only what their tiles keep."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from hwgen.errors import DataError, InputError
from hwgen.sparsify import TileElementWise, TileWise, apply_masks, compact, magnitude, use_tiles
from hwgen.sparsify.tiles import fewest_singles, tile_part

PATTERNS = [TileWise(8), TileWise(5), TileElementWise(8, 0.03)]


def pruned(layer: nn.Module, pattern: TileWise | TileElementWise, sparsity: float = 0.75) -> nn.Sequential:
    model = nn.Sequential(layer)
    apply_masks(model, {"0": pattern.project(magnitude(layer.weight), sparsity)})
    prune.remove(layer, "weight")
    return model


def tiled(model: nn.Sequential, pattern: TileWise | TileElementWise) -> nn.Sequential:
    result = copy.deepcopy(model)
    use_tiles(result, {"0": pattern})
    return result


def float64_result(model: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    return copy.deepcopy(model).double()(x.double())


def assert_near(found: torch.Tensor, model: nn.Sequential, x: torch.Tensor) -> None:
    """Within the rounding of the dtype: of the masked layer the same, both measured against float64."""
    assert found.dtype == x.dtype
    exact = float64_result(model, x)
    assert found.shape == exact.shape
    most = 8 * torch.finfo(x.dtype).eps * exact.abs().max()
    assert (found.double() - exact).abs().max() <= most


@pytest.mark.parametrize("pattern", PATTERNS)
def test_compact_holds_every_weight_of_the_mask_and_no_other(pattern) -> None:
    weight = np.random.default_rng(0).standard_normal((67, 90)).astype(np.float32)
    mask = pattern.project(np.abs(weight), 0.75)
    layer = compact(weight, pattern, mask)
    assert np.array_equal(layer.dense(), np.where(mask, weight, 0))
    assert layer.products == mask.sum()
    assert [len(tile.outputs) for tile in layer.tiles[:-1]] == [pattern.tile] * (len(layer.tiles) - 1)
    assert all(tile.weight.shape == (len(tile.inputs), len(tile.outputs)) for tile in layer.tiles)
    if isinstance(pattern, TileElementWise):
        assert len(layer.singles.weight) == pattern.most_singles(mask.shape)
    else:
        assert len(layer.singles.weight) == 0
    # Without a mask it is the weight's own zeros.
    assert np.array_equal(compact(np.where(mask, weight, 0), pattern).dense(), layer.dense())


def test_kept_weights_may_be_zero() -> None:
    mask = TileWise(4).project(np.random.default_rng(0).random((16, 12)), 0.5)
    layer = compact(np.zeros(mask.shape), TileWise(4), mask)
    assert layer.products == mask.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_linear_layer_gives_what_it_gave(pattern, bias, dtype) -> None:
    torch.manual_seed(0)
    model = pruned(nn.Linear(96, 70, bias=bias), pattern).to(dtype)
    fast = tiled(model, pattern)
    for shape in ((33, 96), (2, 3, 96), (96,), (0, 96)):
        x = torch.randn(shape, dtype=dtype)
        if x.numel():
            assert_near(fast(x), model, x)
        else:
            assert fast(x).shape == model(x).shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3},
        {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
        {"kernel_size": 1, "bias": False},
    ],
)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_convolution_gives_what_it_gave(pattern, arguments, dtype) -> None:
    torch.manual_seed(1)
    model = pruned(nn.Conv2d(20, 24, **arguments), pattern).to(dtype)
    fast = tiled(model, pattern)
    for shape in ((2, 20, 9, 11), (20, 6, 5)):
        x = torch.randn(shape, dtype=dtype)
        assert_near(fast(x), model, x)


def test_nothing_and_everything_may_be_pruned() -> None:
    torch.manual_seed(2)
    for sparsity in (0.0, 1.0):
        model = pruned(nn.Linear(12, 9), TileWise(4), sparsity)
        x = torch.randn(5, 12)
        assert_near(tiled(model, TileWise(4))(x), model, x)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_training_goes_on_where_weights_are_left(pattern) -> None:
    torch.manual_seed(3)
    model = pruned(nn.Linear(40, 30), pattern)
    fast = tiled(model, pattern)
    start = copy.deepcopy(fast)
    apply_masks(model, {"0": model[0].weight != 0})
    x, target = torch.randn(16, 40), torch.randn(16, 30)
    for one in (model, fast):
        optimiser = torch.optim.SGD(one.parameters(), lr=0.5)
        for _ in range(3):
            optimiser.zero_grad()
            nn.functional.mse_loss(one(x), target).backward()
            optimiser.step()
    after = nn.Sequential(model[0])
    use_tiles(after, {"0": pattern})
    assert torch.allclose(fast(x), model(x), atol=1e-4)
    assert not torch.allclose(fast(x), start(x), atol=1e-2)
    # The weights of a pruned layer are those after its last step, though it has not been called since.
    assert torch.allclose(after(x), fast(x), atol=1e-4)


def test_the_state_of_a_module_can_be_saved_and_loaded() -> None:
    torch.manual_seed(4)
    model = pruned(nn.Linear(40, 30), PATTERNS[2])
    one, other = tiled(model, PATTERNS[2]), tiled(model, PATTERNS[2])
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(one.state_dict())
    x = torch.randn(3, 40)
    assert torch.equal(one(x), other(x))


def test_layers_deep_inside_are_replaced_and_others_are_not() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 6)))
    prune.custom_from_mask(
        model[1][1], "weight", torch.as_tensor(TileWise(2).project(np.random.default_rng(0).random((6, 8)), 0.5))
    )
    x = torch.randn(4, 8)
    before = model(x)
    use_tiles(model, {"1.1": TileWise(2)})
    assert torch.allclose(model(x), before, atol=1e-6)
    assert type(model[0]) is nn.Linear and type(model[1][1]) is not nn.Linear


def test_a_split_into_tiles_and_singles_has_the_fewest_singles() -> None:
    score = np.random.default_rng(5).random((40, 30))
    tiles = TileWise(8).project(score, 0.8)
    mask = TileElementWise(8, 0.02).project(score, 0.78)
    part = tile_part(mask, 8)
    assert TileWise(8).check(part) and not (part & ~mask).any()
    assert not (tiles & ~mask).any()
    assert (mask & ~part).sum() == fewest_singles(mask, 8) <= (mask & ~tiles).sum()


@pytest.mark.parametrize(
    ("module", "patterns", "message"),
    [
        (nn.Linear(8, 8), {"1": TileWise(4)}, "'1' is not a layer inside the model; there are 0"),
        (nn.Linear(8, 8), {"": TileWise(4)}, "'' is not a layer inside the model"),
        (nn.ReLU(), {"0": TileWise(4)}, "0: must be a Linear or a Conv2d, not ReLU"),
        (nn.Conv2d(4, 4, 3, groups=2), {"0": TileWise(4)}, "0: tiles need a convolution without groups"),
        (nn.Conv2d(4, 4, 3, padding="same"), {"0": TileWise(4)}, "padding 'same'"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), {"0": TileWise(4)}, "'reflect'"),
    ],
)
def test_what_cannot_be_replaced_is_named(module, patterns, message) -> None:
    with pytest.raises(InputError, match=message):
        use_tiles(nn.Sequential(module), patterns)


@pytest.mark.parametrize("pattern", [TileWise(4), TileElementWise(4, 0.05)])
def test_a_mask_of_another_pattern_is_refused_and_nothing_is_replaced(pattern) -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    apply_masks(model, {"1": np.random.default_rng(0).random((40, 40)) < 0.3})
    with pytest.raises(InputError, match=r"1: mask: does not keep to Tile.*Wise\(tile=4"):
        use_tiles(model, {"0": TileWise(4), "1": pattern})
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize(
    ("weight", "mask", "message"),
    [
        (np.ones((4, 4), int), None, "weight: must be float"),
        (np.ones(4), None, "weight: must be float"),
        (np.ones((4, 4)), np.ones((4, 5), bool), r"mask: must be \(4, 4\) like the weight, not \(4, 5\)"),
    ],
)
def test_arrays_that_are_no_layer_are_refused(weight, mask, message) -> None:
    with pytest.raises(DataError, match=message):
        compact(weight, TileWise(2), mask)


def test_patterns_and_compact_layers_need_no_torch() -> None:
    program = (
        "import sys, numpy as np; from hwgen.sparsify import TileWise, compact;"
        "compact(np.ones((4, 4)), TileWise(2)); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
