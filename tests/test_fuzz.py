"""Hostile input brings out the documented error and nothing else: no traceback, no hang, no half-written file."""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import jaxtyping
import pandas as pd
import pytest
import torch
import typer
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from test_cli import run

import inductionlens as il
from inductionlens import InputError, cli

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")
pytestmark = pytest.mark.filterwarnings("ignore:The record .* is left out:UserWarning")


def often(count, *examples):
    """These examples and ``count`` drawn ones, the same on every run; small as they are drawn, so none is shrunk."""
    how = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

    def decorate(test):
        for one in examples:
            test = example(*one)(test)
        return settings(max_examples=count, phases=(Phase.explicit, Phase.generate), **how)(test)

    return decorate


def answer(call, *inputs, **named):
    """What a call gives within 10 s of processor time and 4 GiB, or None where it refuses in one sentence.

    The types that the test suite checks are not checked here: they would answer a hostile file in the package's place.
    """
    pages, before = int(Path("/proc/self/statm").read_text().split()[0]), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**32, before[1]))
    signal.signal(signal.SIGVTALRM, lambda *_: pytest.fail("no answer within 10 s"))
    signal.setitimer(signal.ITIMER_VIRTUAL, 10, 1)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return call(*inputs, **named)
    except InputError as refusal:
        said, reason = str(refusal), refusal.__cause__ or refusal.__context__
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        jaxtyping.config.update("jaxtyping_disable", False)
    assert len(said.splitlines()) == 1, f"not one sentence: {said}"
    assert not isinstance(reason, MemoryError), f"refused only for want of memory: {said}"
    assert "allocate memory" not in str(reason), f"refused only for want of memory: {said}"
    return None


GONE, WHOLE = "<removed>", ([], 1)
HUGE = st.sampled_from([3 * 10**7, 10**9, 10**12, 2**63, 10**20])
ODD = st.sampled_from([GONE, None, True, False, "", "x", "1", "inf", "٣", [], [1], {}, {"a": [1]}, 10**400])
CELLS = st.one_of(ODD, st.floats(), st.integers(-2, 5), HUGE)
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=4)
BREAKS = st.tuples(FLIPS, st.sampled_from([1, 1, 1, 0.999, 0.5, 0]))


def changes(*names):
    return st.dictionaries(st.sampled_from(names), CELLS, max_size=2)


def some(options):
    """Three settings at most, so that few are refused for another's sake."""
    names = st.lists(st.sampled_from(sorted(options)), max_size=3, unique=True)
    return names.flatmap(lambda names: st.fixed_dictionaries({name: options[name] for name in names}))


def spoiled(record, changes):
    """A record with fields set, added or removed."""
    return {name: value for name, value in {**record, **changes}.items() if value != GONE}


def broken(content, breaks):
    """A share of some bytes, with bits flipped, mostly near the beginning."""
    flips, kept = breaks
    content = bytearray(content[: int(len(content) * kept)])
    for place, bit in flips if content else ():
        content[int(len(content) * place**3)] ^= 1 << bit
    return bytes(content)


TABLE = {"layer": [0, 0, 1], "head": [0, 1, 0], "prefix_matching": [0.1, 0.9, None], "kind": ["none", "induction", ""]}
TABLE |= {"prefix_matching_low": [0.0, 0.8, None], "prefix_matching_high": [0.2, 1.0, None], "why": ["", "a, b", "c"]}
PUBLISHED = {"induction": [0.1, 0.2, 0.3]}
RECIPE = {"seed": 0, "low": 1, "high": 20, "sequences": 1, "period": 4, "tolerance": 1e-3, "above": 0.8, "source": "us"}


def encoded(edits, kind="csv", strange=None):
    """A small table as a file, with columns set or removed, and those of a strange type where they can be."""
    frame = pd.DataFrame(spoiled(TABLE, edits))
    for name in edits.keys() & set(frame.columns) if strange else ():
        with contextlib.suppress(Exception):
            frame[name] = frame[name].astype(strange)
    if kind == "json":
        return json.dumps(frame.to_dict("records"), default=str).encode()
    with contextlib.suppress(Exception):  # Parquet has no columns of mixed types
        return frame.to_parquet() if kind == "parquet" else frame.to_csv(index=False).encode()
    return frame.to_csv(index=False).encode()


