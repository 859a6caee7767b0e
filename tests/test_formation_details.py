"""Training, formation and reproduction in detail: every option reaches its end, every number its own place."""

import itertools
import json
import math
import os
import sys
import threading
from dataclasses import asdict
from fnmatch import fnmatch
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from test_changes import made
from test_formation import QUICK, SHAPE, refused
from test_reproduce import row, runs
from test_training import TINY, files, trainer_of

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.models import hub_series
from inductionlens.models.checkpoints import Checkpoint, local_checkpoints
from inductionlens.models.lens import quiet
from inductionlens.models.training import Trainer
from inductionlens.plots.formation import ROWS, draw_analysis
from inductionlens.plots.patterns import PACE, draw_forming, draw_pattern, plot_forming
from inductionlens.scores.losses import log_slope, loss_derivative
from inductionlens.studies import changes_table, training, watching
from inductionlens.studies import reproduce as reproduction
from inductionlens.studies.analysis import analysis, derivative
from inductionlens.studies.arguments import FAILS, HOLDS, arguments_table
from inductionlens.studies.changes import formed, in_words
from inductionlens.studies.formation import formation
from inductionlens.studies.formation_result import read_formation
from inductionlens.studies.summaries import NUMBERS
from inductionlens.studies.training import TrainOptions, train_toy, unseen_rows
from inductionlens.studies.watching import watch
from inductionlens.training_batches import training_batches
from inductionlens.training_data import paste_segments

UNEVEN = {**SHAPE, "layers": 2, "heads": 3}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of two layers of three heads: no axis has another's length."""
    return train_toy(tmp_path_factory.mktemp("runs") / "run", **UNEVEN)


# The trainer.
def test_steps_are_adamws_by_hand():
    """One weight, gradients given by the batch, four steps: decay and both moments as Loshchilov and Hutter write."""
    model = torch.nn.Linear(1, 1, bias=False)
    trainer = Trainer(
        model, lambda batch: model.weight.sum() * batch.float().mean() / 10, steps=4, learning_rate=0.1, warmup=1,
        decay=False, weight_decay=0.3,
    )  # fmt: skip
    weight, first, second = model.weight.item(), 0.0, 0.0
    for step, batch in enumerate((5, -2, 8, 1), start=1):
        trainer.learn(torch.tensor([[batch]]))
        gradient = batch / 10
        first, second = 0.9 * first + 0.1 * gradient, 0.98 * second + 0.02 * gradient**2
        moved = (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.98**step)) + 1e-8)
        weight = weight * (1 - 0.1 * 0.3) - 0.1 * moved
        assert model.weight.item() == pytest.approx(weight, rel=1e-5), step


def test_a_kept_state_stays_as_it_was():
    """Training that goes on, and training that starts from it, leave it alone."""
    batch = training_batches("repeats", batch_size=4, length=20, d_vocab=20)(1)
    (_, first), (_, second) = trainer_of(), trainer_of(seed=5)
    first.learn(batch)
    state = first.state()
    kept = {name: value.clone() for name, value in state.items()}
    first.learn(batch)
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    second.restore(state)
    second.learn(batch)
    assert all(torch.equal(state[name], value) for name, value in kept.items())


@pytest.mark.parametrize("decay", [True, False])  # by default a run has none, and a `Trainer` has it
def test_every_setting_of_a_run_reaches_its_training(tmp_path, decay):
    """The same training by hand, every setting another than by default; and rows after its last step."""
    own = {"learning_rate": 7e-3, "warmup": 3, "decay": decay, "weight_decay": 0.5, "seed": 3}
    shape = {"mlp": True, "norm": "RMS", "positions": "rotary"}
    calls = []
    folder = train_toy(tmp_path / "run", **TINY, **own, **shape, on_progress=lambda *call: calls.append(call))
    config = il.ToyConfig(
        n_layers=2, n_heads=2, d_model=16, d_head=8, d_vocab=20, n_ctx=20, d_mlp=64, normalization_type="RMS",
        positional_embedding_type="rotary",
    )  # fmt: skip
    model, rest = il.new_toy(config, seed=3), {name: value for name, value in own.items() if name != "seed"}
    trainer = Trainer(model, lambda rows: model(rows, return_type="loss"), steps=12, **rest)
    batches = training_batches("repeats", batch_size=4, length=20, d_vocab=20, seed=3)
    losses = [trainer.learn(batches(step)) for step in range(1, 13)]
    assert pd.read_csv(folder / "training.csv")["loss"].tolist() == pytest.approx(losses, rel=1e-6)
    assert calls == [(step, 12) for step in range(1, 13)]
    after = training_batches("repeats", batch_size=5, length=20, d_vocab=20, seed=3)(13)
    assert torch.equal(unseen_rows(folder, 5).tokens, after)


