from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

import hwgen
from hwgen.audit import Audit, audit, compare_outputs, predictor
from hwgen.errors import DataError, FormatError, HwgenError, InputError

LABELS = np.array([0, 0, 1, 1, 1, 2])
CLASSES = ("cat", "dog", "cow")


def one_hot(answers: list[int], certainty: float = 3.0) -> np.ndarray:
    return np.eye(3)[answers] * certainty


def random_outputs(seed: int, count: int = 500, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    return 2 * random.normal(size=(count, classes)) + 3 * np.eye(classes)[labels], labels


def test_by_hand() -> None:
    result = compare_outputs(
        {"dense": one_hot([0, 0, 1, 1, 0, 2]), "int8": one_hot([0, 1, 1, 1, 1, 0])}, LABELS, classes=CLASSES
    )
    assert (result.reference, result.inputs, result.classes) == ("dense", 6, CLASSES)
    assert result.inputs_by_class == (2, 3, 1)
    dense, int8 = result.models["dense"], result.models["int8"]
    assert (dense.accuracy, int8.accuracy) == (5 / 6, 4 / 6)
    assert (dense.lost, dense.gained, int8.lost, int8.gained) == (0, 0, 2, 1)
    assert int8.confusion == ((1, 1, 0), (0, 3, 0), (1, 0, 0))
    assert int8.accuracy_by_class == (0.5, 1.0, 0.0)
    assert int8.precision_by_class == (0.5, 0.75, None)
    # The worst first; "dog" has gained.
    assert [(worse.name, worse.model, worse.inputs, worse.points) for worse in result.worse] == [
        ("cow", "int8", 1, 100.0),
        ("cat", "int8", 2, 50.0),
    ]
    assert [(of.index, of.label, of.answers) for of in result.differences] == [
        (1, "cat", {"dense": "cat", "int8": "dog"}),
        (4, "dog", {"dense": "cat", "int8": "dog"}),
        (5, "cow", {"dense": "cow", "int8": "cat"}),
    ]
    assert next(iter(result.to_json())) == "worse"


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed: int) -> None:
    output, labels = random_outputs(seed)
    figures = compare_outputs({"dense": output}, labels).models["dense"]
    answers = output.argmax(axis=1)
    assert figures.accuracy == metrics.accuracy_score(labels, answers)
    np.testing.assert_array_equal(figures.confusion, metrics.confusion_matrix(labels, answers))
    np.testing.assert_allclose(figures.accuracy_by_class, metrics.recall_score(labels, answers, average=None))  # type: ignore[arg-type]
    np.testing.assert_allclose(figures.precision_by_class, metrics.precision_score(labels, answers, average=None))  # type: ignore[arg-type]


def test_confidence_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    labels = np.array([0, 1, 0, 1])
    # Bins end at 14/15 (0.9: one right of two), 11/15 (0.7: right) and 12/15 (0.8: right).
    error = (2 * 0.4 + 0.3 + 0.2) / 4
    for output in (probabilities, np.log(probabilities), np.log(probabilities) + 5.0):
        figures = compare_outputs({"dense": output}, labels).models["dense"]
        assert figures.confidence_right == pytest.approx((0.9 + 0.7 + 0.8) / 3)
        assert figures.confidence_wrong == pytest.approx(0.9)
        assert figures.calibration_error == pytest.approx(error)
    perfect = compare_outputs({"dense": np.eye(2)[labels] * 1000}, labels).models["dense"]
    assert (perfect.confidence_right, perfect.confidence_wrong, perfect.calibration_error) == (1.0, None, 0.0)


def test_a_class_of_its_own_confidence_bins_as_the_paper_does() -> None:
    """Against the definition, a bin at a time."""
    output, labels = random_outputs(5)
    probabilities = np.exp(output) / np.exp(output).sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), output.argmax(axis=1) == labels
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert compare_outputs({"dense": output}, labels).models["dense"].calibration_error == pytest.approx(error)


def test_the_interval_is_wilsons() -> None:
    """81 of 263: the worked example of Newcombe (1998), method 3: 0.2553 to 0.3662."""
    labels = np.zeros(263, int)
    output = np.where(np.arange(263)[:, None] < 81, [[1.0, 0.0]], [[0.0, 1.0]])
    figures = compare_outputs({"dense": output}, labels).models["dense"]
    assert figures.interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert compare_outputs({"dense": output[:81]}, labels[:81]).models["dense"].interval[1] == 1.0


def test_exactly_five_points_are_no_warning() -> None:
    labels = np.zeros(100, int)

    def right(count: int) -> np.ndarray:
        return np.where(np.arange(100)[:, None] < count, [[1.0, 0.0]], [[0.0, 1.0]])

    result = compare_outputs({"dense": right(62), "sparse": right(57), "int8": right(56)}, labels)
    assert [(worse.model, worse.points) for worse in result.worse] == [("int8", 6.0)]


def test_another_reference_and_ties_to_the_first() -> None:
    outputs = {"a": np.zeros((6, 3)), "b": one_hot([0, 0, 1, 1, 1, 2])}
    result = compare_outputs(outputs, LABELS, reference="b")
    assert list(result.models) == ["b", "a"] and result.reference == "b"
    assert result.models["a"].accuracy_by_class == (1.0, 0.0, 0.0)
    assert [worse.model for worse in result.worse] == ["a", "a"]


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))


def data(count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(count, 6)).astype(np.float32)
    with torch.no_grad():
        return x, network().eval()(torch.from_numpy(x)).numpy().argmax(axis=1)


