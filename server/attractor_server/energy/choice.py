"""The choice among a memory's pages: that which most probably holds what the cue is of."""

import torch
from torch import Tensor

from attractor_server.energy.calibration import Calibration


def chosen_pages(
    delta_energy: Tensor,  # (…, pages, cues)
    stored: Tensor,  # (…, pages) patterns in each page
    calibration: Calibration | None,
) -> Tensor:
    """The number of the chosen page for each cue, (…, cues) int64.

    By the calibration's logit, which makes pages with different numbers of patterns comparable; without a calibration
    by ΔE alone. Energies may stand for ΔE: what is the same in all pages has no effect. A page that holds nothing, or
    whose energy is no number, is chosen only where all are such.
    """
    logit = -delta_energy if calibration is None else calibration.logit(delta_energy, stored)
    logit = logit.masked_fill(logit.isnan() | (stored == 0)[..., None], -torch.inf)
    return logit.argmax(-2)
