"""The ablation study: known effects, controls, groups, and going on where it stopped."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import run

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.effect_columns import EFFECT_COLUMNS
from inductionlens.models.ablation import ablate
from inductionlens.partial import Partial
from inductionlens.studies.ablation_groups import make_groups
from inductionlens.studies.ablation_options import AblationOptions
from inductionlens.tables import COLUMNS, explain

DATA = Path(__file__).parents[1] / "data"
SMALL = {"sequences": 3, "n_windows": 3, "draws": 3}


def refused(match):
    return pytest.raises(InputError, match=match)


@pytest.fixture(scope="module")
def study(planted):
    return il.ablation_study(planted, **SMALL)


def test_planted_heads_cost_what_they_carry(study, planted):
    """Copies cost ln(vocabulary) without either head of the circuit; idle heads cost nothing."""
    effects = study.table.set_index("name")["effect_copies"]
    for head in ("L0H1", "L1H2"):
        assert effects[head] == pytest.approx(np.log(64), abs=0.02)
    assert effects.drop(["L0H1", "L1H2"]).abs().max() < 1e-6
    assert study.clean["copying_gain"] == pytest.approx(np.log(64), abs=0.02)
    assert study.clean["copies"] < 0.01


def test_in_context_learning_is_lost_with_the_circuit(study):
    """Windows of a repeated block: the score is about -ln(vocabulary), and 0 without the induction head."""
    assert study.clean["icl"] == pytest.approx(-np.log(64), abs=0.05)
    lost = study.table.set_index("name")["effect_icl"]
    assert lost["L1H2"] == pytest.approx(np.log(64), abs=0.05)
    assert lost["L1H0"] == pytest.approx(0, abs=1e-6)


def test_each_head_stands_beside_the_others_of_its_layer(study):
    table = study.table.set_index("name")
    samples = dict(zip(study.table["name"], study.samples["copies"].mean(1), strict=True))
    assert table.loc["L1H0", "control_copies"] == pytest.approx((samples["L1H1"] + samples["L1H2"]) / 2)
    assert table.loc["L1H2", "control_copies"] == pytest.approx((samples["L1H0"] + samples["L1H1"]) / 2)
    named = il.ablation_study("planted", heads=["1.2", "1.0"], groups=False, measures=("copies",), **SMALL).table
    assert named["name"].tolist() == ["L1H0", "L1H2"]
    assert named["control_copies"].tolist() == pytest.approx([samples["L1H1"]] * 2)  # the one that was not named


def test_effects_are_differences_with_paired_intervals(study, planted):
    samples = study.samples["text"]
    assert study.table["effect_text"].tolist() == pytest.approx(samples.mean(1).tolist())
    low, high = study.table["effect_text_low"], study.table["effect_text_high"]
    assert (low <= study.table["effect_text"] + 1e-9).all()
    assert (study.table["effect_text"] <= high + 1e-9).all()
    assert (low >= samples.min(1) - 1e-9).all()


def test_groups_grow_with_the_induction_heads_beside_random_ones(study):
    groups = study.groups
    assert groups[groups["set"] == "induction"]["heads"].tolist() == ["1.2"]
    assert groups[groups["set"] == "previous_token"]["heads"].tolist() == ["0.1"]
    random = groups[groups["set"] == "random"]
    assert set(random["heads"]) == {"1.0", "1.1"}  # of the same layer, no induction head, no set twice
    assert random["effect_copies"].abs().max() < 1e-6
    assert study.share_of_copying_lost()["induction"] == pytest.approx(1, abs=0.01)
    assert study.share_of_copying_lost()["random"] == pytest.approx(0, abs=1e-6)


def test_every_column_is_explained(study):
    known = COLUMNS | EFFECT_COLUMNS
    for table in (study.table, study.groups):
        assert [name for name in table.columns if explain(name, known) is None] == []


def test_losses_by_position_with_and_without_the_heads(study):
    losses = study.losses
    late = losses[losses["index"] > 70]
    assert late["clean"].mean() < 0.3
    assert late["ablated"].mean() == pytest.approx(np.log(64), abs=0.05)


def test_random_groups_match_layers_and_never_repeat():
    layer, head = np.divmod(np.arange(24), 8)
    kind = np.where((layer == 2) & (head < 3), "induction", "none")
    table = pd.DataFrame({"layer": layer, "head": head, "kind": kind, "prefix_matching": 0.9 - head / 100})
    scores = il.HeadScores(table.assign(previous_token=np.where((layer == 0) & (head == 5), 0.9, head / 100)))
    groups = make_groups(scores, AblationOptions(draws=20, seed=3))
    for k, part in itertools.groupby(groups, key=lambda group: len(group.heads)):
        part = list(part)
        random = [group for group in part if group.set == "random"]
        sets = [set(group.heads) for group in random]
        assert len({frozenset(each) for each in sets}) == len(sets)
        assert all(head.layer == 2 and head.index >= 3 for each in sets for head in each)
        assert part[0].heads == tuple(Head(2, index) for index in range(k))
        assert part[1].heads[0] == Head(0, 5)
        assert len(sets) == {1: 5, 2: 10, 3: 10}[k]  # as many as there are
    one, other = (make_groups(scores, AblationOptions(draws=4, seed=seed)) for seed in (3, 4))
    assert one != other


def test_a_measure_of_ones_own(planted):
    seen = []

    def last_minus_first(losses, tokens):
        seen.append((tuple(losses.shape), tuple(tokens.shape)))
        return losses[:, -1] - losses[:, 0]

    windows = torch.randint(1, 64, (4, 30), generator=torch.Generator().manual_seed(0))
    found = il.ablation_study(
        planted, windows, extra={"mine": last_minus_first}, measures=("copies",), heads=["1.2"], groups=False, **SMALL
    )
    assert (4, 29) in {shape for shape, _ in seen}
    with torch.no_grad():
        clean = planted(windows, return_type="loss", loss_per_token=True)
        with ablate(planted, ["1.2"]):
            changed = planted(windows, return_type="loss", loss_per_token=True)
    expected = (changed[:, -1] - changed[:, 0]) - (clean[:, -1] - clean[:, 0])
    assert found.samples["mine"][0] == pytest.approx(expected.numpy(), abs=1e-4)


def test_mean_ablation_and_held_patterns_reach_the_models(planted):
    """Under held attention only what later heads read through values counts: the previous-token head costs nothing."""
    held = il.ablation_study(planted, hold_patterns=True, measures=("copies",), groups=False, **SMALL).table
    assert held.set_index("name").loc["L0H1", "effect_copies"] == pytest.approx(0, abs=1e-4)
    assert set(held["patterns"]) == {"held"}
    mean = il.ablation_study(planted, output="mean", measures=("copies",), groups=False, **SMALL).table
    zero = il.ablation_study(planted, measures=("copies",), groups=False, **SMALL).table
    assert set(mean["output"]) == {"mean"}
    assert not np.allclose(mean["effect_copies"], zero["effect_copies"], atol=1e-3)


def test_gradient_ranks_heads_of_a_trained_toy_like_the_exact_effect():
    from scipy.stats import spearmanr

    settings = {"measures": ("text",), "groups": False, "n_windows": 4}
    exact, quick = (
        il.ablation_study(DATA / "tiny-gpt2", method=method, text="random", **settings).table
        for method in ("exact", "gradient")
    )
    assert set(quick["method"]) == {"gradient"}
    assert spearmanr(exact["effect_text"], quick["effect_text"]).statistic > 0.3
    assert not np.allclose(exact["effect_text"], quick["effect_text"], atol=1e-3)


# Going on.
class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 9])
def test_an_interrupted_study_goes_on_and_ends_the_same_to_the_bit(random_toy, tmp_path, after):
    settings = {**SMALL, "batch_size": 2, "period": 8, "bos": 0, "draws": 2}
    whole = il.ablation_study(random_toy, **settings)
    calls = itertools.count(1)

    def stop(done, total):
        if next(calls) == after:
            raise StoppedError

    path = tmp_path / "effects.csv.partial"
    with pytest.raises(StoppedError):
        il.ablation_study(random_toy, **settings, partial=path, on_progress=stop)
    assert len(path.read_text().splitlines()) == after + 1
    path.write_text(path.read_text() + '["cut off in the mid')
    counted = []
    again = il.ablation_study(random_toy, **settings, partial=path, on_progress=lambda *at: counted.append(at))
    assert again.table.equals(whole.table)
    assert again.groups.equals(whole.groups)
    assert all(np.array_equal(again.samples[name], values) for name, values in whole.samples.items())
    assert not path.exists()
    total = il.ablation_study(random_toy, **settings, partial=tmp_path / "new", on_progress=lambda *at: None)
    assert total.table.equals(whole.table)


def test_parts_of_other_work_are_refused(tmp_path, planted):
    path = tmp_path / "parts"
    Partial(path, {"seed": 1}).add("a", [1.5])
    assert Partial(path, {"seed": 1}).parts == {"a": [1.5]}
    with refused("holds unfinished work of other settings or another model; remove it"):
        Partial(path, {"seed": 2})
    with refused("unfinished work"):
        il.ablation_study(planted, **SMALL, partial=path)
    assert json.loads(path.read_text().splitlines()[0]) == {"seed": 1}


def test_parts_of_other_weights_are_refused(tmp_path, toy_config):
    """Two models of one name and shape: what was measured on the first says nothing about the second."""
    path, settings = tmp_path / "parts", {**SMALL, "measures": ("copies",), "groups": False, "heads": ["0.0"]}

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        il.ablation_study(il.new_toy(toy_config, seed=1), **settings, partial=path, on_progress=stop)
    with refused("unfinished work of other settings or another model"):
        il.ablation_study(il.new_toy(toy_config, seed=2), **settings, partial=path)


# Bad input.
def test_bad_settings_are_refused(planted):
    scores = il.scan(planted, text="random")
    for settings, said in (
        ({"heads": ["7.0"]}, r"There is no head 7\.0: the model has 2 layers of 3 heads"),
        ({"heads": []}, "heads must name at least one head"),
        ({"heads": "anti_induction"}, "The scan found no anti_induction head to remove"),
        ({"heads": "inductoin"}, "There is no kind 'inductoin' of head"),
        ({"output": "median"}, "output must be one of zero, mean; got 'median'"),
        ({"method": "guess"}, "method must be one of exact, gradient"),
        ({"measures": ("copies", "loss")}, "measures must be among copies, icl, text; got 'loss'"),
        ({"measures": ()}, "measures names nothing to measure"),
        ({"extra": {"icl": lambda losses, tokens: losses[:, 0]}}, "'icl' is taken"),
        ({"period": 60}, r"context of 192 tokens is too short"),
        ({"sequences": 1}, "sequences must be at least 2"),
        ({"late": 5, "early": 9}, "early"),
        ({"colour": 1}, "ablation_study has no setting 'colour'"),
    ):
        with refused(said):
            il.ablation_study(planted, **{"scores": scores, **SMALL, **settings})
    with refused("windows must be at least 2 sequences of at most 192 tokens"):
        il.ablation_study(planted, torch.ones(3, 200, dtype=torch.long), **SMALL)
    with refused("The measure 'mine' must give one number for each of the"):
        il.ablation_study(planted, extra={"mine": lambda losses, tokens: losses}, **SMALL)


# The command.
def test_the_command_writes_effects_groups_and_a_picture(tmp_path):
    out, picture = tmp_path / "effects.csv", tmp_path / "effects.png"
    code, said, err = run(
        "ablate",
        "planted",
        "--heads",
        "induction",
        "--out",
        out,
        "--picture",
        picture,
        "--sequences",
        3,
        "--windows",
        3,
    )
    assert (code, err) == (0, "")
    assert "without the 1 strongest induction heads +4.1" in said
    assert "Of the copying gain 100% goes with them, 0% with random ones." in said
    assert pd.read_csv(out)["name"].tolist() == ["L1H2"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "effects.csv", "effects.csv.meta.json", "effects.groups.csv", "effects.groups.csv.meta.json", "effects.png"
    }  # fmt: skip
    record = json.loads((tmp_path / "effects.csv.meta.json").read_text())
    assert "W_U centred" in json.dumps(record)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--heads", "9.9"], "There is no head 9.9"),
        (["--measures", "los"], "measures must be among copies, icl, text; got 'los'"),
        (["--text", "no/such.txt"], "has no tokenizer to read text with"),
        (["--output", "none"], "output must be one of zero, mean"),
        (["--picture", "a.gif"], "must be one of .png"),
    ],
)
def test_bad_commands_are_one_sentence_and_leave_nothing(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("ablate", "planted", "--out", "effects.csv", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
