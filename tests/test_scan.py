"""The scan as a whole: seeds, batches, options, and what the models in data/ hold."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import inductionlens as il
from inductionlens import InputError
from inductionlens.studies.options import ScanOptions
from inductionlens.tables import COLUMNS, SCORES

DATA = Path(__file__).parent.parent / "data"
NUMBERS = [name for name in SCORES if name != "offset_peak_value"]


def numbers(scores):
    return scores.table[NUMBERS].to_numpy(dtype=float)


@pytest.fixture(scope="module")
def tiny():
    return il.load_model(DATA / "tiny-gpt2")


def test_the_same_seed_gives_the_same_files_byte_for_byte(tmp_path):
    """In two processes, so that nothing remembered helps."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        model = str(DATA / "tiny-gpt2")
        code = f"import inductionlens as il; il.scan({model!r}, seed=5, sequences=3).to_csv('scores.csv')"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path / name, check=True)
    for file in ("scores.csv", "scores.csv.meta.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_seed_gives_other_numbers(tiny):
    first, second = (il.scan(tiny, seed=seed, sequences=2) for seed in (0, 1))
    for score in NUMBERS:
        if not score.startswith("ov_eigen"):
            assert (first.table[score] != second.table[score]).any(), score
    assert first.table["ov_eigen"].equals(second.table["ov_eigen"])


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing_beyond_a_millionth(batch_size, tiny):
    usual, other = il.scan(tiny), il.scan(tiny, batch_size=batch_size)
    assert np.nanmax(np.abs(numbers(usual) - numbers(other))) < 1e-6
    for name in ("loss_first_copy", "loss_later_copies", "copying_gain"):
        assert usual.table[name][0] == pytest.approx(other.table[name][0], abs=1e-5)


def test_progress_counts_every_sequence_once(planted):
    seen = []
    il.scan(planted, sequences=3, on_progress=lambda done, total: seen.append((done, total)))
    # Repeated, once, logit (ten times as many), gapped, fresh, and the untrained twin.
    assert seen[-1] == (45, 45)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_each_option_changes_its_own_scores(tiny):
    usual = il.scan(tiny, sequences=3).table

    def changed(**settings):
        other = il.scan(tiny, sequences=3, **settings).table
        return {name for name in NUMBERS if not np.allclose(usual[name], other[name], atol=1e-4, equal_nan=True)}

    attention = {"prefix_matching", "prefix_matching_literal", "duplicate_token"}
    copying = {name for name in NUMBERS if name.startswith("copying")}
    assert changed(reduce="entry_mean") == attention
    assert changed(reduce="last") <= attention
    assert "prefix_matching" in changed(reduce="diagonal")
    assert changed(value_weighted=True) == {*attention, "previous_token", "first_token"}
    assert changed(copying_source="head_output") == copying
    assert changed(logit_recipe="mcdougall") == {"induction_logit"}
    assert changed(text="random") == {"previous_token"}
    assert changed(controls=False) == {"prefix_matching_gapped", "prefix_matching_fresh"}
    assert changed(logit_period=20) == {"induction_logit"}


def test_without_controls_their_columns_are_empty_and_the_verdict_says_so(tiny):
    table = il.scan(tiny, sequences=2, controls=False).table
    empty = ["prefix_matching_gapped", "prefix_matching_fresh", "prefix_matching_untrained", "p_value", "q_value"]
    assert table[empty].isna().all(axis=None)
    assert (table["kind"] == "induction").any()
    assert table.loc[table["kind"] == "induction", "why"].str.contains("no controls").all()


def test_an_undefined_variant_is_absent(tiny):
    table = il.scan(tiny, sequences=2, copying_source="head_output").table
    assert table["copying_bansal"].isna().all()
    assert table["copying"].notna().all()


def test_text_may_be_a_file_or_a_folder(tiny, tmp_path):
    sentence = "the quick brown fox jumps over the lazy dog and goes home again to sleep. "
    for index in range(10):
        (tmp_path / f"{index}.txt").write_text(f"{index} " + sentence * 40)
    scores = il.scan(tiny, sequences=2, text=str(tmp_path))
    assert set(scores.table["previous_token_source"]) == {"text"}
    assert "10 windows of 256" in scores.provenance["probes"]["previous_token"]
    book = tmp_path / "book.txt"
    book.write_text((sentence * 60 + "\n") * 20)
    assert "book.txt, 10 windows" in il.scan(tiny, sequences=2, text=str(book)).provenance["probes"]["previous_token"]
    with pytest.raises(InputError, match=r"gives only [0-9] windows of 256 tokens and 10 are needed; give more text"):
        il.scan(tiny, text=str(tmp_path / "0.txt"))
    with pytest.raises(InputError, match=r"text must name a \.txt file"):
        il.scan(tiny, text="")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.txt file"):
        il.scan(tiny, text=str(tmp_path / "empty"))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        il.scan(tiny, text=str(tmp_path / "none.txt"))


def test_intervals_hold_the_score_and_narrow_with_more_sequences(tiny):
    few, many = il.scan(tiny, sequences=5).table, il.scan(tiny, sequences=40).table
    for score in SCORES:
        if COLUMNS[score].interval:
            for table in (few, many):
                inside = table[f"{score}_low"].le(table[score] + 1e-9) & table[f"{score}_high"].ge(table[score] - 1e-9)
                assert (inside | table[score].isna()).all(), score
    width = [(t["prefix_matching_high"] - t["prefix_matching_low"]).mean() for t in (few, many)]
    assert width[1] < 0.5 * width[0]


def test_one_sequence_has_no_interval(planted):
    table = il.scan(planted, sequences=1).table
    assert table["prefix_matching"].notna().all()
    assert table["prefix_matching_low"].isna().all()


def test_settings_are_checked_by_name():
    with pytest.raises(InputError, match=r"scan has no setting 'sequnces'; it has seed, sequences"):
        il.scan("planted", sequnces=3)
    with pytest.raises(InputError, match="period must be a whole number; got True"):
        il.scan("planted", period=True)
    with pytest.raises(InputError, match="either options or settings by name, not both"):
        il.scan("planted", options=ScanOptions(), seed=1)


def test_provenance_says_how_it_was_measured(tiny):
    record = il.scan(tiny, sequences=2, seed=7).provenance
    assert record["model"]["processing"].startswith("norms folded")
    assert (record["model"]["layers"], record["model"]["heads"], record["model"]["context"]) == (3, 4, 256)
    assert record["options"]["seed"] == 7
    assert record["probes"]["attention"] == "BOS + 25 x 4, n=2"
    assert record["probes"]["induction_logit"] == "BOS + 30 x 2, n=20"
    assert re.search(r"stdlib of Python .*, 10 windows of 256, sha256 [0-9a-f]{12}", record["probes"]["previous_token"])
    assert record["versions"]["transformer-lens"]


# The models in data/: what their cards and the README say of them must hold.
def test_tiny_gpt2_has_induction_heads_and_copies(tiny):
    scores = il.scan(tiny)
    assert scores.induction_heads()
    top = scores[scores.induction_heads()[0]]
    assert top["prefix_matching"] > 0.5
    assert top["prefix_matching_low"] > 0.5
    assert top["induction_logit_low"] > 0
    assert top["offset_peak"] == 1
    assert scores.provenance["behaviour"]["case"].startswith("The model copies, with induction heads")
    assert scores.heads("previous_token")[0].layer < scores.induction_heads()[0].layer
    assert scores.provenance["behaviour"]["loss_later_copies"] < math.log(1024) / 3


def test_two_attention_layers_form_induction_heads_and_one_does_not():
    two, one = il.scan(DATA / "attn-only-2l"), il.scan(DATA / "attn-only-1l")
    assert two.induction_heads()
    assert {head.layer for head in two.induction_heads()} == {1}
    assert one.induction_heads() == []
    assert one.table["prefix_matching"].max() < 0.2
    gains = [scores.provenance["behaviour"]["copying_gain"] for scores in (one, two)]
    assert gains[1] > gains[0] + 2


@pytest.mark.parametrize("name", ["tiny-gpt2", "attn-only-1l", "attn-only-2l"])
def test_every_model_has_a_card_that_still_holds(name):
    card = (DATA / name / "README.md").read_text()
    for word in ("Shape:", "Data:", "Training:", "seed", f"`python data/make.py {name}`", "What a scan finds"):
        assert word in card
    scores = il.scan(DATA / name)
    assert f"{len(scores.induction_heads())} induction head(s) of {len(scores)}" in card
    for row in scores.table.to_dict("records"):
        line = next(line for line in card.splitlines() if line.startswith(f"| {row['name']} "))
        shown = line.strip("| ").split(" | ")
        assert shown[1] == row["kind"]
        assert float(shown[2]) == pytest.approx(row["prefix_matching"], abs=0.002)
        assert float(shown[5]) == pytest.approx(row["induction_logit"], abs=0.002)


def test_the_models_are_a_few_megabytes():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 8e6
