"""Rank agreement with published heads, against plain loops."""

import numpy as np
import pandas as pd
import pytest

from inductionlens import HeadScores, InputError
from inductionlens.studies.rank_agreement import COLUMN_OF, EFFECTS, LABELS, SHAPES, rank_agreement
from inductionlens.studies.reference import reference_folder


def scores_of(columns, model="gpt2", shape=(12, 12)):
    layer, head = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    return HeadScores(pd.DataFrame({"model": model, "layer": layer, "head": head, **columns}))


def noise(seed, size=144):
    return np.random.default_rng(seed).normal(size=size).round(1)  # rounded, so that ties occur


@pytest.fixture
def random_scores():
    names = (*COLUMN_OF.values(), "induction_logit")
    return scores_of({name: noise(seed) for seed, name in enumerate(names)})


def slow_above(values, named, sign):
    """Of all pairs of a named head and another, the share in which the named one is ahead; half for a tie."""
    ahead = pairs = 0
    for head, value in values.items():
        for other, less in values.items():
            if head in named and other not in named:
                pairs += 1
                ahead += 1 if sign * value > sign * less else 0.5 if value == less else 0
    return ahead / pairs


def slow_ranks(values):
    return [1 + sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]


def test_agreement_equals_its_definition_pair_by_pair(random_scores):
    table = rank_agreement(random_scores)
    effects = pd.read_csv(reference_folder() / EFFECTS).query("model == 'gpt2-small'")
    labels = pd.read_csv(reference_folder() / LABELS)
    assert len(table) == 2 + 6  # effects of two signs; two sources with three kinds each
    for row in table.to_dict("records"):
        ours = random_scores.table.set_index(["layer", "head"])[row["column"]].to_dict()
        if row["source"] == "McDougall et al. 2023":
            sign = 1 if row["published"] == "direct effect above 0" else -1
            part = effects[sign * effects["induction_logit"] > 0]
        else:
            sign, kind = 1, row["published"].removesuffix(" heads")
            part = labels[(labels["source"] == row["source"]) & (labels["type"] == kind)]
        named = list(zip(part["layer"], part["head"], strict=True))
        assert row["heads"] == len(named)
        assert row["above"] == pytest.approx(slow_above(ours, named, sign))
        if row["published"] == "direct effect above 0":
            mine, theirs = slow_ranks([ours[head] for head in named]), slow_ranks(part["induction_logit"].tolist())
            assert row["rank_correlation"] == pytest.approx(np.corrcoef(mine, theirs)[0, 1])
        else:
            assert np.isnan(row["rank_correlation"])


def test_the_published_demo_ranks_the_published_heads_first():
    """The five heads above 0.8 in TransformerLens's demo are exactly the survey's induction heads."""
    demo = pd.read_csv(reference_folder() / "gpt2_small_transformerlens_demo.csv").sort_values(["layer", "head"])
    columns = {"prefix_matching": "induction", "previous_token": "previous_token", "duplicate_token": "duplicate_token"}
    scores = scores_of({ours: demo[theirs].to_numpy() for ours, theirs in columns.items()})
    table = rank_agreement(scores).set_index(["source", "published"])
    survey = table.loc["SAE survey (Kissane et al.)"]
    assert survey.loc["induction heads", "above"] == 1
    assert survey.loc["previous_token heads", "above"] == 1
    assert survey["p_value"].max() < 0.05
    # 5.8 and 5.9 of the IOI circuit do not attend to random repeats: agreement is not perfect, and that is known.
    assert 0.5 < table.loc[("IOI (Wang et al. 2022)", "induction heads"), "above"] < 1


def test_a_perfect_and_a_reversed_scan():
    effects = pd.read_csv(reference_folder() / EFFECTS).query("model == 'distillgpt2'")
    values = np.zeros((6, 12))
    values[effects["layer"], effects["head"]] = effects["induction_logit"]
    for sign, above, correlation in ((1, 1, 1), (-1, 0, -1)):
        scores = scores_of({"induction_logit": sign * values.ravel()}, "distilgpt2", (6, 12))
        table = rank_agreement(scores)
        assert table["above"].tolist() == [above, above]
        assert table["rank_correlation"][0] == pytest.approx(correlation)


def test_the_name_may_be_given_or_read(random_scores):
    nameless = HeadScores(random_scores.table.drop(columns="model"))
    assert rank_agreement(nameless, "openai-community/gpt2").equals(rank_agreement(random_scores))
    with pytest.raises(InputError, match=r"does not say which model it is of; name it \(model=NAME, --model NAME\)"):
        rank_agreement(nameless)
    with pytest.raises(InputError, match=r"No ranks are published for 'gpt5'; .*distillgpt2, .*stanford-gpt2-small-a"):
        rank_agreement(nameless, "gpt5")


def test_tables_without_what_was_published_are_refused(random_scores):
    with pytest.raises(InputError, match=r"published model has heads that this table lacks: 9\.6"):
        rank_agreement(HeadScores(random_scores.table.query("layer != 9 or head != 6")))
    with pytest.raises(InputError, match="none of the columns that were published for gpt2-small: duplicate_token"):
        rank_agreement(HeadScores(random_scores.table[["model", "layer", "head"]]))
    empty = random_scores.table.assign(induction_logit=np.nan)
    with pytest.raises(InputError, match="no value of induction_logit"):
        rank_agreement(HeadScores(empty))


@pytest.mark.parametrize(("shape", "said"), [((24, 16), "24 layers of 16 heads"), ((12, 13), "12 layers of 13 heads")])
def test_a_table_of_another_shape_is_of_another_model(shape, said):
    """It has every head that was published, and more."""
    scores = scores_of({"induction_logit": noise(0, shape[0] * shape[1])}, "somebody/finetuned", shape)
    with pytest.raises(InputError, match=f"The table has {said}, and gpt2-small has 12 layers of 12 heads; name the"):
        rank_agreement(scores, "gpt2")


def test_every_published_model_has_a_shape_that_holds_its_heads():
    effects = pd.read_csv(reference_folder() / EFFECTS)
    assert set(effects["model"]) == set(SHAPES)
    for row in effects.itertuples():
        layers, heads = SHAPES[row.model]
        assert row.layer < layers
        assert row.head < heads


def test_the_command_prints_one_line_per_published_set(random_scores, tmp_path):
    from test_cli import run

    random_scores.save(tmp_path / "scores.csv")
    code, out, err = run("ranks", tmp_path / "scores.csv", "--out", tmp_path / "ranks.csv")
    assert (code, err) == (0, "")
    assert out.count("McDougall et al. 2023") == 2
    assert out.count("SAE survey (Kissane et al.)") == 3
    assert len(pd.read_csv(tmp_path / "ranks.csv")) == 8
    code, out, err = run("ranks", tmp_path / "scores.csv", "--model", "gtp2", "--out", tmp_path / "no.csv")
    assert (code, out) == (2, "")
    assert err.startswith("inductionlens: No ranks are published for 'gtp2'")
    assert not (tmp_path / "no.csv").exists()