SHAPE = il.ToyConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, d_vocab=40, n_ctx=64, d_mlp=12)


@cache
def small_toy():
    return il.load_model(il.new_toy(SHAPE))


@pytest.fixture(scope="module")
def desk(gpt2_folder, tmp_path_factory):
    """A folder with two models of few weights and with tables, some of them broken."""
    desk = tmp_path_factory.mktemp("desk")
    il.save_toy(il.new_toy(SHAPE), desk / "toy")
    shutil.copytree(gpt2_folder, desk / "gpt2", ignore=shutil.ignore_patterns("*token*"))
    il.HeadScores(pd.DataFrame(TABLE)).save(desk / "scores.csv")
    (desk / "published.csv").write_bytes(encoded(PUBLISHED))
    (desk / "published.recipe.json").write_text(json.dumps(RECIPE))
    (desk / "broken.csv").write_text("\0")
    (desk / "wide.csv").write_text("layer,head,copying\n10000,10000,1e308\n")
    (desk / "large.csv").write_text(f"layer,head,copying,seed,kind,why\n0,0,1,{2**63},none,\n0,1,1,0,none,\n")
    (desk / "steep.csv").write_text("layer,head,induction_logit\n0,0,1e308\n0,1,-1e308\n")
    (desk / "loop.csv").symlink_to("loop.csv")
    return desk


CONFIG, WEIGHTS = "config.json", "model.safetensors"
FIELDS = """model_type architectures vocab_size n_positions n_embd n_layer n_head n_inner activation_function dtype
    embd_pdrop attn_pdrop resid_pdrop layer_norm_epsilon bos_token_id eos_token_id pad_token_id scale_attn_weights
    scale_attn_by_inverse_layer_idx tie_word_embeddings add_cross_attention reorder_and_upcast_attn use_cache auto_map
    output_hidden_states output_attentions return_dict is_decoder is_encoder_decoder quantization_config num_labels"""
SPOILED = st.one_of(
    st.tuples(st.just("toy"), changes("format", "version", "model"), st.just({})),
    *[st.tuples(st.just("toy"), st.just({}), changes(*il.ToyConfig.__dataclass_fields__, "other"))] * 2,
    *[st.tuples(st.just("gpt2"), changes(*FIELDS.split(), "other"), st.just({}))] * 2,
)
TOYS = [{"n_layers": 10**9}, {"d_model": 10**12}, {"n_heads": 10**20}, {"n_ctx": 10**12}, {"d_mlp": True}]
TOYS += [{"d_head": 3, "positional_embedding_type": "rotary"}]
GPT2S = [{"n_layer": 10**6}, {"n_positions": 10**12}, {"num_labels": 10**9}, {"n_head": -1}, {"return_dict": False}]
GPT2S += [{"embd_pdrop": float("nan")}, {"output_hidden_states": 0.5}, {"pad_token_id": 10**20}]
REFUSED = [("toy", {}, inner) for inner in TOYS] + [("gpt2", outer, {}) for outer in GPT2S]


@often(300, *((case, WEIGHTS, WHOLE) for case in REFUSED))
@given(SPOILED, st.sampled_from([CONFIG, WEIGHTS]), st.just(WHOLE) | BREAKS)
def test_model_folders(desk, tmp_path, case, name, breaks):
    """A model that can be scanned, or a refusal."""
    kind, outer, inner = case
    config, weights = json.loads((desk / kind / CONFIG).read_text()), (desk / kind / WEIGHTS).read_bytes()
    config = spoiled({**config, "model": spoiled(config["model"], inner)} if kind == "toy" else config, outer)
    for file, content in ((CONFIG, json.dumps(config).encode()), (WEIGHTS, weights)):
        (tmp_path / file).write_bytes(broken(content, breaks) if file == name else content)
    model = answer(il.load_model, tmp_path, device="cpu")
    if model is not None:
        answer(il.scan, model, sequences=1, period=4, logit_period=4, controls=False)


