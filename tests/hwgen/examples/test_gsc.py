"""The keyword-spotting example on recordings made here: tones, one frequency a class."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import host
import hwgen
from hwgen.errors import DataError, FormatError, InputError
from hwgen.examples.gsc import features, networks, recordings, trained, training, tuning
from hwgen.examples.gsc.__main__ import app
from hwgen.examples.gsc.augmentation import Augmentation
from hwgen.examples.gsc.evaluation import evaluate
from hwgen.examples.gsc.recordings import CLASSES, SAMPLE_RATE, SAMPLES, Recordings
from hwgen.sparsify import OneShot

SPEAKERS = 24
# Of an output unit.
NONZEROS = {"conv1": 12, "conv2": 200, "linear": 64}


def tone(hertz: float, count: int = SAMPLES) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(count) / SAMPLE_RATE)).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two dozen speakers say each word once."""
    root = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for speaker in range(SPEAKERS):
            wave = tone(200 * 1.3**label) + rng.integers(-300, 300, SAMPLES).astype(np.int16)
            suffix = ".flac" if speaker % 2 else ".wav"
            # Some are shorter than a second.
            soundfile.write(
                root / name / f"{speaker:08x}_nohash_0{suffix}", wave[: SAMPLES - 99 * speaker], SAMPLE_RATE
            )
    return root


def test_recordings(folder):
    found = recordings.load(folder)
    assert (
        len(found) == 12 * SPEAKERS and found.waves.shape == (12 * SPEAKERS, SAMPLES) and found.waves.dtype == np.int16
    )
    assert found.labels.tolist() == sorted(found.labels.tolist()) and set(found.speakers) == {
        f"{n:08x}" for n in range(SPEAKERS)
    }
    assert found.names[0] == "yes/00000000_nohash_0.wav"
    assert found.waves[7, -99 * 7 :].any() == 0 and found.waves[7, -99 * 8 : -99 * 7].any()


def test_no_speaker_is_in_two_groups(folder):
    rng = np.random.default_rng(1)
    speakers = np.array([f"{n:08x}" for n in rng.integers(0, 300, 3000)])
    many = Recordings(np.zeros((3000, 1), np.int16), np.zeros(3000, np.int64), speakers, speakers)
    parts = recordings.split(many)
    groups = [set(part.speakers.tolist()) for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == len(set(speakers.tolist()))
    assert all(200 < len(part) < 420 for part in (parts.validation, parts.test))
    # A speaker stays where it is when others come.
    fewer = recordings.split(many.where(np.arange(3000) % 7 == 0))
    assert set(fewer.test.speakers.tolist()) <= groups[2]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "yes").rename(root / "yess"), "yes: no .wav or .flac file: every class of yes, no,"),
        (lambda root: (root / "up" / "a_nohash_0.wav").write_bytes(b"RIFF"), "a_nohash_0.wav: not a recording"),
        (
            lambda root: soundfile.write(root / "up" / "a_nohash_0.wav", np.zeros(800, np.int16), 8000),
            "a_nohash_0.wav: 8000 Hz, 1 channels, 800 samples: a recording has 16000 Hz",
        ),
    ],
)
def test_what_is_no_recording_is_named(tmp_path, break_it, message):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "b_nohash_0.wav", tone(300), SAMPLE_RATE)
    break_it(tmp_path)
    with pytest.raises(DataError, match=message):
        recordings.load(tmp_path)


def test_a_tone_is_in_its_band():
    x = features.log_mel(np.stack([tone(hertz) / 32768 for hertz in (300.0, 1000.0, 3000.0)]))
    assert x.shape == (3, 1, 32, 32) and x.dtype == np.float32
    frequencies = np.linspace(0, SAMPLE_RATE / 2, 513)
    for image, hertz in zip(x[:, 0], (300.0, 1000.0, 3000.0), strict=True):
        loudest = image[:, 3:-3].argmax(axis=0)
        centre = frequencies[features.mel_filters()[loudest[0]].argmax()]
        assert (loudest == loudest[0]).all() and abs(centre / hertz - 1) < 0.12
    silence = features.log_mel(np.zeros((1, SAMPLES)))
    assert silence == pytest.approx((np.log(features.FLOOR) - features.MEAN) / features.DEVIATION)


