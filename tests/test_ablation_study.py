"""The ablation study: known effects, controls, groups, and going on where it stopped."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from test_cli import run

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.cli.ablate import _summary
from inductionlens.effect_columns import EFFECT_COLUMNS
from inductionlens.files import read_raw
from inductionlens.models.ablation import ablate
from inductionlens.models.named_weights import named_weights
from inductionlens.partial import Partial
from inductionlens.paths import PathEffects
from inductionlens.plots.effects import draw_effects, draw_group_curve, plot_study
from inductionlens.studies.ablation_groups import Group, make_groups, why_fewer
from inductionlens.studies.ablation_options import AblationOptions
from inductionlens.studies.ablation_stimuli import copies_probe
from inductionlens.studies.ablation_tables import group_rows
from inductionlens.studies.ablation_writers import holds_writer, largest_share_lost, measure_writers
from inductionlens.tables import COLUMNS, explain

DATA = Path(__file__).parents[1] / "data"
SMALL = {"sequences": 5, "n_windows": 5, "draws": 3}


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


def test_each_head_stands_beside_the_heads_of_no_kind_in_its_layer(study):
    samples = dict(zip(study.table["name"], study.samples["copies"].mean(1), strict=True))
    beside = study.table.set_index("name")["control_copies"]
    assert beside["L1H0"] == pytest.approx(samples["L1H1"])  # not 1.2, an induction head
    assert beside["L1H2"] == pytest.approx((samples["L1H0"] + samples["L1H1"]) / 2)
    assert beside["L0H0"] == pytest.approx(samples["L0H2"])  # not 0.1, a previous-token head


def called(scores, kinds, **columns):
    """The same scan with other kinds: head -> kind, all others of none."""
    table = scores.table.assign(kind=[kinds.get(name, "none") for name in scores.table["name"]], **columns)
    return il.HeadScores(table)


@pytest.fixture(scope="module")
def mixed_layer():
    """A random toy and a scan of it that calls two heads of layer 1 induction heads, one a previous-token head, and
    all but one head of layer 0 induction heads."""
    config = il.ToyConfig(n_layers=2, n_heads=4, d_model=24, d_head=8, d_vocab=48, n_ctx=128, d_mlp=40)
    model = il.new_toy(config, seed=5)
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            weight.mul_(4.0 if "attn.W_" in name else 1.0)
    kinds = {"L1H0": "induction", "L1H3": "induction", "L1H2": "previous_token"}
    kinds |= {"L0H0": "induction", "L0H1": "induction", "L0H3": "induction"}
    return model, called(il.scan(model, text="random", controls=False), kinds)


CONTROLS = {"sequences": 3, "period": 8, "measures": ("copies",), "groups": False}


@pytest.mark.parametrize("heads", ["induction", "all", ["1.0"]])
def test_a_control_depends_on_the_scan_and_not_on_the_heads_asked_for(mixed_layer, heads):
    """1.0 stands beside 1.1 alone: 1.2 and 1.3 are of a kind. 1.1 and 0.2 are the only ones of none in their layers."""
    model, scores = mixed_layer
    alone = il.ablation_study(model, heads=["1.1"], scores=scores, **CONTROLS)
    table = il.ablation_study(model, heads=heads, scores=scores, **CONTROLS).table.set_index("name")
    assert table.loc["L1H0", "control_copies"] == pytest.approx(alone.table["effect_copies"].iloc[0], abs=1e-6)
    assert np.isnan(alone.table["control_copies"].iloc[0])


def test_controls_equal_their_twins(mixed_layer):
    """Each head removed by itself in a whole run, and plain loops over the kinds."""
    model, scores = mixed_layer
    kinds = dict(zip(scores.table["name"], scores.table["kind"], strict=True))
    tokens = copies_probe(model, AblationOptions(**CONTROLS)).tokens

    def loss():
        with torch.no_grad():
            losses = model(tokens, return_type="loss", loss_per_token=True)
        later = [at for at in range(losses.shape[1]) if at >= 8 and at % 8 != 0]  # BOS at 0; entry i: token i + 1
        return float(np.mean([[float(row[at]) for at in later] for row in losses]))

    clean, cost = loss(), {}
    for head in (Head(layer, index) for layer in range(2) for index in range(4)):
        with ablate(model, [head]):
            cost[head] = loss() - clean
    table = il.ablation_study(model, scores=scores, **CONTROLS).table
    for row in table.to_dict("records"):
        beside = []
        for other, effect in cost.items():
            same_layer, itself = other.layer == row["layer"], other.label == row["name"]
            if same_layer and not itself and kinds[other.label] == "none":
                beside.append(effect)
        assert row["effect_copies"] == pytest.approx(cost[Head(row["layer"], row["head"])], abs=1e-5)
        if beside:
            assert row["control_copies"] == pytest.approx(sum(beside) / len(beside), abs=1e-5)
        else:
            assert np.isnan(row["control_copies"])


def test_effects_are_differences_with_paired_intervals(study, planted):
    samples = study.samples["text"]
    assert study.table["effect_text"].tolist() == pytest.approx(samples.mean(1).tolist())
    low, high = study.table["effect_text_low"], study.table["effect_text_high"]
    assert (low <= study.table["effect_text"] + 1e-9).all()
    assert (study.table["effect_text"] <= high + 1e-9).all()
    assert (low >= 2 * samples.min(1) - samples.max(1) - 1e-9).all()


def test_groups_grow_with_the_induction_heads_beside_random_ones(study):
    groups = study.groups
    assert groups[groups["set"] == "induction"]["heads"].tolist() == ["1.2"]
    assert groups[groups["set"] == "previous_token"]["heads"].tolist() == ["0.1"]
    random = groups[groups["set"] == "random"]
    assert set(random["heads"]) == {"1.0", "1.1"}  # of the same layer, no induction head, no set twice
    assert random["effect_copies"].abs().max() < 1e-6
    assert study.share_of_copying_lost()["induction"] == pytest.approx(1, abs=0.01)
    assert study.share_of_copying_lost()["random"] == pytest.approx(0, abs=1e-6)


def test_the_copying_gain_is_of_the_sequences_that_are_ablated(random_toy):
    """Not of the scan's ten others; absent where copies are not measured."""
    settings = {**SMALL, "period": 8, "repeats": 3, "bos": 0}
    scores = il.scan(random_toy, text="random", controls=False, bos=0)
    kinds = called(scores, {"L1H1": "induction"}, copying_gain=123.0)
    study = il.ablation_study(random_toy, scores=kinds, measures=("copies",), **settings)
    tokens = copies_probe(random_toy, AblationOptions(**settings)).tokens
    with torch.no_grad():
        losses = random_toy(tokens, return_type="loss", loss_per_token=True)
    first, second, third = losses[:, :8], losses[:, 9:16], losses[:, 17:24]  # later blocks without their first token
    gain = float((first.mean(1) - (second.mean(1) + third.mean(1)) / 2).mean())
    assert study.clean["copying_gain"] == pytest.approx(gain, abs=1e-5)
    cost = study.groups[study.groups["set"] == "induction"]["effect_copies"].iloc[0]
    assert study.share_of_copying_lost()["induction"] == pytest.approx(cost / gain, rel=1e-3)
    groups = pd.DataFrame({"set": ["induction", "random", "induction", "random", "random"], "k": [1, 1, 2, 2, 2]})
    groups = groups.assign(effect_copies=[5.0, 7.0, 1.0, 0.0, 4.0])  # the largest group counts, and the mean over draws
    curve = dataclasses.replace(study, groups=groups, clean={"copying_gain": 2.0})
    assert curve.share_of_copying_lost() == {"induction": 0.5, "random": 1.0}
    without = il.ablation_study(random_toy, scores=kinds, measures=("icl",), **settings)
    assert "copying_gain" not in without.clean
    assert np.isnan(list(without.share_of_copying_lost().values())).all()