@pytest.mark.parametrize("scale", [1e15, 1e18, 1e30])
def test_weights_whose_products_are_infinite(scale):
    model = il.new_toy(SHAPE)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    answer(il.scan, model, sequences=2, period=4, logit_period=4, controls=False)


IDS = st.lists(st.one_of(st.integers(-3, 40), st.sampled_from([2**62, -(2**62)])), max_size=40)
COUNTS = st.one_of(st.integers(-1, 6), st.sampled_from([13, 25]), HUGE)
SEEDS = st.one_of(st.integers(), st.sampled_from([2**63 - 1, 2**63]))
PROBES = {"period": COUNTS, "repeats": COUNTS, "sequences": COUNTS, "seed": SEEDS, "bos": st.integers(-1, 50) | HUGE}


@often(150, *(([1, 2, 3], torch.int64, {name: 10**20}) for name in ("bos", "repeats", "sequences")))
@given(IDS, st.sampled_from([torch.int64, torch.int32, torch.int8]), some(PROBES))
def test_repeated_tokens(ids, dtype, named):
    pool, named = torch.tensor(ids, dtype=torch.int64).to(dtype), {"period": 3, "repeats": 2, "bos": None, **named}
    probe = answer(il.repeated_tokens, pool, **named)
    if probe is not None:
        blocks = probe.tokens[:, probe.start :].view(len(probe.tokens), named["repeats"], named["period"])
        assert bool((blocks == blocks[:, :1]).all())
        assert set(blocks.unique().tolist()) <= set(pool.tolist())
        assert torch.equal(probe.tokens, il.repeated_tokens(pool, **named).tokens)


@often(100, ([1, 2], float("nan")), ([1, 2], -0.5), ([2**63], 0.0))
@given(st.lists(st.one_of(st.integers(-3, 40), HUGE), max_size=9), st.floats(0, 0.6) | st.floats())
def test_token_pools(ids, trim):
    pool = answer(il.token_pool, ids, trim)
    if pool is not None:
        drop = int(trim * len(ids))
        assert drop >= 0
        assert pool.tolist() == sorted(ids)[drop : max(drop, len(ids) - drop)]


OPTIONS = {"period": COUNTS, "repeats": COUNTS, "logit_period": COUNTS, "seed": SEEDS, "batch_size": COUNTS}
OPTIONS |= {"bos": st.booleans() | st.integers(-1, 70) | HUGE, "threshold": st.floats(0, 1) | st.floats()}
OPTIONS |= {"reduce": st.sampled_from(["last", "first", "entry_mean", "diagonal", "mean"]), "controls": st.just(True)}
OPTIONS |= {"text": st.sampled_from(["auto", "random", "stdlib", "", "no/such"]), "value_weighted": st.just(True)}
OPTIONS |= {"logit_recipe": st.just("mcdougall"), "copying_source": st.just("head_output"), "other": st.none()}


@often(120, ({"period": 3, "repeats": 2}, 1), ({"repeats": 25}, 1), ({}, 10**12))
@given(some(OPTIONS), st.integers(-1, 2))
def test_scans(named, sequences):
    usual = {"sequences": sequences, "period": 5, "logit_period": 5, "controls": False, "seed": 0, "threshold": 0.5}
    usual |= named
    scores = answer(il.scan, il.planted(d_vocab=24, n_ctx=64), **usual)
    if scores is not None:
        assert 0 <= usual["seed"] < 2**63
        assert 0 < usual["threshold"] <= 1
        assert scores.table["prefix_matching"].dropna().between(0, 1 + 1e-6).all()


COLUMNS = st.one_of(st.just(GONE), st.lists(CELLS, min_size=3, max_size=3), CELLS.map(lambda cell: [cell] * 3))
EDITS = st.dictionaries(st.sampled_from([*TABLE, "seed", "step", "own"]), COLUMNS, max_size=2)
CLAIMS = st.dictionaries(st.sampled_from(["layer", "head", "induction", "previous_token"]), COLUMNS, max_size=2)
KINDS = st.sampled_from(["csv", "json", "parquet", "txt"])
STRANGE = st.sampled_from([None, None, "category", "Int64", "float32", "bool", "datetime64[ns]"])


