"""The packed network and its file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from hwgen.errors import DataError, FormatError, InputError, ModelError
from hwgen.format import hwpack
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
from hwgen.format.packed import PackedNetwork, Packing, unpack
from hwgen.packing import pack_network


def sparse(shape: tuple[int, ...], density: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    return (rng.integers(-127, 128, shape) * mask).astype(np.int8), mask


def every_kind() -> IntegerNetwork:
    """Every kind of layer, none of whose fields has its default."""
    rng = np.random.default_rng(0)
    layers = (
        Conv2d(
            "features.0", *sparse((6, 1, 3, 2), 0.5, 1), rng.integers(-9, 9, 6, np.int32), (2, 1), (1, 0), (1, 2), 2
        ),
        MaxPool2d("pool", (2, 3), (2, 1), (1, 1), (1, 2), True),
        Requantise("features.0.scale", rng.integers(1, 1 << 16, 6, np.int32), 19, True),
        KWinners("winners", 2, True),
        ReLU("relu"),
        SumPool2d("sum", (2, 2), (1, 2), (1, 1), True),
        Requantise("sum.scale", np.full(6, 3, np.int32), 2, False),
        Flatten("flat"),
        Linear("classifier\u00e9", *sparse((5, 6 * 4 * 4), 0.1, 2), rng.integers(-900, 900, 5, np.int32)),
    )
    return IntegerNetwork(Input((2, 9, 10), 0.1 + 0.2, True), layers, rng.random(5) / 3, "log_softmax")


def small_layer() -> Linear:
    weight = np.array([[3, 0, -4], [0, 5, 0]], np.int8)
    return Linear("fc", weight, weight != 0, np.array([10, -20], np.int32))


def small() -> IntegerNetwork:
    return IntegerNetwork(Input((3,), 0.5, False), (small_layer(),), np.array([0.25, 0.125]))


def assert_same(left: object, right: object) -> None:
    if isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray) and left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, tuple):
        assert isinstance(right, tuple) and len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif hasattr(left, "__dataclass_fields__"):
        assert type(left) is type(right)
        for field in left.__dataclass_fields__:
            assert_same(getattr(left, field), getattr(right, field))
    else:
        assert type(left) is type(right) and left == right


def rewrite(path: Path, change_header=None, change_tensors=None) -> None:
    """Changes a file and gives it a matching SHA-256, as no accident would."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["hwpack"])
    tensors = {name: array.copy() for name, array in load(data).items()}
    if change_header:
        change_header(header)
    if change_tensors:
        change_tensors(tensors)
    header.pop("sha256")
    header["sha256"] = hwpack._digest(header, tensors)
    path.write_bytes(save(tensors, {"hwpack": json.dumps(header, sort_keys=True, separators=(",", ":"))}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "net.hwpack"
    pack_network(small()).save(target)
    return target


def refusal(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        PackedNetwork.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_roundtrip_is_exact(tmp_path) -> None:
    packed = pack_network(every_kind())
    packed.save(tmp_path / "a.hwpack")
    loaded = PackedNetwork.load(tmp_path / "a.hwpack")
    assert_same(loaded.network, packed.network)
    assert list(loaded.packings) == ["features.0", "classifier\u00e9"]
    for name, packing in packed.packings.items():
        assert_same(loaded.packings[name], packing)
    assert loaded.content_hash() == packed.content_hash()
    loaded.save(tmp_path / "b.hwpack")
    assert (tmp_path / "b.hwpack").read_bytes() == (tmp_path / "a.hwpack").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.hwpack", "b.hwpack"]


def test_hash_tells_contents_apart() -> None:
    hashes = {pack_network(small()).content_hash()}
    network = small()
    layer = small_layer()
    hashes.add(pack_network(IntegerNetwork(network.input, network.layers, network.output_scale * 2)).content_hash())
    hashes.add(
        pack_network(IntegerNetwork(Input((3,), 0.5, True), network.layers, network.output_scale)).content_hash()
    )
    moved = Linear(layer.name, layer.weight, layer.mask, layer.bias + 1)
    hashes.add(pack_network(IntegerNetwork(network.input, (moved,), network.output_scale)).content_hash())
    assert len(hashes) == 4


def test_another_process_writes_the_same_bytes(tmp_path, path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from tests.hwgen.test_packed import every_kind, pack_network\n"
        "pack_network(every_kind()).save(sys.argv[1])"
    )
    pack_network(every_kind()).save(tmp_path / "here")
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "there", root], check=True, env=os.environ | {"PYTHONHASHSEED": "7"}
    )
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_every_truncation_is_noticed(path) -> None:
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refusal(path)
    path.write_bytes(data + b"\0")
    refusal(path)


def test_every_flipped_bit_is_noticed_or_harmless(path) -> None:
    data = bytearray(path.read_bytes())
    original = PackedNetwork.load(path)
    noticed = 0
    for position in range(len(data)):
        for bit in range(8):
            flipped = data.copy()
            flipped[position] ^= 1 << bit
            try:
                network, _ = hwpack.decode(bytes(flipped))
            except (FormatError, DataError):
                noticed += 1
            else:
                assert_same(network, original.network)
    # JSON has a few bytes that may change without a change of meaning, such as the padding behind it.
    assert noticed > 0.99 * len(data) * 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated, or not an .hwpack"),
        (b"PK\x03\x04" + bytes(100), "truncated, or not an .hwpack"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "truncated, or not an .hwpack"),
        (save({"x": np.zeros(3, np.float32)}), "not an .hwpack"),
        (save({"x": np.zeros(3, np.float32)}, {"hwpack": "[" * 100000}), "not an .hwpack"),
        (save({"x": np.zeros(3, np.float32)}, {"hwpack": '{"format":"hwpack","version":2}'}), "reads version 1"),
        (save({"x": np.zeros(3, np.float32)}, {"hwpack": '{"format":"hwpack","version":1}'}), "tensor 'x'"),
        (save({"x": np.zeros(3, np.int8)}, {"hwpack": '{"format":"hwpack","version":1}'}), "SHA-256"),
        (save({"x": np.zeros(3, np.int8)}, {"hwpack": '{"format":"hwpack","version":NaN}'}), "not an .hwpack"),
    ],
)
def test_foreign_files_are_refused(path, content, reason) -> None:
    path.write_bytes(content)
    assert reason in refusal(path)


