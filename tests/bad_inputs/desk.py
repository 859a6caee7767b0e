"""A folder with everything that commands read, small; and a command of each kind that works on it."""

import json
from pathlib import Path

import pandas as pd
import torch

import inductionlens as il
from inductionlens.models.named_weights import named_weights

SHAPE = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_head": 4, "d_vocab": 60, "n_ctx": 64}
TINY = "--layers 1 --heads 2 --d-model 8 --d-head 4 --d-vocab 24 --n-ctx 24 --steps 6 --snapshots 3 --batch-size 4"
MODEL = "--sequences 2 --period 5 --device cpu"

#: Command -> lines that work, in the folder that `lay_out` makes. A command without a line here gets one from its
#: required arguments alone.
WORKING: dict[str, list[str]] = {
    "scan": [f"toy {MODEL} --logit-period 5 --no-controls --out new.csv", f"hf {MODEL} --logit-period 5 --no-controls"],
    "icl": ["toy --windows 2 --device cpu --out new.csv", "hf --windows 2 --length 40 --text words.txt --device cpu"],
    "ablate": [f"toy {MODEL} --repeats 2 --measures copies --heads 0.1 --no-groups --out new.csv"],
    "circuit": [f"toy {MODEL} --readers 1.0 --out new.csv"],
    "orders": ["toy --sequences 2 --windows 2 --measures text --text random --device cpu --out new.csv"],
    "trigrams": ["toy --head 0.1 --top 2 --device cpu --out new.csv"],
    "repeats": ["toy hf --tokens uniform --period 5 --times 2 --sequences 2 --device cpu --out new.csv"],
    "train": [f"--out new {TINY} --device cpu", f"--out run {TINY} --device cpu"],
    "formation": ["run --sequences 2 --windows 2 --no-ablate --steps 0,6 --device cpu --out new.csv"],
    "watch": [
        "run --head 0.1 --frames 2 --period 4 --device cpu --out new.csv",
        "run --period 4 --device cpu --out new.png",
    ],
    "changes": ["steps.csv --out new.csv", "steps.csv again.csv"],
    "compare": ["scores.csv scores.csv --out new.csv"],
    "why": ["scores.csv --head 0.1"],
    "validate": ["toy --against published.csv --device cpu --out new.csv"],
    "ranks": ["gpt2.csv --model gpt2 --out new.csv"],
    "plot": ["scores.csv --out new.png"],
    "columns": ["scan", "scores.csv", ""],
    "reproduce": [],
}
#: Commands whose smallest work is minutes: they get a line that must be refused, and never one that works.
LONG = {"reproduce": "--out new --preset no-such-preset"}
WORDS = "the cat sat on the mat and the dog sat on the log while the cat ran from the dog to the mat again. "


def lay_out(folder: Path) -> None:
    """Make two models, a run with its snapshots, and a table of each kind."""
    torch.manual_seed(0)
    toy = il.new_toy(il.ToyConfig(**SHAPE), seed=1)
    with torch.no_grad():
        for weight in named_weights(toy).values():
            weight.mul_(4)
    il.save_toy(toy, folder / "toy")
    _hugging_face(folder / "hf")
    options = TINY.replace("--", "").replace("-", "_").split()
    il.train_toy(folder / "run", device="cpu", **dict(zip(options[::2], map(int, options[1::2]), strict=True)))
    steps = il.formation(folder / "run", sequences=2, n_windows=2, ablate=False, device="cpu")
    for name in ("steps.csv", "again.csv"):
        steps.save(folder / name)
    il.scan(folder / "toy", sequences=2, period=5, logit_period=5, controls=False).save(folder / "scores.csv")
    il.scan(folder / "toy", sequences=2, period=5, logit_period=5, controls=False).save(folder / "scores.json")
    (folder / "empty.txt").touch()
    (folder / "words.txt").write_text(WORDS * 40)
    (folder / "published.csv").write_text("layer,head,induction\n0,0,0.1\n0,1,0.2\n1,0,0.3\n1,1,0.4\n")
    recipe = {"seed": 0, "low": 1, "high": 20, "sequences": 1, "period": 4, "tolerance": 1e-3, "above": 0.8}
    (folder / "published.recipe.json").write_text(json.dumps({**recipe, "source": "us"}))
    heads = [(layer, head) for layer in range(12) for head in range(12)]
    gpt2 = pd.DataFrame(heads, columns=["layer", "head"]).assign(prefix_matching=0.1, previous_token=0.2)
    gpt2.to_csv(folder / "gpt2.csv", index=False)


def _hugging_face(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(["<s>", *sorted(set(WORDS.replace(".", " .").split()))])}
    words = Tokenizer(models.WordLevel(ids | {f"w{index}": len(ids) + index for index in range(40)}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    shape = {"n_positions": 64, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 8}
    config = GPT2Config(vocab_size=len(ids) + 40, bos_token_id=0, eos_token_id=0, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
