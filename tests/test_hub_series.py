"""Checkpoint series of the hub, on a cache filled here: branches, and TransformerLens's own files."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from test_formation import QUICK, SHAPE, refused

from inductionlens.models import hub_series
from inductionlens.studies.formation import formation
from inductionlens.studies.training import train_toy

REPOSITORY, TOKENIZER = "NeelNanda/Attn_Only_2L512W_C4_Code", "NeelNanda/gpt-neox-tokenizer-digits"
# TransformerLens 3.9 leaves JSON files open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
LABELS = {1: 2_000_000_000, 4: 4_000_000_000, 8: 10_000_000_000}


def cached(cache, repository, files):
    """Lay files out as huggingface_hub caches a repository: blobs, and a snapshot of links to them."""
    home, commit = cache / f"models--{repository.replace('/', '--')}", "0" * 40
    for name in ("refs", "blobs", f"snapshots/{commit}/checkpoints"):
        (home / name).mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    for number, (name, content) in enumerate(sorted(files.items())):
        blob, link = home / "blobs" / f"{number:040d}", home / "snapshots" / commit / name
        blob.write_bytes(content)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(blob)
    return home


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return train_toy(tmp_path_factory.mktemp("runs") / "run", **SHAPE)


@pytest.fixture
def tl_series(tmp_path, run_folder, monkeypatch):
    """TransformerLens's two-layer toy, in name: files of the run's snapshots, its tokenizer, and no network."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(40)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="t0", eos_token="t0", unk_token="t0")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = {
        "d_model": 16, "n_layers": 2, "d_mlp": 64, "d_head": 8, "n_heads": 2, "n_ctx": 32, "d_vocab": 40,
        "act_fn": "relu", "attn_only": True, "normalization": "LN", "tokenizer_name": TOKENIZER,
    }  # fmt: skip
    files = {"config.json": json.dumps(config).encode()}
    for step, label in LABELS.items():
        place = tmp_path / "weights.pth"
        torch.save(hooked_weights(run_folder / f"step-{step:07d}"), place)
        files[f"checkpoints/tokens_{label:012d}.pth"] = place.read_bytes()
    cache = tmp_path / "hub"
    home = cached(cache, REPOSITORY, files)
    names = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    cached(cache, TOKENIZER, names | {"config.json": b'{"model_type": "gpt2"}'})
    listing = ["config.json", "README.md", "checkpoints/notes.txt", *files]
    use_cache(monkeypatch, cache, listing)
    return home


def hooked_weights(folder):
    """A snapshot's weights as HookedTransformer names them, which is how toys are saved."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def use_cache(monkeypatch, cache, listing):
    """Let the hub's libraries look into ``cache`` alone."""
    import huggingface_hub
    from transformer_lens.utilities import hf_utils

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, *args, **more: listing)
    old = hf_utils.download_file_from_hf.__defaults__
    new = tuple(str(cache) if value == hf_utils.CACHE_DIR else value for value in old)
    monkeypatch.setattr(hf_utils.download_file_from_hf, "__defaults__", new)


def checkpoint_files(home):
    return sorted(path.name for path in home.glob("snapshots/*/checkpoints/*"))


def test_transformer_lens_series_are_read_file_by_file(tl_series, run_folder):
    own = formation(run_folder, **QUICK, steps="1,4,8")
    found = formation("attn-only-2l", **QUICK, keep=True)
    assert found.steps["step"].tolist() == found.steps["tokens"].tolist() == list(LABELS.values())
    assert found.steps["problem"].tolist() == [""] * 3
    for name in ("loss", "icl_score", "prefix_matching", "previous_token", "copying_gain"):
        assert found.steps[name].to_numpy() == pytest.approx(own.steps[name].to_numpy(), abs=1e-5), name
    assert found.heads["induction_logit"].to_numpy() == pytest.approx(own.heads["induction_logit"].to_numpy(), abs=1e-5)
    slope = np.gradient(own.steps["loss"].to_numpy(), np.log(list(LABELS.values())))
    assert found.steps["loss_slope"].to_numpy() == pytest.approx(slope, abs=1e-6)
    assert len(checkpoint_files(tl_series)) == 3


def test_each_file_is_removed_once_it_is_in_memory(tl_series):
    formation("attn-only-2l", **QUICK)
    assert checkpoint_files(tl_series) == []
    assert len(list((tl_series / "blobs").iterdir())) == 1  # the config
    assert (tl_series / "snapshots" / ("0" * 40) / "config.json").is_file()
    with refused("None of the 3 checkpoints could be read; of the first: .*tokens_002000000000.pth could not be"):
        formation("attn-only-2l", **QUICK)


