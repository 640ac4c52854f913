"""Recall as a posterior: the kept patterns take part in reading.

After the network has read r from a cue c, each kept pattern ξᵢ has a score sᵢ = Σ wₖaₖ(c, r, ξᵢ) by its agreements with
the cue and with the reading, whose weights are not negative. An image may also have been moved, by a few pixels, or in
part been covered by something of one colour, and nobody tells whether it was: then

    sᵢ = log(exp Σ wₖaₖ + exp(b + v·mᵢ) + exp(b′ + v′·cᵢ))

where mᵢ = −log(ε + the mean square difference between the middle of the cue and that part of the pattern which is
nearest to it), and cᵢ = −log(ε + the least mean square, over all places of a quarter of the cue that may have been
covered, of what is beside it less the pattern, and of what is in it less its mean). "None of them" has the score z, by
ΔE, by the number of kept patterns, by how much of the cue is given, and by how well the cue agrees with the reading
itself. The softmax p of all scores is the posterior, its sum over the patterns the probability that the cue is of a
stored one.

Let z′ = z − log o, where stored patterns are asked for o times as often as others, and p the softmax with z′. The
posterior's mean is then a gradient step of size 1 from r on the energy

    E(x) = −log(Σᵢ exp(sᵢ + ½‖r − ξᵢ‖² − ½‖x − ξᵢ‖²) + exp(z′ − ½‖x − r‖²)),   r − ∇E(r) = Σᵢ pᵢξᵢ + p₀r

as in a modern Hopfield network (Ramsauer et al., Hopfield Networks is All You Need, 2020) whose similarity is learned.

Noisy copies of one thing share the posterior, and each of them keeps its noise; what the network reads from their mean
has less. Let q be the softmax of the patterns' scores alone, m = Σ qᵢξᵢ, r′ what the network reads from m, and ξ* the
most probable pattern. Copies of what ξ* is one of are about as far from r′ as it is, others are further away:

    q′ᵢ ∝ exp(½sᵢ − max(1, ‖ξᵢ − r′‖²/‖ξ* − r′‖²)),   m′ = Σ q′ᵢξᵢ

By half the score, since noise alone makes one copy more probable than another one. m′ and r′ are weighed as estimates
with the variances V = Σ q′ᵢ‖ξᵢ − m′‖², by which the patterns differ, and D = ‖m′ − r′‖², by which the network moves
their mean: the answer is (1 − p₀)(D·m′ + V·r′)/(V + D) + p₀r. A pattern with nearly all of q is answered as it is kept:
then nothing is read again, and the answer is the posterior's mean.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

AGREEMENTS = ("cue_cosine", "read_cosine", "cue_square", "read_square", "cue_absolute", "read_absolute")
"""Of a kept pattern: whitened cosine, negative mean square and mean absolute differences, to the cue where that is
given, and to the reading"""

NONE = ("intercept", "delta_energy", "log_kept", "given", "cosine", "square", "absolute")
"""What "none of them" depends on; the last three are agreements of the cue with the reading"""

CASES = ("moved", "covered")
"""What may have been done to an image"""

CASE = ("weight", "offset")
"""v and b of a case"""

REACH = 2
"""Pixels by which an image may have been moved, each way"""

SLIGHT = 1e-3
"""ε: mean squares far below it are as good as none"""

SURE = 0.99
"""Share q of a pattern from which on others have no part in the answer that is worth reading for"""

STORED_ODDS = 19.0
"""How often stored patterns are asked for, in cues of others, as far as an answer is concerned"""


@dataclass(frozen=True)
class Area:
    """An image among the values of a pattern."""

    span: slice
    height: int
    width: int
    shift: Tensor | None = field(default=None, compare=False)
    """What is added to the image's own values, (values,): what was of one colour is so without it"""


@dataclass(frozen=True)
class View:
    """Patterns as they are compared, (memories, m, …)."""

    x: Tensor
    """In network units"""
    u: Tensor
    """Value by value, before the whitening; NaN where a cue gives nothing"""
    areas: Sequence[Area] = ()
    """Images among these values that are large enough to be moved"""


