"""Tables on disk: exact round trips, whole files, and refusals."""

import json
import os
import stat
import subprocess
import sys

import pandas as pd
import pytest

import inductionlens as il
from inductionlens import InputError, files
from inductionlens.tables import COLUMNS, SCORES, explain, ordered


@pytest.fixture(scope="module")
def scores(planted):
    return il.scan(planted, sequences=3)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_tables_come_back_number_for_number(suffix, scores, tmp_path):
    path = tmp_path / f"scores{suffix}"
    scores.save(path)
    again = il.read_scores(path)
    pd.testing.assert_frame_equal(again.table, scores.table, check_exact=True)
    assert again.provenance == json.loads(json.dumps(scores.provenance))
    assert again.induction_heads() == scores.induction_heads()
    assert sorted(os.listdir(tmp_path)) == [path.name, f"{path.name}.meta.json"]


def test_awkward_numbers_survive(scores, tmp_path):
    table = scores.table.copy()
    table["prefix_matching"] = [0.1 + 0.2, 1e-300, 1 / 3, 5e-324, float("nan"), 0.0]
    table.loc[0, "model"] = 'a, "quoted"\nname of NA'
    table.loc[1, "revision"] = "None"
    for suffix in (".csv", ".parquet", ".json"):
        path = tmp_path / f"scores{suffix}"
        il.HeadScores(table).save(path)
        pd.testing.assert_frame_equal(il.read_scores(path).table, table, check_exact=True)


def test_named_formats_win_over_the_suffix(scores, tmp_path):
    path = tmp_path / "scores.txt"
    scores.to_json(path)
    assert json.loads(path.read_text())[0]["name"] == "L0H0"
    assert len(il.read_scores(path, "json")) == 6
    scores.to_csv(path)
    assert path.read_text().startswith("model,revision,step,seed,probe,name,layer,head,")


def test_a_table_holds_every_documented_column_in_order(scores):
    assert list(scores.table.columns) == ordered()
    assert all(explain(name) is not None for name in scores.table.columns)
    for name in SCORES:
        assert COLUMNS[name].source
        assert COLUMNS[name].range


def test_every_interval_end_is_explained():
    assert explain("copying_low").meaning.startswith("lower end")
    assert explain("copying_high").meaning.startswith("upper end")
    assert explain("ov_eigen_low") is None
    assert explain("nonsense") is None


def test_an_edited_table_loses_its_record_with_a_warning(scores, tmp_path):
    path = tmp_path / "scores.csv"
    scores.save(path)
    path.write_text(path.read_text().replace("planted", "renamed"))
    with pytest.warns(UserWarning, match="belongs to another version of scores.csv"):
        again = il.read_scores(path)
    assert again.provenance == {}
    assert set(again.table["model"]) == {"renamed"}


def test_a_table_without_its_record_is_read(scores, tmp_path):
    path = tmp_path / "scores.csv"
    scores.save(path)
    files.sidecar_of(path).unlink()
    assert il.read_scores(path).provenance == {}


def test_columns_of_ones_own_are_kept(scores, tmp_path):
    path = tmp_path / "scores.csv"
    il.HeadScores(scores.table.assign(note="mine")).save(path)
    assert set(il.read_scores(path).table["note"]) == {"mine"}


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", "x,y\n1,2\n", "is not a head table: it has no column layer, head"),
        ("a.csv", "layer,head\n0,1\n", "it has no column with a score"),
        ("a.csv", "layer,head,copying\n0,1,much\n", "column copying must hold numbers"),
        ("a.csv", "layer,head,copying\n0,1.5,1\n", "column head must hold whole numbers"),
        ("a.csv", "layer,head,copying\n0,1,1\n0,1,1\n", "names a head twice"),
        ("a.csv", "layer,head,copying\n-1,1,1\n", "layer must lie between 0 and 10000"),
        ("a.csv", "layer,head,copying\n1000000000000,1,1\n", "layer must lie between 0 and 10000"),
        ("a.csv", "layer,head,copying\n" + "9" * 30 + ",1,1\n", "head table"),
        ("a.csv", "layer,head,copying\n", "it has no rows"),
        ("a.csv", "", "is not a readable csv table"),
        ("a.json", "{", "is not a readable json table"),
        ("a.json", "3", "is not a readable json table"),
        ("a.parquet", "PAR1", "is not a readable parquet table"),
        ("a.txt", "", r"must be one of .csv, .parquet, .json, which tells the format; got '.txt'"),
        ("a", "", "got 'none'"),
    ],
)
def test_tables_that_are_none_are_refused(name, content, match, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=match):
        il.read_scores(tmp_path / name)


