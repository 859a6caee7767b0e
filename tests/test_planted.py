"""Planted models: a scan must find exactly what was written into the weights."""

import math

import pandas as pd
import pytest
import torch

import inductionlens as il
from inductionlens import Head
from inductionlens.models.named_weights import named_weights
from inductionlens.models.planted import PLANTED

V, LOGIT = 64, 10.0
EFFECT = LOGIT * (1 - 1 / V)
"""W_U is centred over the vocabulary, so a head that adds LOGIT to one logit adds this to the centred one."""
SCORES = ("prefix_matching", "prefix_matching_literal", "duplicate_token", "previous_token", "first_token")

# kind -> head -> its attention scores in the order above, then copying, induction_logit and ov_eigen (None: undefined).
KNOWN = {
    "induction": {
        Head(0, 1): (0, 0, 0, 1, 0.04, None, 0, None),
        Head(1, 2): (1, 0, 0, 0.01, 1, 1, EFFECT, 1),
    },
    "anti-copying": {
        Head(0, 1): (0, 0, 0, 1, 0.04, None, 0, None),
        Head(1, 2): (1, 0, 0, 0.01, 1, -1, -EFFECT, -1),
    },
    "duplicate-token": {Head(1, 2): (0, 0, 1, 0.01, 1, 1, 0, 1)},
    # 24 back from position 24 is the first token, from position 25 it no longer is.
    "fixed-offset": {Head(1, 2): (1, 0, 0, 0.01, 0.96, 1, 0, 1)},
    "offset-minus-one": {
        Head(0, 1): (0, 0, 1, 0.01, 1, None, 0, None),
        Head(1, 2): (0, 1, 0, 0.01, 1, 1, 0, 1),
    },
    "pointer": {
        Head(0, 1): (0, 0, 1, 0.01, 1, None, 0, None),
        Head(1, 2): (1, 0, 0, 0.01, 1, 1, EFFECT, 1),
    },
    # What 1.2 copies is not the token as embedded, so that its own OV circuit writes nothing; the logit probe has
    # another block length than the one it is made for.
    "v-composition": {
        Head(0, 1): (0, 0, 0, 0, 0, None, 0, None),
        Head(1, 2): (1, 0, 0, 0.01, 0.96, 1, 0, None),
    },
    # By itself; it rests on the first two keys, which are one, so that half of the first token is copied.
    "smeared-induction": {Head(0, 1): (1, 0, 0, 0.01, 0.5, 1, EFFECT, 1)},
    "idle": {},
}
FOUND = {
    "induction": {Head(1, 2): "induction", Head(0, 1): "previous_token"},
    "anti-copying": {Head(1, 2): "anti_induction", Head(0, 1): "previous_token"},
    "duplicate-token": {Head(1, 2): "duplicate_token"},
    "fixed-offset": {},
    "offset-minus-one": {Head(0, 1): "duplicate_token"},
    "pointer": {Head(0, 1): "duplicate_token", Head(1, 2): "induction"},
    "v-composition": {},
    "smeared-induction": {Head(0, 1): "induction"},
    "idle": {},
}
#: Uniform attention on BOS + 25 x 4.
IDLE = (0.0307, 0.0302, 0.0307, 0.0420, (sum(1 / k for k in range(1, 27)) - 1) / 25)


@pytest.fixture(scope="module", params=KNOWN)
def scanned(request):
    return request.param, il.scan(il.planted(request.param), seed=2)


def test_every_planted_kind_is_known():
    assert KNOWN.keys() == PLANTED.keys() == FOUND.keys()


def test_planted_heads_have_their_known_values(scanned):
    kind, scores = scanned
    for head, expected in KNOWN[kind].items():
        row = scores[head]
        names = (*SCORES, "copying", "induction_logit", "ov_eigen")
        for name, value in zip(names, expected, strict=True):
            if value is None:
                assert math.isnan(row[name]), (kind, head, name)
            else:
                assert row[name] == pytest.approx(value, abs=1e-5), (kind, head, name)
                if name != "ov_eigen":
                    assert row[f"{name}_low"] <= row[name] + 1e-9
                    assert row[f"{name}_high"] >= row[name] - 1e-9


def test_idle_heads_are_at_chance_and_write_nothing(scanned):
    kind, scores = scanned
    for row in scores.table.to_dict("records"):
        if Head(row["layer"], row["head"]) in KNOWN[kind]:
            continue
        assert [row[name] for name in SCORES] == pytest.approx(IDLE, abs=5e-5)
        assert row["induction_logit"] == 0
        assert math.isnan(row["copying"])
        assert math.isnan(row["ov_eigen"])