def test_variations_stay_recordings():
    rng = np.random.default_rng(0)
    waves = np.stack([tone(500)] * 5)
    varied = Augmentation().waves(waves, waves, rng)
    assert varied.shape == waves.shape and varied.dtype == np.float32 and np.abs(varied).max() <= 1
    none = Augmentation(shift=0, speed=0, gain=0, noise_share=0, bands=0, frames=0)
    np.testing.assert_allclose(none.waves(waves, waves, rng), waves / 32768, atol=1e-6)
    x = features.log_mel(varied)
    np.testing.assert_array_equal(none.spectrograms(x.copy(), rng), x)
    batch, other, share = Augmentation().mix(x, rng)
    assert (share >= 0.5).all() and (share <= 1).all()
    for number in range(len(x)):
        expected = share[number] * x[number] + (1 - share[number]) * x[other[number]]
        np.testing.assert_allclose(batch[number], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(Augmentation(mixed=0).mix(x, rng)[0], x)


def test_a_mixed_label_counts_by_its_share():
    output = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    labels, others, share = torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([0.75, 0.5])
    log = output.log_softmax(dim=1)
    expected = -(0.75 * log[0, 0] + 0.25 * log[0, 2] + log[1, 1]) / 2
    assert training.mixed_loss(output, labels, others, share, 0.0).item() == pytest.approx(expected.item())


def test_a_teacher_is_learnt_by_its_share():
    output, example = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1.0, 3.0, 0.0]])
    batch = training.Batch(torch.zeros(1), torch.tensor([0]), torch.tensor([0]), torch.ones(1))
    recipe = training.Recipe(smoothing=0.0, distillation=0.75, temperature=2.0)
    labels = -output.log_softmax(dim=1)[0, 0]
    taught = -4 * ((example / 2).softmax(dim=1) * (output / 2).log_softmax(dim=1)).sum()
    found = training.batch_loss(output, batch, example, recipe)
    assert found.item() == pytest.approx((0.25 * labels + 0.75 * taught).item())
    assert training.batch_loss(output, batch, None, recipe).item() == pytest.approx(labels.item())


def test_recordings_are_varied_anew_in_turn(folder):
    found = recordings.load(folder).where(np.arange(12 * SPEAKERS) % 26 == 0)
    plain = Augmentation(bands=0, frames=0, mixed=0.0)
    recipe = training.Recipe(epochs=4, batch=len(found), renewal=2, augmentation=plain)
    batches = training.prepared(found, recipe, np.random.default_rng(0))
    epochs = [{image.tobytes() for image in batch.x.numpy()} for batch in batches]
    assert [len(images) for images in epochs] == [len(found)] * 4
    assert [len(one & other) for one, other in itertools.pairwise(epochs)] == [len(found) // 2] * 3
    assert not epochs[0] & epochs[2]


def test_training_in_bfloat16_learns(folder):
    found = recordings.load(folder).where(np.arange(12 * SPEAKERS) % 2 == 0)
    losses = []
    recipe = training.Recipe(epochs=3, batch=24, averaging=0.5, bfloat16=True)
    network = training.fit(
        lambda: networks.dense(0), found, recipe, epoch_end=lambda epoch, network, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0] and all(value.dtype == torch.float32 for value in network.parameters())
    assert not training.has_bfloat16("cuda")


def test_fine_tuning_keeps_zeros_and_packs_to_what_it_computes(folder, tmp_path):
    found = recordings.load(folder).where(np.arange(12 * SPEAKERS) % 4 == 0)
    network = networks.sparse(seed=3)
    OneShot(network, networks.PATTERNS).finish()
    x = training.spectrograms(found)
    recipe = training.Recipe(epochs=2, batch=24)
    losses = []
    tuned = tuning.fine_tune(
        network.eval(),
        found,
        recipe,
        x,
        teacher=networks.dense(0).eval(),
        phase=0,
        epoch_end=lambda epoch, network, loss: losses.append(loss),
    )
    assert len(losses) == 2 and losses[1] < losses[0]
    packed = hwgen.pack(tuned)
    assert sum(layer.nonzeros for layer in packed.report()) + 128 <= networks.NONZEROS
    packed.save(tmp_path / "tuned.hwpack")
    with host.open(tmp_path / "tuned.hwpack", device="cpu") as accelerator:
        np.testing.assert_array_equal(training.predict(tuned, x), accelerator.run(x))


def test_the_sparse_network_is_the_papers():
    network = networks.sparse(seed=3)
    OneShot(network, networks.PATTERNS).finish()
    for name, nonzeros in NONZEROS.items():
        assert ((network.get_submodule(name).weight != 0).flatten(1).sum(dim=1) == nonzeros).all()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 1, 32, 32)).astype(np.float32))
    packed = hwgen.pack(network.eval(), calibration=x.numpy())
    report = {layer.name: layer for layer in packed.report()}
    assert sum(layer.nonzeros for layer in report.values()) + 128 == networks.NONZEROS
    efficiency = {name: layer.nonzeros / layer.slots for name, layer in report.items()}
    assert efficiency["conv1"] == pytest.approx(24 / 25) and all(
        efficiency[name] == 1.0 for name in ("conv2", "linear", "output")
    )
    hidden = network[: list(dict(network.named_children())).index("activation2") + 1](x)
    assert ((hidden != 0).sum(dim=1) == 8).all()


