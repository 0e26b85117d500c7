from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gsc_network
from benchmarks.cpu import engines
from benchmarks.cpu.engines import PEERS, Peer
from benchmarks.cpu.graphs import Graphs, onnx_model, torch_module
from benchmarks.cpu.networks import in_floats, without_winners
from hwgen.errors import ToolError
from hwgen.importer import import_torch
from tests.benchmarks.test_cpu import small_model

WORDS = 4


def imported(engine: str) -> None:
    modules = {"openvino": ("onnx", "onnxruntime", "openvino"), "torch.compile": ("torch",)}
    for module in modules.get(engine, ("onnx", "onnxruntime")):
        pytest.importorskip(module)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    network = import_torch(gsc_network.model(5), gsc_network.INPUT_SHAPE)
    return Graphs(network, gsc_network.inputs(6, 8), 2, tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def words():
    return gsc_network.inputs(5, WORDS)


@pytest.fixture(scope="module")
def expected(words):
    """torch's own output, of the module that the graphs were made from."""
    return gsc_network.model(5)(torch.from_numpy(words)).numpy()


def output(peer: Peer, graphs: Graphs, words: np.ndarray) -> np.ndarray:
    imported(peer.engine)
    batches = words.reshape(-1, graphs.batch, *words.shape[1:])
    running = engines.start(peer, graphs, batches, 1, None)
    assert len(running.block(2)) == 2
    found = running.output()
    running.close()
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", pytest.param("torch.compile", marks=pytest.mark.slow)])
def test_float_forms_with_k_winners_compute_what_torch_does(engine, graphs, words, expected):
    found = output(Peer(engine, "fp32", winners=True), graphs, words)
    np.testing.assert_allclose(found, expected[: graphs.batch], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_forms_without_k_winners_compute_what_the_layers_left_do(engine, graphs, words):
    dense = torch_module(without_winners(graphs.network))(torch.from_numpy(words[: graphs.batch])).numpy()
    found = output(Peer(engine, "fp32", winners=False), graphs, words)
    np.testing.assert_allclose(found, dense, rtol=1e-4, atol=1e-5)
    for sparse_weights in (False, engine == "openvino"):
        int8 = output(Peer(engine, "int8", winners=False, sparse_weights=sparse_weights), graphs, words)
        assert np.corrcoef(int8.ravel(), dense.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_forms_with_k_winners_are_close(engine, graphs, words, expected):
    found = output(Peer(engine, "int8", winners=True), graphs, words)
    # Another rounding lets other values win.
    assert np.corrcoef(found.ravel(), expected[: graphs.batch].ravel())[0, 1] > 0.6


@pytest.mark.parametrize("winners", [True, False])
def test_graphs_of_all_kinds_of_layers_compute_what_torch_does(winners):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model, x = small_model(), np.random.default_rng(4).normal(size=(3, 2, 13, 13)).astype(np.float32)
    network = import_torch(model, x.shape[1:])
    if winners:
        expected = model(torch.from_numpy(x)).detach().numpy()
    else:
        network = without_winners(network)
        expected = torch_module(network)(torch.from_numpy(x)).numpy()
    session = onnxruntime.InferenceSession(onnx_model(network, 3).SerializeToString())
    (found,) = session.run(None, {"input": x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_int8_graphs_hold_integers_only(graphs):
    onnx = pytest.importorskip("onnx")
    imported("onnxruntime")
    model = onnx.load(graphs.path("int8", winners=False))
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer if "weight_quantized" in tensor.name}
    assert {onnx.TensorProto.INT8} <= set(weights.values()) and len(weights) >= 4


def test_a_network_read_from_integers_gives_the_same_graphs(tmp_path):
    imported("onnxruntime")
    words = gsc_network.inputs(5, 2)
    graphs = Graphs(in_floats(gsc_network.network(5).network), words, 2, tmp_path)
    expected = torch_module(graphs.network)(torch.from_numpy(words)).numpy()
    found = output(Peer("onnxruntime", "fp32", winners=True), graphs, words)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_forms_have_names_of_their_own():
    assert len({(peer.engine, peer.name) for peer in PEERS}) == len(PEERS)
    assert {peer.engine for peer in PEERS} == set(engines.ENGINES)
    assert {"fp32", "fp32, k-winners", "int8, sparse weights"} <= {peer.name for peer in PEERS}


def test_engines_that_are_not_there_are_told_with_the_reason(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert engines.absence("openvino", None) == "onnx, onnxruntime, openvino not installed: pip install -e '.[bench]'"
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name)
    assert "--deepsparse" in (engines.absence("deepsparse", None) or "")
    assert engines.absence("deepsparse", Path("python")) is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "g++" in (engines.absence("torch.compile", None) or "")


def test_a_python_without_deepsparse_is_one_clear_line(tmp_path):
    words = np.zeros((1, 1, 2), np.float32)
    with pytest.raises(ToolError, match="DeepSparse ended: .*deepsparse"):
        engines.DeepSparse(Path(sys.executable), tmp_path / "net.onnx", words, 1)
    with pytest.raises(ToolError, match="nowhere: .*give the Python"):
        engines.DeepSparse(Path("nowhere"), tmp_path / "net.onnx", words, 1)