def test_blocks_hold_no_bos(random_toy):
    probe = copies_probe(random_toy, AblationOptions(bos=20))
    assert probe.tokens[:, 0].eq(20).all()
    assert not probe.tokens[:, 1:].eq(20).any()


# Groups beside random ones.
def test_p_values_count_random_sets_that_cost_as_much():
    """(C + 1) / (n + 1) by hand: ties count, sets of other sizes and random sets themselves do not."""
    heads = [Head(0, index) for index in range(4)]
    groups = [
        Group("induction", 0, (heads[0],)),
        Group("previous_token", 0, (heads[1],)),
        *(Group("random", draw, (heads[1 + draw],), "same") for draw in range(3)),
        Group("induction", 0, tuple(heads[:2])),
        Group("random", 0, tuple(heads[2:]), "any"),
        Group("induction", 0, tuple(heads[:3])),
    ]
    means = np.array([2.0, 1.0, 2.0, 3.0, 0.5, 9.0, 10.0, 1.0])
    effects = {"copies": np.vstack([np.full((2, 4), 77.0), means[:, None] + np.array([-1.0, 0.0, 0.5, 0.5])])}
    table = group_rows(groups, 2, effects, AblationOptions(), [""] * len(groups))
    expected = [(2 + 1) / (3 + 1), (2 + 1) / (3 + 1), None, None, None, (1 + 1) / (1 + 1), None, None]
    for p, by_hand in zip(table["p_copies"], expected, strict=True):
        assert p == by_hand if by_hand is not None else np.isnan(p)
    assert table["effect_copies"].tolist() == means.tolist()
    assert table["from_layers"].tolist() == ["", "", "same", "same", "same", "", "any", ""]