def test_missing_file_and_folder(tmp_path) -> None:
    assert "No such file" in refusal(tmp_path / "none.hwpack")
    refusal(tmp_path)
    with pytest.raises(InputError, match="none/net.hwpack: No such file"):
        pack_network(small()).save(tmp_path / "none" / "net.hwpack")


def test_failed_save_keeps_the_old_file(path, monkeypatch) -> None:
    before = path.read_bytes()

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        pack_network(every_kind()).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def put(name: str, index: tuple[int, ...], value: int):
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name][index] = value

    return change


def replace_tensor(name: str, array: np.ndarray | None):
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors[name]
        if array is not None:
            tensors[name] = array

    return change


def no_rows_of_a_trillion_sets(tensors: dict[str, np.ndarray]) -> None:
    for field in ("weights", "kernel_ids", "occupied"):
        name = f"0.{field}"
        tensors[name] = np.zeros((0, 1 << 40), tensors[name].dtype)
    tensors["0.row_start"][:] = 0


def two_slots_of_one_weight(tensors: dict[str, np.ndarray]) -> None:
    tensors["0.row_start"][:] = [0, 2, 3, 3]
    tensors["0.kernel_ids"][:] = 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("0.kernel_ids", (0, 0), 9), "kernel ID belongs to no output"),
        (put("0.kernel_of", (0,), 70000), "kernel IDs must be in"),
        (put("0.kernel_of", (0,), -1), "kernel IDs must be in"),
        (put("0.set_of", (1,), 7), "set_of must be in"),
        (put("0.kernel_of", (1,), 0), "same set and kernel ID"),
        (put("0.row_start", (1,), 5), "row_start must rise"),
        (lambda tensors: tensors["0.occupied"].view(np.uint8).fill(2), "byte other than 0 and 1"),
        (two_slots_of_one_weight, "held by two slots"),
        (put("0.weights", (0, 0), -128), "in \\[-127, 127\\]"),
        (put("0.occupied", (0, 0), 0), "hole must have"),
        (replace_tensor("0.bias", None), "'0.bias' is missing"),
        (replace_tensor("0.bias", np.zeros(3, np.int32)), "bias must be int32 \\(2,\\)"),
        (no_rows_of_a_trillion_sets, "need 1 to 2 sets, not 1099511627776"),
        (replace_tensor("0.weights", np.zeros(3, np.int8)), "of 2 axes"),
        (replace_tensor("0.row_start", np.zeros(0, np.int32)), "row_start must rise"),
        (replace_tensor("0.occupied", np.zeros((3, 1), np.int8)), "'0.occupied' is missing or not bool"),
        (replace_tensor("output_scale", np.array([1.0, np.inf])), "finite"),
        (replace_tensor("output_scale", np.ones(3)), "2 finite float64"),
        (lambda tensors: tensors.update(extra=np.zeros(1, np.int8)), "'extra' belongs to no layer"),
    ],
)
def test_inconsistent_tensors_are_refused(path, change, reason) -> None:
    rewrite(path, change_tensors=change)
    with pytest.raises(FormatError, match=reason):
        PackedNetwork.load(path)


