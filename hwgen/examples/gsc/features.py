"""From a second of sound to the network's input: a log-mel spectrogram of 32 frames and 32 bands, in numpy and scipy."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from hwgen.examples.gsc.recordings import SAMPLE_RATE, SAMPLES

FRAMES = BANDS = 32
# 31 ms from frame to frame, 64 ms seen by each.
HOP = SAMPLES // FRAMES
WINDOW = 1024
LOWEST_HZ, HIGHEST_HZ = 60.0, 7600.0
# Power of a band below which all is silence; waves are in [-1, 1].
FLOOR = 1e-4
# About the mean and the deviation over speech, so that inputs have about unit size.
MEAN, DEVIATION = -2.0, 4.0


def log_mel(waves: NDArray[np.floating]) -> NDArray[np.float32]:
    """Spectrograms of recordings.

    Args:
        waves: (N, 16000), in [-1, 1].

    Returns:
        float32 (N, 1, 32 bands, 32 frames), about zero mean and unit deviation.
    """
    margin = (WINDOW - HOP) // 2
    padded = np.pad(waves.astype(np.float32), ((0, 0), (margin, WINDOW - HOP - margin)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP]
    spectrum = fft.rfft(frames * _window(), axis=-1)
    power = spectrum.real**2 + spectrum.imag**2
    bands = power @ mel_filters().T
    return (((np.log(bands + FLOOR) - MEAN) / DEVIATION).transpose(0, 2, 1)[:, None]).astype(np.float32)


@functools.cache
def _window() -> NDArray[np.float32]:
    return signal.get_window("hann", WINDOW).astype(np.float32)


@functools.cache
def mel_filters() -> NDArray[np.float32]:
    """Triangles, evenly spaced on O'Shaughnessy's mel scale: (32, frequencies)."""
    frequencies = fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    edges = _hertz(np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2))
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    # Of the lowest triangles some are narrower than a frequency step.
    return (triangles / np.maximum(triangles.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _mel(hertz: float) -> float:
    return 2595.0 * np.log10(1.0 + hertz / 700.0)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