def test_killed_while_a_snapshot_is_written_it_is_written_again(tmp_path, monkeypatch):
    train_toy(tmp_path / "whole", **TINY)
    snapshot = training._snapshot

    def dies(model, folder, step):
        if step == 8:
            raise KeyboardInterrupt
        snapshot(model, folder, step)

    monkeypatch.setattr(training, "_snapshot", dies)
    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path / "broken", **TINY)
    monkeypatch.undo()
    train_toy(tmp_path / "broken", **TINY)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_segments_have_8_to_24_tokens_and_uneven_gaps():
    """Chance repeats are rare in 10^6 ids: what comes again does so a segment, and a gap of 0 to 6, later."""
    rows = training_batches("repeats", batch_size=300, length=128, d_vocab=10**6)(1)
    distances = []
    for tokens in rows[:, 1:].tolist():
        places = {}
        for place, token in enumerate(tokens):
            places.setdefault(token, []).append(place)
        found = {b - a for own in places.values() if len(own) > 2 for a, b in itertools.pairwise(own)}
        distances.append(found)
    every = set().union(*distances)
    assert (min(every), max(every)) == (8, 24 + 6)
    assert np.mean([len(found) > 1 for found in distances]) > 0.9
    ids, rows = torch.arange(1, 1000), torch.zeros(40, 50, dtype=torch.long)
    pasted = paste_segments(rows, ids, generator=np.random.default_rng(0), segment=(3, 4), gap=(0, 0))
    assert {len(set(tokens[1:])) for tokens in pasted.tolist()} == {3, 4}


# Formation.
def test_parts_of_other_settings_or_other_steps_are_refused(tmp_path, run_folder):
    partial = tmp_path / "partial"

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        formation(run_folder, **QUICK, ablate=False, partial=partial, on_progress=interrupt)
    for more in ({"seed": 1}, {"steps": "0,8"}):
        with refused("holds unfinished work of other settings or another model"):
            formation(run_folder, **QUICK, ablate=False, partial=partial, **more)


def test_every_option_reaches_what_is_measured(run_folder):
    """The other studies' numbers, with every option another than by default, for two layers of three heads."""
    from inductionlens.composition import measure_k_term
    from inductionlens.measure import measure_attention
    from inductionlens.probes import repeated_tokens, token_pool
    from inductionlens.scores.attention import TARGETS
    from inductionlens.studies.windows import make_windows

    given = {"bos": 7, "length": 20, "late": 15, "early": 4, "seed": 5, "hold_patterns": False}
    found = formation(run_folder, steps="8", **QUICK, **given)
    model = il.load_model(run_folder / "step-0000008")
    pool = token_pool([token for token in range(1, 40) if token != 7])  # 0 is the model's own BOS
    probe = repeated_tokens(pool, period=7, repeats=4, sequences=2, bos=7, seed=5)
    samples = measure_attention(model, probe, {name: TARGETS[name] for name in ("prefix_matching", "previous_token")})
    samples = samples[0] if isinstance(samples, tuple) else samples
    for name, part in samples.items():
        assert found.heads[name].tolist() == pytest.approx(part.value().ravel().tolist()), name
    eigen = measure_k_term(model, samples["previous_token"].value()).eigen
    assert found.heads["qk_eigen"].tolist() == pytest.approx(eigen.ravel().tolist(), nan_ok=True)
    windows = make_windows(model, "random", windows=3, length=20, bos=7, seed=5).tokens
    late, early = 15, 4

    def scores():
        with torch.no_grad():
            losses = model(windows, return_type="loss", loss_per_token=True)
        return losses, float((losses[:, late] - losses[:, early]).mean())

    losses, clean = scores()
    assert found.losses["loss"].to_numpy() == pytest.approx(losses.mean(0).numpy(), abs=1e-5)
    assert found.steps["icl_score"].item() == pytest.approx(clean, abs=1e-5)
    effects = found.heads.set_index("name")["effect_icl"]
    for head in itertools.starmap(Head, itertools.product(range(2), range(3))):
        with il.ablate(model, [head]):
            assert effects[head.label] == pytest.approx(scores()[1] - clean, abs=1e-5), head


def test_a_seed_decides_which_tokens_are_followed(run_folder):
    """Windows of the run's own rows are the same for every seed: what is followed in them is not."""
    one, other = (formation(run_folder, steps="0", n_windows=8, ablate=False, seed=seed) for seed in (0, 1))
    assert one.losses.equals(other.losses)
    assert one.followed["loss"].tolist() != other.followed["loss"].tolist()
    assert one.provenance["measured"]["followed"] != other.provenance["measured"]["followed"]


