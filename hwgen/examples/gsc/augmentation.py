"""Variations of training recordings: none changes what is said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.examples.gsc.recordings import SAMPLES


@dataclass(frozen=True)
class Augmentation:
    """How far recordings are varied.

    Attributes:
        shift: samples, to either side.
        speed: relative, up or down; the pitch follows.
        gain: decibels, up or down.
        noise_share: of the recordings that get noise of other recordings.
        noise: most of it, relative to full scale.
        bands, frames: widest band and longest time that are blanked out of a spectrogram, two each.
        mixed: share of the spectrograms into which another one is mixed, with a share of at most a half.
    """

    shift: int = 1600
    speed: float = 0.15
    gain: float = 9.0
    noise_share: float = 0.8
    noise: float = 0.1
    bands: int = 5
    frames: int = 5
    mixed: float = 0.5

    def waves(
        self, waves: NDArray[np.int16], noises: NDArray[np.int16], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Varies recordings: int16 (N, 16000) to float32 in [-1, 1]; `noises` are recordings without speech."""
        count = len(waves)
        speed = rng.uniform(1 - self.speed, 1 + self.speed, count)
        shift = rng.integers(-self.shift, self.shift + 1, count)
        result = np.zeros((count, SAMPLES), np.float32)
        middle = SAMPLES / 2
        samples = np.arange(SAMPLES)
        for number in range(count):
            # About the middle, so that a slower word does not leave the second.
            at = (samples - middle) * speed[number] + middle - shift[number]
            result[number] = np.interp(at, samples, waves[number], left=0, right=0)
        result *= (10 ** (rng.uniform(-self.gain, self.gain, (count, 1)) / 20) / 32768).astype(np.float32)
        chosen = noises[rng.integers(0, len(noises), count)]
        loudest = np.maximum(chosen.max(axis=1), -chosen.min(axis=1).astype(np.int32))[:, None]
        level = rng.uniform(0, self.noise, (count, 1)) * (rng.random((count, 1)) < self.noise_share)
        # Silence is not made loud.
        result += chosen * (level / np.maximum(loudest, 4)).astype(np.float32)
        return np.clip(result, -1, 1)

    def spectrograms(self, x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Blanks bands and times of (N, 1, bands, frames), in place (Park et al. 2019, "SpecAugment")."""
        for image in x[:, 0]:
            blank = image.mean()
            for _ in range(2):
                bands, frames = rng.integers(0, self.bands + 1), rng.integers(0, self.frames + 1)
                first_band = rng.integers(0, image.shape[0] - bands + 1)
                first_frame = rng.integers(0, image.shape[1] - frames + 1)
                image[first_band : first_band + bands] = blank
                image[:, first_frame : first_frame + frames] = blank
        return x

    def mix(
        self, x: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Mixes spectrograms of a batch with each other (Zhang et al. 2018, "mixup").

        Returns:
            The batch (N, 1, bands, frames); which of it (N) was mixed into each; and the share (N) of each in itself.
        """
        count = len(x)
        other = rng.permutation(count)
        share = np.where(rng.random(count) < self.mixed, rng.uniform(0.5, 1, count), 1).astype(np.float32)
        own = share[:, None, None, None]
        return own * x + (1 - own) * x[other], other, share
