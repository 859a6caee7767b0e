"""Promised: 95% intervals of 10 sequences hold the score of 2,000 in 93 to 97.5% of draws, but for named exceptions.

Measured, pooled over the heads: 93.0% (copying_per_token) to 95.6% (loss_first_copy); copying_bansal 84.7%;
a percentile bootstrap of gapped prefix matching 90.1%.
"""

from pathlib import Path

import numpy as np
import pytest

import inductionlens as il
from inductionlens.controls import measure_gapped
from inductionlens.intervals import ratio_interval
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.scan import _measure
from inductionlens.studies.stimuli import make_probes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DATA = Path(__file__).parents[2] / "data"
MANY, FEW, DRAWS = 2000, 10, 400
#: Scores whose intervals hold less often than they say: the share measured, and why.
EXCEPTIONS = {"copying_bansal": (0.85, "most sequences score 0, so ten of them often show no spread")}


@pytest.fixture(scope="module")
def samples():
    """Numerators and denominators per score, [head, sequence], of the heads of both toys."""
    found = {}
    for name in ("attn-only-2l", "tiny-gpt2"):
        model = il.load_model(DATA / name)
        options = ScanOptions(sequences=MANY, text="random", seed=77)
        probes = make_probes(model, options)
        scores, losses = _measure(model, probes, options, lambda _: None)
        scores["prefix_matching_gapped"] = measure_gapped(model, probes.gapped)
        parts = {score: (part.numerator, part.denominator) for score, part in scores.items()
                 if not score.startswith("offset")}  # fmt: skip
        parts |= {score: (values[None], None) for score, values in losses.items()}
        for score, (above, below) in parts.items():
            above = above.reshape(-1, above.shape[-1])
            below = np.ones_like(above) if below is None else below.reshape(above.shape)
            usable = np.isfinite(above).all(1) & np.isfinite(below).all(1)
            found.setdefault(score, []).extend(zip(above[usable], below[usable], strict=True))
    return found


def covered(heads, interval):
    rng = np.random.default_rng(0)
    held = []
    for above, below in heads:
        drawn = rng.integers(0, len(above), (DRAWS, FEW))
        low, high = interval(above[drawn], below[drawn])
        truth = above.sum() / below.sum()
        held.append(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean())
    return float(np.mean(held))


def bootstrap(above, below):
    again = np.random.default_rng(1).integers(0, FEW, (300, FEW))
    return np.quantile(above[:, again].sum(-1) / below[:, again].sum(-1), [0.025, 0.975], axis=1)


def test_intervals_hold_what_they_say(samples):
    found = {score: covered(heads, ratio_interval) for score, heads in samples.items() if heads}
    print(found)
    wrong = {score: share for score, share in found.items()
             if score not in EXCEPTIONS and not 0.93 <= share <= 0.975}  # fmt: skip
    assert not wrong
    for score, (measured, _) in EXCEPTIONS.items():
        assert 0.7 < found[score] < 0.93
        assert found[score] == pytest.approx(measured, abs=0.03)


def test_a_percentile_bootstrap_would_not(samples):
    share = covered(samples["prefix_matching_gapped"], bootstrap)
    print("bootstrap", share)
    assert share < 0.93