def test_the_rarest_p_is_above_0(study):
    groups = study.groups.set_index("set")
    assert groups.loc["induction", "p_copies"] == pytest.approx(1 / 3)  # two random sets, neither costs as much
    assert groups.loc["previous_token", "p_icl"] == pytest.approx(1 / 3)
    assert groups.loc["random", "p_copies"].isna().all()


def two_readers(planted):
    """A scan of the planted model that calls 1.2 and the idle 1.1 induction heads: two removed together leave too few
    others in layer 1, so that random sets of two are of any layer."""
    strength = {"L1H2": 0.9, "L1H1": 0.8}
    scores = il.scan(planted, text="random")
    matching = [strength.get(name, 0.0) for name in scores.table["name"]]
    return called(scores, dict.fromkeys(strength, "induction"), prefix_matching=matching)


def test_random_sets_say_whether_they_hold_the_writer(planted):
    """0.1 writes what 1.2 reads, and nothing else does: every set with it breaks copying, every set without costs 0."""
    options = {"measures": ("copies",), "heads": ["1.2"], "sequences": 3, "draws": 20}
    study = il.ablation_study(planted, scores=two_readers(planted), **options)
    groups = study.groups.assign(n=study.groups["heads"].str.split().map(len))
    random = groups[groups["set"] == "random"]
    pairs = random[random["k"] == 2]
    assert len(pairs) == 6  # all pairs of 0.0, 0.1, 0.2 and 1.0
    assert set(pairs["from_layers"]) == {"any"}
    for row in random.to_dict("records"):
        assert row["holds_writer"] == ("yes" if "0.1" in row["heads"].split() else "no"), row
    assert set(pairs["holds_writer"]) == {"yes", "no"}
    assert (pairs[pairs["holds_writer"] == "yes"]["effect_copies"] > 4).all()
    assert pairs[pairs["holds_writer"] == "no"]["effect_copies"].abs().max() < 1e-6
    others = groups[groups["set"] != "random"]
    assert set(others["holds_writer"]) == set(others["from_layers"]) == {""}
    assert study.provenance["groups"]["writers"] == {"0.1": pytest.approx(1, abs=1e-3)}


