"""Every table that a command writes: its record, its suffix, and its columns in its own dictionary."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_cli import run

import inductionlens as il
from inductionlens import InputError
from inductionlens.column_tables import INTERVALS, TABLES, columns_of, explain_in, kind_of
from inductionlens.effect_columns import EFFECT_COLUMNS
from inductionlens.files import read_raw, sidecar_of
from inductionlens.models.origin import origin_of
from inductionlens.studies.orders import SETTINGS
from inductionlens.studies.provenance import environment, model_record, study_record
from inductionlens.studies.reproduce import Preset, reproduce
from inductionlens.studies.training import train_toy
from inductionlens.studies.watching import watch
from inductionlens.tables import SCORES

SHAPE = {"d_model": 16, "d_head": 8, "heads": 2, "d_vocab": 40, "n_ctx": 32, "batch_size": 4}
PRESET = Preset((1,), (False,), SHAPE | {"n_ctx": 40, "steps": 12, "snapshots": 7}, 8, seeds=(0,))
RECIPE = {"low": 1, "high": 40, "sequences": 1, "period": 10}

#: What is written -> the command that writes it. Those of a command with one table alone come first.
ALONE = {
    "orders": "orders planted --windows 2 --sequences 2 --seed 3",
    "trigrams": "trigrams planted --top 2 --head 0.1 --seed 3",
    "repeats": "repeats planted planted-smeared-induction --sequences 2 --tokens uniform,zipf --seed 3",
    "watch": "watch run --period 4 --seed 3",
    "changes": "changes formation.csv",
    "compare": "compare scan.csv other.csv",
    "ranks": "ranks twelve.csv --model gpt2",
    "validate": "validate planted --against published.csv",
}
OTHERS = [
    "scan planted --sequences 2 --out scan.csv --samples scan.samples.csv",
    "scan planted --sequences 2 --seed 1 --out other.csv",
    "ablate planted --sequences 2 --windows 2 --draws 2 --out ablate.csv",
    "icl planted --windows 2 --out icl.csv",
    "circuit planted --sequences 2 --out circuit.csv --terms circuit.terms.csv",
    "formation run --sequences 2 --windows 3 --out formation.csv",
]
#: Columns that a table may have.
OPTIONAL = {
    "ablate": {"p_copies", "p_icl", "p_text"},
    "ablate.groups": {"p_copies", "p_icl", "p_text", "layers", "holds_writer"},
    "compare": {"p_value", "q_value"},
    "formation.heads": {"kind", "previous_token_source"},
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder in which every command has written its tables."""
    folder = tmp_path_factory.mktemp("written")
    train_toy(folder / "run", steps=4, snapshots=3, **SHAPE)
    layer, head = np.divmod(np.arange(144), 12)
    columns = {"layer": layer, "head": head} | {name: np.arange(144) / 144 for name in ("prefix_matching", "copying")}
    il.HeadScores(pd.DataFrame(columns)).save(folder / "twelve.csv")
    layer, head = np.divmod(np.arange(6), 3)
    pd.DataFrame({"layer": layer, "head": head, "induction": 0.5}).to_csv(folder / "published.csv", index=False)
    (folder / "published.recipe.json").write_text(json.dumps(RECIPE))
    with contextlib.chdir(folder):
        for words in (*OTHERS, *(f"{words} --out {kind}.csv" for kind, words in ALONE.items())):
            code, _, err = run(*words.split())
            assert (code, err) == (1 if words.startswith("validate") else 0, ""), words
        reproduce("reproduced", PRESET, workers=1)
    (folder / "run" / "training.csv").rename(folder / "train.csv")
    for name in ("arguments", "runs", "curves"):
        (folder / "reproduced" / f"{name}.csv").rename(folder / f"reproduce.{name}.csv")
    return folder


def record_of(path):
    return json.loads(sidecar_of(path).read_text())


# Records.
@pytest.mark.parametrize("kind", [kind for kind in TABLES if not kind.startswith(("reproduce", "train"))])
def test_every_table_has_its_record(desk, kind):
    record = record_of(desk / f"{kind}.csv")
    assert record["table_sha256"] == hashlib.sha256((desk / f"{kind}.csv").read_bytes()).hexdigest()
    assert record["versions"] == environment()["versions"]
    assert record.get("command", kind.partition(".")[0]) == kind.partition(".")[0]
    assert kind not in ALONE or record["command"] == kind
    assert str(desk) not in json.dumps(record)


