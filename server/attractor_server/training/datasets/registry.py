"""Data sets by the names that recipes use."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from attractor_server.errors import SettingsError
from attractor_server.fields import KINDS, AudioFormat, Field, Layout
from attractor_server.training.datasets import audio_format as sound
from attractor_server.training.datasets.digits import large_digits
from attractor_server.training.datasets.drifts import measure_drifts
from attractor_server.training.datasets.glyphs import SIDE, Split, glyphs
from attractor_server.training.datasets.patches import patches
from attractor_server.training.datasets.random_signs import RandomSigns
from attractor_server.training.datasets.samples import Samples
from attractor_server.training.datasets.sentences import sentences, sentences_by_analysis, sentences_by_mpnet
from attractor_server.training.datasets.short_texts import ALPHABET, short_texts
from attractor_server.training.datasets.source import Dataset, Pairs, Signs, Source
from attractor_server.training.datasets.speech import speech
from attractor_server.training.datasets.verses import FORMS, Form, verses, verses_by_mpnet


def load_dataset(name: str, split: Split) -> Source:
    """Return the source of that name; a random one is the same in every split.

    Raises:
        SettingsError: there is no such data set.
    """
    if name not in DATASETS:
        raise SettingsError(f"data.name: saw {name!r}; expected one of {sorted(DATASETS)}")
    return DATASETS[name](split)


def _dataset(field: Field, samples: Samples) -> Dataset:
    return Dataset(Layout((field,)), torch.from_numpy(samples.values), torch.from_numpy(samples.classes))


def _field(
    name: str, kind: str, shape: tuple[int, ...], *, alphabet: str = "", audio: AudioFormat | None = None
) -> Field:
    minimum, maximum = KINDS[kind].limits
    return Field(name=name, kind=kind, shape=shape, minimum=minimum, maximum=maximum, alphabet=alphabet, audio=audio)


IMAGE = _field("image", "image", (SIDE, SIDE))


def _signs(split: Split) -> Source:
    return Signs(Layout((_field("pattern", "vector", (128,)),)), RandomSigns(128))


def _glyphs(split: Split) -> Source:
    data = glyphs(split)
    patterns = torch.from_numpy(data.images).flatten(1).float() / 255
    return Dataset(Layout((IMAGE,)), patterns, torch.from_numpy(data.characters))


def _digits(split: Split) -> Source:
    return _dataset(IMAGE, large_digits(split))


def _patches(split: Split) -> Source:
    return _dataset(_field("image", "image", (32, 32, 3)), patches(split))


EMBEDDING = _field("embedding", "vector", (384,))


def _sentences(split: Split) -> Dataset:
    return replace(_dataset(EMBEDDING, sentences(split)), drifts=_drifts_of(split, verses))


def _by_mpnet(split: Split) -> Dataset:
    return replace(_dataset(EMBEDDING, sentences_by_mpnet(split)), drifts=_drifts_of(split, verses_by_mpnet))


def _verses(split: Split) -> Dataset:
    return replace(_dataset(EMBEDDING, verses(split)), drifts=_drifts_of(split, verses))


def _verses_by_mpnet(split: Split) -> Dataset:
    return replace(_dataset(EMBEDDING, verses_by_mpnet(split)), drifts=_drifts_of(split, verses_by_mpnet))


def _drifts_of(split: Split, load: Callable[[Split, Form], Samples]) -> Tensor:
    """Return the drifts from whole verses to the same verses in other forms, (n, 384)."""
    whole, *others = (torch.from_numpy(load(split, form).values) for form in FORMS)
    return torch.cat([measure_drifts(whole, other) for other in others])


def _by_analysis(split: Split) -> Dataset:
    return _dataset(EMBEDDING, sentences_by_analysis(split))


def _texts(split: Split) -> Source:
    return _dataset(_field("text", "text", (64,), alphabet=ALPHABET), short_texts(split))


def _speech(split: Split) -> Source:
    audio = AudioFormat(
        sample_rate_hz=sound.SAMPLE_RATE_HZ,
        window=sound.WINDOW_SAMPLES,
        hop=sound.HOP_SAMPLES,
        mels=sound.MELS,
        low_hz=sound.LOW_HZ,
        high_hz=sound.HIGH_HZ,
    )
    return _dataset(_field("sound", "audio", (32, sound.MELS), audio=audio), speech(split))


DATASETS: Mapping[str, Callable[[Split], Source]] = {
    "random-signs": _signs,
    "glyphs": _glyphs,
    "digits": _digits,
    "patches": _patches,
    "sentences": _sentences,
    "sentences-mpnet": _by_mpnet,
    "sentences-lsa": _by_analysis,
    "verses": _verses,
    "verses-mpnet": _verses_by_mpnet,
    "sentence-pairs": lambda split: Pairs(_sentences(split)),
    "short-texts": _texts,
    "speech": _speech,
}
