"""Cut half seconds out of recorded prompts in five languages, and write `speech.npz`.

apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav, and `dpkg -x` all into FOLDER
python -m attractor_server.training.datasets.building.speech FOLDER
"""

import hashlib
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets import audio_format
from attractor_server.training.datasets.samples import DATA
from attractor_server.training.datasets.speech import FRAMES, LEVELS_PER_DB

_CLIPS = 3500
_LEAST_LOUDNESS_DB = -45.0
_LEAST_VOICED = 0.6


class _Clip(NamedTuple):
    rank: int
    prompt: str
    voice: str
    levels: NDArray[np.uint8]


def main() -> None:
    """Write the file anew: the loudest half second of each recording, then the second loudest of some."""
    folder = Path(sys.argv[1]) / "usr/share/asterisk/sounds"
    clips = [clip for path in sorted(folder.rglob("*.wav")) for clip in _cut_clips(folder, path)]
    different = {clip.levels.tobytes(): clip for clip in clips}
    chosen = sorted(different.values(), key=lambda c: (c.rank, _digest(f"{c.prompt} {c.voice}")))[:_CLIPS]
    chosen.sort(key=lambda clip: (_digest(clip.prompt), clip.voice, clip.rank))
    prompts, voices = (np.array(names) for names in zip(*((c.prompt, c.voice) for c in chosen), strict=True))
    levels = np.stack([clip.levels for clip in chosen])
    np.savez_compressed(DATA / "speech.npz", levels=levels, prompts=prompts, voices=voices)
    print(f"{len(chosen)} clips of {len(set(prompts.tolist()))} prompts, of {len(different)}")


def _cut_clips(folder: Path, path: Path) -> Iterator[_Clip]:
    """Yield at most two stretches of a recording that do not overlap and hold a voice for most of their time."""
    voice, *names = path.relative_to(folder).with_suffix("").parts
    decibels = audio_format.log_mel(_read(path))
    for rank in range(2):
        if len(decibels) < FRAMES:
            return
        loudness = np.convolve(decibels.mean(axis=1), np.full(FRAMES, 1 / FRAMES), "valid")
        begin = int(loudness.argmax())
        stretch = decibels[begin : begin + FRAMES]
        if (stretch.max(axis=1) > _LEAST_LOUDNESS_DB).mean() < _LEAST_VOICED:
            return
        levels = np.rint((stretch.ravel() - audio_format.FLOOR_DB) * LEVELS_PER_DB).astype(np.uint8)
        yield _Clip(rank, "/".join(names), voice, levels)
        decibels = max(decibels[:begin], decibels[begin + FRAMES :], key=len)


def _read(path: Path) -> NDArray[np.float32]:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (audio_format.SAMPLE_RATE_HZ, 2, 1)
        samples = np.frombuffer(file.readframes(file.getnframes()), np.dtype("<i2")).astype(np.float32) / 32768
    return np.pad(samples, (0, max(0, audio_format.WINDOW_SAMPLES - len(samples))))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


if __name__ == "__main__":
    main()