def test_best_heads_are_named_for_each_score_by_itself(run_folder):
    """Chosen on the first of two sequences, measured on the second: of the others' scores nothing is known here but
    that the mean of both lies between."""
    found = formation(run_folder, **QUICK, ablate=False)
    differ = 0
    for taken in found.steps.to_dict("records"):
        means = found.heads[found.heads["step"] == taken["step"]].set_index("name")
        for name in ("prefix_matching", "previous_token"):
            chosen_on = 2 * means[name][taken[f"{name}_head"]] - taken[name]
            assert chosen_on + taken[name] >= 0
            assert (means[name] <= (chosen_on + 1) / 2 + 1e-9).all()
        differ += taken["prefix_matching_head"] != taken["previous_token_head"]
    assert differ > 0


def test_a_format_may_be_given_in_place_of_a_suffix(tmp_path, run_folder):
    found = formation(run_folder, **QUICK, steps="0", ablate=False)
    found.save(tmp_path / "run.dat", "csv")
    pd.testing.assert_frame_equal(read_formation(tmp_path / "run.dat", "csv").heads, found.heads)


def test_one_context_length_is_one_run(tmp_path, run_folder):
    other = train_toy(tmp_path / "long", **{**UNEVEN, "n_ctx": 40})
    with refused("has another shape than those before it"):
        formation([local_checkpoints(run_folder)[0], local_checkpoints(other)[-1]], **QUICK, ablate=False)


# The device, and the hub.
def test_a_device_reaches_every_kind_of_series(run_folder, monkeypatch):
    from inductionlens.models import checkpoints

    seen, idle = [], il.planted("idle")

    def loads(place, **more):
        seen.append(more["device"])
        return idle

    for module, name in ((checkpoints, "load_model"), (hub_series, "load_model"), (hub_series, "load_hub")):
        monkeypatch.setattr(module, name, loads)
    for module in (sys.modules[formation.__module__], watching):
        monkeypatch.setattr(module, "check_device", lambda device: device)
    formation(run_folder, **QUICK, ablate=False, steps="0", device="d1")
    watch(run_folder, "0.0", steps="0", device="d2")
    nothing = {"fetch": lambda *name: run_folder, "discard": lambda place: None}
    hub_series.hub_checkpoints("a/b", branches=lambda name: ["step1"], device="d3", **nothing)[0].load()
    names = ["checkpoints/a_1.pth"]
    hub_series.file_checkpoints("a/b", files=lambda name: names, device="d4", **nothing)[0].load()
    assert seen == ["d1", "d2", "d3", "d4"]
    calls = []
    monkeypatch.setattr(hub_series, "_official_or_own", lambda name: "NeelNanda/x")
    monkeypatch.setattr(hub_series, "file_checkpoints", lambda name, **more: calls.append(more) or [])
    hub_series.hub_checkpoints("x", device="d5", keep=True)
    assert calls == [{"device": "d5", "keep": True}]


def test_watching_passes_keep_on(run_folder, monkeypatch):
    kept, own = [], watching.checkpoints
    monkeypatch.setattr(watching, "checkpoints", lambda source, **more: kept.append(more["keep"]) or own(source))
    for keep in (True, False):
        watch(run_folder, "0.0", steps="0", keep=keep)
    assert kept == [True, False]


def test_a_file_that_cannot_be_read_is_removed_too(tmp_path, monkeypatch):
    """Disk use stays at one or two checkpoints, however many are torn."""

    def torn(*name, **more):
        raise InputError("torn.")

    monkeypatch.setattr(hub_series, "load_hub", torn)
    for keep, removed in ((False, [tmp_path]), (True, [])):
        gone = []
        series = hub_series.file_checkpoints(
            "a/b", files=lambda name: ["checkpoints/a_1.pth"], fetch=lambda *name: tmp_path, discard=gone.append,
            keep=keep,
        )  # fmt: skip
        with refused("torn"):
            series[0].load()
        assert gone == removed


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [((500_000_000, 2_000_000_000), [500_000_000, 2_000_000_000]), ((5, 999_999_999), [None, None])],
)
def test_the_largest_number_of_a_series_says_what_numbers_count(labels, tokens):
    names = [f"checkpoints/a_{label}.pth" for label in labels]
    found = hub_series.file_checkpoints("a/b", files=lambda name: names)
    assert [one.step for one in found] == list(labels)
    assert [one.tokens for one in found] == tokens