def set_field(*where, value):
    def change(header) -> None:
        target = header
        for key in where[:-1]:
            target = target[key]
        target[where[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_field("layers", 0, "shape", value=[1 << 20, 1 << 20]), "are more than"),
        (set_field("layers", 0, "shape", value=[2, 4]), "do not make weights"),
        (set_field("layers", 0, "shape", value=[2, -3]), "integer in 1 .."),
        (set_field("layers", 0, "shape", value=[2]), "list of 2 to 2"),
        (set_field("layers", 0, "shape", value=[2, True]), "not True"),
        (set_field("layers", 0, "kind", value="lstm"), "layer 'fc': kind 'lstm' is unknown"),
        (set_field("layers", 0, "kind", value=None), "is unknown"),
        (set_field("layers", 0, "name", value=None), "layer number 0: field 'name'"),
        (set_field("layers", value=[]), "belongs to no layer"),
        (set_field("layers", value=7), "no list of layers"),
        (set_field("input", "scale", value=-1.0), "'scale' must be a positive"),
        (set_field("input", "shape", value=[1 << 40]), "'shape' must be an integer"),
        (set_field("input", "shape", value=[4]), "takes 3 features"),
        (set_field("input", value=None), "no object"),
        (set_field("head", value="argmax"), "'head' must be"),
    ],
)
def test_inconsistent_headers_are_refused(path, change, reason) -> None:
    rewrite(path, change_header=change)
    assert reason in refusal(path)


def test_rewriting_without_a_change_loads(path) -> None:
    rewrite(path)
    assert_same(PackedNetwork.load(path).network, small())


def test_report_states_what_packing_made() -> None:
    (row,) = pack_network(small()).report()
    assert (row.name, row.kind, row.shape, row.nonzeros) == ("fc", "linear", (2, 3), 3)
    assert row.density == 0.5
    assert (row.sets, row.kernels, row.rows, row.rows_max, row.slots, row.efficiency) == (1, 2, 3, 1, 3, 1.0)
    # 10 + 3 * 255 = 775, 5 * 255 = 1275, -4 * 255 = -1020: 12 bits hold -2048 .. 2047, 11 hold only to 1023.
    assert row.accumulator_bits == 12


def test_packings_must_be_those_of_the_layers() -> None:
    network = small()
    packed = pack_network(network)
    with pytest.raises(ModelError, match="layer 'fc': exactly"):
        PackedNetwork(network, {})
    layer = small_layer()
    other = Linear("fc", -layer.weight, layer.mask, layer.bias)
    with pytest.raises(ModelError, match="layer 'fc': the packing holds other weights"):
        PackedNetwork(IntegerNetwork(network.input, (other,), network.output_scale), packed.packings)


def test_unpack_checks_the_shape() -> None:
    packing = pack_network(small()).packings["fc"]
    assert isinstance(packing, Packing)
    with pytest.raises(DataError, match="do not make weights"):
        unpack(packing, (3, 2))


def test_network_must_be_consistent() -> None:
    network = small()
    layer = small_layer()
    for layers, reason in [
        ((), "no layers"),
        ((layer, layer), "several layers"),
        ((layer, Requantise("q", np.ones(3, np.int32), 1, True)), "layer 'q': needs 2 int32"),
        ((layer, Requantise("q", np.zeros(2, np.int32), 1, True)), "layer 'q': multipliers must be"),
        ((Linear("fc", layer.weight, layer.mask, layer.bias.astype(np.int64)),), "layer 'fc': the bias must be"),
    ]:
        with pytest.raises(ModelError, match=reason):
            pack_network(IntegerNetwork(network.input, layers, network.output_scale))