@pytest.mark.parametrize("kind", ALONE)
def test_equal_calls_leave_equal_records(desk, kind):
    with contextlib.chdir(desk):
        run(*ALONE[kind].split(), "--out", "again.csv", "--quiet" if kind not in ("compare", "ranks") else "--out",
            *(["again.csv"] if kind in ("compare", "ranks") else []))  # fmt: skip
    assert (desk / "again.csv").read_bytes() == (desk / f"{kind}.csv").read_bytes()
    assert sidecar_of(desk / "again.csv").read_bytes() == sidecar_of(desk / f"{kind}.csv").read_bytes()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("orders", {"measures": ["copies", "text"], "text": "auto", "n_windows": 2, "length": None, "sequences": 2,
                    "period": 25, "repeats": 4, "bos": True, "seed": 3, "batch_size": None,
                    "pool": "tokenizer"}),
        ("trigrams", {"heads": ["0.1"], "top": 2, "distance": None, "seed": 3}),
        ("repeats", {"distributions": ["uniform", "zipf"], "period": 25, "repeats": 4, "sequences": 2, "bos": True,
                     "seed": 3, "batch_size": None, "pool": "tokenizer"}),
        ("watch", {"source": "run", "steps": "all", "frames": None, "period": 4, "bos": True, "seed": 3}),
        ("changes", {}),
        ("compare", {}),
        ("ranks", {"model": "gpt2"}),
        ("validate", {"recipe": {"seed": 0, **RECIPE, "tolerance": 1e-3, "above": 0.8, "source": ""}}),
        ("circuit.terms", {"readers": ["1.2"], "distance": None}),
    ],
)  # fmt: skip
def test_records_hold_every_option(desk, kind, options):
    if kind == "watch":
        options = options | {"head": str(watch(desk / "run", period=4, seed=3).head)}
    assert record_of(desk / f"{kind}.csv")["options"] == options


GIVEN = {
    "orders": (
        "orders planted --measures text --text random --windows 3 --length 20 --sequences 3 --seed 1 --no-bos "
        "--batch-size 2 --pool ids.txt",
        {"pool": "ids.txt", "measures": ["text"],
         "text": "random", "n_windows": 3, "length": 20, "sequences": 3, "seed": 1, "bos": False,
         "batch_size": 2, "period": 25, "repeats": 4},
    ),
    "repeats": (
        "repeats planted --tokens zipf --period 10 --times 3 --sequences 3 --seed 1 --bos 5 --batch-size 2",
        {"distributions": ["zipf"], "period": 10, "repeats": 3, "sequences": 3, "seed": 1, "bos": 5, "batch_size": 2,
         "pool": "tokenizer"},
    ),
    "watch": (
        "watch run --head 0.1 --steps log --frames 2 --period 5 --seed 1 --no-bos",
        {"source": "run", "head": "0.1", "steps": "log", "frames": 2, "period": 5, "seed": 1, "bos": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GIVEN)
def test_every_option_given_arrives_in_the_record(desk, kind):
    words, options = GIVEN[kind]
    (desk / "ids.txt").write_text("\n".join(map(str, range(1, 60))))
    with contextlib.chdir(desk):
        code, _, err = run(*words.split(), "--out", "given.csv")
    assert (code, err) == (0, "")
    assert record_of(desk / "given.csv")["options"] == options


def test_records_are_plain_values():
    assert study_record("x", options={"a": (1, "b"), "c": Path("d")})["options"] == {"a": [1, "b"], "c": "d"}


def test_every_row_is_written(desk):
    rows = {
        kind: len(pd.read_csv(desk / f"{kind}.csv")) for kind in ("repeats", "trigrams", "changes", "circuit.terms")
    }
    assert rows == {"repeats": 4, "trigrams": 2, "changes": 3, "circuit.terms": 16}


def test_options_of_orders_are_those_that_it_takes(desk):
    assert set(record_of(desk / "orders.csv")["options"]) == {"measures", *SETTINGS}
    assert set(record_of(desk / "orders.csv")["stimuli"]) == {"copies", "windows", "pool"}


def test_records_name_the_models(desk, planted):
    for kind in ("orders", "trigrams", "validate", "circuit.terms", "scan"):
        assert record_of(desk / f"{kind}.csv")["model"] == model_record(planted)
    names = [model["name"] for model in record_of(desk / "repeats.csv")["model"]]
    assert names == ["planted", "planted-smeared-induction"]
    assert origin_of(planted).name == "planted"


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("changes", ["formation.csv", "formation.csv.meta.json"]),
        ("compare", ["scan.csv", "other.csv"]),
        ("ranks", ["twelve.csv"]),
        ("validate", ["published.csv", "published.recipe.json"]),
    ],
)
def test_records_hold_names_and_bytes_of_what_was_read(desk, kind, files):
    expected = [{"path": name, "sha256": hashlib.sha256((desk / name).read_bytes()).hexdigest()} for name in files]
    assert record_of(desk / f"{kind}.csv")["inputs"] == expected
    assert "inputs" not in record_of(desk / "orders.csv")


