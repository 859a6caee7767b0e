"""Heads, verdicts, intervals, text and training rows."""

import numpy as np
import pandas as pd
import pytest
import torch

import inductionlens as il
from inductionlens import Head, InputError, corpus, detection
from inductionlens.detection import KINDS
from inductionlens.intervals import mean_interval, ratio_interval
from inductionlens.models.training import train
from inductionlens.training_data import paste_segments, random_rows, text_rows


# Heads.
@pytest.mark.parametrize("name", ["5.1", "L5H1", "l5h1", " 5.1 ", (5, 1), Head(5, 1)])
def test_every_spelling_is_the_same_head(name):
    assert Head.parse(name) == Head(5, 1)


def test_heads_print_as_they_are_typed():
    assert (str(Head(5, 10)), repr(Head(5, 10)), Head(5, 10).label) == ("5.10", "Head(5, 10)", "L5H10")
    assert Head.parse("5.10") != Head.parse("5.1")
    assert sorted([Head(1, 0), Head(0, 2)]) == [Head(0, 2), Head(1, 0)]


@pytest.mark.parametrize("name", ["", "5", "5.1.2", "H5", "-1.0", "L5", "5.x", (1, -1)])
def test_other_spellings_are_refused(name):
    with pytest.raises(InputError, match=r"A head is named like 5.1, L5H1 or \(5, 1\)"):
        Head.parse(name)


def test_heads_outside_the_model_are_refused(planted):
    with pytest.raises(InputError, match=r"There is no head 7.0: the model has 2 layers of 3 heads."):
        Head(7, 0).check(2, 3)
    scores = il.scan(planted, sequences=2)
    assert scores["1.2"]["name"] == "L1H2"
    with pytest.raises(InputError, match=r"There is no head 0.3"):
        scores["0.3"]


# Verdicts.
CLEAR = {"prefix_matching": 0.9, "prefix_matching_gapped": 0.8, "q_value": 0.001, "induction_logit": 1.0}


def head_row(**scores):
    base = {
        "prefix_matching": 0.03, "prefix_matching_gapped": 0.02, "prefix_matching_fresh": 0.03,
        "prefix_matching_untrained": 0.05, "q_value": 0.9, "induction_logit": 0.0, "previous_token": 0.0,
        "duplicate_token": 0.0, "copying": 0.5, "copying_low": 0.4, "copying_high": 0.6,
    }  # fmt: skip
    row = {**base, **scores}
    effect = row["induction_logit"]
    return {"induction_logit_low": effect - 0.5, "induction_logit_high": effect + 0.5, **row}


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        (CLEAR, "induction"),
        ({**CLEAR, "prefix_matching": 0.4}, "induction"),
        ({**CLEAR, "prefix_matching": 0.39}, "none"),
        ({**CLEAR, "prefix_matching": float("nan")}, "none"),
        ({**CLEAR, "q_value": 0.05}, "induction"),
        ({**CLEAR, "q_value": 0.051}, "none"),
        ({**CLEAR, "q_value": float("nan")}, "none"),
        ({**CLEAR, "prefix_matching_fresh": 0.85}, "none"),
        ({**CLEAR, "prefix_matching_untrained": 0.95}, "none"),
        ({**CLEAR, "induction_logit": 0.0}, "matching"),
        ({**CLEAR, "induction_logit": 0.4}, "matching"),
        ({**CLEAR, "induction_logit": -0.4}, "matching"),
        ({**CLEAR, "induction_logit": float("nan")}, "matching"),
        ({**CLEAR, "copying_low": -0.6, "copying_high": -0.1}, "mixed"),
        ({**CLEAR, "copying_low": -0.6, "copying_high": 0.1}, "induction"),
        ({**CLEAR, "copying_low": float("nan"), "copying_high": float("nan")}, "induction"),
        ({**CLEAR, "induction_logit": -1.0, "copying_low": -0.6, "copying_high": -0.1}, "anti_induction"),
        ({**CLEAR, "induction_logit": -1.0}, "mixed"),
        ({"previous_token": 0.41}, "previous_token"),
        ({"duplicate_token": 0.41}, "duplicate_token"),
        ({**CLEAR, "previous_token": 0.5}, "induction"),
    ],
)
def test_rules(scores, kind):
    found, why = detection.verdicts(pd.DataFrame([head_row(**scores)]))
    assert found == [kind]
    assert why[0]


