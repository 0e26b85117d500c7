from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import fx, nn

from hwgen.errors import DataError, InputError
from hwgen.nn import KWinners, KWinners2d, winners_mask
from hwgen.sparsify import apply_masks, complementary_mask


def eval_mode(module: nn.Module) -> nn.Module:
    return module.eval()


def test_winners_keep_their_value_even_when_negative():
    x = torch.tensor([[-5.0, -1.0, -3.0, -2.0], [4.0, 0.5, -1.0, 7.0]])
    expected = torch.tensor([[0.0, -1.0, 0.0, -2.0], [4.0, 0.0, 0.0, 7.0]])
    assert torch.equal(eval_mode(KWinners(k=2))(x), expected)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_ties_go_to_the_lowest_index(k):
    expected = torch.zeros(1, 7)
    expected[0, :k] = 3.0
    assert torch.equal(eval_mode(KWinners(k=k))(torch.full((1, 7), 3.0)), expected)


def test_a_tie_at_the_threshold_drops_the_later_value_only():
    x = torch.tensor([[1.0, 2.0, 9.0, 2.0, 2.0]])
    assert torch.equal(eval_mode(KWinners(k=3))(x), torch.tensor([[0.0, 2.0, 9.0, 2.0, 0.0]]))


@pytest.mark.parametrize("k", [4, 5, 100])
def test_as_many_winners_as_features_is_the_identity(k):
    x = torch.tensor([[-1.0, 0.0, 2.0, -3.0]])
    assert torch.equal(eval_mode(KWinners(k=k))(x), x)


def test_local_winners_compete_at_each_position():
    x = torch.tensor([[[[1.0, 5.0]], [[2.0, 4.0]], [[2.0, 6.0]]]])
    expected = torch.tensor([[[[0.0, 0.0]], [[2.0, 0.0]], [[0.0, 6.0]]]])
    assert torch.equal(eval_mode(KWinners2d(k=1, local=True))(x), expected)


def test_global_winners_compete_in_the_whole_map_in_torch_order():
    x = torch.tensor([[[[1.0, 5.0]], [[5.0, 4.0]], [[5.0, 0.0]]]])
    expected = torch.tensor([[[[0.0, 5.0]], [[5.0, 0.0]], [[0.0, 0.0]]]])
    assert torch.equal(eval_mode(KWinners2d(k=2, local=False))(x), expected)


def test_local_is_the_default():
    assert KWinners2d(k=1).local is True
    assert KWinners(k=1).local is False


def test_exactly_k_on_a_batch_of_coarse_values():
    x = torch.randint(0, 3, (5, 16, 3, 4), generator=torch.Generator().manual_seed(0)).float() + 1
    assert ((eval_mode(KWinners2d(k=6))(x) != 0).sum(dim=1) == 6).all()
    assert ((eval_mode(KWinners2d(k=50, local=False))(x) != 0).flatten(1).sum(dim=1) == 50).all()


def test_the_gradient_reaches_winners_only():
    x = torch.tensor([[3.0, -1.0, 2.0, 5.0]], requires_grad=True)
    KWinners(k=2)(x).backward(torch.tensor([[10.0, 20.0, 30.0, 40.0]]))
    assert torch.equal(x.grad, torch.tensor([[10.0, 0.0, 0.0, 40.0]]))


def test_a_losing_infinity_does_not_leak():
    x = torch.tensor([[float("-inf"), 1.0, 2.0]])
    assert torch.equal(eval_mode(KWinners(k=1))(x), torch.tensor([[0.0, 0.0, 2.0]]))


def test_boosting_favours_rare_winners_in_training_only():
    layer = KWinners(k=1, n=2, boost_strength=5.0, duty_cycle_period=1)
    x = torch.tensor([[1.1, 1.0]])
    assert torch.equal(layer(x), torch.tensor([[1.1, 0.0]]))
    assert torch.equal(layer.duty_cycle, torch.tensor([1.0, 0.0]))
    assert torch.equal(layer(x), torch.tensor([[0.0, 1.0]])), "unit 0 has won all along, so unit 1 is ranked higher"
    layer.duty_cycle.copy_(torch.tensor([1.0, 0.0]))
    layer.eval()
    assert torch.equal(layer(x), torch.tensor([[1.1, 0.0]])), "the larger value wins, whatever has won before"
    assert torch.equal(layer.duty_cycle, torch.tensor([1.0, 0.0])), "inference does not count"


