"""Validation against published tables, and that every classic mistake fails it."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_cli import run
from test_scan import DATA

import inductionlens as il
from inductionlens import InputError
from inductionlens.studies.reference import Recipe, measure_recipe, read_reference

FOLDER = DATA / "attn-only-2l"
RECIPE = {"seed": 0, "low": 1, "high": 256, "sequences": 2, "period": 60, "tolerance": 1e-3, "above": 0.5}


COLUMNS = ["layer", "head", "previous_token", "duplicate_token", "induction"]


def attention_by_hand(tokens):
    """The toy's attention in plain PyTorch, from its raw weights: shares no line with the package."""
    w = load_file(FOLDER / "model.safetensors")
    pos = tokens.shape[1]
    stream = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][:pos]
    masked = torch.ones(pos, pos, dtype=torch.bool).triu(1)
    patterns = []
    for layer in range(2):
        block = f"blocks.{layer}."
        normed = torch.nn.functional.layer_norm(stream, (64,), w[block + "ln1.w"], w[block + "ln1.b"])
        written = w[block + "attn.b_O"].clone()
        found = []
        for head in range(4):
            q, k, v = (normed @ w[f"{block}attn.W_{x}"][head] + w[f"{block}attn.b_{x}"][head] for x in ("Q", "K", "V"))
            scores = (q @ k.transpose(1, 2) / 16**0.5).masked_fill(masked, -torch.inf)
            found.append(scores.softmax(-1))
            written = written + found[-1] @ v @ w[block + "attn.W_O"][head]
        patterns.append(found)
        stream = stream + written
    return patterns


def table_by_hand(bos=False, shift=0):
    torch.manual_seed(0)
    block = torch.randint(1, 256, (2, 60))
    tokens = torch.cat([block, block], 1)
    if bos:
        tokens = torch.cat([torch.zeros(2, 1, dtype=torch.long), tokens], 1)
    patterns = attention_by_hand(tokens)
    rows = []
    for layer in range(2):
        for head in range(4):
            pattern = patterns[layer][head]
            means = [float(pattern.diagonal(-back - shift, 1, 2).mean()) for back in (1, 60, 59)]
            rows.append((layer, head, *means))
    return pd.DataFrame(rows, columns=COLUMNS)


def save(table, folder, **recipe):
    table.to_csv(folder / "table.csv", index=False)
    (folder / "table.recipe.json").write_text(json.dumps({**RECIPE, **recipe}))
    return folder / "table.csv"


def test_an_independent_table_passes(tmp_path):
    path = save(table_by_hand(), tmp_path)
    found = il.validate(FOLDER, path)
    assert found.passed
    assert found.table["difference"].abs().max() < 1e-6
    assert len(found.table) == 24
    code, printed, _ = run("validate", FOLDER, "--against", path, "--out", tmp_path / "differences.csv")
    assert code == 0
    assert printed.splitlines()[-1] == "PASS"
    assert "induction: 8 heads, largest difference" in printed
    assert len(pd.read_csv(tmp_path / "differences.csv")) == 24


def swap(table, rows):
    scores = ["previous_token", "duplicate_token", "induction"]
    table = table.copy()
    table.loc[rows, scores] = table.loc[rows[::-1], scores].to_numpy()
    return table