def test_at_most_two_files_are_on_disk(tl_series):
    """A remote folder in place of the hub: each file comes when it is asked for."""
    home = next(tl_series.glob("snapshots/*"))
    remote, most = tl_series / "remote", []
    shutil.copytree(home / "checkpoints", remote)
    for path in (home / "checkpoints").iterdir():
        hub_series._discard_file(path)

    def fetch(repository, name):
        place = home / name
        shutil.copy(remote / place.name, place)
        most.append(len(checkpoint_files(tl_series)))
        return place

    names = [f"checkpoints/{path.name}" for path in sorted(remote.iterdir(), reverse=True)]
    found = formation(hub_series.file_checkpoints(REPOSITORY, files=lambda name: names, fetch=fetch), **QUICK)
    assert found.steps["step"].tolist() == list(LABELS.values())
    assert len(most) == 3
    assert max(most) <= 2
    assert checkpoint_files(tl_series) == []


class Code:
    """What a malicious pickle does."""

    def __reduce__(self):
        return (print, ("run",))


def test_code_in_a_file_is_never_run(tl_series, capsys):
    bad = (tl_series / "snapshots" / ("0" * 40) / "checkpoints" / "tokens_002000000000.pth").resolve()
    before = torch.load(bad, weights_only=True)
    assert "embed.W_E" in before
    bad.write_bytes(pickle.dumps({"embed.W_E": Code()}))
    found = formation("attn-only-2l", **QUICK)
    problems = found.steps["problem"].tolist()
    assert "could not be loaded" in problems[0]
    assert problems[1:] == ["", ""]
    assert found.steps["loss"].isna().tolist() == [True, False, False]
    assert "run" not in capsys.readouterr().out


def test_numbers_below_a_thousand_million_are_steps():
    names = ["checkpoints/a_300.pth", "checkpoints/a_5.pth", "model_final.pth", "checkpoints/a.pth"]
    found = hub_series.file_checkpoints("NeelNanda/x", files=lambda name: names)
    assert [(one.step, one.tokens, one.name) for one in found] == [
        (5, None, "NeelNanda/x: checkpoints/a_5.pth"), (300, None, "NeelNanda/x: checkpoints/a_300.pth"),
    ]  # fmt: skip
    with refused("NeelNanda/x has no files checkpoints/NAME_1000.pth"):
        hub_series.file_checkpoints("NeelNanda/x", files=lambda name: ["model_final.pth"])


@pytest.mark.parametrize(
    ("repository", "per_step"),
    [
        ("EleutherAI/pythia-70m", 1024 * 2048),
        ("EleutherAI/pythia-70m-deduped", 1024 * 2048),
        ("EleutherAI/pythia-70m-v0", None),
        ("stanford-crfm/alias-gpt2-small-x21", 512 * 1024),
        ("somebody/model", None),
    ],
)
def test_tokens_of_known_series(repository, per_step):
    found = hub_series.hub_checkpoints(repository, branches=lambda name: ["main", "step1000", "step2"])
    assert [one.step for one in found] == [2, 1000]
    assert [one.tokens for one in found] == [None if per_step is None else step * per_step for step in (2, 1000)]


def test_branches_are_fetched_and_removed_by_the_hubs_own_cache(tmp_path, run_folder, monkeypatch):
    """Two branches that share a file: removing one leaves what the other needs."""
    cache = tmp_path / "hub"
    home = cache / "models--somebody--series"
    for name in ("refs", "blobs"):
        (home / name).mkdir(parents=True)
    for commit, step in (("a" * 40, 1), ("b" * 40, 8)):
        (home / "refs" / f"step{step}").write_text(commit)
        snapshot = home / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for path in (run_folder / f"step-{step:07d}").iterdir():
            blob = home / "blobs" / (path.name if path.name == "config.json" else f"{step}{path.name}")
            blob.write_bytes(path.read_bytes())
            (snapshot / path.name).symlink_to(blob)
    import huggingface_hub
    from huggingface_hub.utils import _cache_manager

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(cache), raising=False)
    refs = type("Refs", (), {"branches": [type("Branch", (), {"name": name})() for name in ("main", "step8", "step1")]})
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", lambda self, name: refs)
    found = formation("somebody/series", **QUICK)
    own = formation(run_folder, steps="1,8", **QUICK)
    assert found.steps["loss"].tolist() == own.steps["loss"].tolist()
    assert list(home.glob("snapshots/*")) == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_names_that_nobody_knows_are_refused():
    with refused("There is no folder attn-only-22l and no model of that name"):
        formation("attn-only-22l")