def test_exactly_the_planted_heads_are_named(scanned):
    kind, scores = scanned
    named = {
        Head(row["layer"], row["head"]): row["kind"] for row in scores.table.to_dict("records") if row["kind"] != "none"
    }
    assert named == FOUND[kind]
    assert scores.induction_heads() == [head for head, name in FOUND[kind].items() if name == "induction"]


def test_offset_peaks(scanned):
    kind, scores = scanned
    peaks = {"induction": 1, "anti-copying": 1, "duplicate-token": 0, "fixed-offset": 1, "offset-minus-one": -1}
    if kind in peaks:
        row = scores["1.2"]
        assert (row["offset_peak"], row["offset_peak_value"]) == (peaks[kind], pytest.approx(1))
        profile = scores.offset_profile().loc["L1H2"]
        assert profile.idxmax() == peaks[kind]
        assert profile.drop(peaks[kind]).max() < 1e-6
    if kind == "smeared-induction":
        assert (scores["0.1"]["offset_peak"], scores["0.1"]["offset_peak_value"]) == (1, pytest.approx(1))


def test_a_head_without_attention_at_any_offset_has_no_peak(scanned):
    kind, scores = scanned
    if kind == "induction":
        row = scores["0.1"]
        assert pd.isna(row["offset_peak"])
        assert math.isnan(row["offset_peak_value"])


def test_losses_and_the_case_in_words(scanned):
    kind, scores = scanned
    behaviour = scores.provenance["behaviour"]
    right = math.log(1 + (V - 1) * math.exp(-LOGIT))
    wrong = LOGIT + math.log(V - 1 + math.exp(-LOGIT))
    later = {"induction": right, "fixed-offset": right, "anti-copying": wrong, "idle": math.log(V)}
    if kind in later:
        assert behaviour["loss_first_copy"] == pytest.approx(math.log(V), abs=1e-5)
        assert behaviour["loss_later_copies"] == pytest.approx(later[kind], abs=1e-5)
    if kind == "smeared-induction":
        halved = math.log(V - 1 + math.exp(LOGIT / 2))  # from the first token on, the first token's logit is LOGIT / 2
        assert behaviour["loss_first_copy"] == pytest.approx((math.log(V) + 24 * halved) / 25, abs=1e-5)
        assert behaviour["loss_later_copies"] == pytest.approx(right, abs=1e-5)
    gain = behaviour["loss_first_copy"] - behaviour["loss_later_copies"]
    assert behaviour["copying_gain"] == pytest.approx(gain)
    cases = {
        "induction": "The model copies, with induction heads (",
        "smeared-induction": "The model copies, with induction heads (",
        "fixed-offset": "The model copies, but no induction head was found (",
        "anti-copying": "The model does not copy, though 1 head matches prefixes (",
        "idle": "The model does not copy and no head matches prefixes (",
    }
    if kind in cases:
        assert behaviour["case"].startswith(cases[kind])


def test_the_fixed_offset_impostor_fails_at_another_block_length():
    assert il.scan(il.planted("fixed-offset"), period=20)["1.2"]["prefix_matching"] == pytest.approx(0, abs=1e-6)
    assert il.scan(il.planted("induction"), period=20)["1.2"]["prefix_matching"] == pytest.approx(1)


@pytest.mark.parametrize("logit", [3.0, 20.0])
def test_scaling_the_unembedding_scales_the_logit_effect(logit):
    scores = il.scan(il.planted(logit=logit))
    assert scores["1.2"]["induction_logit"] == pytest.approx(logit * (1 - 1 / V), abs=1e-5)
    assert scores["1.2"]["copying"] == pytest.approx(1)


def test_other_sizes_keep_the_answers():
    scores = il.scan(il.planted(d_vocab=80, n_ctx=110))
    assert scores["1.2"]["prefix_matching"] == pytest.approx(1)
    assert scores["1.2"]["induction_logit"] == pytest.approx(LOGIT * (1 - 1 / 80), abs=1e-5)


def test_a_head_that_matches_and_writes_noise_is_matching_and_not_induction():
    """Its effect on the right logit has a sign too; only an interval clear of 0 makes a kind of it."""
    kinds = []
    for seed in range(4):
        model = il.planted()
        output = named_weights(model)["blocks.1.attn.W_O"][2]
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)) * 0.01
        with torch.no_grad():
            output.copy_(noise)
        row = il.scan(model, sequences=5, text="random")["1.2"]
        assert row["prefix_matching"] == pytest.approx(1)
        clear = row["induction_logit_low"] > 0 or row["induction_logit_high"] < 0
        kinds.append(row["kind"])
        if not clear:
            assert row["kind"] == "matching"
            assert row["why"].endswith("its effect on the right logit is not clear of 0")
    assert "matching" in kinds
