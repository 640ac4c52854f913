"""Text as codes of its characters, and values that are missing."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from attractor_server.energy.encoding import Encoding, logits
from attractor_server.energy.transform import Transform, Whitening
from attractor_server.fields import Field, Layout

NAN = float("nan")
ALPHABET = "abcde"
LAYOUT = Layout(
    (
        Field(name="before", kind="vector", shape=(2,)),
        Field(name="word", kind="text", shape=(3,), alphabet=ALPHABET),
        Field(name="after", kind="vector", shape=(1,)),
    )
)
LEARNED = torch.randn(len(ALPHABET), 2, generator=Generator().manual_seed(3))
ONE_HOT = Encoding(layout=LAYOUT, codes={"word": torch.eye(len(ALPHABET))})
NARROW = Encoding(layout=LAYOUT, codes={"word": LEARNED})
every_encoding = pytest.mark.parametrize("encoding", [ONE_HOT, NARROW], ids=["one-hot", "learned"])


def sent(*shape: int, seed: int = 0) -> Tensor:
    """Values as users send them, (*shape, 6): characters as places in the alphabet."""
    generator = Generator().manual_seed(seed)
    plain, words = torch.rand(*shape, 3, generator=generator), torch.randint(5, (*shape, 3), generator=generator)
    return torch.cat([plain[..., :2], words, plain[..., 2:]], -1)


# Encoding


def test_each_character_becomes_its_code_and_the_rest_stays() -> None:
    values = sent(7, 2)
    words = values[..., 2:5].long()
    assert torch.equal(ONE_HOT.encode(values)[..., 2:-1], one_hot(words, len(ALPHABET)).flatten(-2).float())
    assert torch.equal(NARROW.encode(values)[..., 2:-1], LEARNED[words].flatten(-2))
    for encoding in (ONE_HOT, NARROW):
        assert torch.equal(encoding.encode(values)[..., [0, 1, -1]], values[..., [0, 1, -1]])


@every_encoding
def test_decoding_undoes_encoding_also_after_a_disturbance(encoding: Encoding) -> None:
    values = sent(7, 2)
    entries = encoding.encode(values)
    assert entries.shape == (7, 2, encoding.size)
    assert torch.equal(encoding.decode(entries), values)
    codes = encoding.codes["word"]
    apart = torch.cdist(codes, codes)[~torch.eye(len(codes), dtype=torch.bool)].min()
    noise = torch.randn(entries.shape, generator=Generator().manual_seed(1))
    noise = 0.49 * apart * noise / noise[..., 2:-1].unflatten(-1, (3, -1)).norm(dim=-1).max()
    assert torch.equal(encoding.decode(entries + noise)[..., 2:5], values[..., 2:5])


@every_encoding
def test_any_entries_decode_to_the_character_whose_code_lies_nearest(encoding: Encoding) -> None:
    entries = torch.randn(50, encoding.size, generator=Generator().manual_seed(2))
    places, codes = entries[:, 2:-1].unflatten(-1, (3, -1)), encoding.codes["word"]
    gaps = torch.cdist(places, codes.expand(50, -1, -1))
    assert torch.equal(encoding.decode(entries)[:, 2:5], gaps.argmin(-1).float())
    scores = logits(entries[:, 2:-1], codes)
    assert scores.shape == (50, 3, len(ALPHABET))
    # Scores differ from half the squared distances by what all characters of a place share.
    assert torch.allclose((scores + 0.5 * gaps.square()).std(-1), torch.zeros(50, 3), atol=1e-5)


def test_codes_are_learned_through_what_is_encoded() -> None:
    codes = LEARNED.clone().requires_grad_()
    Encoding(layout=LAYOUT, codes={"word": codes}).encode(torch.tensor([0.0, 0, 1, 1, 3, 0])).sum().backward()
    assert codes.grad is not None
    assert torch.equal(codes.grad, torch.tensor([0.0, 2, 0, 1, 0])[:, None].expand(5, 2))


@every_encoding
def test_a_missing_character_is_missing_in_all_its_entries_and_in_no_others(encoding: Encoding) -> None:
    values = sent(1)
    whole, width = encoding.encode(values), encoding.codes["word"].shape[1]
    values[0, 3] = values[0, 5] = NAN
    missing = torch.zeros_like(whole, dtype=torch.bool)
    missing[0, 2 + width : 2 + 2 * width] = missing[0, -1] = True
    found = encoding.encode(values)
    assert torch.equal(found.isnan(), missing)
    assert torch.equal(found[~missing], whole[~missing])


@every_encoding
def test_a_mask_covers_the_entries_of_what_it_covers(encoding: Encoding) -> None:
    known = torch.rand(20, 6, generator=Generator().manual_seed(4)) < 0.5
    values = sent(20)
    assert torch.equal(encoding.spread(known), ~encoding.encode(values.masked_fill(~known, NAN)).isnan())


def test_without_codes_nothing_changes() -> None:
    layout = Layout((Field(name="sound", kind="audio", shape=(2, 3)),))
    encoding, values = Encoding(layout=layout, codes={}), sent(4)
    assert encoding.size == 6
    assert torch.equal(encoding.encode(values), values)
    assert torch.equal(encoding.decode(values), values)
    assert torch.equal(encoding.spread(values > 1), values > 1)


# Missing values


def transform(*, whitened: bool) -> Transform:
    basis = torch.linalg.qr(torch.randn(6, 6, generator=Generator().manual_seed(5))).Q[:, :4]
    whitening = Whitening(components=basis, spread=torch.tensor([2.0, 1.0, 0.5, 0.25]))
    plain = Transform(scale=torch.linspace(1, 3, 6), shift=torch.linspace(-2, 1, 6))
    return replace(plain, whitening=whitening) if whitened else plain


every_transform = pytest.mark.parametrize("whitened", [False, True])


@every_transform
def test_a_missing_value_counts_as_the_mean(whitened: bool) -> None:
    made, values = transform(whitened=whitened), torch.rand(3, 6, generator=Generator().manual_seed(6))
    missing = torch.rand(3, 6, generator=Generator().manual_seed(7)) < 0.4
    assert missing.any(-1).all()
    mean = torch.where(missing, -made.shift / made.scale, values)
    found = made.encode(values.masked_fill(missing, NAN))
    assert torch.allclose(found, made.encode(mean), atol=1e-6)
    assert not torch.allclose(found, made.encode(values), atol=1e-2)
    whole = ~missing
    if not whitened:
        assert (found[missing] == 0).all()
        assert torch.equal(found[whole], made.encode(values)[whole])


@every_transform
def test_what_is_missing_is_neither_held_nor_pulled(whitened: bool) -> None:
    made, generator = transform(whitened=whitened), Generator().manual_seed(8)
    values, known = torch.rand(3, 6, generator=generator), torch.rand(3, 6, generator=generator) < 0.5
    lacking, x = values.masked_fill(~known, NAN), made.encode(torch.rand(3, 6, generator=generator))
    assert torch.equal(made.hold(lacking, known)(x), made.hold(values, known)(x))
    assert torch.equal(made.pull(lacking, known)(x), made.pull(values, known)(x))
    assert made.pull(lacking, known)(x).isfinite().all()
    assert not torch.allclose(made.hold(lacking, known)(x), x, atol=1e-2)
    assert made.pull(lacking, known)(x).any()


def test_infinities_are_not_taken_for_missing_values() -> None:
    assert transform(whitened=False).encode(torch.tensor([float("inf")] * 6)).isinf().all()
