from __future__ import annotations

import numpy as np
import pytest
import torch

from hwgen.examples import digits
from hwgen.examples.digits import Recipe
from hwgen.nn import KWinners, KWinners2d

# Enough to be trained, and too little to be good.
QUICK = Recipe(channels=(4, 8), hidden=16, nonzeros=(4, 9, 16), winners=(2, 2, 4), epochs=2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_the_split_is_fixed_stratified_and_disjoint():
    train_x, _, test_x, test_y = digits.load_data()
    assert (len(train_x), len(test_x)) == (1397, 400)
    assert test_x.shape == (400, 1, 8, 8) and test_x.dtype == np.float32
    assert test_x.min() == 0 and test_x.max() == 1
    assert np.bincount(test_y).min() >= 38 and np.bincount(test_y).max() <= 42
    assert not {image.tobytes() for image in train_x} & {image.tobytes() for image in test_x}
    assert np.array_equal(digits.load_data()[2], test_x)


def test_training_is_cached_and_repeatable(cache):
    seen = []
    first = digits.train(lambda message, share: seen.append((message, share)), recipe=QUICK)
    assert [share for _, share in seen] == sorted(share for _, share in seen) and seen[-1][1] == 1.0
    assert first.accuracy_dense > 0.3, "it has learnt something in two epochs; guessing gives 0.1"
    stored = list(cache.iterdir())
    assert len(stored) == 1 and stored[0].suffix == ".safetensors"

    seen.clear()
    again = digits.train(lambda message, share: seen.append((message, share)), recipe=QUICK)
    assert [message for message, _ in seen] == ["trained"], "nothing was trained a second time"
    assert same(again.sparse, first.sparse) and same(again.dense, first.dense)
    assert (again.accuracy_dense, again.accuracy_sparse) == (first.accuracy_dense, first.accuracy_sparse)

    stored[0].unlink()
    assert same(digits.train(recipe=QUICK).sparse, first.sparse), "the same seed gives the same weights"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache_is_made_anew(cache, damage):
    first = digits.train(recipe=QUICK)
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-5] ^= 1
    path.write_bytes({"truncated": content[:-20], "flipped": content, "empty": b""}[damage])
    damaged = path.read_bytes()
    assert same(digits.train(recipe=QUICK).sparse, first.sparse)
    assert path.read_bytes() != damaged


def test_another_recipe_has_its_own_file():
    assert digits._fingerprint(QUICK) != digits._fingerprint(Recipe())


def test_the_sparse_network_has_exact_counts():
    recipe = Recipe()
    network = digits.sparse_network(recipe)
    counts = {
        name: sorted(set(getattr(network, name).weight_mask.flatten(1).sum(dim=1).int().tolist()))
        for name in ("conv1", "conv2", "linear1")
    }
    assert counts == {"conv1": [4], "conv2": [36], "linear1": [128]}
    assert not hasattr(network.linear2, "weight_mask")
    layers = [module for module in network if isinstance(module, KWinners | KWinners2d)]
    assert [(layer.k, layer.local) for layer in layers] == [(4, True), (8, True), (64, False)]


def test_the_trained_network_is_left_ready_for_inference(cache):
    trained = digits.train(recipe=QUICK)
    for network in (trained.dense, trained.sparse):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert digits.predict(network, trained.test_x[:3]).shape == (3, 10)


def test_training_leaves_the_callers_torch_alone(cache):
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    digits.train(recipe=QUICK)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
