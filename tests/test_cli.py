"""The command line as a user meets it."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import inductionlens as il
from inductionlens import cli
from inductionlens.studies.options import ScanOptions


def run(*words, check=None):
    """Run a command in this process; gives (exit code, stdout, stderr)."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["inductionlens", *map(str, words)], out, err
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    out.flush()
    return code, out.buffer.getvalue().decode(), err.getvalue()


@pytest.fixture(scope="module")
def scanned(planted):
    return il.scan(planted, sequences=2)


def test_scan_prints_the_heads_that_matter_and_writes_every_row(tmp_path):
    out = tmp_path / "scores.csv"
    code, printed, err = run("scan", "planted", "--out", out)
    assert (code, err) == (0, "")
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    assert ["1.2", "induction", "1.000", "0.010", "0.000", "1.000", "9.844"] in lines
    assert ["0.1", "previous_token", "0.000", "1.000", "0.000", "-", "0.000"] in lines
    assert "1 of 6 heads is an induction head." in printed
    assert "The model copies, with induction heads" in printed
    assert f"6 rows written to {out}" in printed
    assert len(il.read_scores(out)) == 6


def test_the_command_line_and_python_give_one_table(tmp_path):
    run("scan", "planted", "--seed", 3, "--sequences", 4, "--out", tmp_path / "a.csv", "--quiet")
    il.scan("planted", seed=3, sequences=4).to_csv(tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.csv.meta.json").read_bytes() == (tmp_path / "b.csv.meta.json").read_bytes()


OPTIONS = {
    "--sequences 4": {"sequences": 4},
    "--period 20": {"period": 20},
    "--repeats 3": {"repeats": 3},
    "--logit-period 20": {"logit_period": 20},
    "--no-bos": {"bos": False},
    "--bos 5": {"bos": 5},
    "--reduce last": {"reduce": "last"},
    "--value-weighted": {"value_weighted": True},
    "--copying-source head_output": {"copying_source": "head_output"},
    "--logit-recipe mcdougall": {"logit_recipe": "mcdougall"},
    "--no-controls": {"controls": False},
    "--threshold 0.9": {"threshold": 0.9},
    "--batch-size 3": {"batch_size": 3},
    "--text random": {"text": "random"},
    "--seed 9": {"seed": 9},
}


@pytest.mark.parametrize("words", OPTIONS)
def test_every_option_arrives(words, scanned, monkeypatch):
    from dataclasses import asdict

    from inductionlens.studies import scan as module

    seen = []
    monkeypatch.setattr(module, "scan", lambda model, options, on_progress: seen.append(asdict(options)) or scanned)
    assert run("scan", "planted", "-q", *words.split())[0] == 0
    assert seen == [{**asdict(ScanOptions()), **OPTIONS[words]}]


def test_quiet_says_nothing(tmp_path):
    assert run("scan", "planted", "--quiet", "--out", tmp_path / "a.csv") == (0, "", "")


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_format_without_out_prints_the_table_alone(kind):
    code, printed, _ = run("scan", "planted", "--sequences", 2, "--format", kind)
    assert code == 0
    if kind == "json":
        assert len(json.loads(printed)) == 6
    else:
        assert printed.startswith("model,revision,")
        assert len(printed.splitlines()) == 7


def test_a_format_beats_the_suffix(tmp_path):
    run("scan", "planted", "--sequences", 2, "--format", "json", "--out", tmp_path / "scores.dat", "-q")
    assert len(json.loads((tmp_path / "scores.dat").read_text())) == 6


def test_named_heads_are_shown_too():
    _, printed, _ = run("scan", "planted", "--sequences", 2, "--head", "1.0", "--head", "L0H2")
    assert [line.split()[0] for line in printed.splitlines() if " none " in line] == ["0.2", "1.0"]


def test_samples_are_written_on_request(tmp_path):
    run("scan", "planted", "--sequences", 2, "--samples", tmp_path / "samples.csv", "-q")
    assert (tmp_path / "samples.csv").read_text().startswith("name,layer,head,score,sequence,value\nL0H0,0,0,")


def test_plot_draws_what_scan_wrote(tmp_path):
    run("scan", "planted", "--sequences", 2, "--out", tmp_path / "scores.csv", "-q")
    for name in ("mosaic.png", "mosaic.svg"):
        code, printed, err = run("plot", tmp_path / "scores.csv", "--out", tmp_path / name)
        assert (code, printed, err) == (0, f"mosaic written to {tmp_path / name}\n", "")
        assert (tmp_path / name).stat().st_size > 5000


def test_why_tells_what_verdicts_rest_on(tmp_path):
    run("scan", "planted", "--out", tmp_path / "scores.csv", "-q")
    code, printed, _ = run("why", tmp_path / "scores.csv")
    assert code == 0
    assert [line.split()[:2] for line in printed.splitlines()] == [["0.1", "previous_token:"], ["1.2", "induction:"]]
    code, printed, _ = run("why", tmp_path / "scores.csv", "--head", "1.0")
    assert printed == "1.0 none: no attention score reaches 0.4\n"
    code, _, err = run("why", tmp_path / "scores.csv", "--head", "1.9")
    assert (code, err) == (2, "inductionlens: There is no head 1.9: the model has 2 layers of 3 heads.\n")


def test_why_says_so_where_no_head_is_of_a_kind(tmp_path):
    run("scan", "planted-idle", "--sequences", 2, "--out", tmp_path / "scores.csv", "-q")
    code, printed, _ = run("why", tmp_path / "scores.csv")
    assert (code, len(printed.splitlines())) == (0, 1)
    assert "No head of this table is of a kind" in printed


def test_columns_explains_each_one():
    code, printed, _ = run("columns")
    assert code == 0
    from inductionlens.effect_columns import EFFECT_COLUMNS
    from inductionlens.tables import COLUMNS

    assert all(f" {name} " in printed for name in COLUMNS | EFFECT_COLUMNS)
    code, printed, _ = run("columns", "copying_low")
    assert "lower end of the 95% interval" in " ".join(printed.split())


BAD = [
    ("scan nothing-like-it-at-all", "There is no folder nothing-like-it-at-all and no model of that name"),
    ("scan ./missing", "There is no folder ./missing"),
    ("scan gpt2", "could not be fetched from the hub"),
    ("scan planted --sequences 0", "sequences must be at least 1; got 0"),
    ("scan planted --sequences -4", "sequences must be at least 1; got -4"),
    ("scan planted --period 2", "period must be at least 3; got 2"),
    ("scan planted --repeats 1", "repeats must be at least 2; got 1"),
    ("scan planted --batch-size 0", "batch_size must be at least 1; got 0"),
    ("scan planted --seed -1", "seed must lie between 0 and 2^63 - 1; got -1"),
    ("scan planted --threshold 0", "threshold must lie above 0 and at most at 1; got 0.0"),
    ("scan planted --threshold nan", "threshold must lie above 0 and at most at 1; got nan"),
    ("scan planted --period 60", "period=47 fits"),
    ("scan planted --reduce mean", "reduce must be one of sum, last, first, entry_mean, diagonal; got 'mean'"),
    ("scan planted --copying-source z", "copying_source must be one of value, head_output; got 'z'"),
    ("scan planted --logit-recipe x", "logit_recipe must be one of default, mcdougall; got 'x'"),
    ("scan planted --dtype int4", "dtype must be one of float32, bfloat16, float16; got 'int4'"),
    ("scan planted --device gpu9", "The device 'gpu9' cannot be used here"),
    ("scan planted --text stdlib", "no tokenizer to read text with"),
    ("scan planted --head 7.0", "There is no head 7.0: the model has 2 layers of 3 heads."),
    ("scan planted --head one", "A head is named like 5.1, L5H1 or (5, 1), layer first; got 'one'"),
    ("scan planted --bos 99", "bos must be an id below the model's 64 tokens; got 99"),
    ("scan planted --bos 3 --no-bos", "--bos and --no-bos contradict each other"),
    ("scan planted --out scores.xlsx", "The suffix of scores.xlsx must be one of .csv, .parquet, .json"),
    ("scan planted --out missing/scores.csv", "missing/scores.csv cannot be written: there is no folder missing"),
    ("scan planted --format xlsx", "format must be one of csv, parquet, json; got 'xlsx'"),
    ("scan planted --out a.csv --samples a.csv", "--samples and --out need files of their own"),
    ("scan planted --out a.csv --samples a.csv.meta.json", "--samples and --out need files of their own"),
    ("scan planted --revision abc", "revision and checkpoint are for hub models"),
    ("scan ~nosuchuser/m", "cannot be looked at"),
    ("scan " + "m" * 300, "cannot be looked at"),
    ("scan planted --samples here.txt", "The suffix of here.txt must be one of .csv, .parquet, .json"),
    ("scan planted --seqences 3", "--seqences"),
    ("scan planted --sequences many", "Invalid value for '--sequences'"),
    ("scan", "Missing argument"),
    ("frobnicate", "No such command 'frobnicate'"),
    ("columns prefix_match", "There is no table and no column 'prefix_match'; the nearest are prefix_matching"),
    ("plot missing.csv --out a.png", "The table missing.csv cannot be read"),
    ("plot missing.csv --out a.txt", "The suffix of a.txt must be one of .png, .svg, .pdf; got '.txt'"),
    ("plot missing.csv --out no/a.png", "there is no folder no"),
]


@pytest.mark.parametrize(("words", "sentence"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_one_sentence_and_code_2_and_nothing_is_written(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, err = run(*words.split())
    assert code == 2
    assert printed == ""
    assert sentence in err
    assert err.startswith("inductionlens: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_without_a_command_help_is_shown():
    code, printed, err = run()
    assert code == 2
    assert "scan" in printed + err


def start(*words, cwd):
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "inductionlens", *words], cwd=cwd, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_an_interrupt_leaves_no_file(tmp_path):
    process = start("scan", "planted", "--sequences", "3000", "--batch-size", "1", "--out", "scores.csv", cwd=tmp_path)
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "inductionlens: interrupted; no half-written file is left.\n"
    assert os.listdir(tmp_path) == []


def test_help_needs_no_torch(tmp_path):
    """What makes --help quick: nothing heavy is imported for it."""
    code = (
        "import sys; sys.argv = ['inductionlens', '--help']\n"
        "from inductionlens.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformer_lens', 'pandas', 'numpy', 'scipy', 'matplotlib', 'transformers'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "scan" in done.stdout


def test_the_version_is_the_packages():
    from importlib.metadata import version

    assert run("--version") == (0, version("inductionlens") + "\n", "")


def test_progress_is_shown_on_a_terminals_stderr_only(tmp_path):
    """A pseudo-terminal for stderr sees the bar; stdout holds the result alone."""
    import pty

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "inductionlens", "scan", "planted", "--format", "csv", "--sequences", "2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=follower, text=True,
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    out, _ = process.communicate()
    os.close(leader)
    assert b"planted" in seen
    assert len(out.splitlines()) == 7


def test_without_a_terminal_long_work_says_now_and_then_how_far_it_is(monkeypatch):
    from inductionlens.cli import speak

    monkeypatch.setattr(speak, "EVERY", 0.02)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with speak.Progress(False, "scanning a\nmodel") as progress:
        progress.at(1200, 5000)
        time.sleep(0.2)
    lines = stream.getvalue().splitlines()
    assert lines
    assert set(lines) == {"inductionlens: scanning a\\nmodel, 1,200 of 5,000, 0 s"}
    time.sleep(0.05)
    said = stream.getvalue()
    with speak.Progress(True, "scanning"):
        time.sleep(0.1)
    assert stream.getvalue() == said


def test_a_message_is_one_line_and_commands_no_terminal():
    code, _, err = run("scan", "a\nb\x1b[31mred")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err
    assert "a\\nb\\x1b[31mred" in err


def test_a_verdict_without_controls_says_so():
    words = ("scan", "planted-fixed-offset", "--sequences", 2, "--logit-period", 25)
    assert "The controls were left out" not in run(*words)[1]
    assert "a head that looks a fixed distance back" in run(*words, "--no-controls")[1]
    words = ("--sequences", 2, "--no-controls")
    assert "The controls were left out" in run("circuit", "planted", *words)[1]
    assert "The controls were left out" in run("ablate", "planted", "--measures", "copies", "--draws", 2, *words)[1]


def test_the_way_out_that_orders_names_is_an_option_of_orders(tmp_path):
    config = il.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=64, n_ctx=80)
    il.save_toy(il.new_toy(config), tmp_path / "toy")
    words = ("orders", tmp_path / "toy", "--measures", "copies", "--sequences", 2)
    assert "period=19 fits; so does repeats=3" in run(*words)[2]
    assert run(*words, "--period", 19)[0] == 0
    assert run(*words, "--repeats", 3)[0] == 0


def test_an_interrupt_that_a_library_turns_into_its_own_error_is_one(monkeypatch):
    def lazily(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt as error:
            raise ModuleNotFoundError("Could not import module") from error

    from inductionlens.models import loading

    monkeypatch.setattr(loading, "load_model", lazily)
    assert run("scan", "planted") == (130, "", "inductionlens: interrupted; no half-written file is left.\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_while_its_own_modules_are_read_is_one_line(monkeypatch, capsys):
    import builtins

    from inductionlens import __main__

    def interrupted(name, *rest):
        if name == "inductionlens.cli":
            raise KeyboardInterrupt
        return before(name, *rest)

    before = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    monkeypatch.undo()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "inductionlens: interrupted; no half-written file is left.\n"