def test_without_controls_only_threshold_and_effect_count():
    row = head_row(**CLEAR, prefix_matching_fresh=0.9, prefix_matching_untrained=0.95) | {"q_value": float("nan")}
    assert detection.verdicts(pd.DataFrame([row]))[0] == ["none"]
    assert detection.verdicts(pd.DataFrame([row]), controlled=False)[0] == ["induction"]


def test_the_threshold_is_a_parameter_and_every_condition_has_a_source():
    table = pd.DataFrame([head_row(**CLEAR)])
    assert detection.verdicts(table, 0.95)[0] == ["none"]
    assert all(condition.source for rule in detection.RULES for condition in rule.conditions)
    assert {rule.kind for rule in detection.RULES} | {"none"} == set(KINDS)


def test_why_tells_the_numbers_or_what_is_missing():
    rows = [head_row(**CLEAR), head_row(**{**CLEAR, "q_value": 0.5}), head_row(), head_row(previous_token=0.7)]
    _, why = detection.verdicts(pd.DataFrame(rows))
    assert why == [
        "prefix matching 0.90, 0.80 with uneven gaps, 0.03 where nothing repeats, q = 0.001; right logit +1.00 "
        "[+0.50, +1.50]; "
        "copying +0.50",
        "prefix matching 0.90, 0.80 with uneven gaps, 0.03 where nothing repeats, q = 0.5; right logit +1.00 "
        "[+0.50, +1.50]; "
        "copying +0.50; but not q_value <= 0.05",
        "no attention score reaches 0.4",
        "0.70 of its attention goes one token back",
    ]


@pytest.mark.parametrize(
    ("gain", "low", "kind", "attention", "start"),
    [
        (2.0, 1.5, "induction", 0.9, "The model copies, with induction heads ("),
        (2.0, 1.5, "none", 0.1, "The model copies, but no induction head was found ("),
        (0.5, 0.4, "induction", 0.9, "The model does not copy, though 1 head matches prefixes ("),
        (2.0, -0.1, "induction", 0.9, "The model does not copy, though 1 head matches prefixes ("),
        (0.5, 0.4, "none", 0.1, "The model does not copy and no head matches prefixes ("),
    ],
)
def test_four_cases_in_words(gain, low, kind, attention, start):
    row = {
        "kind": kind,
        "prefix_matching": attention,
        "offset_peak_value": 0.17,
        "offset_peak": 3,
        "layer": 2,
        "head": 1,
        "why": "prefix matching 0.10; but not q_value <= 0.05",
    }
    behaviour = {
        "copying_gain": gain, "copying_gain_low": low,
        "loss_first_copy": 5.0, "loss_later_copies": 5.0 - gain, "ln_vocabulary": 6.0,
    }  # fmt: skip
    said = detection.copying_case(behaviour, pd.DataFrame([row]))
    assert said.startswith(start)
    assert f"5.00 nats on first copies, {5 - gain:.2f} on later ones, 6.00 for a uniform guess" in said
    if "no induction head" in start:
        assert said.endswith(
            "0.17 at +3 from the copy, head 2.1 (none: prefix matching 0.10; but not q_value <= 0.05)."
        )


# Intervals.
def test_intervals_cover_the_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    low, high = mean_interval(rng.normal(3, 1, (600, 40)))
    covered = ((low < 3) & (high > 3)).mean()
    assert 0.90 < covered < 0.97


def test_ratio_intervals_are_of_the_ratio_of_sums():
    rng = np.random.default_rng(0)
    below = rng.uniform(1, 9, (500, 40))
    low, high = ratio_interval(0.5 * below + rng.normal(0, 1, below.shape), below)
    covered = ((low < 0.5) & (high > 0.5)).mean()
    assert 0.90 < covered < 0.97
    exact = ratio_interval(0.25 * below, below)
    assert np.allclose(exact, 0.25)