@often(200, ({"kind": ["x", None, "y"]}, "parquet", "category", WHOLE, {}))
@given(EDITS, KINDS, STRANGE, st.just(WHOLE) | BREAKS, changes("schema", "table_sha256"))
def test_tables(tmp_path, edits, kind, strange, breaks, fields):
    path, content = tmp_path / f"scores.{kind}", broken(encoded(edits, kind, strange), breaks)
    record = spoiled({"schema": 1, "table_sha256": hashlib.sha256(content).hexdigest(), "model": "toy"}, fields)
    path.write_bytes(content)
    (tmp_path / f"{path.name}.meta.json").write_text(json.dumps(record))
    scores = answer(il.read_scores, path)
    if scores is not None:
        assert scores.provenance in ({}, {"model": "toy"})
        assert scores.table[["layer", "head"]].ge(0).all(axis=None)
        assert not scores.table.duplicated(["layer", "head"]).any()
        answer(il.compare, scores, scores)
        scores.save(tmp_path / "again.csv")
        assert len(answer(il.read_scores, tmp_path / "again.csv")) == len(scores)


UNUSABLE = (("seed", "x"), ("above", "x"), ("tolerance", 10**400), ("sequences", 10**12))
RECIPES = [({}, {name: value}, "csv", WHOLE) for name, value in UNUSABLE]


@often(150, *RECIPES, ({}, {}, "zip", WHOLE), ({"layer": [0, 0.5, 1]}, {}, "csv", WHOLE))
@given(CLAIMS, changes(*RECIPE, "other"), st.sampled_from(["csv", "csv", "zip", "gz", "tar"]), st.just(WHOLE) | BREAKS)
def test_references(tmp_path, edits, fields, suffix, breaks):
    (tmp_path / f"published.{suffix}").write_bytes(broken(encoded(PUBLISHED | edits), breaks))
    (tmp_path / "published.recipe.json").write_text(json.dumps(spoiled(RECIPE, fields)))
    found = answer(il.validate, small_toy(), tmp_path / f"published.{suffix}")
    assert found is None or found.passed == (not found.problems)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"version": ' + b"9" * 5000 + b"}", b"\xff", b"", b"[]", b"3"])
@pytest.mark.parametrize("name", [CONFIG, "a.json", "a.csv.meta.json", "a.recipe.json"])
def test_json_that_is_none(name, content, planted, tmp_path):
    """Nested without end, a number without end, no text, nothing, no object."""
    (tmp_path / "a.csv").write_text("layer,head,induction,copying\n0,0,0.5,0.5\n")
    (tmp_path / name).write_bytes(content)
    calls = {CONFIG: (il.load_model, tmp_path), "a.recipe.json": (il.validate, planted, tmp_path / "a.csv")}
    assert answer(*calls.get(name, (il.read_scores, tmp_path / name.removesuffix(".meta.json")))) is None


@pytest.mark.parametrize("name", ["x" * 300 + ".csv", "a\0b.csv", "no/such.csv"])
@pytest.mark.parametrize("use", ["read", "save", "load", "against", "text"])
def test_names_that_no_file_can_have(use, name, planted, gpt2_folder):
    calls = {"read": il.read_scores, "save": il.HeadScores(pd.DataFrame(TABLE)).save, "load": il.load_model}
    calls |= {"against": lambda name: il.validate(planted, name)}
    calls |= {"text": lambda name: il.scan(il.load_model(gpt2_folder, device="cpu"), text=name)}
    assert answer(calls[use], name) is None


@pytest.mark.parametrize("length", [230, 240, 250, 255])
def test_a_table_and_its_record_are_written_both_or_not_at_all(length, tmp_path):
    """The record's name is longer than the table's; a table that cannot have one is read without it."""
    path = tmp_path / ("x" * (length - 4) + ".csv")
    answer(il.HeadScores(pd.DataFrame(TABLE)).save, path)
    assert len(os.listdir(tmp_path)) in (0, 2)
    path.write_bytes(encoded({}))
    assert len(answer(il.read_scores, path)) == 3


