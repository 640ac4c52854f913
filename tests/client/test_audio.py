"""Sound to log-mel frames and back."""

import numpy as np
import pytest
from numpy.typing import NDArray

from attractor import AudioFormat, InvalidRequest, audio
from attractor_server.training.datasets import audio_format as speech

FORMAT = AudioFormat(sample_rate_hz=8000, window=256, hop=128, mels=40, low_hz=60.0, high_hz=3800.0)
OTHER = AudioFormat(sample_rate_hz=16000, window=400, hop=160, mels=64, low_hz=0.0, high_hz=8000.0)
FRAMES = 32


def tones(format: AudioFormat, *hertz: float) -> NDArray[np.float64]:  # noqa: A002
    seconds = np.arange(audio.samples_of(FRAMES, format)) / format.sample_rate_hz
    return np.asarray(sum(0.3 * np.sin(2 * np.pi * one * seconds) for one in hertz))


def peaks(waveform: NDArray[np.floating], format: AudioFormat, count: int) -> list[float]:  # noqa: A002
    """The strongest frequencies, each the best of its surroundings of 300 Hz, lowest first."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    hertz = np.fft.rfftfreq(len(waveform), 1 / format.sample_rate_hz)
    found: list[float] = []
    while len(found) < count:
        found.append(float(hertz[spectrum.argmax()]))
        spectrum[np.abs(hertz - found[-1]) < 300] = 0
    return sorted(found)


@pytest.mark.parametrize("format", [FORMAT, OTHER], ids=["8 kHz", "16 kHz"])
def test_the_tones_of_a_sound_survive_the_way_there_and_back(format: AudioFormat) -> None:  # noqa: A002
    sound = tones(format, 620.0, 1900.0)
    frames = audio.log_mel(sound, format)
    assert frames.shape == (FRAMES, format.mels)
    back = audio.waveform(frames, format)
    assert back.shape == sound.shape
    assert back.dtype == np.float32
    np.testing.assert_allclose(peaks(back, format, 2), [620, 1900], atol=60)
    again = audio.log_mel(back, format)
    loud = frames > -30
    assert np.abs(again - frames)[loud].mean() < 1.5
    assert np.sqrt(np.mean(back**2)) == pytest.approx(np.sqrt(np.mean(sound**2)), rel=0.25)


def test_iterating_finds_phases_that_fit() -> None:
    frames = audio.log_mel(tones(FORMAT, 620.0, 1900.0), FORMAT)

    def error(iterations: int) -> float:
        again = audio.log_mel(audio.waveform(frames, FORMAT, iterations), FORMAT)
        return float(np.abs(again - frames)[frames > -40].mean())

    assert error(32) < 0.6 < 3 < error(0)


def test_a_full_sine_in_the_middle_of_a_band_is_at_0_db_and_silence_at_the_floor() -> None:
    middle = 700 * ((1 + 60 / 700) ** (21 / 41) * (1 + 3800 / 700) ** (20 / 41) - 1)  # half way in mel, nearly
    frames = audio.log_mel(tones(FORMAT, middle) / 0.3, FORMAT)
    assert np.abs(frames.max(1)).max() < 1.5
    silent = audio.log_mel(np.zeros(1000), FORMAT)
    assert silent.shape == (6, 40)
    assert (silent == audio.FLOOR_DB).all()
    assert not audio.waveform(silent, FORMAT).any()


def test_the_frames_are_those_that_models_are_trained_on() -> None:
    noise = 0.1 * np.random.default_rng(11).standard_normal(3000).astype(np.float32)
    np.testing.assert_allclose(audio.log_mel(noise, FORMAT), speech.log_mel(noise), atol=1e-4)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(255), "saw 255 samples, 255 of them finite; expected 256 or more"),
        (np.full(300, np.nan), "0 of them finite"),
        (np.zeros((2, 300)), r"saw float64 of shape \(2, 300\); expected floats"),
        (np.zeros(300, np.int16), "saw int16"),
    ],
)
def test_what_is_no_sound_is_refused(sound: NDArray[np.floating], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        audio.log_mel(sound, FORMAT)


@pytest.mark.parametrize("frames", [np.zeros((4, 39)), np.zeros(40), np.zeros((0, 40)), np.full((4, 40), np.nan)])
def test_what_are_no_frames_is_refused(frames: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidRequest, match="expected finite decibels of shape"):
        audio.waveform(frames, FORMAT)