@pytest.mark.parametrize(("kind", "via"), [("induction", "k"), ("pointer", "q"), ("v-composition", "v")])
def test_writers_are_found_through_every_input(kind, via):
    """Planted answers: 1.2 reads 0.1 through one input, and no other head."""
    model = il.planted(kind)
    drawn = [Group("random", index, (Head(0, index), Head(1, index))) for index in range(3)]
    groups = [Group("induction", 0, (Head(1, 2), Head(1, 1))), *drawn]
    writers, obstacle = measure_writers(model, groups, AblationOptions())
    assert obstacle == ""
    assert {reader: set(read) for reader, read in writers.items()} == {Head(1, 2): {Head(0, 1)}, Head(1, 1): set()}
    assert holds_writer(groups, writers) == ["", "no", "yes", "no"]


def test_only_heads_that_the_k_removed_heads_read_are_their_writers():
    one, two, other = Head(1, 0), Head(1, 1), Head(0, 0)
    groups = [
        Group("induction", 0, (one,)), Group("random", 0, (other,)),
        Group("induction", 0, (one, two)), Group("random", 0, (other, Head(0, 1))),
    ]  # fmt: skip
    assert holds_writer(groups, {one: {}, two: {other: 0.5}}) == ["", "no", "", "yes"]
    assert holds_writer(groups, {}) == [""] * 4


def test_readers_may_stand_in_several_layers(planted):
    groups = [Group("induction", 0, (Head(0, 0), Head(1, 2))), Group("random", 0, (Head(0, 1), Head(1, 0)))]
    writers, _ = measure_writers(planted, groups, AblationOptions())
    assert {reader: set(read) for reader, read in writers.items()} == {Head(0, 0): set(), Head(1, 2): {Head(0, 1)}}


def test_a_share_of_a_tenth_makes_a_writer(monkeypatch, planted):
    shares = np.array([[0.0999], [0.1], [np.nan]])
    monkeypatch.setattr("inductionlens.studies.ablation_writers.largest_share_lost", lambda paths: shares)
    groups = [Group("induction", 0, (Head(1, 2),)), *(Group("random", at, (Head(0, at),)) for at in range(3))]
    writers, _ = measure_writers(planted, groups, AblationOptions())
    assert writers == {Head(1, 2): {Head(0, 1): 0.1}}


def test_the_largest_share_equals_its_twin():
    """Each way of taking a writer away, one at a time, in plain loops; less than nothing has nothing to lose."""
    generator = np.random.default_rng(0)
    shape = (20, 2, 4)
    ways = [generator.uniform(0, 1.2, shape) for _ in range(7)]
    kinds = list(itertools.product(("total", "direct"), "qkv"))
    prefix, logit = dict(zip(kinds, ways[:6], strict=True)), {kind: generator.normal(size=shape) for kind in kinds}
    clean, gain = generator.uniform(0.5, 1, shape[1:]), np.array([[2.0, 1.0, 3.0, 1.0], [-1.0, -2.0, 0.5, 0.0]])
    for way in (*prefix.values(), *logit.values(), ways[6]):
        way[2, 0] = np.nan  # stands in no earlier layer
    found = largest_share_lost(PathEffects(clean, gain, prefix, logit, ways[6]))
    for writer, reader in itertools.product(range(20), range(2)):
        lost = []
        for way in (ways[6], prefix["total", "q"], prefix["total", "k"]):
            lost.append(1 - sum(way[writer, reader]) / sum(clean[reader]))
        if sum(gain[reader]) > 0:
            lost.append(1 - sum(logit["total", "v"][writer, reader]) / sum(gain[reader]))
        if (writer, reader) == (2, 0):
            assert np.isnan(found[writer, reader])
        else:
            assert found[writer, reader] == pytest.approx(max(lost))


def test_where_paths_cannot_be_measured_the_column_is_empty_and_the_record_says_why(planted, monkeypatch):
    monkeypatch.setattr("inductionlens.paths.ov_obstacle", lambda model: "a norm follows")
    study = il.ablation_study(planted, scores=two_readers(planted), measures=("copies",), heads=["1.2"], **SMALL)
    assert set(study.groups["holds_writer"]) == {""}
    assert "a norm follows" in study.provenance["groups"]["writers_not_measured"]
    assert study.provenance["groups"]["writers"] == {}


