"""Two scans side by side."""

import numpy as np
import pytest
from test_cli import run
from test_scan import DATA

import inductionlens as il
from inductionlens import InputError


@pytest.fixture(scope="module")
def planted_scan(planted):
    return il.scan(planted, sequences=5)


def test_a_scan_does_not_differ_from_itself(planted_scan):
    table = il.compare(planted_scan, planted_scan)
    assert not table["changed"].any()
    assert (table["difference"].dropna() == 0).all()
    assert table.groupby("score").size().eq(6).all()


def test_a_planted_change_is_found_in_its_head_alone(planted_scan):
    anti = il.scan("planted-anti-copying", sequences=5)
    table = il.compare(planted_scan, anti)
    changed = table[table["changed"]]
    assert {(row.layer, row.head) for row in changed.itertuples()} == {(1, 2)}
    assert {"copying", "induction_logit"} <= set(changed["score"])
    assert "prefix_matching" not in set(changed["score"])
    row = changed[changed["score"] == "induction_logit"].iloc[0]
    assert row["difference"] == pytest.approx(-2 * 9.84375, abs=1e-4)
    assert (row["first_kind"], row["second_kind"]) == ("induction", "anti_induction")


def test_other_seeds_of_one_model_seldom_differ():
    model = il.load_model(DATA / "tiny-gpt2")
    table = il.compare(*(il.scan(model, seed=seed, controls=False) for seed in (1, 2)))
    share = table[table["score"] == "prefix_matching"]["changed"].mean()
    assert share <= 0.34
    assert (table["first_kind"] == table["second_kind"]).all()


def test_intervals_of_a_difference_add_in_squares(planted_scan):
    one = planted_scan.table.copy()
    one["prefix_matching_low"], one["prefix_matching_high"] = one["prefix_matching"] - 0.3, one["prefix_matching"] + 0.3
    two = one.copy()
    two["prefix_matching"] += 0.45
    two["prefix_matching_low"], two["prefix_matching_high"] = two["prefix_matching"] - 0.4, two["prefix_matching"] + 0.4
    table = il.compare(il.HeadScores(one), il.HeadScores(two))
    part = table[table["score"] == "prefix_matching"]
    assert part["low"].to_numpy() == pytest.approx(np.full(6, 0.45 - 0.5))
    assert not part["changed"].any()
    two["prefix_matching"] += 0.06
    assert il.compare(il.HeadScores(one), il.HeadScores(two)).query("score == 'prefix_matching'")["changed"].all()


def test_rows_are_matched_by_head_not_by_order(planted_scan):
    shuffled = il.HeadScores(planted_scan.table.sample(frac=1, random_state=0))
    assert (il.compare(planted_scan, shuffled)["difference"].dropna() == 0).all()


def test_other_shapes_and_tables_without_common_scores_are_refused(planted_scan):
    fewer = il.HeadScores(planted_scan.table.iloc[:-1])
    with pytest.raises(InputError, match=r"models of one shape can be compared; .* \(6 rows\) and .* \(5 rows\)"):
        il.compare(planted_scan, fewer)
    tables = [planted_scan.table[["layer", "head", name]] for name in ("copying", "prefix_matching")]
    with pytest.raises(InputError, match="no score in common"):
        il.compare(*map(il.HeadScores, tables))


def table_of(path, *rows, header="layer,head,prefix_matching"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_without_intervals_nothing_is_said_but_the_largest_difference(tmp_path):
    before = table_of(tmp_path / "before.csv", "0,0,0.02", "0,1,0.03", "0,2,0.9")
    after = table_of(tmp_path / "after.csv", "0,0,0.75", "0,1,0.03", "0,2,0.1")
    reason = "Nothing can be said of prefix_matching: at least one of the tables has no intervals of it. "
    code, printed, _ = run("compare", before, after)
    assert (code, printed) == (
        0, f"{reason}The largest difference is -0.800, at head 0.2 (0.900 -> 0.100); there are no verdicts.\n"
    )  # fmt: skip
    empty = table_of(tmp_path / "empty.csv", "0,0,", "0,1,", "0,2,")
    assert run("compare", before, empty)[1] == f"{reason}No head has it in both tables; there are no verdicts.\n"


def test_verdicts_are_compared_where_both_tables_have_them(planted_scan, tmp_path):
    planted_scan.to_csv(tmp_path / "a.csv")
    il.HeadScores(planted_scan.table.drop(columns=["kind", "why"])).to_csv(tmp_path / "b.csv")
    said = "0 of 6 heads changed in prefix_matching (Welch's t test, false discovery rate 5%)"
    assert run("compare", tmp_path / "a.csv", tmp_path / "b.csv")[1] == f"{said}; there are no verdicts.\n"
    assert run("compare", tmp_path / "a.csv", tmp_path / "a.csv")[1] == f"{said}; 0 verdicts changed.\n"


def test_heads_without_intervals_are_counted_as_unknown(planted_scan, tmp_path):
    fewer = planted_scan.table.copy()
    fewer.loc[[0, 3], ["prefix_matching_low", "prefix_matching_high"]] = np.nan
    for name, table in (("a", planted_scan.table), ("b", fewer)):
        il.HeadScores(table).to_csv(tmp_path / f"{name}.csv")
    printed = run("compare", tmp_path / "a.csv", tmp_path / "b.csv")[1]
    assert "0 of 6 heads changed" in printed
    assert "(nothing can be said of 2 without intervals)" in printed


def test_the_command_says_what_changed(planted_scan, tmp_path):
    planted_scan.to_csv(tmp_path / "a.csv")
    il.scan("planted-anti-copying", sequences=5).to_csv(tmp_path / "b.csv")
    words = ("compare", tmp_path / "a.csv", tmp_path / "b.csv")
    code, printed, _ = run(*words, "--score", "induction_logit", "--out", tmp_path / "c.csv")
    assert code == 0
    assert printed.splitlines() == [
        "1.2 was induction, is anti_induction",
        "1.2 induction_logit 9.844 -> -9.844 (-19.688, 95% interval -19.688 to -19.688)",
        "1 of 6 heads changed in induction_logit (Welch's t test, false discovery rate 5%); 1 verdict changed.",
    ]
    assert (
        (tmp_path / "c.csv")
        .read_text()
        .startswith("layer,head,score,first,second,difference,low,high,p_value,q_value,changed")
    )
    code, _, err = run(*words, "--score", "nonsense")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "There is no score 'nonsense' in both tables; they share prefix_matching" in err
    assert run(*words, "--top", "0")[0] == 2
