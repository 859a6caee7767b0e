"""Only a scan calls a head an induction head, and the best head's interval is honest."""

import numpy as np
import pytest

import inductionlens as il
from inductionlens.models.checkpoints import Checkpoint
from inductionlens.several_changes import spread
from inductionlens.studies.changes_table import changes_table
from inductionlens.studies.formation import formation
from inductionlens.studies.formation_stimuli import best_head


def planted_run(kind):
    """Eight idle snapshots, then eight of a kind."""
    models = {name: il.planted(name) for name in {"idle", kind}}
    series = [
        Checkpoint(10 * place, None, str(place), lambda name="idle" if place < 9 else kind: models[name])
        for place in range(1, 17)
    ]
    return formation(series, sequences=4, n_windows=3, text="random", ablate=False)


@pytest.mark.parametrize(("kind", "head"), [("induction", "L1H2"), ("pointer", "L1H2"), ("smeared-induction", "L0H1")])
def test_planted_induction_heads_are_named_and_counted(kind, head):
    found = planted_run(kind)
    assert (
        f"Induction head at step 160, by a scan: {head}; formed in the change from step 80 to 90." in found.in_words()
    )
    assert set(changes_table({"m": [found]})["formed"]) == {1}


@pytest.mark.parametrize(
    "kind", ["anti-copying", "duplicate-token", "fixed-offset", "offset-minus-one", "v-composition", "idle"]
)
def test_other_planted_heads_are_not_named(kind):
    found = planted_run(kind)
    assert any(said.startswith("No induction head at step 160, by a scan") for said in found.in_words())
    assert set(changes_table({"m": [found]})["formed"]) == {0}


def test_interval_of_the_best_of_equal_heads_covers_their_mean():
    rng = np.random.default_rng(0)
    apart, together = [], []
    for _ in range(1000):
        samples = rng.normal(size=(6, 12, 20))
        apart.append(best_head(samples))
        together.append(best_head(np.repeat(samples[..., :10], 2, axis=-1)))  # measured on those it was chosen on
    covered, fooled = (np.mean([one["low"] <= 0 <= one["high"] for one in found]) for found in (apart, together))
    assert 0.93 <= covered <= 0.975
    assert fooled < 0.8


def test_seeds_that_agree_exactly_are_known_to_half_the_spacing():
    assert spread(np.full(3, 130.0), "linear", 10.0)[:3] == pytest.approx((130, 120, 140))
    assert spread(np.full(3, 130.0), "log", np.log(2) / 2)[1:3] == pytest.approx((130 / 2**0.5, 130 * 2**0.5))