def test_heads_of_the_first_layer_read_no_head():
    model = il.new_toy(il.ToyConfig(n_layers=1, n_heads=3, d_model=24, d_head=8, d_vocab=48, n_ctx=128), seed=1)
    scores = called(il.scan(model, text="random", controls=False), {"L0H1": "induction"})
    study = il.ablation_study(model, scores=scores, measures=("copies",), **SMALL)
    random = study.groups[study.groups["set"] == "random"]
    assert set(random["holds_writer"]) == {"no"}
    assert study.provenance["groups"] == {"fewer": "", "writers": {}, "writers_not_measured": ""}


def test_groups_that_are_missing_are_explained():
    layer, head = np.divmod(np.arange(24), 12)
    scores = il.HeadScores(
        pd.DataFrame({"layer": layer, "head": head, "prefix_matching": 0.5, "previous_token": 0.1, "kind": "none"})
    )

    def told(n_induction, **settings):
        kind = np.where(np.arange(24) < n_induction, "induction", "none")
        scored, options = il.HeadScores(scores.table.assign(kind=kind)), AblationOptions(**settings)
        return why_fewer(scored, options), max((len(group.heads) for group in make_groups(scored, options)), default=0)

    assert told(3) == ("", 3)
    assert told(8) == ("", 8)
    assert told(16) == ("groups have at most 8 of the 16 induction heads", 8)
    assert told(0) == ("the scan found no induction head", 0)
    assert told(24) == ("all heads are induction heads, so there are no others beside them", 0)
    assert told(22) == ("there are 22 induction heads and 2 other heads", 2)
    assert told(9) == ("groups have at most 8 of the 9 induction heads", 8)
    assert told(3, groups=False)[0] == "groups were not asked for"
    assert told(3, method="gradient")[0] == "the gradient estimate is of single heads"


def test_the_groups_table_comes_back_from_its_file(study, tmp_path):
    study.save(tmp_path / "effects.csv")
    again, record = read_raw(tmp_path / "effects.groups.csv", None)
    for name in ("from_layers", "holds_writer", "set", "heads"):
        assert again[name].tolist() == study.groups[name].tolist()
    assert [float(p) for p in again["p_copies"] if p] == study.groups["p_copies"].dropna().tolist()
    assert record["groups"]["writers"] == study.provenance["groups"]["writers"]


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
        assert {group.from_layers for group in random} == {"same"}
        assert {group.from_layers for group in part[:2]} == {""}
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


@pytest.fixture
def padded(gpt2_folder):
    """A model whose tokenizer pads with a token of its own, and windows of 30, 25 and 40 tokens filled up to 40."""
    model = il.load_model(gpt2_folder)
    model.tokenizer.pad_token = "z"
    tokens = torch.randint(100, 250, (5, 40), generator=torch.Generator().manual_seed(0))
    tokens[0, 30:] = tokens[1, 25:] = model.tokenizer.pad_token_id
    return model, tokens


def test_effects_leave_padding_out(padded):
    """What follows the text decides nothing: the same table where each window is measured alone, cut to its text."""
    model, tokens = padded
    how = {"groups": False, "period": 8, "sequences": 2, "repeats": 2}
    found = il.ablation_study(model, tokens, measures=("text", "icl"), **how)
    assert "25 positions of padding left out; icl: token 23 minus 4" in found.provenance["stimuli"]["windows"]
    for row, length in enumerate((30, 25, 40, 40, 40)):
        alone = il.ablation_study(
            model, tokens[row, :length].repeat(2, 1), measures=("text", "icl"), late=23, early=4, **how
        )
        for name in ("text", "icl"):
            assert np.allclose(found.samples[name][:, row], alone.samples[name][:, 0], atol=1e-5)