def test_other_layouts_and_broken_records_are_refused(scores, tmp_path):
    path = tmp_path / "scores.csv"
    scores.save(path)
    note = files.sidecar_of(path)
    record = json.loads(note.read_text())
    note.write_text(json.dumps({**record, "schema": 99}))
    with pytest.raises(InputError, match="has layout 99; this version reads layout 1"):
        il.read_scores(path)
    note.write_text("{")
    with pytest.raises(InputError, match="is not readable; delete it to read the table alone"):
        il.read_scores(path)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        il.read_scores(tmp_path / "none.csv")


def test_places_that_cannot_be_written_are_refused(scores, tmp_path):
    with pytest.raises(InputError, match="is a folder; give the name of a file in it"):
        scores.to_csv(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        scores.to_csv(tmp_path / "no" / "scores.csv")
    with pytest.raises(InputError, match="format must be one of csv, parquet, json; got 'xlsx'"):
        scores.save(tmp_path / "scores.xlsx", "xlsx")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(scores, tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        scores.save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_files_get_ordinary_permissions(tmp_path):
    files.write_atomically(tmp_path / "a", b"x")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_per_sequence_values_are_kept_and_average_to_the_table(scores):
    assert scores.samples["prefix_matching"].shape == (6, 3)
    long = scores.samples_table()
    assert list(long.columns) == ["name", "layer", "head", "score", "sequence", "value"]
    mean = long[(long["name"] == "L1H2") & (long["score"] == "induction_logit")]
    assert len(mean) == 30
    assert mean["value"].mean() == pytest.approx(scores["1.2"]["induction_logit"])


def test_the_profile_is_in_memory_only(scores, tmp_path):
    assert list(scores.offset_profile().columns) == list(range(-4, 13))
    scores.save(tmp_path / "scores.csv")
    with pytest.raises(InputError, match="keeps only offset_peak; scan again"):
        il.read_scores(tmp_path / "scores.csv").offset_profile()


def test_scores_are_compared_as_objects_and_unknown_kinds_refused(scores, tmp_path):
    assert scores == scores
    assert len({scores, il.HeadScores(scores.table)}) == 2
    with pytest.raises(InputError, match=r"There is no kind 'inductoin' of head; the kinds are .*induction, anti"):
        scores.heads("inductoin")
    scores.save(tmp_path / "scores.csv")
    with pytest.raises(InputError, match="keeps no per-sequence values"):
        il.read_scores(tmp_path / "scores.csv").samples_table()


def test_reading_a_table_does_not_import_torch(scores, tmp_path):
    scores.save(tmp_path / "scores.csv")
    path = str(tmp_path / "scores.csv")
    code = f"import inductionlens as il, sys; il.read_scores({path!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o000])
def test_files_follow_the_umask_which_is_never_touched(mask, tmp_path, monkeypatch):
    """It belongs to the whole process: what another thread writes while it is 0 is open to everybody."""
    before = os.umask(mask)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda *_: pytest.fail("the umask was touched"))
            patched.setattr(os, "chmod", lambda *_: pytest.fail("a mode was set"))
            files.write_atomically(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask
    assert os.listdir(tmp_path) == ["a"]


def test_somebody_elses_temporary_file_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "same")
    (tmp_path / ".writing-same").write_text("theirs")
    with pytest.raises(InputError, match="cannot be written: File exists"):
        files.write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / ".writing-same").read_text() == "theirs"
    assert os.listdir(tmp_path) == [".writing-same"]