def test_weights_and_tokenizers_are_fetched_and_nothing_else(monkeypatch):
    import huggingface_hub

    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **more: asked.update(more) or "/place")
    hub_series._fetch("a/b", "step3")
    assert asked["revision"] == "step3"
    wanted = {
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
        "pytorch_model.bin", "tokenizer.json", "tokenizer.model", "merges.txt",
    }  # fmt: skip
    others = {"optimizer.pt", "flax_model.msgpack", "training_args.bin", "tf_model.h5"}
    assert {name for name in wanted | others if any(fnmatch(name, one) for one in asked["allow_patterns"])} == wanted


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_how_torch_unpickles_is_given_back(monkeypatch, before):
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)

    def inside():
        with quiet():
            assert os.environ[name] == "1"
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        inside()
    assert os.environ.get(name) == before


# Changes.
def test_a_run_that_forms_a_head_and_loses_it_has_formed_none():
    run = made(300)
    assert (formed(run.steps).start, formed(run.steps).end) == (300, 325)
    run.steps.loc[run.steps["step"] == run.steps["step"].max(), "induction_heads"] = "none"
    assert run.changes()["prefix_matching"].found
    assert formed(run.steps) is None


@pytest.mark.parametrize(("prefix", "icl", "side"), [(300, 450, "after"), (450, 300, "before")])
def test_words_say_which_change_comes_first(prefix, icl, side):
    said = in_words(made(prefix, icl).steps.assign(prefix_matching_head="L1H0"))[-1]
    assert said.startswith(f"In-context learning changes 150 steps {side} prefix matching")


def test_words_count_the_checkpoints_that_could_be_read():
    table = made(300).steps.assign(prefix_matching_head="L1H0")
    first = table["prefix_matching"].iloc[1]
    table.loc[0, ["loss", "prefix_matching", "icl_score", "copying_gain"]] = math.nan
    said = in_words(table)
    assert said[0] == "40 of 41 checkpoints measured."
    assert said[1].startswith(f"prefix matching of the best head: {first:.2f} at first, ")


def test_runs_whose_tokens_are_not_known_share_no_plane():
    followed = {"one": None, "two": None, "three": "a", "four": "a"}
    found = analysis({name: made(seed=seed, followed=own) for seed, (name, own) in enumerate(followed.items())})
    assert [found[name]["plane"] for name in followed] == [0, 1, 2, 2]


def test_a_slope_stands_in_the_middle_of_its_bin_whatever_the_tables_order():
    table = made(300).losses
    found = derivative(table)
    own = loss_derivative(torch.tensor(table[table["step"] == 0]["loss"].to_numpy())[None])
    middle = [(first + last) / 2 for first, last in zip(own.first.tolist(), own.last.tolist(), strict=True)]
    assert found[found["step"] == 0]["index"].tolist() == middle
    pd.testing.assert_frame_equal(derivative(table.iloc[::-1]), found)


# The reproduction.
def test_a_plans_name_says_how_it_is_trained():
    for plan in reproduction.PRESETS["full"].plans():
        words = plan.name.split("-")
        own = (plan.options.layers, plan.options.mlp, plan.options.smeared_keys, plan.options.seed)
        assert own == (int(words[0]), "mlp" in words, "smeared" in words, int(words[-1].removeprefix("seed")))