@pytest.mark.parametrize("output", ["zero", "mean"])
def test_other_padding_changes_no_effect(output, padded, monkeypatch):
    model, tokens = padded
    how = {"groups": False, "period": 8, "sequences": 2, "repeats": 2, "measures": ("text",), "output": output}
    first = il.ablation_study(model, tokens, **how)
    other = model.tokenizer.convert_tokens_to_ids("q")
    tokens = torch.where(tokens == model.tokenizer.pad_token_id, other, torch.where(tokens == other, 99, tokens))
    model.tokenizer.pad_token = "q"
    again = il.ablation_study(model, tokens, **how)
    assert np.allclose(first.samples["text"], again.samples["text"], atol=1e-5)


def test_a_measure_of_ones_own_sees_no_padding(padded):
    model, tokens = padded
    how = {"groups": False, "period": 8, "sequences": 2, "repeats": 2, "measures": ("text",)}
    found = il.ablation_study(model, tokens, extra={"mine": lambda losses, tokens: losses.nanmean(1)}, **how)
    assert found.table["effect_mine"].tolist() == found.table["effect_text"].tolist()
    with refused(r"measure 'mine' gives no number where windows are padded: the losses of padding are NaN; .*nanmean"):
        il.ablation_study(model, tokens, extra={"mine": lambda losses, tokens: losses.mean(1)}, **how)


def test_mean_ablation_and_held_patterns_reach_the_models(planted):
    """Under held attention only what later heads read through values counts: the previous-token head costs nothing."""
    held = il.ablation_study(planted, hold_patterns=True, measures=("copies",), groups=False, **SMALL).table
    assert held.set_index("name").loc["L0H1", "effect_copies"] == pytest.approx(0, abs=1e-4)
    assert set(held["patterns"]) == {"held"}
    mean = il.ablation_study(planted, output="mean", measures=("copies",), groups=False, **SMALL).table
    zero = il.ablation_study(planted, measures=("copies",), groups=False, **SMALL).table
    assert set(mean["output"]) == {"mean"}
    assert not np.allclose(mean["effect_copies"], zero["effect_copies"], rtol=0, atol=1e-4)


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
    again.save(tmp_path / "effects.csv")
    assert not path.exists()
    total = il.ablation_study(random_toy, **settings, partial=tmp_path / "new", on_progress=lambda *at: None)
    assert total.table.equals(whole.table)


def test_an_interrupted_study_of_groups_ends_the_same_to_the_bit(planted, tmp_path):
    settings = {"scores": two_readers(planted), "measures": ("copies",), "sequences": 4, "draws": 4, "batch_size": 2}
    whole = il.ablation_study(planted, **settings)
    assert {"yes", "no"} < set(whole.groups["holds_writer"])
    calls = itertools.count(1)

    def stop(done, total):
        if next(calls) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        il.ablation_study(planted, **settings, partial=tmp_path / "parts", on_progress=stop)
    again = il.ablation_study(planted, **settings, partial=tmp_path / "parts")
    assert again.table.equals(whole.table)
    assert again.groups.equals(whole.groups)
    assert (again.clean, again.provenance) == (whole.clean, whole.provenance)


def test_parts_of_other_work_are_refused(tmp_path, planted):
    path = tmp_path / "parts"
    with Partial(path, {"seed": 1}) as parts:
        parts.add("a", [1.5])
    with Partial(path, {"seed": 1}) as parts:
        assert parts.parts == {"a": [1.5]}
    with refused("holds unfinished work of other settings or another model; remove it"), Partial(path, {"seed": 2}):
        pass
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
    with refused("windows must hold at least 2 sequences of 3 to 192 tokens"):
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
    assert "copies: without the strongest induction head +4.1" in said
    assert ", p = 0.33. Random sets of 1: +0.000 without (2 sets)." in said
    assert "others: mean of the other heads of the layer that are of no kind, - for none." in said
    assert "Random sets are of the same layers." in said
    assert "Of the copying gain 100% goes with them, 0% with random ones." in said
    assert pd.read_csv(out)["name"].tolist() == ["L1H2"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "effects.csv", "effects.csv.meta.json", "effects.groups.csv", "effects.groups.csv.meta.json", "effects.png"
    }  # fmt: skip
    record = json.loads((tmp_path / "effects.csv.meta.json").read_text())
    assert "W_U centred" in json.dumps(record)