@dataclass(frozen=True)
class Evidence:
    """Agreements of cues and readings, and the features of "none of them"."""

    agreements: Tensor
    """(memories, cues, kept, agreements)"""
    none: Tensor
    """(memories, cues, len(NONE))"""
    cases: Tensor | None = None
    """mᵢ and cᵢ, (memories, cues, kept, cases)"""


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Learned weights of the scores; fitted on training episodes."""

    weights: Tensor
    """(len(AGREEMENTS),) not negative; 0: not used"""
    none: Tensor
    """(len(NONE),)"""
    cases: Tensor | None = None
    """(len(CASES), len(CASE)), weights not negative, the offset of one that does not occur −∞; None: none occurs"""

    def to(self, device: torch.device) -> "Posterior":
        """Return the posterior with its weights on that device."""
        cases = None if self.cases is None else self.cases.to(device)
        return Posterior(weights=self.weights.to(device), none=self.none.to(device), cases=cases)

    @property
    def used(self) -> Sequence[bool]:
        """Whether each agreement counts; others need not be computed."""
        return [weight > 0 for weight in self.weights.tolist()]

    def scores(self, evidence: Evidence, *, present: Tensor | None = None) -> Tensor:
        """Return the scores (memories, cues, kept + 1), the last of "none of them".

        Patterns that are not present (memories, kept) have the score −∞.
        """
        items = evidence.agreements @ self.weights
        if self.cases is not None and evidence.cases is not None:
            otherwise = self.cases[:, 0] * evidence.cases + self.cases[:, 1]
            items = torch.cat([items[..., None], otherwise], -1).logsumexp(-1)
        if present is not None:
            items = items.masked_fill(~present[:, None], -torch.inf)
        return torch.cat([items, (evidence.none @ self.none)[..., None]], -1)


def gather_evidence(  # noqa: PLR0913
    cues: View,
    readings: View,
    kept: View,
    *,
    delta_energy: Tensor,  # (memories, cues), of the cues
    present: Tensor | None = None,  # (memories, kept) bool
    used: Sequence[bool] = (True,) * len(AGREEMENTS),
    images: bool = True,
) -> Evidence:
    """Compare cues and readings with the kept patterns, and with one another; agreements that are not used are 0.

    Images are compared as if they had been moved or covered, too, unless that is not asked for.
    """
    given = ~cues.u.isnan()
    count = given.sum(-1).clamp(min=1)
    cue_u = cues.u.nan_to_num()
    known = given.to(cue_u.dtype)
    everywhere = torch.ones_like(known)
    ways: Sequence[Callable[[], Tensor]] = (
        lambda: _cosines(cues.x, kept.x),
        lambda: _cosines(readings.x, kept.x),
        lambda: -_mean_squares(cue_u, kept.u, known),
        lambda: -_mean_squares(readings.u, kept.u, everywhere),
        lambda: -_mean_differences(cue_u, kept.u, given),
        lambda: -_mean_differences(readings.u, kept.u, None),
    )
    nothing = cue_u.new_zeros(*cue_u.shape[:2], kept.u.shape[1])
    agreements = [way() if wanted else nothing for way, wanted in zip(ways, used, strict=True)]
    gaps = (cue_u - readings.u) * known
    held = torch.full_like(delta_energy, kept.u.shape[1]) if present is None else present.sum(1)[:, None]
    none = (
        torch.ones_like(delta_energy),
        delta_energy,
        held.to(delta_energy.dtype).clamp(min=1).log().expand_as(delta_energy),
        known.mean(-1),
        (normalize(cues.x, dim=-1) * normalize(readings.x, dim=-1)).sum(-1),
        -gaps.square().sum(-1) / count,
        -gaps.abs().sum(-1) / count,
    )
    cases = None
    if images and cues.areas:
        cases = torch.stack([compare_moved(cues, kept.u), compare_covered(cues, kept.u)], -1)
    return Evidence(torch.stack(agreements, -1), torch.stack(none, -1), cases)


def compare_moved(cues: View, items: Tensor) -> Tensor:
    """Return mᵢ (memories, cues, kept) of cues and items (memories, kept, values)."""
    found = []
    for cue, kept in zip(cues.u, items, strict=True):
        # One memory at a time: each cue is as many as there are places
        places = move(cue, cues.areas)
        known = (~places.isnan()).to(places.dtype)
        squares = _mean_squares(places.nan_to_num().flatten(0, 1), kept, known.flatten(0, 1))
        found.append(-(SLIGHT + squares.unflatten(0, places.shape[:2]).amin(1)).log())
    return torch.stack(found)


def move(u: Tensor, areas: Sequence[Area]) -> Tensor:
    """Return cues (m, values) with the middle of each image at each place, (m, places, values); NaN beside it."""
    steps = range(2 * REACH + 1)
    moved = u[:, None].repeat(1, len(steps) ** 2, 1)
    for area in areas:
        image = u[:, area.span].unflatten(-1, (area.height, area.width, -1))
        middle = image[:, REACH : area.height - REACH, REACH : area.width - REACH]
        places = torch.full_like(image, torch.nan)[:, None].repeat(1, len(steps) ** 2, 1, 1, 1)
        for place, (down, right) in enumerate(product(steps, repeat=2)):
            places[:, place, down : down + middle.shape[1], right : right + middle.shape[2]] = middle
        moved[..., area.span] = places.flatten(2)
    return moved


def compare_covered(cues: View, items: Tensor) -> Tensor:
    """Return cᵢ (memories, cues, kept) of cues and items (memories, kept, values); windows over all images alike."""
    found = []
    for cue, kept in zip(cues.u, items, strict=True):
        given = ~cue.isnan()
        squares = [_uncovered(cue[:, area.span], kept[:, area.span], area) for area in cues.areas]
        count = torch.stack([given[:, area.span].sum(-1) for area in cues.areas]).sum(0).clamp(min=1)
        found.append(-(SLIGHT + torch.stack(squares).sum(0) / count[:, None]).log())
    return torch.stack(found)


def _uncovered(cue: Tensor, kept: Tensor, area: Area) -> Tensor:
    """Return the least sums of squares (cues, kept) that no window over the cues explains."""
    images, patterns = (x.unflatten(-1, (area.height, area.width, -1)) for x in (cue, kept))
    within = measure_variation(cue, area)
    least = []
    for image, variation in zip(images, within, strict=True):  # one cue at a time: its differences are images
        gaps = (image - patterns).nan_to_num().square().sum(-1)
        least.append((gaps.sum((1, 2))[:, None, None] - sum_windows(gaps) + variation).clamp(min=0).amin((1, 2)))
    return torch.stack(least)


def measure_variation(cues: Tensor, area: Area) -> Tensor:
    """Return how much images (n, values) vary in each window, (n, rows, columns): sums of squares about its colour.

    A window is half as high and wide as the image. What is NaN does not vary.
    """
    own = cues if area.shift is None else cues - area.shift
    images = own.unflatten(-1, (area.height, area.width, -1)).movedim(-1, 1)
    given, filled = ~images.isnan(), images.nan_to_num()
    squares, sums, counts = (sum_windows(x) for x in (filled.square(), filled, given.to(images.dtype)))
    return (squares - sums.square() / counts.clamp(min=1)).clamp(min=0).sum(1)


def sum_windows(x: Tensor) -> Tensor:
    """Return the sums over all windows of x (…, height, width)."""
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    sums = torch.nn.functional.pad(x.double().cumsum(-2).cumsum(-1), (1, 0, 1, 0))
    rows = sums[..., height:, :] - sums[..., :-height, :]
    return (rows[..., width:] - rows[..., :-width]).to(x.dtype)


def known_probability(scores: Tensor) -> Tensor:
    """Return the probability (…, cues) that a cue is of a kept pattern, as if it were so for half of them."""
    return torch.sigmoid(scores[..., :-1].logsumexp(-1) - scores[..., -1])


def item_probabilities(scores: Tensor) -> Tensor:
    """Return the probability (…, cues, kept) of each kept pattern; their sum is `known_probability`."""
    return scores.softmax(-1)[..., :-1]


def mean_item(scores: Tensor, kept: Tensor) -> Tensor:
    """Return the mean m (memories, cues, values) of kept patterns (memories, kept, values), encoded."""
    return _shares(scores) @ kept


def answer(scores: Tensor, kept: Tensor, reading: Tensor, again: Tensor) -> Tensor:
    """Return answers, from kept patterns (memories, kept, values), r and r′ (memories, cues, values), encoded."""
    shares = _shares(scores)
    shared = (shares.amax(-1) < SURE)[..., None]
    squares = (again.square().sum(-1, keepdim=True) - 2 * again @ kept.mT + kept.square().sum(-1)[:, None]).clamp(min=0)
    shares = torch.where(shared, _copy_shares(scores, squares), shares)
    mean = shares @ kept
    least = torch.finfo(mean.dtype).tiny
    lean = 1 - (mean - again).square().sum(-1) / (shares * squares).sum(-1).clamp(min=least)  # V/(V + D)
    found = torch.where(shared, mean.lerp(again, lean.clamp(0, 1)[..., None]), mean)
    none = torch.sigmoid(scores[..., -1] - math.log(STORED_ODDS) - scores[..., :-1].logsumexp(-1))[..., None]
    return (1 - none) * found + none * reading


def _copy_shares(scores: Tensor, squares: Tensor) -> Tensor:
    """Return q′, where patterns are so far from r′: squared distances (memories, cues, kept)."""
    items = scores[..., :-1]
    nearest = squares.gather(-1, items.argmax(-1, keepdim=True)).clamp(min=torch.finfo(squares.dtype).tiny)
    return (items / 2 - (squares / nearest).clamp(min=1)).softmax(-1).nan_to_num(nan=0.0)


def pack_posterior(posterior: Posterior) -> Mapping[str, Mapping[str, float]]:
    """Return plain numbers by name, for a file."""
    parts = {"weights": (AGREEMENTS, posterior.weights), "none": (NONE, posterior.none)}
    if posterior.cases is not None:
        parts |= {name: (CASE, case) for name, case in zip(CASES, posterior.cases, strict=True) if case[1] > -torch.inf}
    return {name: dict(zip(keys, values.tolist(), strict=True)) for name, (keys, values) in parts.items()}


def unpack_posterior(packed: Mapping[str, Mapping[str, float]]) -> Posterior:
    """Return the posterior of these numbers.

    Raises:
        ValueError: a name is missing or unknown, or a number cannot be meant.
    """
    weights, none = (_unpack(packed[part], names) for part, names in (("weights", AGREEMENTS), ("none", NONE)))
    if float(weights.min()) < 0:
        raise ValueError(f"posterior.weights: saw {weights.tolist()}; expected none below 0")
    cases = torch.tensor([[0.0, -torch.inf]] * len(CASES))
    for number, name in enumerate(CASES):
        if name in packed:
            cases[number] = _unpack(packed[name], CASE)
        if float(cases[number, 0]) < 0:
            raise ValueError(f"posterior.{name}: saw a weight of {float(cases[number, 0])}; expected one not below 0")
    occurs = any(name in packed for name in CASES)
    return Posterior(weights=weights, none=none, cases=cases if occurs else None)


def _unpack(numbers: Mapping[str, float], names: Sequence[str]) -> Tensor:
    if sorted(numbers) != sorted(names):
        raise ValueError(f"posterior: saw numbers for {', '.join(sorted(numbers))}; expected {', '.join(names)}")
    values = torch.tensor([float(numbers[name]) for name in names])
    if not bool(values.isfinite().all()):
        raise ValueError(f"posterior: saw {values.tolist()}; expected finite numbers")
    return values


def _shares(scores: Tensor) -> Tensor:
    """Return q; zeros where nothing is present."""
    return scores[..., :-1].softmax(-1).nan_to_num(nan=0.0)


def _cosines(x: Tensor, items: Tensor) -> Tensor:
    return normalize(x, dim=-1) @ normalize(items, dim=-1).mT


def _mean_squares(x: Tensor, items: Tensor, known: Tensor) -> Tensor:
    """Return mean squares (memories, m, n) of the differences where `known` is 1, by products alone."""
    total = (x.square() * known).sum(-1, keepdim=True) - 2 * (x * known) @ items.mT + known @ items.square().mT
    return total.clamp(min=0) / known.sum(-1, keepdim=True).clamp(min=1)


def _mean_differences(x: Tensor, items: Tensor, given: Tensor | None) -> Tensor:
    """Return means (memories, m, n) of the absolute differences where x is given."""
    if given is None or bool(given.all()):
        return torch.cdist(x, items, p=1) / x.shape[-1]
    means = []
    for some, others, mask in zip(x, items, given, strict=True):
        # One memory at a time: (m, n, values) of all would not fit
        gaps = ((some[:, None] - others).abs() * mask[:, None]).sum(-1)
        means.append(gaps / mask.sum(-1, keepdim=True).clamp(min=1))
    return torch.stack(means)
