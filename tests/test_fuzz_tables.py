"""Hostile tables: read, or refused in one sentence; what is written comes back, and no file is left behind."""

import contextlib
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import run
from test_fuzz import BREAKS, CELLS, WHOLE, answer, broken, often

import inductionlens as il
from inductionlens.csv_tables import decode_csv, encode_csv

pytestmark = pytest.mark.filterwarnings("ignore:.*is it cut off:UserWarning")
NAMES = st.sampled_from(["layer", "head", "prefix_matching", "score", "kind", "why", "step", "probe", "=x", "", "a\nb"])
LETTERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
SPECIAL = st.text(st.sampled_from("=+-@'\"\t\r\n;, 0.1x"), max_size=5)
FRAMES = st.dictionaries(NAMES, st.lists(LETTERS | SPECIAL, min_size=3, max_size=3), min_size=1, max_size=4)


@often(300, ({"why": ["\r", "'", '"']},), ({"a": ["=", "'=", ""]},))
@given(FRAMES)
def test_text_comes_back_from_csv(cells):
    frame = pd.DataFrame(cells)
    if frame.shape[1] == 1 and (frame.iloc[:, 0].str.strip() == "").any():
        return  # a line with one empty cell is an empty line, which is no row
    if any(not name for name in cells):
        return  # a column without a name
    again = answer(decode_csv, encode_csv(frame), "a.csv")
    if again is not None:
        assert again.to_numpy().tolist() == frame.to_numpy().tolist()
        assert again.columns.tolist() == frame.columns.tolist()


FILES = st.one_of(
    st.binary(max_size=60),
    st.text(st.sampled_from("layerhd,;\t\n\"'01.=-[]{}:"), max_size=80).map(str.encode),
    st.dictionaries(NAMES, st.lists(CELLS, min_size=2, max_size=2), max_size=4).map(
        lambda cells: json.dumps([dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)],
                                 default=str).encode()
    ),
    st.dictionaries(NAMES, CELLS | st.lists(CELLS, max_size=2), max_size=4).map(
        lambda cells: json.dumps(cells, default=str).encode()
    ),
)  # fmt: skip
COLUMNS = st.sampled_from([None, {"prefix_matching": "score"}, {"layer": "step", "head": "score", "copying": ""}])
KINDS = st.sampled_from(["csv", "tsv", "json", "parquet"])


@often(300, (b"a", "tsv", None), (b'{"layer": {"a": 1}, "head": {"b": 2}}', "json", None))
@given(FILES, KINDS, COLUMNS)
def test_any_file_is_a_head_table_or_is_refused(tmp_path, content, kind, columns):
    (tmp_path / f"a.{kind}").write_bytes(content)
    scores = answer(il.read_scores, tmp_path / f"a.{kind}", columns=columns)
    assert scores is None or len(scores)


STEPS = {"step": [1, 2, 4, 8, 16, 32, 64], "pm": [0, 0, 0, 1, 1, 1, 1.0], "icl_score": [None, -1, -1, -2, -2, -2, -2]}
EDITS = st.dictionaries(
    st.sampled_from([*STEPS, "other"]), st.lists(CELLS, min_size=7, max_size=7) | CELLS.map(lambda cell: [cell] * 7),
    max_size=2,
)  # fmt: skip
NAMED = st.sampled_from(
    ["step=step,prefix_matching=pm", "step=step,icl_score=icl_score,prefix_matching=pm", "step=pm,prefix_matching=step",
     "step=other,prefix_matching=other", "step", "prefix_matching=pm"]
)  # fmt: skip


@often(
    120,
    ({}, "csv", "step=step,prefix_matching=pm", WHOLE),
    ({"pm": [1e308, -1e308] * 3 + [0]}, "csv", "step=step,prefix_matching=pm", WHOLE),
)
@given(EDITS, st.sampled_from(["csv", "json", "parquet"]), NAMED, st.just(WHOLE) | BREAKS)
def test_curves_of_others_are_searched_or_refused(tmp_path, edits, kind, named, breaks):
    frame = pd.DataFrame({**STEPS, **edits})
    content = frame.to_csv(index=False).encode()
    if kind == "json":
        content = json.dumps(frame.to_dict("list"), default=str).encode()
    elif kind == "parquet":
        with contextlib.suppress(Exception):
            content = frame.to_parquet()
    for old in tmp_path.iterdir():
        old.unlink()
    (tmp_path / f"a.{kind}").write_bytes(broken(content, breaks))
    code, printed, err = answer(run, "changes", tmp_path / f"a.{kind}", "--columns", named, "--out", tmp_path / "b.csv")
    left = sorted(path.name for path in tmp_path.iterdir())
    if code:
        assert (code, printed, left, len(err.splitlines())) == (2, "", [f"a.{kind}"], 1)
    else:
        assert left == sorted([f"a.{kind}", "b.csv", "b.csv.meta.json"])
        assert np.isin(pd.read_csv(tmp_path / "b.csv")["changed"], [0, 1]).all()


EFFECTS = {"model": "m", "name": ["L0H0", "L0H1"], "layer": 0, "head": [0, 1], "kind": "none", "output": "zero"}
EFFECTS |= {"patterns": "free", "method": "exact", "effect_copies": [0.5, None], "control_copies": [None, 0.1]}


@often(50)
@given(st.dictionaries(NAMES, st.lists(CELLS, min_size=2, max_size=2), max_size=2), KINDS, st.just(WHOLE) | BREAKS)
def test_columns_of_any_table_are_explained_or_it_is_refused(tmp_path, edits, kind, breaks):
    frame = pd.DataFrame({**EFFECTS, **edits})
    content = json.dumps(frame.to_dict("list"), default=str).encode() if kind == "json" else encode_csv(frame)
    (tmp_path / f"a.{kind}").write_bytes(broken(content, breaks))
    code, printed, err = answer(run, "columns", tmp_path / f"a.{kind}")
    assert code == 0 or (code, printed, len(err.splitlines())) == (2, "", 1)