def test_the_summary_tells_random_sets_apart(planted, capsys):
    """Sets with and without the writer, where sets come from, an empty control, and what was not measured."""
    options = {"measures": ("copies",), "heads": ["1.0"], "sequences": 3, "draws": 20}
    study = il.ablation_study(planted, scores=two_readers(planted), **options)
    _summary(study, None)
    said = capsys.readouterr().out
    assert re.search(r"1\.0 +none +[+-]0\.000 +- *\n", said)
    assert re.search(r"without the 2 strongest induction heads \+4\.\d+, p = 0\.\d+\. Random sets of 2: ", said)
    assert re.search(r"Random sets of 2: \+4\.\d+ with a writer \(3 sets\), [+-]0\.000 without \(3 sets\)\.", said)
    assert "Random sets are of any layer: there are too few other heads in the layers of the induction heads." in said
    assert "A writer: an earlier head that the induction heads read (0.1)." in said
    record = {"fewer": "there are 3 induction heads and 2 other heads", "writers": {}, "writers_not_measured": "No."}
    p = np.where(study.groups["set"] == "induction", 0.25, 0.75)
    unknown = study.groups.assign(holds_writer="", p_copies=p)
    _summary(dataclasses.replace(study, groups=unknown, provenance=study.provenance | {"groups": record}), None)
    said = capsys.readouterr().out
    assert re.search(r"p = 0\.25\. Random sets of 2: \+2\.\d+ \(6 sets\)\.", said)
    assert "Which heads they read was not measured: No." in said
    assert "Groups end at 2 heads: there are 3 induction heads and 2 other heads." in said
    record = record | {"fewer": "the scan found no induction head"}
    none = dataclasses.replace(study, groups=study.groups.iloc[:0], provenance=study.provenance | {"groups": record})
    _summary(none, None)
    assert "No groups were removed: the scan found no induction head." in capsys.readouterr().out


# Pictures.
def test_effects_are_purple_where_removal_costs_and_orange_where_it_helps(study):
    effect = np.array([3.0, -1.0, 0.0, 1.0, -3.0, 0.0])
    image = draw_effects(study.table.assign(effect_copies=effect), "copies", Figure().subplots()).images[0]
    assert image.get_clim() == (-3, 3)
    for value, (red, green, blue, _) in zip(effect, image.cmap(image.norm(effect)), strict=True):
        assert np.sign(blue - red) == np.sign(value) or (value == 0 and min(red, green, blue) > 0.9)
    assert image.get_array()[0, 1] == -1


def test_random_sets_with_a_writer_are_filled_and_those_without_hollow(study, tmp_path):
    groups = pd.DataFrame({"set": ["induction", "previous_token", "random", "random", "random"], "k": 1})
    groups = groups.assign(effect_copies=[4.0, 5.0, 4.5, 0.1, 0.2], holds_writer=["", "", "yes", "no", "no"])
    lines = {line.get_label(): line for line in draw_group_curve(groups, "copies", Figure().subplots()).lines}
    with_writer, without = lines["random others, with a writer"], lines["random others, without a writer"]
    assert with_writer.get_ydata().tolist() == [4.5]
    assert without.get_ydata().tolist() == [0.1, 0.2]
    assert (with_writer.get_markerfacecolor(), without.get_markerfacecolor()) == ("#999999", "white")
    unknown = draw_group_curve(groups.assign(holds_writer=""), "copies", Figure().subplots())
    assert {"random others"} == {line.get_label() for line in unknown.lines if "random" in line.get_label()}
    plot_study(tmp_path / "a.png", study.table.assign(control_copies=np.nan), groups)  # empty controls break nothing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--heads", "9.9"], "There is no head 9.9"),
        (["--measures", "los"], "measures must be among copies, icl, text; got 'los'"),
        (["--text", "stdlib"], "has no tokenizer to read text with"),
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
