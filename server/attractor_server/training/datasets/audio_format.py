"""Sound as frames of mel bands in decibels: the format of the `speech` data set.

Mono at 8 kHz, from −1 to 1. A frame is a Hann window of 32 ms, the next begins 16 ms later, and no frame is padded;
40 triangular bands, evenly spaced in mel (2595 log₁₀(1 + f / 700)), have their edges from 60 Hz to 3800 Hz and their
peaks at 1. A sine of amplitude 1 in the middle of a band is at about 0 dB; all is cut at −80 dB and 0 dB.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 8000
WINDOW_SAMPLES = 256
HOP_SAMPLES = 128
TRANSFORM_SAMPLES = 512
MELS = 40
LOW_HZ, HIGH_HZ = 60.0, 3800.0
FLOOR_DB, CEILING_DB = -80.0, 0.0
_HANN_NOISE_BINS = 1.5


def log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return mel bands (frames, 40) in decibels of a waveform (samples,) of at least 256 samples."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW_SAMPLES)[::HOP_SAMPLES]
    window = np.hanning(WINDOW_SAMPLES + 1)[:-1]
    amplitudes = np.abs(np.fft.rfft(frames * window, TRANSFORM_SAMPLES)) * 2 / window.sum()
    oversampling = TRANSFORM_SAMPLES / WINDOW_SAMPLES
    powers = amplitudes**2 @ mel_filters().T / (_HANN_NOISE_BINS * oversampling)
    decibels: NDArray[np.float64] = 10 * np.log10(np.maximum(powers, 1e-30))
    return decibels.clip(FLOOR_DB, CEILING_DB).astype(np.float32)


def samples_of(frames: int) -> int:
    """Return the number of samples that so many frames span."""
    return WINDOW_SAMPLES + (frames - 1) * HOP_SAMPLES


@cache
def mel_filters() -> NDArray[np.float64]:
    """Return the weight (40, 257) of each bin of the spectrum in each band."""
    edges = _hertz(np.linspace(_mel(LOW_HZ), _mel(HIGH_HZ), MELS + 2))
    bins = np.fft.rfftfreq(TRANSFORM_SAMPLES, 1 / SAMPLE_RATE_HZ)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    hertz: NDArray[np.float64] = 700 * (10 ** (mels / 2595) - 1)
    return hertz