def test_pipes_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    answer(il.HeadScores(pd.DataFrame(TABLE)).save, tmp_path / "pipe.csv")
    assert (tmp_path / "pipe.csv").is_fifo()


COMMANDS = typer.main.get_command(cli.app).commands
SCAN = "scan ./toy --sequences 1 --period 4 --logit-period 4 --no-controls --device cpu"
USUAL = [f"{SCAN} --out new.csv", "validate ./toy --against published.csv --device cpu", "why scores.csv", "columns"]
USUAL += ["ablate ./toy --sequences 1 --period 4 --repeats 2 --windows 2 --draws 2 --device cpu --out new.csv"]
USUAL += ["icl ./toy --windows 2 --device cpu --out new.csv"]
USUAL += ["compare scores.csv scores.csv --out new.csv", "plot scores.csv --out new.png", "ranks scores.csv"]
LINES = [f"{SCAN} --device meta", f"{SCAN} --device hpu", f"{SCAN} --out \udcff.csv", f"{SCAN} --head {'9' * 5000}.0"]
LINES += ["scan a/b", "plot wide.csv --out a.png", "plot scores.csv --out \udcff.png", "why large.csv"]
LINES += ["plot steep.csv --out new.png", f"{SCAN} --format csv --out loop.csv --samples new.csv"]
LINES += ["compare scores.csv scores.csv --score \udcff", f"scan planted --out {'x' * 238}.csv"]
WORDS = "./toy ./gpt2 a/b planted gpt-3 . scores.csv broken.csv published.csv wide.csv large.csv steep.csv new.csv"
WORDS += " no/new.csv \udcff.csv \udcff.png new.png new.json 1 2 0 -1 nan 1e9 0.0 many -- --help random meta hpu sum"
WORDS += f" diagonal head_output copying csv json gpt2 seed {'9' * 30} {'9' * 5000}.0 {'x' * 238}.csv {'x' * 300}"


@st.composite
def command_lines(draw):
    """A command that works, with options that it has and words that it may not expect."""
    words, word = draw(st.sampled_from(USUAL)).split(), st.sampled_from(["", *WORDS.split()])
    for option in draw(st.lists(st.sampled_from(COMMANDS[words[0]].params), max_size=2)):
        words += [option.opts[0], draw(word)] if option.opts[0].startswith("-") else [draw(word)]
    if draw(st.booleans()):
        words[draw(st.integers(0, len(words) - 1))] = draw(word)
    return words


@often(150, *((line.split(),) for line in LINES))
@given(command_lines())
def test_command_lines(desk, words):
    before = {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()}
    with contextlib.chdir(desk):
        code, printed, err = answer(run, *words)
    after = {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()}
    for path in before.keys() | after.keys():
        path.write_bytes(before[path]) if path in before else path.unlink()
    assert code in ((0, 1, 2) if words[0] == "validate" else (0, 2)), (code, err)
    assert not [path for path in after if path.name.startswith(".")]
    if code == 2:
        assert (printed, after) == ("", before)
        assert err.startswith("inductionlens: ")
        assert len(err.splitlines()) == 1


WRITER = """
import sys
from pathlib import Path
from inductionlens import files
files.encode_table = lambda table, kind: table  # ready to be written, so that most time goes into writing
print("ready", flush=True)
while True:
    for letter in b"ab":
        content = b"layer,head,copying,why\\n0,0,0.5," + bytes([letter]) * 4_000_000 + b"\\n"
        files.write_table(Path(sys.argv[1]), content, {})
"""


def test_a_process_killed_while_writing_leaves_a_whole_table(tmp_path):
    path, delays = tmp_path / "scores.csv", random.Random(0)
    il.HeadScores(pd.DataFrame({"layer": [0], "head": [0], "copying": [0.5], "why": ["a" * 4_000_000]})).save(path)
    for _ in range(12):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(delays.uniform(0.001, 0.1))
            writer.kill()
        (text,) = il.read_scores(path).table["why"]
        assert text in ("a" * 4_000_000, "b" * 4_000_000)