@pytest.fixture(scope="module")
def folder_of_trained(folder, tmp_path_factory):
    """Two epochs of both networks, of which nothing is expected but files."""
    out = tmp_path_factory.mktemp("trained")
    done = CliRunner().invoke(app, ["train", "--data", str(folder), "--out", str(out), "--epochs", "2"])
    assert done.exit_code == 0, done.output
    return out


def test_training_learns(folder):
    found = recordings.load(folder)
    found = found.where(found.speakers < "0000000a")
    losses = []
    recipe = training.Recipe(epochs=4, batch=24, dropout=0.0, averaging=0.5)
    network = training.fit(
        lambda: networks.sparse(0),
        found,
        recipe,
        patterns=networks.PATTERNS,
        epoch_end=lambda epoch, network, loss: losses.append((epoch, loss)),
    )
    assert [epoch for epoch, _ in losses] == [1, 2, 3, 4] and losses[-1][1] < 0.8 * losses[0][1]
    assert not network.training
    # The masks survive averaging.
    for name, nonzeros in NONZEROS.items():
        assert ((network.get_submodule(name).weight != 0).flatten(1).sum(dim=1) == nonzeros).all()


def test_trained_networks_come_back(folder_of_trained, folder):
    kept = trained.load(folder_of_trained)
    assert (folder_of_trained / trained.PACKED).stat().st_size < 1_000_000
    record = kept.record
    assert record["recipe"]["epochs"] == 2 and len(record["speakers"]) == len(set(record["speakers"])) < SPEAKERS
    # Both networks go on for two epochs behind the four of the teacher; the last of the sparse one are in int8.
    phases = Counter(line.split()[0] for line in (folder_of_trained / "log.txt").read_text().splitlines())
    assert phases == {"start": 2, "teacher": 2, "dense": 2, "sparse": 1, "int8": 1}
    assert not list(folder_of_trained.glob("start*")) + list(folder_of_trained.glob("teacher*"))
    # Weights of half precision: nearly the same outputs as the packed network's source.
    again = trained.Trained(kept.dense, kept.sparse, kept.packed, record)
    again.save(folder_of_trained.parent / "again")
    for name in (trained.DENSE, trained.SPARSE):
        assert (folder_of_trained.parent / "again" / name).read_bytes() == (folder_of_trained / name).read_bytes()


def test_evaluation_counts_new_speakers_only(folder_of_trained, folder):
    kept = trained.load(folder_of_trained)
    found = recordings.load(folder)
    strangers = kept.record | {"speakers": ["00000000", "00000003"]}
    result = evaluate(trained.Trained(kept.dense, kept.sparse, kept.packed, strangers), found, hardware_words=0)
    assert (result.recordings, result.speakers, result.skipped) == (12 * (SPEAKERS - 2), SPEAKERS - 2, 24)
    assert set(result.per_class) == set(CLASSES) and result.per_class["go"]["recordings"] == SPEAKERS - 2
    for kind in ("dense", "sparse", "int8"):
        mean = np.mean([of[kind] for of in result.per_class.values()])
        assert getattr(result, f"accuracy_{kind}") == pytest.approx(mean)
    new = recordings.never_heard(found, strangers["speakers"])
    right = training.predict(kept.sparse, training.spectrograms(new)).argmax(axis=1) == new.labels
    assert result.accuracy_sparse == pytest.approx(100 * right.mean())
    lost = {name for name, of in result.per_class.items() if of["dense"] - of["int8"] > 5 + 1e-6}
    assert set(result.worse) == lost
    everyone = kept.record | {"speakers": [f"{n:08x}" for n in range(SPEAKERS)]}
    with pytest.raises(DataError, match="no recording of yes, no, .* by a speaker whom the network was not trained on"):
        evaluate(trained.Trained(kept.dense, kept.sparse, kept.packed, everyone), found, hardware_words=0)


def test_the_command_prints_json(folder_of_trained, folder, tmp_path):
    record = json.loads((folder_of_trained / trained.RECORD).read_text())
    record["speakers"] = ["00000000"]
    (folder_of_trained / trained.RECORD).write_text(json.dumps(record))
    arguments = ["evaluate", "--data", str(folder), "--trained", str(folder_of_trained), "--hardware-words", "0"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["recordings"] == 12 * (SPEAKERS - 1) and figures["accuracy_hardware"] is None
    done = CliRunner().invoke(app, ["audit", "--data", str(folder), "--trained", str(folder_of_trained), "--json"])
    assert done.exit_code == 0, done.output
    audited = json.loads(done.stdout)
    for kind in ("dense", "sparse", "int8"):
        assert 100 * audited["models"][kind]["accuracy"] == pytest.approx(figures[f"accuracy_{kind}"])
    with pytest.raises(InputError, match="no trained networks: make them with"):
        trained.load(tmp_path)
    (folder_of_trained / trained.DENSE).write_bytes(b"nonsense")
    with pytest.raises(FormatError, match="not the files of a training"):
        trained.load(folder_of_trained)
