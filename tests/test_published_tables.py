"""Tables that others wrote, cut ones, and text that a spreadsheet or a terminal would obey."""

import json

import numpy as np
import pandas as pd
import pytest
from test_changes import made
from test_cli import run

import inductionlens as il
from inductionlens import InputError
from inductionlens.csv_tables import decode_csv, encode_csv
from inductionlens.published_columns import parse_columns

COLUMNS = "head=head_idx,prefix_matching=score"
THEIRS = "layer,head_idx,score\n0,0,0.1\n0,1,0.9\n1,0,0.25\n1,1,0.5\n"


def refused(match):
    return pytest.raises(InputError, match=match)


@pytest.fixture
def theirs(tmp_path):
    (tmp_path / "theirs.csv").write_text(THEIRS)
    return tmp_path / "theirs.csv"


# Names of columns.
def test_columns_of_others_are_read_under_our_names(theirs):
    table = il.read_scores(theirs, columns={"head": "head_idx", "prefix_matching": "score"}).table
    assert table.columns.tolist() == ["layer", "head", "prefix_matching"]
    assert table["prefix_matching"].tolist() == [0.1, 0.9, 0.25, 0.5]
    assert table["head"].tolist() == [0, 1, 0, 1]


def test_a_column_that_is_not_meant_makes_room(tmp_path):
    (tmp_path / "a.csv").write_text("layer,head,index,score\n0,L0H0,0,0.5\n0,L0H1,1,0.6\n")
    table = il.read_scores(tmp_path / "a.csv", columns={"head": "index", "copying": "score"}).table
    assert table["head"].tolist() == [0, 1]
    assert sorted(table.columns) == ["copying", "head", "layer"]


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (
            {"prefix_matching": "scor"},
            "has no column 'scor' for prefix_matching; its columns are layer, head_idx, score",
        ),
        ({"induction": "score"}, "columns cannot name 'induction': of our names these can be given: model, revision"),
        (None, "it has no column head; its columns are layer, head_idx, score. .* --columns OUR=THEIRS"),
    ],
)
def test_names_that_do_not_fit_are_refused(columns, match, theirs):
    with refused(match):
        il.read_scores(theirs, columns=columns)


def test_pairs_are_told_apart_by_what_follows_a_comma():
    assert parse_columns([COLUMNS, "layer = a, b=c"]) == {
        "head": "head_idx", "prefix_matching": "score", "layer": "a", "b": "c"
    }  # fmt: skip
    assert parse_columns(["head=head, of the layer,layer=l"]) == {"head": "head, of the layer", "layer": "l"}
    assert parse_columns([]) is None
    for words, match in (
        (["head"], "takes OUR=THEIRS, .*; got 'head'"),
        (["a=b", "a=c"], "names a twice: 'b' and 'c'"),
    ):
        with refused(match):
            parse_columns(words)


def test_every_command_that_reads_scores_takes_names(theirs, tmp_path):
    words = ("--columns", COLUMNS)
    code, printed, err = run("plot", theirs, "--out", tmp_path / "a.png", *words)
    assert (code, err) == (0, "")
    code, printed, _ = run("compare", theirs, theirs, *words)
    assert printed.startswith("Nothing can be said of prefix_matching")
    code, _, err = run("why", theirs, *words)
    assert (code, "has no columns kind and why" in err) == (2, True)
    code, _, err = run("ranks", theirs, *words, "--model", "gpt2")
    assert (code, "The table has 2 layers of 2 heads, and gpt2-small has" in err) == (2, True)
    code, _, err = run("plot", theirs, "--out", tmp_path / "b.png", "--columns", "head=x")
    assert (code, "has no column 'x' for head; its columns are layer, head_idx, score" in err) == (2, True)


def test_a_table_of_ours_is_compared_with_one_of_others(theirs, tmp_path):
    ours = tmp_path / "ours.csv"
    ours.write_text("layer,head,prefix_matching\n0,0,0.1\n0,1,0.9\n1,0,0.25\n1,1,0.0\n")
    for pair, change in (((ours, theirs), "+0.500"), ((theirs, ours), "-0.500")):
        code, printed, _ = run("compare", *pair, "--columns", COLUMNS)
        assert code == 0
        assert f"The largest difference is {change}, at head 1.1" in printed
    code, _, err = run("compare", ours, theirs, "--columns", "prefix_matching=scor,head=head_idx")
    assert (code, "has no column 'scor' for prefix_matching" in err) == (2, True)


def test_references_take_names(planted, tmp_path):
    measured = pd.DataFrame({"layer": [0, 0, 0, 1, 1, 1], "Head": [0, 1, 2] * 2, "ind; score": 0.0})
    measured.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.recipe.json").write_text(json.dumps({"low": 1, "high": 60, "period": 20, "tolerance": 2.0}))
    words = ("validate", "planted", "--against", tmp_path / "a.csv")
    code, _, err = run(*words)
    assert (code, "its columns are layer, Head, ind; score, and --columns OUR=THEIRS" in err) == (2, True)
    code, printed, err = run(*words, "--columns", "head=Head,induction=ind; score")
    assert (code, err) == (0, "")
    assert printed.startswith("induction: 6 heads, ")
    assert (
        il.validate(planted, tmp_path / "a.csv", columns={"head": "Head", "induction": "ind; score"}).table is not None
    )


