"""Beats against bits counted by hand, and bundles that are written, replaced, damaged and read."""

from __future__ import annotations

import hashlib
import json
import os
import re

import numpy as np
import pytest

from hwgen.errors import DataError, FormatError, InputError
from hwgen.format import bundle
from hwgen.format.bundle import read_manifest, write_bundle
from hwgen.format.port import Port, decode_words, encode_words

PORT = Port(2, 8, True, (3,), ((0, 1), (2, -1)))


def lane_bits(port: Port, beat: np.ndarray, lane: int) -> int:
    """The lane's value read from the beat as one long number."""
    number = int.from_bytes(beat.astype("<u4").tobytes(), "little")
    value = number >> (lane * port.bits) & ((1 << port.bits) - 1)
    return value - (1 << port.bits) if port.signed and value >> (port.bits - 1) else value


def test_bytes_lie_where_they_should():
    raw = encode_words(PORT, np.array([[1, -1, -128], [2, 3, 4]]))
    assert raw.tolist() == [[[0xFF01], [0x80]], [[0x0302], [0x04]]]


def test_a_value_may_cross_a_limb():
    port = Port(3, 20, False, (3,), ((2, 1, 0),))
    # Lane 0 is channel 2. 0xABCDE | 0x12345 << 20 | 0xFFFFF << 40.
    assert encode_words(port, np.array([[0xFFFFF, 0x12345, 0xABCDE]])).tolist() == [[[0x345ABCDE, 0x0FFFFF12]]]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 5, 8, 9, 31, 32, 33, 40, 63, 64])
def test_every_lane_at_its_bits_and_back(bits, signed):
    generator = np.random.default_rng(bits)
    order = [*generator.permutation(5).tolist(), -1]
    port = Port(3, bits, signed, (5, 2, 3), (tuple(order[:3]), tuple(order[3:])))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    x = generator.integers(low, high, (2, 5, 2, 3), np.int64 if signed else np.uint64, endpoint=True)
    x[0, 0, 0, :2] = low, high
    raw = encode_words(port, x)
    assert raw.shape == (2, 12, -(-3 * bits // 32)) and raw.dtype == np.uint32
    for word, y, column in np.ndindex(2, 2, 3):
        for beat, row in enumerate(port.layout):
            for lane, channel in enumerate(row):
                value = lane_bits(port, raw[word, (y * 3 + column) * 2 + beat], lane)
                assert value == (int(x[word, channel, y, column]) if channel >= 0 else 0)
    assert (decode_words(port, raw) == x.astype(np.int64)).all()


def test_empty_batches():
    assert encode_words(PORT, np.zeros((0, 3), int)).shape == (0, 2, 1)
    assert decode_words(PORT, np.zeros((0, 2, 1), np.uint32)).shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 4), int), r"words must be integers \(N, 3\), not int64 \(2, 4\)"),
        (np.zeros(3, int), r"not int64 \(3,\)"),
        (np.zeros((2, 3)), "not float64"),
        (np.array([[0, 128, 0]]), r"must lie in \[-128, 127\], but have values in \[0, 128\]"),
    ],
)
def test_tensors_that_do_not_fit(x, message):
    with pytest.raises(DataError, match=message):
        encode_words(PORT, x)


def test_beats_that_do_not_fit():
    with pytest.raises(DataError, match=r"beats must be uint32 \(N, 2, 1\), not uint32 \(4, 1, 1\)"):
        decode_words(PORT, np.zeros((4, 1, 1), np.uint32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 8, True, (3,), ((0, 1), (2, 2))), "each of 3 channels exactly once"),
        ((2, 8, True, (3,), ((0, 1),)), "each of 3 channels exactly once"),
        ((2, 8, True, (3,), ((0, 1), (2,))), "rows of 2 lanes"),
        ((1, 65, True, (1,), ((0,),)), "bits must be 1 to 64, not 65"),
        ((1, 8, True, (1, 2), ((0,),)), "shape must be"),
        ((1, 8, True, (1, 1 << 20, 1 << 20), ((0,),)), "shape must be"),
    ],
)
def test_ports_that_contradict_themselves(arguments, message):
    with pytest.raises(InputError, match=message):
        Port(*arguments)


FILES = {"net.hwpack": b"weights", "accelerator.v": b"module accelerator(); endmodule\n", "accelerator-1.mem": b"01\n"}


def write(path, files=None, **changes):
    options = {"plan": {"mode": "dense"}, "expected": {"cycles_per_word": 8}, "tools": {"yosys": "0.70"}} | changes
    return write_bundle(path, FILES if files is None else files, input=PORT, output=PORT, **options)


def test_what_is_written_is_read(tmp_path):
    written = write(tmp_path / "deep" / "net", plan={"layers": [(1, 2)], 3: 0.5})
    manifest = read_manifest(tmp_path / "deep" / "net")
    assert manifest == written
    assert manifest.input == PORT and manifest.top == "accelerator"
    assert manifest.plan == {"layers": [[1, 2]], "3": 0.5}
    assert manifest.files == {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    assert sorted(os.listdir(tmp_path / "deep" / "net")) == sorted([*FILES, "manifest.json"])
    assert os.listdir(tmp_path / "deep") == ["net"]


def test_equal_designs_have_equal_bytes_and_hashes(tmp_path):
    first = write(tmp_path / "a", tools={"yosys": "0.70"})
    second = write(tmp_path / "b", files=dict(reversed(FILES.items())), tools={"yosys": "0.71"})
    third = write(tmp_path / "c")
    assert first.content_hash == second.content_hash == third.content_hash
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "c" / "manifest.json").read_bytes()
    others = [write(tmp_path / "d", plan=1), write(tmp_path / "e", files=FILES | {"net.hwpack": b"other"})]
    assert len({first.content_hash, *(other.content_hash for other in others)}) == 3