def test_one_model_is_watched_to_its_end_and_threads_are_given_back(tmp_path):
    options = {name: value for name, value in SHAPE.items() if name != "steps"}
    plan = reproduction.Plan("2-layer", 0, TrainOptions(steps=8, **{**options, "n_ctx": 32}))
    (tmp_path / "tables").mkdir()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        reproduction._one(tmp_path, plan, 4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    last = pd.read_csv(tmp_path / "tables" / "2-layer-seed0.csv").iloc[-1]
    found = json.loads((tmp_path / "tables" / "2-layer-seed0.json").read_text())
    for name in ("prefix_matching", "icl_score", "copying_gain"):
        assert found[name] == last[name]


def test_a_run_is_summed_up_by_its_last_snapshot_and_its_own_changes(tmp_path, monkeypatch):
    """Induction heads are those that a scan of the last snapshot names; the QK term's mean is over them."""
    removed = []
    monkeypatch.setattr(reproduction, "_removed", lambda place, induction, *rest: removed.append(induction) or {})
    last = [("L0H0", 0.9, 2.0, 0.5), ("L0H1", 0.9, -1.0, -1.0), ("L1H0", 0.3, 1.0, 1.0), ("L1H1", 0.4, 0.1, 0.7)]
    first = [(name, 0.9, 1.0, 0.1) for name, *_ in last]
    run = made(300, icl=450)
    run.steps.loc[run.steps.index[-1], "induction_heads"] = "L0H0 L1H1"
    heads = [
        {"step": step, "name": name, "prefix_matching": prefix, "induction_logit": logit, "qk_eigen": eigen}
        for step, rows in ((0, first), (1000, last)) for name, prefix, logit, eigen in rows
    ]  # fmt: skip
    object.__setattr__(run, "heads", pd.DataFrame(heads))
    found = reproduction._measured(run, tmp_path, 4)
    assert found["induction_heads"] == ["0.0", "1.1"]
    assert removed == [[Head(0, 0), Head(1, 1)]]
    assert found["qk_eigen"] == pytest.approx((0.5 + 0.7) / 2)
    for name in ("prefix_matching", "icl_score", "copying_gain"):
        assert found[name] == run.steps[name].iloc[-1]
    assert [found[f"prefix_{end}"] for end in ("start", "end", "middle")] == [300, 325, 312.5]
    assert [found[f"icl_{end}"] for end in ("start", "end", "middle")] == [450, 475, 462.5]
    assert found["icl_size"] < 0 < found["prefix_size"]


def test_induction_heads_are_compared_with_other_sets_of_their_number(run_folder, monkeypatch):
    calls, own = [], reproduction.measure_effects
    monkeypatch.setattr(reproduction, "measure_effects", lambda *given: calls.append(given[2]) or own(*given))
    found = formation(run_folder, steps="8", n_windows=4, ablate=False)
    induction = [Head(0, 1), Head(1, 2)]
    removed = reproduction._removed(run_folder, induction, 4, found)
    others = {Head(layer, head) for layer in range(2) for head in range(3)} - set(induction)
    pairs = {frozenset(pair) for pair in itertools.combinations(others, 2)}
    for groups, end in zip(calls, ("", "_free"), strict=True):
        assert groups[0] == induction
        sets = {frozenset(group) for group in groups[1:]}
        assert sets <= pairs
        assert 1 < len(sets) == len(groups) - 1 == len(removed[f"lost_random{end}"])


def test_fewer_others_than_induction_heads_are_no_comparison(run_folder):
    found = formation(run_folder, steps="8", n_windows=4, ablate=False)
    most = [Head(0, 1), Head(0, 2), Head(1, 0), Head(1, 2)]
    removed = reproduction._removed(run_folder, most, 4, found)
    assert removed["lost"] is not None
    assert removed["lost_random"] == removed["lost_random_free"] == []


def test_a_folder_holds_one_presets_runs(tmp_path, monkeypatch):
    """Another preset in the same folder is refused before anything is trained, also where models have one name."""
    small = {"d_model": 16, "d_head": 8, "heads": 2, "d_vocab": 40, "n_ctx": 40, "batch_size": 4, "snapshots": 3}
    first, longer, wider = (
        reproduction.Preset((1,), (False,), {**small, "steps": steps}, windows, seeds=(0,))
        for steps, windows in ((2, 8), (3, 8), (2, 9))
    )
    before = il.reproduce(tmp_path, first, workers=1).runs
    monkeypatch.setattr(reproduction, "_one", lambda *given: pytest.fail("work was done"))
    for other in (longer, wider):
        with refused("holds 1-layer-seed0 of other settings; reproduce into another folder"):
            il.reproduce(tmp_path, other, workers=1)
    monkeypatch.undo()
    pd.testing.assert_frame_equal(il.reproduce(tmp_path, first, workers=1).runs, before)
    path = tmp_path / "tables" / "1-layer-seed0.json"
    path.write_text("{torn")
    with refused("1-layer-seed0.json cannot be read: .*; remove it to measure that model again"):
        il.reproduce(tmp_path, first, workers=1)


def test_a_summary_holds_the_mean_and_the_most_of_random_sets(tmp_path):
    (tmp_path / "tables").mkdir()
    plan = reproduction.Plan("2-layer", 0, TrainOptions())
    random = {"lost_random": [0.1, 0.6, -0.1], "lost_random_free": [0.5, 0.3]}
    expected = {"lost_random": (0.2, 0.6), "lost_random_free": (0.4, 0.5)}
    for lists, numbers in (
        (random, expected),
        ({name: [] for name in random}, dict.fromkeys(random, (math.nan, math.nan))),
    ):
        note = {
            **dict.fromkeys(NUMBERS),
            "plan": {**asdict(plan.options), "windows": 9},
            "formed": True,
            "induction_heads": ["0.1", "1.2"],
            **lists,
        }
        (tmp_path / "tables" / f"{plan.name}.json").write_text(json.dumps(note))
        found = reproduction._summary(tmp_path, plan, 9)
        for name, (mean, most) in numbers.items():
            assert (found[name], found[f"{name}_most"]) == pytest.approx((mean, most), nan_ok=True)
        assert found["induction_heads"] == "0.1 1.2"
        assert math.isnan(found["lost"])


# Its verdicts.
def claim_of(table, words):
    return arguments_table(table).set_index("claim").filter(like=words, axis=0).iloc[0]


def seeds(table, kind, column, values):
    table.loc[table["model"] == kind, column] = values
    return table


def test_runs_that_do_not_form_heads_count_in_no_comparison():
    """They break, but a scan finds no induction head: their windows and middles say nothing."""
    table = seeds(runs(), "2-layer", "formed", [True, False, True])
    table = seeds(table, "2-layer", "icl_start", [320, 900, 320])
    together = claim_of(table, "in-context learning of 2-layer models")
    assert (together["measured"], together["verdict"]) == ("2 of 2 seeds; 80 steps shared on average", HOLDS)
    table = seeds(runs(), "2-layer-smeared", "formed", [True, False, True])
    table = seeds(table, "2-layer-smeared", "prefix_middle", [150, 9000, 160])
    earlier = claim_of(table, "change earlier")
    assert (earlier["measured"], earlier["verdict"]) == ("-200 steps", HOLDS)


def test_a_mean_is_not_enough_where_seeds_disagree():
    """Shares of 0.9, 0.9, 0.3 and scores of 0.9, 0.9, 0.1: means on the right side, intervals on both."""
    undone = claim_of(seeds(runs(), "2-layer", "lost", [1.8, 1.8, 0.6]), "removing the induction heads of 2-layer m")
    assert undone["measured"] == "70% of the score lost, attention held; 5% without as many others"
    assert undone["low"] < 0.5
    assert undone["verdict"] == FAILS
    matches = claim_of(seeds(runs(), "2-layer", "qk_eigen", [0.9, 0.9, 0.1]), "induction heads of 2-layer models match")
    assert matches["measured"] == "+0.63"
    assert matches["low"] < 0
    assert matches["verdict"] == FAILS


def test_one_seed_is_judged_by_itself():
    table = pd.DataFrame([row("2-layer", 0)])
    assert claim_of(table, "removing")["verdict"] == claim_of(table, "match the token before")["verdict"] == HOLDS
    assert claim_of(table.assign(lost=0.9), "removing")["verdict"] == FAILS


def test_smeared_models_make_no_claim_on_earlier_heads():
    """Smeared keys hold the token before the key without an earlier head."""
    table = arguments_table(runs())
    assert not table.loc[table["argument"] == "5", "claim"].str.contains("smeared").any()


# Watching.
def test_a_sequence_without_bos_is_watched_without_it(run_folder):
    found = watch(run_folder, "1.0", steps="8", bos=False)
    assert "".join(found.labels) == "ABCDEFGH" * 3
    assert found.patterns.shape == (1, 24, 24)


def toy_series(**shape):
    model = il.new_toy(il.ToyConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, **shape))
    return model, [Checkpoint(0, None, "s0", lambda: model)]