def test_a_curve_of_ones_own_is_searched_for_changes(tmp_path):
    run_of_ours = made(400).steps
    curve = run_of_ours[["step", "prefix_matching"]].rename(columns={"step": "iter", "prefix_matching": "pm"})
    curve.sample(frac=1, random_state=0).to_csv(tmp_path / "curve.csv", index=False)
    code, printed, err = run("changes", tmp_path / "curve.csv", "--columns", "step=iter,prefix_matching=pm")
    assert (code, err) == (0, "")
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith("curve ")]
    assert rows == [["curve", "prefix_matching", "1", "of", "1", "-", "400", "to", "425", "412", *rows[0][10:]]]
    for words, match in (
        (("--columns", "step=iter"), "columns must name step and at least one of prefix_matching, icl_score"),
        (("--columns", "step=iter,copying=pm"), "must name step and at least one of"),
        (("--columns", "step=iter,prefix_matching=pm", "--picture", "a.png"), "leave it out with --columns"),
        ((), "it has no column step; its columns are iter, pm"),
    ):
        code, printed, err = run("changes", tmp_path / "curve.csv", *words)
        assert (code, printed, match in err) == (2, "", True), err
    for cell, match in (
        ("1,0\n1,1", "has step 1 twice"),
        ("x,0", "column iter must hold numbers"),
        (",0", "column iter must hold a number of at least 0"),
    ):
        (tmp_path / "bad.csv").write_text(f"iter,pm\n{cell}\n")
        assert match in run("changes", tmp_path / "bad.csv", "--columns", "step=iter,prefix_matching=pm")[2]


# Layouts.
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_separators_and_byte_order_marks_are_read(separator, mark, tmp_path):
    (tmp_path / "a.csv").write_bytes(mark + THEIRS.replace(",", separator).encode())
    table = il.read_scores(tmp_path / "a.csv", columns=parse_columns([COLUMNS])).table
    assert table["prefix_matching"].tolist() == [0.1, 0.9, 0.25, 0.5]


def test_tab_separated_files_have_a_suffix_of_their_own(tmp_path):
    (tmp_path / "a.tsv").write_text(THEIRS.replace(",", "\t"))
    assert len(il.read_scores(tmp_path / "a.tsv", columns=parse_columns([COLUMNS]))) == 4


def test_decimal_commas_are_read_where_nothing_else_can_be_meant(tmp_path):
    text = 'layer;head;copying;induction_logit;note\n0;0;0,5;-1;"1,5 and 2,5"\n0;1;-0,25;1,5e-3;x\n'
    (tmp_path / "a.csv").write_text(text)
    table = il.read_scores(tmp_path / "a.csv").table
    assert table["copying"].tolist() == [0.5, -0.25]
    assert table["induction_logit"].tolist() == [-1, 0.0015]
    assert table["note"].tolist() == ["1,5 and 2,5", "x"]
    (tmp_path / "b.csv").write_text("layer;head;copying;induction_logit\n0;0;0,5;0.5\n0;1;0,25;1\n")
    with refused(r"has decimal commas \(column copying\) and decimal points \(column induction_logit\); use one"):
        il.read_scores(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("layer;head;copying\n0;0;1.000,5\n")
    with refused("column copying must hold numbers"):
        il.read_scores(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (
            {"model": "gpt2", "heads": [{"layer": 0}]},
            r"its top holds model \('gpt2'\), heads \(a list of 1\); a table is",
        ),
        ({"layer": [0, 1], "head": [0]}, r"its top holds layer \(a list of 2\), head \(a list of 1\)"),
        ([[0, 0, 0.5]], "its top is a list of 1; a table is a list of rows"),
        (3, "its top is 3"),
    ],
)
def test_nested_json_is_answered_with_what_it_holds(value, match, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(value))
    with refused(match):
        il.read_scores(tmp_path / "a.json")


def test_json_as_pandas_writes_it_is_read(tmp_path):
    frame = pd.DataFrame({"layer": [0, 0], "head": [0, 1], "copying": [0.5, None]})
    for orient in ("records", "columns", "list"):
        text = json.dumps(frame.to_dict("list")) if orient == "list" else frame.to_json(orient=orient)
        (tmp_path / "a.json").write_text(text.replace("NaN", "null"))
        assert il.read_scores(tmp_path / "a.json").table["copying"].tolist()[0] == 0.5


