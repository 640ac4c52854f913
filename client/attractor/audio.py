"""Log-mel frames of audio fields from sound, and back.

A frame lies under a Hann window, the next begins a hop later, and no frame is padded. Its spectrum, of the window
followed by as many zeros, is summed in triangular bands that are evenly spaced in mel, 2595·log₁₀(1 + f/700), each with
a peak of 1. A sine of amplitude 1 in the middle of a band is at about 0 dB; all is cut at −80 dB and 0 dB.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from attractor._errors import InvalidRequest
from attractor._types import AudioFormat, Floats

__all__ = ["CEILING_DB", "FLOOR_DB", "log_mel", "samples_of", "waveform"]

FLOOR_DB, CEILING_DB = -80.0, 0.0
_OVERSAMPLING = 2
_HANN_NOISE_BINS = 1.5
_UNMIXING_STEPS = 100
_MOMENTUM = 0.99
_EDGE = 0.1
"""Least weight of samples at the ends, as a part of the middle's"""
Doubles = NDArray[np.float64]
Spectra = NDArray[np.complex128]


def samples_of(frames: int, format: AudioFormat) -> int:  # noqa: A002
    """Return the number of samples that so many frames span."""
    return format.window + (frames - 1) * format.hop


def log_mel(waveform: NDArray[np.floating], format: AudioFormat) -> Floats:  # noqa: A002
    """Return mel bands (frames, mels) in decibels of a waveform (samples,) from −1 to 1, without a last, partial frame.

    Raises:
        InvalidRequest: it is no waveform, or shorter than a frame.
    """
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        seen = f"saw {waveform.dtype.name} of shape {waveform.shape}"
        raise InvalidRequest.of("waveform", f"{seen}; expected floats from -1 to 1, of shape (samples,)")
    if len(waveform) < format.window or not np.isfinite(waveform).all():
        seen = f"saw {len(waveform)} samples, {np.isfinite(waveform).sum()} of them finite"
        raise InvalidRequest.of("waveform", f"{seen}; expected {format.window} or more, all finite")
    amplitudes = np.abs(_compute_spectra(waveform.astype(np.float64), format)) * 2 / _make_hann(format).sum()
    powers = amplitudes**2 @ _make_bands(format).T / (_HANN_NOISE_BINS * _OVERSAMPLING)
    decibels: Doubles = 10 * np.log10(np.maximum(powers, 1e-30))
    return decibels.clip(FLOOR_DB, CEILING_DB).astype(np.float32)


def waveform(log_mel: Floats, format: AudioFormat, iterations: int = 32) -> Floats:  # noqa: A002
    """Return a waveform (samples,) with about these mel bands (frames, mels), its phases found by fast Griffin-Lim.

    Griffin and Lim, 1984; momentum of Perraudin, Balazs and Søndergaard, 2013. Equal bands give equal waveforms.

    Raises:
        InvalidRequest: they are no frames of that format.
    """
    if log_mel.ndim != 2 or log_mel.shape[1] != format.mels or not len(log_mel) or not np.isfinite(log_mel).all():
        seen = f"saw shape {log_mel.shape}" + ("" if np.isfinite(log_mel).all() else " with values that are not finite")
        raise InvalidRequest.of("log_mel", f"{seen}; expected finite decibels of shape (frames, {format.mels})")
    magnitudes = _estimate_magnitudes(log_mel.astype(np.float64), format)
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(magnitudes.shape))
    previous: Spectra = np.zeros_like(phases)
    for _ in range(iterations):
        reached = _compute_spectra(_overlap_add(magnitudes * phases, format), format)
        ahead = reached + _MOMENTUM * (reached - previous)
        phases = ahead / np.maximum(np.abs(ahead), 1e-12)
        previous = reached
    return _overlap_add(magnitudes * phases, format).clip(-1, 1).astype(np.float32)


def _estimate_magnitudes(log_mel: Doubles, format: AudioFormat) -> Doubles:  # noqa: A002
    """Return magnitudes (frames, bins) with these bands: powers by multiplicative updates, from evenly spread ones.

    The updates are those of Lee and Seung for non-negative least squares.
    """
    bands = _make_bands(format)
    wanted = np.where(log_mel > FLOOR_DB, 10 ** (log_mel.clip(FLOOR_DB, CEILING_DB) / 10), 0)
    target = wanted * (_HANN_NOISE_BINS * _OVERSAMPLING) @ bands
    powers: Doubles = (target > 0).astype(np.float64)
    for _ in range(_UNMIXING_STEPS):
        powers *= target / np.maximum(powers @ bands.T @ bands, 1e-30)
    return np.asarray(np.sqrt(powers) * _make_hann(format).sum() / 2)


def _compute_spectra(waveform: Doubles, format: AudioFormat) -> Spectra:  # noqa: A002
    frames = np.lib.stride_tricks.sliding_window_view(waveform, format.window)[:: format.hop]
    return np.fft.rfft(frames * _make_hann(format), _OVERSAMPLING * format.window)


def _overlap_add(spectra: Spectra, format: AudioFormat) -> Doubles:  # noqa: A002
    """Return the waveform (samples,) whose frames come nearest to these spectra (frames, bins)."""
    window = _make_hann(format)
    frames = np.fft.irfft(spectra, _OVERSAMPLING * format.window)[:, : format.window] * window
    total, weight = (np.zeros(samples_of(len(frames), format)) for _ in range(2))
    for start, frame in zip(range(0, len(total), format.hop), frames, strict=False):
        total[start : start + format.window] += frame
        weight[start : start + format.window] += window**2
    return np.asarray(total / np.maximum(weight, _EDGE * weight.max()))


@lru_cache
def _make_bands(format: AudioFormat) -> Doubles:  # noqa: A002
    """Return the weight (mels, bins) of each bin of the spectrum in each band."""
    edges = _to_hertz(np.linspace(_to_mel(format.low_hz), _to_mel(format.high_hz), format.mels + 2))
    bins = np.fft.rfftfreq(_OVERSAMPLING * format.window, 1 / format.sample_rate_hz)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.asarray(np.clip(np.minimum(rising, falling), 0, None))


def _make_hann(format: AudioFormat) -> Doubles:  # noqa: A002
    return np.hanning(format.window + 1)[:-1]


def _to_mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _to_hertz(mels: Doubles) -> Doubles:
    return np.asarray(700 * (10 ** (mels / 2595) - 1))