def test_bos_takes_a_place_of_the_context_and_of_the_vocabulary():
    model, _ = toy_series(d_vocab=9, n_ctx=25)
    for seed in range(8):  # neither the model's own BOS, 0, nor the one given
        tokens = watching._sequence(model, 7, 3, seed).tokens
        assert tokens[0, 0] == 3
        assert sorted(tokens[0, 1:8].tolist()) == [1, 2, 4, 5, 6, 7, 8]
    _, series = toy_series(d_vocab=40, n_ctx=30)
    assert len(watch(series, period=9).labels) == 28
    with refused("period must lie between 3 and 9, which fits 3 times; got 10"):
        watch(series, period=10)


def test_of_checkpoints_that_cannot_be_read_the_last_is_named():
    def fails(step):
        def load():
            raise InputError(f"torn at {step}.")

        return load

    with refused("None of the 2 checkpoints could be read; of the last: torn at 7"):
        watch([Checkpoint(step, None, f"s{step}", fails(step)) for step in (3, 7)])


def test_frames_are_the_nearest_to_even_places(run_folder):
    """Of five, four: places 0, 1 1/3, 2 2/3 and 4."""
    assert watch(run_folder, "0.0", frames=4).steps == (0, 1, 4, 8)


def test_watching_counts_its_checkpoints(run_folder):
    calls = []
    watch(run_folder, "0.0", frames=3, on_progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.fixture
def watched(run_folder):
    return watch(run_folder, "0.0", period=4, frames=3)


def test_a_pattern_is_drawn_on_0_to_1_and_titled_by_its_score(watched):
    for step, score in zip(watched.steps, watched.prefix_matching, strict=True):
        table = watched.table()
        ax = draw_pattern(table[table["step"] == step], Figure().subplots())
        assert ax.images[0].get_clim() == (0, 1)
        assert ax.get_title() == f"step {step}: {score:.2f}"
        for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
            assert [text.get_text() for text in ticks] == list(watched.labels)


def test_forty_snapshots_fit_into_one_picture(watched):
    one = watched.table().query("step == 0")
    figure = draw_forming(pd.concat([one.assign(step=step) for step in range(40)]), "0.0")
    assert len([ax for ax in figure.axes if ax.get_visible()]) == 40


def test_the_last_picture_of_an_animation_stays_five_times_as_long(tmp_path, watched):
    plot_forming(watched.table(), "0.0", tmp_path / "w.gif")
    with Image.open(BytesIO((tmp_path / "w.gif").read_bytes())) as moving:
        times = []
        for place in range(moving.n_frames):
            moving.seek(place)
            times.append(moving.info["duration"])
    assert times == [PACE, PACE, 5 * PACE]


# The figure of several runs.
@pytest.fixture(scope="module")
def drawn():
    """Two runs whose changes differ in place and size, and their figure: axes by row and run, without colour bars."""
    both = {"a": made(300, seed=1), "b": made(500, size=0.5, seed=2)}
    for run in both.values():
        run.heads["qk_eigen_trace"] = 2 * run.heads["prefix_matching"]
    figure = draw_analysis(analysis(both))
    axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    return both, np.array(axes).reshape(len(ROWS), 2)


def test_every_row_draws_its_own_column(drawn):
    both, axes = drawn
    for column, run in enumerate(both.values()):
        for index, name in ((1, "loss"), (4, "icl_score")):
            assert axes[index, column].lines[0].get_ydata().tolist() == run.steps[name].tolist()
        for index, table, name in (
            (5, run.heads, "prefix_matching"), (6, run.heads, "qk_eigen_trace"), (7, run.before, "before_and_after"),
            (8, run.heads, "effect_icl"),
        ):  # fmt: skip
            for line, head in zip(axes[index, column].lines, ("L0H0", "L1H0"), strict=True):
                own = table[table["name"] == head]
                assert line.get_xdata().tolist() == own["step"].tolist()
                assert line.get_ydata().tolist() == own[name].tolist(), (index, head)


def test_layers_have_colours_of_their_own(drawn):
    _, axes = drawn
    for index in (5, 6, 7, 8):
        lower, upper = (line.get_color() for line in axes[index, 0].lines)
        assert lower != upper


def test_the_window_is_shaded_in_every_row_with_steps(drawn):
    _, axes = drawn
    for column, start in enumerate((300, 500)):
        for index in (1, 4, 5, 6, 7, 8):
            assert [(patch.get_x(), patch.get_width()) for patch in axes[index, column].patches] == [(start, 25)]


def test_a_trajectorys_change_is_marked_from_its_start_to_its_end(drawn):
    both, axes = drawn
    own = analysis(both)["a"]["trajectory"].set_index("step")
    marked = axes[0, 0].lines[2]
    assert marked.get_xdata().tolist() == own.loc[[300, 325], "first"].tolist()
    assert marked.get_ydata().tolist() == own.loc[[300, 325], "second"].tolist()


def test_planes_have_steps_down_and_position_across(drawn):
    both, axes = drawn
    table = both["a"].losses
    grid = axes[2, 0].images[0].get_array()
    assert grid.shape == (table["step"].nunique(), 20)
    late = table[table["step"] == 1000].sort_values("index")["loss"].to_numpy()
    assert np.asarray(grid)[-1] == pytest.approx(late)
    slopes = axes[3, 0].images[0]
    assert slopes.get_array().shape[0] == table["step"].nunique()


def test_runs_side_by_side_share_their_scales(drawn):
    _, axes = drawn
    for index in (1, 4, 5, 7, 8):
        assert axes[index, 0].get_ylim() == axes[index, 1].get_ylim()
    for index in (2, 3):
        assert axes[index, 0].images[0].get_clim() == axes[index, 1].images[0].get_clim()
    low, high = axes[3, 0].images[0].get_clim()
    assert low == -high < 0  # white at 0
    assert axes[2, 0].images[0].get_clim()[0] == 0


# Losses over training.
def test_the_slope_of_a_logarithm_is_minus_b_at_uneven_snapshots():
    tokens = torch.tensor([3.0, 7.0, 50.0, 51.0, 4000.0])
    for b in (0.7, 0.0, -2.0):
        assert log_slope(tokens, 5 - b * tokens.double().log()).tolist() == pytest.approx([-b] * 5)


@pytest.mark.parametrize("tokens", [[0.0, 1.0, 2.0], [1.0, 2.0, 2.0], [1.0, 3.0, 2.0], [5.0], [-1.0, 1.0]])
def test_tokens_that_have_no_logarithm_or_do_not_rise_are_refused(tokens):
    with refused("tokens must be at least 2 numbers above 0, rising; got"):
        log_slope(torch.tensor(tokens), torch.ones(len(tokens)))


# What goes on beside.
def say(words):
    sys.stdout.write(words + "\n")


def test_equal_windows_follow_one_token(tmp_path, run_folder):
    """A text so short that windows come twice: what is followed without a head is what is followed with it."""
    text = tmp_path / "short.txt"
    text.write_text("abcdefghij" * 7)
    place = train_toy(tmp_path / "run", **{**UNEVEN, "d_vocab": 256, "data": str(text)})
    found = formation(place, n_windows=40, sequences=2, steps="8")
    tokens = unseen_rows(place, 40).tokens
    assert len({window.numpy().tobytes() for window in tokens}) < 40
    model = il.load_model(place / "step-0000008")
    with torch.no_grad():
        losses = model(tokens, return_type="loss", loss_per_token=True).numpy()
    own = found.followed.sort_values("token")["loss"].to_numpy()
    at = [int(np.abs(part - loss).argmin()) for part, loss in zip(losses, own, strict=True)]
    kinds = {}
    for window, place_of in zip(tokens.numpy(), at, strict=True):
        assert kinds.setdefault(window.tobytes(), place_of) == place_of


def test_rows_of_a_run_are_cut_to_the_length_asked_for(run_folder):
    whole, cut = (formation(run_folder, steps="8", sequences=2, n_windows=4, length=length) for length in (None, 16))
    assert cut.losses["index"].max() == 14
    assert cut.provenance["measured"]["window_tokens"] == 16
    assert cut.losses["loss"].tolist() == pytest.approx(whole.losses["loss"].tolist()[:15], abs=1e-5)
    for length, said in ((2, "length must be at least 3; got 2"), (33, "length must lie between 3 and 32.*; got 33")):
        with refused(said):
            formation(run_folder, steps="8", length=length)


def test_a_thread_that_is_kept_quiet_keeps_no_other_quiet(capsys):
    inside, done = threading.Event(), threading.Event()

    def work():
        with quiet():
            say("not this")
            inside.set()
            done.wait(10)
            say("nor this")

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    say("said meanwhile")
    with quiet():
        say("not here")
        with quiet():
            say("nor deeper")
        say("still not")
    say("and after")
    done.set()
    thread.join()
    say("at the end")
    assert capsys.readouterr().out.split("\n")[:-1] == ["said meanwhile", "and after", "at the end"]


def test_progress_may_print_while_the_next_checkpoint_is_read(run_folder, capsys):
    formation(run_folder, **QUICK, on_progress=lambda done, total: say(f"{done} {total}"))
    assert capsys.readouterr().out.split() == [word for done in range(1, 6) for word in (str(done), "5")]


@pytest.mark.parametrize(
    ("stems", "name"),
    [
        (["two-seed10", "two-seed11"], "two"), (["two-seed0", "two-seed1"], "two"), (["a_1", "a_2"], "a"),
        (["seed1", "seed2"], "seed1"), (["x"], "x"), (["2-layer-seed0", "2-layer-seed12"], "2-layer"),
    ],
)  # fmt: skip
def test_seeds_of_a_model_are_called_by_what_their_files_share(stems, name):
    assert changes_table._in_common(stems) == name


def test_a_step_comes_once_in_a_series():
    with refused("a/b holds step 1000 twice: step1000 and step-1000"):
        hub_series.hub_checkpoints("a/b", branches=lambda name: ["step1000", "step-1000"])
    names = ["checkpoints/x_5.pth", "checkpoints/y_5.pth"]
    with refused("NeelNanda/a holds step 5 twice: checkpoints/x_5.pth and checkpoints/y_5.pth"):
        hub_series.file_checkpoints("NeelNanda/a", files=lambda name: names)


def test_every_token_of_a_long_block_has_a_name_of_its_own():
    model = il.planted("induction")
    found = watch([Checkpoint(0, None, "s", lambda: model)], period=28)
    assert len(set(found.labels[1:29])) == 28
    assert found.labels[27:30] == ("a", "b", "A")