def test_rows_do_not_disturb_each_others_intervals():
    values = np.random.default_rng(0).normal(size=(5, 12))
    first = mean_interval(values)
    holed = values.copy()
    holed[2] = np.nan
    low, _ = mean_interval(holed)
    assert np.isnan(low[2])
    assert np.array_equal(np.delete(low, 2), np.delete(first[0], 2))


# Text.
def test_the_standard_library_is_there_without_its_tests():
    texts = list(corpus.python_stdlib())
    names = [text.name for text in texts]
    assert len(names) > 300
    assert names == sorted(names)
    assert "ast.py" in names
    assert not any("test" in name.split("/")[:-1] or name.startswith("site-packages") for name in names)
    assert corpus.digest(texts) == corpus.digest(texts)


def test_windows_start_with_one_bos_and_the_seed_orders_the_texts():
    texts = [corpus.Text(str(index), chr(97 + index) * 50) for index in range(8)]

    def encode(text):
        return [ord(letter) for letter in text]

    rows = corpus.text_windows(texts, encode, windows=5, length=10, bos=0, seed=1)
    assert rows.shape == (5, 10)
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:] > 0).all()
    assert len(set(rows[:, 1].tolist())) == 5
    assert not torch.equal(rows, corpus.text_windows(texts, encode, windows=5, length=10, bos=0, seed=2))
    assert corpus.text_windows(texts, encode, windows=2, length=10, bos=None, seed=1).min() > 0


def test_one_long_text_gives_a_window_from_each_of_its_pieces():
    """Pieces of 16 characters a token: window n starts where piece n starts."""
    text = "".join(chr(33 + place // 144) for place in range(144 * 6))
    rows = corpus.text_windows(
        [corpus.Text("book", text)], lambda piece: [ord(c) for c in piece], windows=6, length=10, bos=0, seed=0
    )
    assert sorted(rows[:, 1].tolist()) == [33 + piece for piece in range(6)]


# Training rows and training.
def test_pasted_segments_repeat_at_uneven_distances_and_leave_bos_alone():
    rows = torch.zeros(4, 200, dtype=torch.long)
    ids = torch.arange(1, 1000)
    pasted = paste_segments(rows, ids, generator=np.random.default_rng(0), segment=(5, 5), gap=(2, 9), stretch=100)
    assert (rows == 0).all()
    assert (pasted[:, 0] == 0).all()
    for row in pasted:
        first_half = [value for value in row[1:101].tolist() if value]
        assert len(set(first_half)) <= 5
        places = (row[1:101] == first_half[0]).nonzero()[:, 0]
        assert len(set(places.diff().tolist())) > 1


def test_rows_of_text_and_of_noise_start_with_bos():
    generator = np.random.default_rng(0)
    stream = torch.arange(100, 400)
    rows = text_rows(stream, 6, 20, bos=7, generator=generator)
    assert (rows[:, 0] == 7).all()
    assert (rows[:, 2:] - rows[:, 1:-1] == 1).all()
    noise = random_rows(50, 20, torch.arange(3, 9), bos=1, generator=generator)
    assert (noise[:, 0] == 1).all()
    assert set(noise[:, 1:].flatten().tolist()) == set(range(3, 9))


def test_training_lowers_the_loss_and_counts_its_steps(toy_config):
    model = il.new_toy(toy_config, seed=0)
    rows = torch.arange(16).repeat(8, 4)
    seen = []

    def batches():
        while True:
            yield rows

    train(
        model, lambda batch: model(batch, return_type="loss"), batches(),
        steps=30, warmup=5, on_step=lambda step, loss: seen.append((step, loss)),
    )  # fmt: skip
    assert [step for step, _ in seen] == list(range(1, 31))
    assert seen[-1][1] < 0.5 * seen[0][1]
    assert not model.training
