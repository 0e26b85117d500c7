"""A folder of Speech Commands in memory, split by speaker.

The data set: Pete Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition" (2018,
arXiv 1804.03209), section 4: a file's name is its speaker, `_nohash_` and a number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, ToolError, install

SAMPLE_RATE = 16_000
SAMPLES = SAMPLE_RATE
CLASSES = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_")
SUFFIXES = (".wav", ".flac")
# Of a class; the whole data set has some 40,000 recordings of unknown words.
MOST_FILES = 100_000
# Files of more samples are not one-second recordings.
MOST_SAMPLES = 60 * SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Recordings:
    """Some recordings.

    Attributes:
        waves: int16 (N, 16000).
        labels: int64 (N,), numbers of `CLASSES`.
        speakers: of each recording.
        names: class/file of each recording.
    """

    waves: NDArray[np.int16]
    labels: NDArray[np.int64]
    speakers: NDArray[np.str_]
    names: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.waves)

    def where(self, chosen: NDArray[np.bool_]) -> Recordings:
        return Recordings(self.waves[chosen], self.labels[chosen], self.speakers[chosen], self.names[chosen])


def load(folder: Path, report: Callable[[str, float | None], None] = lambda message, share: None) -> Recordings:
    """All recordings of a folder.

    Args:
        folder: one folder for each of `CLASSES`, with .wav or .flac files of 16 kHz and one channel; shorter ones are
            padded with silence, of longer ones the first second counts.
        report: told what is done and which share of it.

    Raises:
        DataError: a class is missing or empty, or a file is not such a recording.
        ToolError: soundfile is not installed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: give one with a folder for each of {', '.join(CLASSES)}")
    files: list[tuple[int, Path]] = []
    for label, name in enumerate(CLASSES):
        found = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{folder / name}: no .wav or .flac file: every class of {', '.join(CLASSES)} needs some")
        if len(found) > MOST_FILES:
            raise DataError(f"{folder / name}: {len(found)} files, more than {MOST_FILES}: choose some of them")
        files += [(label, path) for path in found]
    waves = np.zeros((len(files), SAMPLES), np.int16)
    for number, (_, path) in enumerate(files):
        wave = _read(path)
        waves[number, : len(wave)] = wave
        if number % 100 == 0:
            report("reading recordings", number / len(files))
    return Recordings(
        waves,
        np.array([label for label, _ in files], np.int64),
        np.array([path.name.split("_nohash_")[0] for _, path in files]),
        np.array([f"{path.parent.name}/{path.name}" for _, path in files]),
    )


def _read(path: Path) -> NDArray[np.int16]:
    """The first second."""
    try:
        import soundfile
    except ImportError as error:
        raise ToolError(f"reading recordings needs soundfile: {install('audio')}") from error
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate != SAMPLE_RATE or file.channels != 1 or not 0 < file.frames <= MOST_SAMPLES:
                raise DataError(
                    f"{path}: {file.samplerate} Hz, {file.channels} channels, {file.frames} samples: "
                    f"a recording has {SAMPLE_RATE} Hz, one channel and about {SAMPLES} samples"
                )
            return file.read(SAMPLES, dtype="int16")
    except soundfile.SoundFileError as error:
        raise DataError(f"{path}: not a recording that can be read: {error}") from error


@dataclass(frozen=True)
class Split:
    """Recordings of three groups of speakers, of whom none is in two."""

    train: Recordings
    validation: Recordings
    test: Recordings


def split(recordings: Recordings, *, validation: float = 0.1, test: float = 0.1) -> Split:
    """Three groups of about these shares; a speaker's group follows from the name alone, whatever else is there."""
    places = {speaker: _place(speaker) for speaker in set(recordings.speakers.tolist())}
    place = np.array([places[speaker] for speaker in recordings.speakers.tolist()])
    return Split(
        recordings.where(place >= validation + test),
        recordings.where((place >= test) & (place < validation + test)),
        recordings.where(place < test),
    )


def _place(speaker: str) -> float:
    """A number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:4], "big") / 2**32


def never_heard(recordings: Recordings, known: Collection[str]) -> Recordings:
    """Those whose speakers are not among the known ones.

    Raises:
        DataError: none are left, or none of a class.
    """
    left = recordings.where(~np.isin(recordings.speakers, list(known)))
    missing = [name for label, name in enumerate(CLASSES) if label not in left.labels]
    if missing:
        raise DataError(
            f"no recording of {', '.join(missing)} by a speaker whom the network was not trained on: give other recordings"
        )
    return left