def test_the_duty_cycle_of_a_map_counts_channels():
    layer = KWinners2d(k=1, n=2, boost_strength=1.0, duty_cycle_period=1)
    layer(torch.tensor([[[[1.0, 1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]]]))
    assert torch.equal(layer.duty_cycle, torch.tensor([0.75, 0.25]))
    whole = KWinners2d(k=2, n=2, local=False, boost_strength=1.0, duty_cycle_period=1)
    whole(torch.tensor([[[[9.0, 8.0, 1.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]]]))
    assert torch.equal(whole.duty_cycle, torch.tensor([0.5, 0.0]))


@pytest.mark.parametrize("kind", [KWinners, KWinners2d])
@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_k_must_be_a_positive_integer(kind, k):
    with pytest.raises(ValueError, match="k must be a positive integer"):
        kind(k=k)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"boost_strength": -1.0}, "must not be negative"),
        ({"boost_strength": 1.0}, "needs n"),
        ({"n": 4, "duty_cycle_period": 0}, "duty_cycle_period must be"),
    ],
)
def test_other_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        KWinners(k=1, **arguments)


def test_an_input_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="made for 4 features"):
        KWinners(k=1, n=4)(torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"takes \(N, 4, H, W\)"):
        KWinners2d(k=1, n=4)(torch.zeros(1, 5, 2, 2))
    with pytest.raises(ValueError, match=r"takes \(N, C, H, W\)"):
        KWinners2d(k=1)(torch.zeros(1, 5))


def test_the_mask_of_zero_dimensional_batches_is_empty():
    assert winners_mask(torch.zeros(0, 4), 2).shape == (0, 4)


def test_layers_trace_as_leaves():
    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, path: str) -> bool:
            return isinstance(module, KWinners | KWinners2d) or super().is_leaf_module(module, path)

    model = nn.Sequential(nn.Conv2d(1, 4, 3), KWinners2d(k=2), nn.Flatten(), KWinners(k=3))
    targets = [node.target for node in Tracer().trace(model).nodes if node.op == "call_module"]
    assert targets == ["0", "1", "2", "3"]


def test_the_state_survives_saving():
    layer = KWinners(k=1, n=3, boost_strength=1.0)
    layer(torch.tensor([[1.0, 2.0, 3.0]]))
    other = KWinners(k=1, n=3, boost_strength=1.0)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.duty_cycle, layer.duty_cycle)


@pytest.mark.parametrize(
    ("outputs", "columns", "nonzeros"), [(16, 9, 4), (64, 144, 18), (10, 7, 2), (3, 5, 5), (1, 1, 1)]
)
def test_masks_have_exact_counts_and_sets_that_never_collide(outputs, columns, nonzeros):
    mask = complementary_mask(outputs, columns, nonzeros, torch.Generator().manual_seed(3))
    assert mask.shape == (outputs, columns)
    assert mask.sum(dim=1).tolist() == [nonzeros] * outputs
    for first in range(0, outputs, columns // nonzeros):
        assert mask[first : first + columns // nonzeros].sum(dim=0).max() <= 1


def test_masks_follow_the_seed():
    masks = [complementary_mask(8, 32, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("sizes", [(0, 4, 1), (4, 0, 1), (4, 4, 0), (4, 4, 5)])
def test_impossible_masks_are_refused(sizes):
    with pytest.raises(InputError):
        complementary_mask(*sizes, torch.Generator())


def test_masks_prune_the_weights_and_stay_through_training():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    mask = complementary_mask(4, 18, 6, torch.Generator().manual_seed(0))
    apply_masks(model, {"0": mask})
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(1, 2, 3, 3)).square().sum().backward()
    optimiser.step()
    model(torch.ones(1, 2, 3, 3))
    assert torch.equal(model[0].weight_mask.bool().flatten(1), mask)
    assert (model[0].weight.flatten(1)[~mask] == 0).all()
    assert not hasattr(model[2], "weight_mask")


def test_masks_that_do_not_fit_name_the_module():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    with pytest.raises(DataError, match=r"that of '0' has 6 values.*\(3, 4\)"):
        apply_masks(model, {"0": torch.ones(2, 3)})
    for path in ("1", "4"):
        with pytest.raises(InputError, match=f"no layer '{path}' with a weight; it can prune '0', '3'$"):
            apply_masks(model, {path: torch.ones(2, 3)})


@pytest.mark.parametrize("use", ["hwgen.pack(None)", "hwgen.quantisation_aware", "hwgen.nn.KWinners"])
def test_a_missing_torch_is_one_error_that_says_how_to_install_it(use):
    script = (
        "import sys; sys.modules['torch'] = None\nimport hwgen\nfrom hwgen.errors import ToolError\n"
        f"try:\n    {use}\nexcept ToolError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "needs torch: pip install -e '.[torch]' in the folder of hwgen's source" in done.stdout