WRONG = {
    "offset": lambda: table_by_hand(shift=1),
    "BOS": lambda: table_by_hand(bos=True),
    "swapped heads": lambda: swap(table_by_hand(), [4, 5]),
    "swapped layers": lambda: swap(table_by_hand(), [0, 4]),
    "induction is duplicate": lambda: table_by_hand().rename(
        columns={"induction": "duplicate_token", "duplicate_token": "induction"}
    ),
    "one score off": lambda: table_by_hand() + pd.Series({"previous_token": 0.002}).reindex(COLUMNS, fill_value=0),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_classic_mistake_fails(name, tmp_path):
    path = save(WRONG[name](), tmp_path)
    found = il.validate(FOLDER, path)
    assert not found.passed
    code, printed, err = run("validate", FOLDER, "--against", path)
    assert (code, err) == (1, "")
    assert printed.splitlines()[-1] == "FAIL"
    assert "differ by more than 0.001, most head" in printed


def test_another_seed_fails_and_a_wide_tolerance_forgives_little(tmp_path):
    assert not il.validate(FOLDER, save(table_by_hand(), tmp_path, seed=1)).passed
    found = il.validate(FOLDER, save(swap(table_by_hand(), [0, 4]), tmp_path, tolerance=10.0))
    assert [problem for problem in found.problems if "are not the same" in problem] == found.problems
    assert found.problems


def test_other_shapes_fail(tmp_path):
    found = il.validate(FOLDER, save(table_by_hand().iloc[:-1], tmp_path))
    assert found.problems[0].startswith("the table and the model do not have the same heads: 7 heads")


def test_the_published_gpt2_table_is_the_demos():
    """Metrics, section 22.1: which heads stand above 0.8, and sums over 144 heads."""
    table, recipe = read_reference()
    assert (recipe.seed, recipe.low, recipe.high, recipe.sequences, recipe.period) == (0, 100, 20000, 2, 100)
    assert len(table) == 144
    high = {(row.layer, row.head) for row in table[table["induction"] > 0.8].itertuples()}
    assert high == {(5, 1), (6, 9), (5, 5), (7, 10), (7, 2)}
    sums = table[["induction", "previous_token", "duplicate_token"]].sum()
    assert sums.tolist() == pytest.approx([11.0037, 12.5120, 2.6993], abs=1e-3)
    assert recipe.source.startswith("TransformerLens")


def test_the_recipe_draws_what_the_demo_drew():
    """The demo seeds the global generator; a local one with the same seed draws the same ids."""
    torch.manual_seed(0)
    expected = torch.randint(100, 20000, (2, 100))
    assert torch.equal(torch.randint(100, 20000, (2, 100), generator=torch.Generator().manual_seed(0)), expected)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a,b\n1,2\n", "needs the columns layer, head and any of previous_token, duplicate_token, induction"),
        ("layer,head,induction\n0,0,x\n", "must hold a number in every cell"),
        ("layer,head,induction\n0,0,\n", "must hold a number in every cell"),
        ("layer,head,induction\n0,0,1\n0,0,1\n", "names a head twice"),
        ("", "is not a readable csv table"),
    ],
)
def test_bad_tables_are_refused(content, match, tmp_path):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(InputError, match=match):
        read_reference(tmp_path / "table.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_reference(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("recipe", "match"),
    [({"period": 2}, "period must be at least 3"), ({"high": 1}, "must lie above its low"), ({"x": 1}, "not usable")],
)
def test_bad_recipes_are_refused(recipe, match, tmp_path):
    with pytest.raises(InputError, match=match):
        read_reference(save(table_by_hand(), tmp_path, **recipe))


def test_models_too_small_for_the_recipe_are_refused():
    model = il.load_model(FOLDER)
    with pytest.raises(InputError, match="The recipe needs 400 tokens and the model's context is 256"):
        measure_recipe(model, Recipe(period=200))
    with pytest.raises(InputError, match="draws ids below 20000 and the model has 256 tokens"):
        measure_recipe(model, Recipe())
    code, _, err = run("validate", FOLDER)
    assert (code, len(err.splitlines())) == (2, 1)


@pytest.mark.parametrize("layer", [0.5, -1, 10**5])
def test_layers_that_are_no_whole_numbers_are_refused(layer, tmp_path):
    (tmp_path / "mine.csv").write_text(f"layer,head,induction\n{layer},0,0.5\n")
    with pytest.raises(InputError, match="must name layers and heads by whole numbers"):
        read_reference(tmp_path / "mine.csv")