def test_records_name_the_kind_of_interval(desk):
    for kind in ("orders", "repeats", "changes", "compare"):
        assert record_of(desk / f"{kind}.csv")["intervals"] == INTERVALS[kind]
    assert INTERVALS["orders"].endswith("over sequences, empty below 5")
    assert INTERVALS["changes"].endswith("over seeds")
    assert "intervals" not in record_of(desk / "trigrams.csv")


def test_an_input_that_is_gone_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv cannot be read: No such file"):
        study_record("compare", inputs=[tmp_path / "none.csv"])


# Suffixes.
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
@pytest.mark.parametrize("kind", [*ALONE, "scan.samples"])
def test_the_suffix_decides_the_bytes(desk, kind, suffix):
    out = desk / f"new{suffix}"
    words = ALONE.get(kind, "scan planted --sequences 2").split()
    with contextlib.chdir(desk):
        run(*words, "--samples" if kind == "scan.samples" else "--out", out)
    table = pd.read_parquet(out) if suffix == ".parquet" else pd.DataFrame(json.loads(out.read_bytes()))
    expected = pd.read_csv(desk / f"{kind}.csv")
    assert list(table.columns) == list(expected.columns)
    assert len(table) == len(expected)
    for name in expected.select_dtypes("number"):
        assert np.allclose(table[name].astype(float), expected[name], rtol=1e-6, equal_nan=True), name
    assert record_of(out)["options"] == record_of(desk / f"{kind}.csv")["options"]


@pytest.mark.parametrize("kind", [*ALONE, "scan.samples"])
def test_an_unknown_suffix_is_refused_before_any_work(desk, kind, monkeypatch):
    for name in ("models.loading.load_model", "head_scores.read_scores", "models.checkpoints.checkpoints",
                 "studies.changes_table.read_models"):  # fmt: skip
        monkeypatch.setattr(f"inductionlens.{name}", lambda *_, **__: pytest.fail("work was done"))
    words = ALONE.get(kind, "scan planted").split()
    with contextlib.chdir(desk):
        code, printed, err = run(*words, "--samples" if kind == "scan.samples" else "--out", "new.txt")
    assert (code, printed) == (2, "")
    suffixes = ".png, .svg, .pdf, .gif" if kind == "watch" else ".csv, .parquet, .json"
    assert err.startswith(f"inductionlens: The suffix of new.txt must be one of {suffixes}")


@pytest.mark.parametrize("words", ["--out a.csv.meta.json --samples a.csv", "--out a.json --samples a.json.meta.json"])
def test_a_table_is_not_written_over_the_others_record(words, tmp_path):
    with contextlib.chdir(tmp_path):
        code, _, err = run("scan", "planted", "--format", "json", *words.split())
    assert code == 2
    assert "--samples and --out need files of their own; both would write a." in err
    assert list(tmp_path.iterdir()) == []


# Columns.
@pytest.mark.parametrize("kind", TABLES)
def test_every_table_is_explained_by_its_own_dictionary_and_nothing_else_is(desk, kind):
    table, record = read_raw(desk / f"{kind}.csv", None)
    names = set(table.columns)
    assert names - set(columns_of(kind)) == set()
    assert set(columns_of(kind)) - names <= OPTIONAL.get(kind, set())
    assert kind_of(names, record.get("command")) == kind
    assert kind_of(names) == kind