# Cut off.
@pytest.fixture(scope="module")
def scan_bytes(planted, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "s.csv"
    il.scan(planted, sequences=2, controls=False).save(path)
    return path.read_bytes()


def test_a_scan_that_is_cut_anywhere_is_never_taken_for_a_whole_one(scan_bytes, tmp_path, recwarn):
    ends = {place + 1 for place, byte in enumerate(scan_bytes) if byte == 10}
    first = min(ends)
    last_layers = [place for place in sorted(ends) if place > first]
    for cut in [
        *range(first + 1, len(scan_bytes), 97),
        *range(len(scan_bytes) - 30, len(scan_bytes)),
        *last_layers[:-1],
    ]:
        (tmp_path / "t.csv").write_bytes(scan_bytes[:cut])
        recwarn.clear()
        if cut not in ends:
            with refused("is cut off"):
                il.read_scores(tmp_path / "t.csv")
        else:  # between two lines: said aloud, unless a layer ends there or has no whole layer before it
            rows = len(il.read_scores(tmp_path / "t.csv"))
            assert rows <= 3 or "is it cut off?" in str(recwarn.pop(UserWarning).message)


def test_short_and_long_rows_are_refused_by_their_line(tmp_path):
    for text, match in (
        ('layer,head,why,copying\n0,0,"a\nb",1\n0,1\n', "line 4 has fewer cells than the first, which has 4"),
        ("layer,head,copying\n0,0,1,2\n0,1,1,2\n", "its rows have more cells than its first line"),
        ("layer,head,copying\n0,0,1\n0,1,1,2\n", "Expected 3 fields in line 3, saw 4"),
        ('layer,head,why,copying\n0,0,"a', "it is cut off inside quotes"),
    ):
        (tmp_path / "a.csv").write_text(text)
        with refused(match):
            il.read_scores(tmp_path / "a.csv")
    (tmp_path / "whole.csv").write_text("layer,head,copying\n0,0,1\n0,1,")  # made by hand: no end of the last line
    assert len(il.read_scores(tmp_path / "whole.csv")) == 2


def test_tables_of_runs_end_with_a_whole_line(tmp_path):
    made().save(tmp_path / "run.csv")
    for name in ("run.csv", "run.losses.csv", "run.followed.csv", "run.before.csv"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"{name}.meta.json").unlink()
        (tmp_path / name).write_bytes(whole[:-2])
        code, _, err = run("changes", tmp_path / "run.csv")
        assert (code, f"{name} is cut off" in err) == (2, True), err
        (tmp_path / name).write_bytes(whole)


# What spreadsheets and terminals obey.
TEXTS = ["=1+1", "'=1", "''=x", "'plain", "+a", "-", "@x", "\tx", "a=b", "", "'", "-0.5", "a\nb", '"', "a,b"]


def test_formulas_are_disarmed_and_come_back(tmp_path):
    frame = pd.DataFrame({"note": TEXTS, "=own": "x", "copying": -0.5})
    content = encode_csv(frame)
    assert b"\n'=1+1,x,-0.5\n" in content
    assert content.startswith(b"note,'=own,copying\n")
    for line in content.decode().splitlines():
        assert line[:1] not in tuple("=+-@")
    again = decode_csv(content, "a.csv")
    assert again.columns.tolist() == ["note", "=own", "copying"]
    assert again["note"].tolist() == TEXTS
    assert set(again["copying"]) == {"-0.5"}
    table = pd.DataFrame({"layer": 0, "head": range(len(TEXTS)), "copying": 0.5, "model": TEXTS, "why": TEXTS[::-1]})
    il.HeadScores(table).save(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(il.read_scores(tmp_path / "a.csv").table, table, check_dtype=False)


def test_control_characters_reach_neither_pictures_nor_the_terminal(tmp_path):
    import xml.dom.minidom

    name, red = "a\x1b[31m\x00b\n$_", "\\x1b[31m"
    table = pd.DataFrame({"model": name, "layer": 0, "head": [0, 1], "copying": 0.5, "kind": ["\x1b[31m", "none"]})
    il.HeadScores(table.assign(why="\x1b]0;x\x07")).save(tmp_path / "a.json")
    for suffix in (".svg", ".png"):
        assert run("plot", tmp_path / "a.json", "--out", tmp_path / f"p{suffix}")[0] == 0
    xml.dom.minidom.parse(str(tmp_path / "p.svg"))
    code, printed, _ = run("why", tmp_path / "a.json")
    assert (code, printed) == (0, f"0.0 {red}: \\x1b]0;x\\x07\n")
    code, _, err = run("scan", "no\nsuch\x1b[31m")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith(f"inductionlens: There is no folder no\\nsuch{red}")


def test_a_refusal_is_one_line_whatever_was_warned_of_before(theirs, monkeypatch):
    import warnings

    from inductionlens import head_files

    def warned(*inputs):
        warnings.warn("another library's", stacklevel=1)
        return read(*inputs)

    read = head_files.read_raw
    monkeypatch.setattr(head_files, "read_raw", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = run("why", theirs)
        assert (code, len(err.splitlines()), "another" in err) == (2, 1, False)
        code, _, err = run("plot", theirs, "--out", theirs.with_suffix(".png"), "--columns", COLUMNS)
        assert (code, err) == (0, "inductionlens: another library's\n")


def test_numbers_keep_every_bit():
    values = np.array([-0.0, 5e-324, 1 / 3, -1e300])
    again = decode_csv(encode_csv(pd.DataFrame({"x": values})), "a.csv")["x"].astype(float).to_numpy()
    assert again.tobytes() == values.tobytes()
