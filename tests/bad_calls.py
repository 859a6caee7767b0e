"""Calls that cannot be meant, run as users run them: without the shape checks that tests switch on.

Prints one JSON object, name of the call -> kind and words of the exception (empty where there was none).
"""

import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import inductionlens as il

#: (name, the call, words expected). A model of 2 layers of 2 heads, 40 tokens and 64 positions; rows of 12 tokens.
Case = tuple[str, Callable[[], Any], str]


def token_cases(name: str, call: Callable[[Any], Any], length: int = 1) -> list[Case]:
    """What no model can read, given to ``call`` as its argument ``name``; it needs rows of ``length`` tokens."""
    good = torch.ones(4, 12, dtype=torch.long)
    shape, ids, size = "tensor of token ids, [sequence, pos]", "ids between 0 and 39", "the model's context; got"
    values = {
        "negative": (-good, ids + ", those of the model's vocabulary; got -1"),
        "out of the vocabulary": (good * 40, ids + ", those of the model's vocabulary; got 40"),
        "floats": (good.float(), f"{shape}; got [4, 12] of torch.float32"),
        "truths": (good.bool(), f"{shape}; got [4, 12] of torch.bool"),
        "no sequences": (good[:0], f"{size} 0 of 12"),
        "no tokens": (good[:, :0], f"{size} 4 of 0"),
        "one dimension": (good[0], f"{shape}; got [12]"),
        "three dimensions": (good[None], f"{shape}; got [1, 4, 12]"),
        "longer than the context": (torch.ones(4, 65, dtype=torch.long), f"{size} 4 of 65"),
        "a list": (good.tolist(), f"{shape}; got list"),
        "an array": (good.numpy(), f"{shape}; got ndarray"),
        "text": ("text", f"{shape}; got str"),
    }
    if length > 2:
        values["two tokens"] = (good[:, :2], f"{size} 4 of 2")
    return [(f"{name}, {kind}", lambda value=value: call(value), words) for kind, (value, words) in values.items()]


def head_cases(name: str, call: Callable[[Any], Any]) -> list[Case]:
    """What names no head of 2 layers of 2 heads."""
    values = {
        "truths": ([(True, False)], "A head is named like 5.1, L5H1 or (5, 1)"),
        "fractions": ([(0.0, 1.0)], "A head is named like 5.1"),
        "numpy's truths": ([(np.bool_(True), np.bool_(False))], "A head is named like 5.1"),
        "negative": ([(0, -1)], "A head is named like 5.1"),
        "three numbers": ([(0, 1, 0)], "A head is named like 5.1"),
        "no such layer": (
            [(2, 0)],
            "There is no head 2.0: the model has 2 layers of 2 heads|read off heads of layer 0; got 2.0",
        ),
        "nothing": ([], "heads must name at least one head|readers must name at least one head"),
        "a number": (5, "must name heads, such as ['5.1', 'L6H9', (7, 10)]; got 5"),
    }
    return [(f"{name}, {kind}", lambda value=value: call(value), words) for kind, (value, words) in values.items()]


def pool_cases(name: str, call: Callable[[Any], Any]) -> list[Case]:
    """What is no set of token ids."""
    values: dict[str, Any] = {
        "fractions": [0.5, 1.5], "a tensor of fractions": torch.rand(50), "a matrix": torch.zeros(2, 2).long(),
        "truths": [True, False], "a tensor of truths": torch.ones(3).bool(), "negative": [-1, 2], "text": "abc",
        "a word": ["a", "b"], "nothing": None, "a number": 7, "too large": torch.tensor([2**40]), "twice": [1, 2, 1],
    }  # fmt: skip
    words = f"{name.rsplit(' ', 1)[-1]} must hold token ids, different whole numbers from 0 on"
    return [(f"{name}, {kind}", lambda value=value: call(value), words) for kind, value in values.items()]