def first_cells(printed):
    """What stands in the first column of what was printed."""
    rows = [line for line in printed.splitlines() if line.startswith(" ") and line[1:2].strip(" ─")]
    return [line.split()[0] for line in rows if line.split()[:2] not in (["column", "meaning"], ["column", "table"])]


@pytest.mark.parametrize("kind", ["scan", "circuit.terms", "formation", "formation.losses", "changes", "orders"])
def test_columns_of_a_file_are_those_of_the_file(desk, kind):
    code, printed, err = run("columns", desk / f"{kind}.csv")
    assert (code, err) == (0, "")
    assert f"{kind}.csv: a table of kind {kind}" in printed
    names = read_raw(desk / f"{kind}.csv", None)[0].columns
    assert sorted(first_cells(printed)) == sorted(names)
    ends = f"are the ends of the 95% interval of NAME{': ' + INTERVALS[kind] if kind in INTERVALS else ''}."
    assert (ends in printed) == any(name.endswith("_low") for name in names)


def test_columns_of_a_kind_are_all_that_it_can_have():
    for kind in TABLES:
        code, printed, _ = run("columns", kind)
        assert code == 0
        assert first_cells(printed) == columns_of(kind)


def test_one_name_has_a_row_for_each_of_its_meanings():
    code, printed, _ = run("columns", "loss")
    assert code == 0
    rows = [line.split()[1] for line in printed.splitlines() if line.startswith(" loss ")]
    assert rows == ["icl", "orders", "train", "formation", "formation.followed"]
    assert len(first_cells(run("columns", "size")[1])) == 2
    assert "Frobenius" not in explain_in("changes", "size").meaning
    for name in ("tokens", "attention", "size"):
        meanings = {explain_in(kind, name).meaning for kind in TABLES if explain_in(kind, name)}
        assert len(meanings) >= 2
        assert not any(";" in meaning and " of " in meaning.split(";")[1] for meaning in meanings)


def test_interval_ends_say_over_what():
    assert (
        explain_in("changes", "start_low").meaning == "lower end of the 95% interval of start: Student's t over seeds"
    )
    assert explain_in("orders", "loss_high").meaning.endswith("of loss: Student's t over sequences, empty below 5")
    assert explain_in("scan", "copying_low").meaning.startswith("lower end of the 95%")
    assert explain_in("changes", "size_low") is None
    assert explain_in("compare", "low").meaning.startswith("lower end of the 95% interval of the difference")


def test_every_table_is_listed_without_a_name():
    code, printed, _ = run("columns")
    assert code == 0
    assert [line for line in printed.splitlines() if line in TABLES] == list(TABLES)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("losss", "There is no table and no column 'losss'; the nearest are loss"),
        ("formation.head", "the nearest are formation.heads"),
        ("copying_lo", "the nearest are copying_low"),
        ("zzzzzzzz", "all are listed without a name"),
        ("none.csv", "The table none.csv cannot be read: No such file"),
    ],
)
def test_a_typo_gets_the_nearest_names(name, said):
    code, printed, err = run("columns", name)
    assert (code, printed) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_tables_of_others_are_refused_and_columns_of_ones_own_are_named(desk, tmp_path):
    (tmp_path / "a.csv").write_text("apples,pears,loss\n1,2,3\n")
    code, printed, err = run("columns", tmp_path / "a.csv")
    assert (code, printed) == (2, "")
    assert "a.csv is no table that inductionlens wrote" in err
    mine = il.read_scores(desk / "scan.csv").table.assign(note="mine").drop(columns=["copying_low", "copying_high"])
    il.HeadScores(mine).save(tmp_path / "b.csv")
    code, printed, _ = run("columns", tmp_path / "b.csv")
    assert code == 0
    assert "copying" in first_cells(printed)
    assert "copying_low" not in first_cells(printed)
    assert any(line.split()[:2] == ["note", "(no"] for line in printed.splitlines() if line.strip())


def test_kinds_are_no_columns_and_no_dictionary_was_forgotten():
    names = {name for kind in TABLES for name in columns_of(kind)}
    assert not names & set(TABLES)
    assert {*SCORES, *EFFECT_COLUMNS} <= names
    assert set(INTERVALS) <= set(TABLES)