def whole() -> tuple[Audit, nn.Module]:
    model, (x, labels) = network(), data()
    packed = hwgen.pack(model, calibration=x)
    models = {"dense": predictor(model), "int8": predictor(packed)}
    return audit(models, x, labels, noise=(0.0, 0.5, 2.0), seed=3), model


def test_the_whole_journey_of_modules_and_packed_networks() -> None:
    result, model = whole()
    assert result.models["dense"].accuracy == 1.0
    assert 0.9 < result.models["int8"].accuracy <= 1.0
    # Noise of 0 changes nothing, and more of it leaves less.
    assert [of.level for of in result.noise] == [0.0, 0.5, 2.0]
    assert result.noise[0].accuracy == {name: of.accuracy for name, of in result.models.items()}
    assert result.noise[0].accuracy["dense"] > result.noise[1].accuracy["dense"] > result.noise[2].accuracy["dense"]
    assert model.training and all(module.training for module in model.modules())
    assert whole()[0] == result


def test_the_noise_has_the_deviation_that_it_says() -> None:
    seen: list[np.ndarray] = []

    def spy(x: np.ndarray) -> np.ndarray:
        seen.append(x.copy())
        return np.zeros((len(x), 2))

    x = (5 + 3 * np.random.default_rng(0).normal(size=(1000, 40))).astype(np.float32)
    audit({"spy": spy}, x, np.zeros(1000, int), noise=(0.5,))
    clean, noisy = np.concatenate(seen[: len(seen) // 2]), np.concatenate(seen[len(seen) // 2 :])
    np.testing.assert_array_equal(clean, x)
    assert (noisy - clean).std() == pytest.approx(1.5, rel=0.02)


def test_packed_networks_answer_as_the_reference_does(tmp_path: Path) -> None:
    import host

    x, _ = data()
    packed = hwgen.pack(network(), calibration=x)
    packed.save(tmp_path / "net.hwpack")
    with host.open(tmp_path / "net.hwpack", device="reference") as accelerator:
        expected = accelerator.run(x)
    for source in (packed, tmp_path / "net.hwpack", str(tmp_path / "net.hwpack")):
        np.testing.assert_array_equal(predictor(source)(x), expected)


@pytest.mark.parametrize("batch", [None, 4])
def test_onnx_files(tmp_path: Path, batch: int | None) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    x, _ = data(10)
    weight = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 6])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, 3])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "net.onnx")
    np.testing.assert_allclose(predictor(tmp_path / "net.onnx")(x), x @ weight, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"net\.onnx: onnxruntime cannot run it") as caught:
        predictor(tmp_path / "net.onnx")(x[:, :5])
    assert "\n" not in str(caught.value)


def test_a_damaged_onnx_file_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"net\.onnx: onnxruntime cannot run it") as caught:
        predictor(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


X, Y, GOOD = np.zeros((6, 4), np.float32), LABELS, one_hot([0] * 6)


@pytest.mark.parametrize(
    ("kind", "message", "call"),
    [
        (DataError, "no models", lambda: compare_outputs({}, Y)),
        (DataError, "model 'a': must give numbers", lambda: compare_outputs({"a": GOOD[:5]}, Y)),
        (DataError, "at least two classes", lambda: compare_outputs({"a": GOOD[:, :1]}, Y)),
        (DataError, "not float64", lambda: compare_outputs({"a": GOOD[..., None]}, Y)),
        (DataError, "model 'a': its output contains NaN", lambda: compare_outputs({"a": GOOD * np.nan}, Y)),
        (
            DataError,
            "different numbers of classes: a 3, b 2",
            lambda: compare_outputs({"a": GOOD, "b": GOOD[:, :2]}, Y),
        ),
        (DataError, "labels: contain 3, but", lambda: compare_outputs({"a": GOOD}, Y + 1)),
        (DataError, "labels: contain -1", lambda: compare_outputs({"a": GOOD}, Y - 1)),
        (DataError, "integers (N,), not float64", lambda: compare_outputs({"a": GOOD}, Y * 1.0)),
        (DataError, "labels: there are none", lambda: compare_outputs({"a": GOOD[:0]}, Y[:0])),
        (DataError, "has 2 names", lambda: compare_outputs({"a": GOOD}, Y, classes=("x", "y"))),
        (DataError, "reference 'c'", lambda: compare_outputs({"a": GOOD}, Y, reference="c")),
        (DataError, "inputs: must be a float32", lambda: audit({"a": lambda x: GOOD}, X.astype(int), Y)),
        (DataError, "there are 5, but 6 labels", lambda: audit({"a": lambda x: GOOD}, X[:5], Y)),
        (DataError, "inputs: contain NaN", lambda: audit({"a": lambda x: GOOD}, X + np.nan, Y)),
        (InputError, "noise: must be levels", lambda: audit({"a": lambda x: GOOD}, X, Y, noise=(-1.0,))),
        (InputError, "must be an .onnx or an .hwpack", lambda: predictor("net.pt")),
        (InputError, "not dict", lambda: predictor({})),
        (InputError, "no such file", lambda: predictor("missing.onnx")),
        (FormatError, "missing.hwpack", lambda: predictor("missing.hwpack")),
    ],
)
def test_bad_input_is_one_line(kind, message, call) -> None:
    with pytest.raises(HwgenError) as caught:
        call()
    assert isinstance(caught.value, kind) and caught.value.exit_code == 2
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_importing_the_audit_needs_no_torch() -> None:
    code = "import sys, hwgen.audit; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