def test_a_file_may_be_copied(tmp_path):
    (tmp_path / "weights").write_bytes(b"from a file")
    write(tmp_path / "net", files=FILES | {"net.hwpack": tmp_path / "weights"})
    assert (tmp_path / "net" / "net.hwpack").read_bytes() == b"from a file"


def test_a_bundle_is_replaced_whole(tmp_path):
    write(tmp_path / "net")
    files = {name: content for name, content in FILES.items() if not name.endswith(".mem")}
    write(tmp_path / "net", files=files)
    assert sorted(os.listdir(tmp_path / "net")) == sorted([*files, "manifest.json"])
    assert os.listdir(tmp_path) == ["net"]


def test_only_a_bundle_is_replaced(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis: exists and is not a bundle, so it is not replaced"):
        write(folder)
    (folder / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="is not a bundle"):
        write(folder)
    assert (folder / "thesis.tex").read_text() == "years of work"
    with pytest.raises(InputError, match="is not a bundle"):
        write(folder / "thesis.tex")


def test_a_failure_leaves_the_old_bundle(tmp_path):
    before = write(tmp_path / "net")
    with pytest.raises(InputError, match=r"net: cannot write it: No such file or directory"):
        write(tmp_path / "net", files=FILES | {"more": tmp_path / "missing"})
    with pytest.raises(InputError, match="must consist of JSON values"):
        write(tmp_path / "net", plan={"a": object()})
    with pytest.raises(InputError, match="must consist of JSON values"):
        write(tmp_path / "net", plan=float("nan"))
    assert read_manifest(tmp_path / "net") == before
    assert os.listdir(tmp_path) == ["net"]


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../b", "", ".", "a//b", "c:evil", "a\\b", "manifest.json"]
)
def test_names_that_lead_outside_are_not_written(tmp_path, name):
    with pytest.raises(InputError, match=f"{re.escape(repr(name))} is not a plain relative file name"):
        write(tmp_path / "net", files=FILES | {name: b""})


def test_a_bundle_needs_its_network(tmp_path):
    with pytest.raises(InputError, match=r"a bundle needs net\.hwpack"):
        write(tmp_path / "net", files={"accelerator.v": b""})


def edit(folder, change) -> None:
    """Changes the manifest and makes its own hash right again, as someone who means harm would."""
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    document["content_hash"] = bundle._content_hash(document)
    (folder / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="zip"), "not the manifest of a bundle"),
        (lambda d: d.update(version=3), "version 3 is not 2"),
        (lambda d: d.update(version=True), "version True is not 2"),
        (lambda d: d.pop("files"), "'files' is missing or not a dict"),
        (lambda d: d["files"].update({"../../etc/passwd": "0"}), "file name '../../etc/passwd' leads outside"),
        (lambda d: d["files"].update({"/etc/passwd": "0"}), "file name '/etc/passwd' leads outside"),
        (lambda d: d["files"].update({"absent": "0"}), "absent: missing, though the manifest lists it"),
        (lambda d: d["files"].pop("net.hwpack"), r"does not list net\.hwpack"),
        (lambda d: d.update(top="../top"), "'../top' is not the name of a Verilog module"),
        (lambda d: d["input"].update(lanes=3), "'input' is not a port: port layout must have rows of 3 lanes"),
        (lambda d: d["input"].update(lanes=True), "'input' is not a port: must consist of integers"),
        (lambda d: d["input"].update(shape=None), "'input' is not a port"),
        (lambda d: d["output"].pop("bits"), "'output' is not a port: must have lanes"),
    ],
)
def test_manifests_that_are_not_ours(tmp_path, change, message):
    write(tmp_path / "net")
    edit(tmp_path / "net", change)
    with pytest.raises(FormatError, match=message) as caught:
        read_manifest(tmp_path / "net")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe\xfd", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "not the manifest of a bundle"),
        (b" " * (16 << 20) + b"{}", "larger than 16 MiB"),
    ],
)
def test_manifests_that_are_not_json(tmp_path, content, message):
    write(tmp_path / "net")
    (tmp_path / "net" / "manifest.json").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_manifest(tmp_path / "net")


def test_a_changed_manifest_does_not_match_its_hash(tmp_path):
    write(tmp_path / "net")
    path = tmp_path / "net" / "manifest.json"
    path.write_text(path.read_text().replace('"cycles_per_word": 8', '"cycles_per_word": 4'))
    with pytest.raises(FormatError, match="was changed after it was written"):
        read_manifest(tmp_path / "net")


def test_a_changed_file_does_not_match_its_hash(tmp_path):
    write(tmp_path / "net")
    (tmp_path / "net" / "accelerator-1.mem").write_bytes(b"11\n")
    with pytest.raises(FormatError, match=r"accelerator-1\.mem: does not match its SHA-256"):
        read_manifest(tmp_path / "net")
    read_manifest(tmp_path / "net", verify=False)


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(FormatError, match="no such bundle; name a folder"):
        read_manifest(tmp_path / "none")
    with pytest.raises(FormatError, match=r"not a bundle: cannot read manifest\.json"):
        read_manifest(tmp_path)
