"""Half seconds of recorded speech: prompts of a telephone exchange in five languages, by four speakers.

They are from Debian's `asterisk-core-sounds-*-wav` (Creative Commons; `data/README.md` names the authors), split by
prompt, with all languages of one together; a class is one prompt by one speaker in one language.
"""

from functools import cache

import numpy as np

from attractor_server.training.datasets.audio_format import FLOOR_DB, MELS
from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.samples import Samples, classes_of, load_arrays, split_of

FRAMES = 32
ENTRIES = FRAMES * MELS
LEVELS_PER_DB = 2


@cache
def speech(split: Split) -> Samples:
    """Return clips (n, 1280) of 32 frames of 40 mel bands (frame, band), in decibels from −80 to 0; see `audio_format`.

    A clip spans 0.528 s; its values are kept to half a decibel.
    """
    file = load_arrays("speech.npz")
    prompts, voices, levels = file["prompts"].tolist(), file["voices"].tolist(), file["levels"]
    chosen = [n for n, prompt in enumerate(prompts) if split_of(f"prompt {prompt}") == split]
    values = (levels[chosen].astype(np.float32) / LEVELS_PER_DB + FLOOR_DB).astype(np.float32)
    return Samples(values, classes_of([(prompts[n], voices[n]) for n in chosen]))