def cases(folder: Path) -> list[Case]:
    """The table."""
    model = il.load_model(il.new_toy(il.ToyConfig(n_layers=2, n_heads=2, d_model=16, d_head=8, d_vocab=40, n_ctx=64)))
    other = il.load_model(il.new_toy(il.ToyConfig(n_layers=2, n_heads=4, d_model=16, d_head=4, d_vocab=40, n_ctx=64)))
    good = torch.randint(1, 40, (4, 12))
    run = il.clean_run(model, good)
    few = {"period": 6, "repeats": 2, "sequences": 2}
    small = {"draws": 1, **few}
    scores = il.scan(model, logit_period=6, controls=False, **few)
    foreign = il.scan(other, logit_period=6, controls=False, **few)
    ids = torch.arange(1, 40)

    def ablated(heads: Any = ("0.0",), output: Any = "zero", **more: Any) -> None:
        with il.ablate(model, heads, output, **more):
            model(good)

    def study(windows: Any = good, **more: Any) -> Any:
        return il.ablation_study(model, windows, **{"measures": ("icl",), "scores": scores, **small, **more})

    def made(**more: Any) -> Any:
        return il.repeated_tokens(ids, **{"period": 6, "bos": None, **more})

    return [
        *token_cases("clean_run tokens", lambda tokens: il.clean_run(model, tokens)),
        *token_cases("ablate mean_over", lambda tokens: ablated(output="mean", mean_over=tokens)),
        *token_cases("ablation_study windows", study, 3),
        *token_cases("in_context_learning windows", lambda tokens: il.in_context_learning(model, tokens), 3),
        *token_cases("path_orders windows", lambda tokens: il.path_orders(model, tokens, measures=("text",), **few), 3),
        *head_cases("ablate heads", ablated),
        *head_cases("ablation_study heads", lambda heads: study(heads=heads)),
        *head_cases("circuit readers", lambda heads: il.circuit(model, readers=heads, scores=scores, period=6)),
        *head_cases("skip_trigrams heads", lambda heads: il.skip_trigrams(model, heads=heads)),
        *pool_cases("token_pool ordinary", il.token_pool),
        *pool_cases("repeated_tokens pool", lambda pool: il.repeated_tokens(pool, period=3, bos=None)),
        ("token_pool trim nan", lambda: il.token_pool(ids, math.nan), "trim must be at least 0 and below 0.5"),
        ("token_pool trim text", lambda: il.token_pool(ids, "0.1"), "trim must be at least 0 and below 0.5"),
        ("token_pool trim truth", lambda: il.token_pool(ids, False), "trim must be at least 0 and below 0.5"),
        ("repeated_tokens period fraction", lambda: made(period=6.5), "period must be a whole number; got 6.5"),
        ("repeated_tokens repeats truth", lambda: made(repeats=True), "repeats must be a whole number; got True"),
        ("repeated_tokens sequences text", lambda: made(sequences="3"), "sequences must be a whole number; got '3'"),
        ("repeated_tokens bos truth", lambda: made(bos=True), "bos must be a token id"),
        ("repeated_tokens bos fraction", lambda: made(bos=0.5), "bos must be a token id"),
        ("repeated_tokens seed", lambda: made(seed=-1), "seed must"),
        ("repeated_tokens seed text", lambda: made(seed="a"), "seed must"),
        ("clean_run a name", lambda: il.clean_run("gpt2", good), "A model is"),
        ("clean_run a module", lambda: il.clean_run(torch.nn.Linear(2, 2), good), "A model is"),
        ("ablate a name", lambda: il.ablate("gpt2", ["0.0"]).__enter__(), "A model is"),
        ("scan a number", lambda: il.scan(5), "A model is"),
        ("scan nothing", lambda: il.scan(None), "A model is"),
        ("load_model dtype", lambda: il.load_model("planted", dtype=torch.float32), "dtype must be one of"),
        ("ablate output", lambda: ablated(output="noise"), "output must be one of zero, mean, or a clean_run"),
        ("ablate output array", lambda: ablated(output=np.zeros(3)), "output must be one of zero, mean"),
        ("ablate output of another model", lambda: ablated(output=il.clean_run(other, good)), "output is a run of 2 layers of 4 heads 4 wide"),
        ("ablate output of other rows", lambda: ablated(output=il.clean_run(model, good[:2])), "give a run of the same shape"),
        ("ablate mean over nothing", lambda: ablated(output="mean"), "give tokens as mean_over"),
        ("ablate mean_over unused", lambda: ablated(mean_over=good), "give it with output='mean' alone"),
        ("ablate patterns of fewer layers", lambda: ablated(patterns=run.patterns[:1]), "one pattern for each of the model's 2 layers"),
        ("ablate patterns of another model", lambda: ablated(patterns=il.clean_run(other, good)), "patterns must be [sequence, 2, query, key]"),
        ("ablate patterns of NaN", lambda: ablated(patterns=[one * math.nan for one in run.patterns]), "patterns must hold finite numbers"),
        ("ablate patterns, numbers", lambda: ablated(patterns=[1, 2]), "patterns must be [sequence, 2, query, key]"),
        ("ablate patterns, a number", lambda: ablated(patterns=3), "patterns must be a clean_run, or a tensor for each layer"),
        ("ablate patterns of other rows", lambda: ablated(patterns=il.clean_run(model, good[:2])), "hold those of the same tokens"),
        ("ablation_study one window", lambda: study(good[:1]), "at least 2 sequences of 3 to 64 tokens"),
        ("ablation_study NaN", lambda: study(extra={"x": lambda losses, _: losses[:, 0] * math.nan}), "'x' must give finite numbers; it gave nan"),
        ("ablation_study infinite", lambda: study(extra={"x": lambda losses, _: losses[:, 0] / 0}, method="gradient"), "'x' must give finite numbers; it gave inf"),
        ("ablation_study one number", lambda: study(extra={"x": lambda losses, _: losses.mean()}), "one number for each of the 4 sequences"),
        ("ablation_study a float", lambda: study(extra={"x": lambda losses, _: 1.0}), "got float"),
        ("ablation_study extra", lambda: study(extra=["x"]), "extra must map names to functions"),
        ("ablation_study extra, numbers", lambda: study(extra={"x": 3}), "extra must map names to functions"),
        ("ablation_study scores", lambda: study(scores=scores.table), "scores must be what scan or read_scores gives; got DataFrame"),
        ("ablation_study foreign scores", lambda: study(scores=foreign), "scores must be a scan of this model, 2 layers of 2 heads"),
        ("circuit scores", lambda: il.circuit(model, scores="s.csv", period=6), "scores must be what scan or read_scores gives; got str"),
        ("circuit foreign scores", lambda: il.circuit(model, scores=foreign, period=6), "scores must be a scan of this model"),
        ("compare tables", lambda: il.compare(scores.table, scores.table), "takes what scan or read_scores gives; got DataFrame"),
        ("compare paths", lambda: il.compare("a.csv", "b.csv"), "takes what scan or read_scores gives; got str"),
        ("scan threshold text", lambda: il.scan(model, threshold="0.4"), "threshold must"),
        ("scan threshold nan", lambda: il.scan(model, threshold=math.nan), "threshold must"),
        ("scan threshold truth", lambda: il.scan(model, threshold=True), "threshold must"),
        ("scores of no head", lambda: scores["2.0"], "There is no head 2.0"),
        ("scores of truths", lambda: scores[True, False], "A head is named like 5.1"),
        ("scores of no kind", lambda: scores.heads("inducion"), "There is no kind 'inducion' of head"),
        ("scores of no word", lambda: scores.heads(3), "There is no kind 3 of head"),
        ("read_scores a number", lambda: il.read_scores(3), "path must be a path; got 3"),
        ("read_scores nothing", lambda: il.read_scores(None), "path must be a path; got None"),
        ("save a number", lambda: scores.save(3), "path must be a path; got 3"),
        ("new_toy a dictionary", lambda: il.new_toy({"n_layers": 1}), "config must be a ToyConfig; got dict"),
        ("new_toy seed", lambda: il.new_toy(model.inductionlens_config, seed=-1), "seed must"),
        ("new_toy seed text", lambda: il.new_toy(model.inductionlens_config, seed="a"), "seed must"),
        ("save_toy a name", lambda: il.save_toy("planted", folder / "x"), "Only toys made by new_toy"),
        ("save_toy a processed one", lambda: il.save_toy(model, folder / "x"), "Only toys made by new_toy"),
        ("planted kind", lambda: il.planted("inductoin"), "There is no planted model 'inductoin'"),
        ("planted kind number", lambda: il.planted(3), "There is no planted model 3"),
        ("planted d_vocab", lambda: il.planted(d_vocab=0), "d_vocab must"),
        ("planted n_ctx", lambda: il.planted(n_ctx=2.5), "n_ctx must"),
        ("planted logit", lambda: il.planted(logit=math.nan), "logit must"),
        ("planted logit text", lambda: il.planted(logit="10"), "logit must"),
        ("ToyConfig fraction", lambda: il.ToyConfig(n_layers=1.5, n_heads=2, d_model=8, d_head=4, d_vocab=9, n_ctx=8), "n_layers must be a whole number"),
        ("Head text", lambda: il.Head.parse("5-1"), "A head is named like 5.1"),
        ("Head nothing", lambda: il.Head.parse(None), "A head is named like 5.1"),
        ("path_orders measures", lambda: il.path_orders(model, measures=("icl",)), "measures must be among"),
        ("path_orders setting", lambda: il.path_orders(model, output="mean"), "path_orders has no setting 'output'"),
        ("repeats nothing", lambda: il.repeats([], distributions=("uniform",)), "models must name at least one model"),
        ("repeats a number", lambda: il.repeats(3), "models must be one model or several"),
        ("formation a number", lambda: il.formation(3), "source must"),
        ("formation nothing", lambda: il.formation([]), "There is no checkpoint to measure"),
        ("formation a model", lambda: il.formation(model), "source must"),
        ("train_toy a number", lambda: il.train_toy(3), "path must be a path; got 3"),
        ("validate a number", lambda: il.validate(model, 3), "path must be a path; got 3"),
        ("validate a model of another size", lambda: il.validate(model), "The recipe needs 200 tokens"),
        ("reproduce a preset", lambda: il.reproduce(folder / "r", preset="x"), "preset must be one of"),
    ]  # fmt: skip


def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    """Kind and words of the exception that a call ends in."""
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        table = cases(Path(place))
        json.dump({name: [*outcome(call), words] for name, call, words in table}, sys.stdout)
