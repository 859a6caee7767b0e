"""Train the models kept in this folder: python data/make.py [tiny-gpt2 | attn-only-1l | attn-only-2l]"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import inductionlens as il
from inductionlens import corpus
from inductionlens.models.training import train
from inductionlens.training_data import paste_segments, random_rows, text_rows

HERE = Path(__file__).parent
SEED = 0
FINDINGS = "* What a scan finds"

ATTN_ONLY: dict[str, Any] = {"n_heads": 4, "d_model": 64, "d_head": 16, "d_vocab": 256, "n_ctx": 256}
ATTN_ONLY_STEPS, ATTN_ONLY_BATCH = 3000, 16
GPT2 = {"vocab_size": 1024, "n_positions": 256, "n_embd": 128, "n_layer": 3, "n_head": 4}
GPT2_STEPS, GPT2_BATCH = 6000, 16


def attn_only(name: str, n_layers: int) -> None:
    config = il.ToyConfig(n_layers=n_layers, **ATTN_ONLY)
    model = il.new_toy(config, seed=SEED)
    ids = torch.arange(1, config.d_vocab)
    generator = np.random.default_rng(SEED)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            rows = random_rows(ATTN_ONLY_BATCH, config.n_ctx, ids, bos=0, generator=generator)
            yield paste_segments(rows, ids, generator=generator, segment=(8, 40), gap=(0, 11))

    seconds = run(model, lambda rows: model(rows, return_type="loss"), batches(), ATTN_ONLY_STEPS)
    il.save_toy(model, HERE / name)
    card(
        name,
        f"{n_layers}-layer attention-only transformer with LayerNorm and learned positions",
        {"n_layers": n_layers, **ATTN_ONLY},
        "uniform random tokens after BOS (id 0); in each stretch of 128 tokens one segment of 8-40 random tokens is "
        "pasted again and again with 0-11 tokens between copies",
        ATTN_ONLY_STEPS,
        ATTN_ONLY_BATCH,
        seconds,
    )


def tiny_gpt2(name: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    texts = [text.text for text in corpus.python_stdlib()]
    end = "<|endoftext|>"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=GPT2["vocab_size"], special_tokens=[end], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end, unk_token=end)
    bos = tokenizer.bos_token_id
    stream = torch.tensor([index for text in bpe.encode_batch(texts) for index in (bos, *text.ids)])

    torch.manual_seed(SEED)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**GPT2, **dropout, bos_token_id=bos, eos_token_id=bos))
    ids = torch.tensor([index for index in range(GPT2["vocab_size"]) if index != bos])
    generator = np.random.default_rng(SEED)

    def batches() -> Iterator[torch.Tensor]:
        half = GPT2_BATCH // 2
        while True:
            rows = text_rows(stream, GPT2_BATCH, GPT2["n_positions"], bos=bos, generator=generator)
            rows[:half] = paste_segments(rows[:half], ids, generator=generator)
            yield rows

    seconds = run(model, lambda rows: model(rows, labels=rows).loss, batches(), GPT2_STEPS)
    model.save_pretrained(HERE / name)
    tokenizer.save_pretrained(HERE / name)
    card(
        name,
        "GPT-2 (learned positions, MLPs, pre-norm, tied embeddings) with its own byte-level BPE tokenizer",
        GPT2,
        f"the source of the standard library of Python {platform.python_version()} ({len(texts)} files, "
        f"{len(stream):,} tokens), in rows that start with BOS (id {bos}); half of each batch is plain text, in the "
        "other half one segment of 4-23 random tokens is pasted again and again, with 0-19 tokens of text between "
        "copies, in each stretch of 128 tokens",
        GPT2_STEPS,
        GPT2_BATCH,
        seconds,
    )


def run(model: torch.nn.Module, loss_of: Any, batches: Iterator[torch.Tensor], steps: int) -> float:
    """Train, one line per 100 steps; gives the seconds it took."""
    start, recent = time.monotonic(), []

    def on_step(step: int, loss: float) -> None:
        recent.append(loss)
        if step % 100 == 0:
            print(f"step {step} loss {np.mean(recent[-100:]):.3f} {time.monotonic() - start:.0f} s", flush=True)

    train(model, loss_of, batches, steps=steps, on_step=on_step)
    return time.monotonic() - start


def card(name: str, what: str, config: dict[str, Any], data: str, steps: int, batch: int, seconds: float) -> None:
    """Write README.md beside the weights: what the model is and what a scan finds in it."""
    lines = [
        f"# {name}",
        "",
        f"A {what}. MIT licence, like the rest of this repository.",
        "",
        f"* Shape: {json.dumps(config)}",
        f"* Data: {data}.",
        f"* Training: {steps} steps of {batch} rows, AdamW 2e-3 (0.9, 0.98), weight decay 0.01, gradient norm clipped "
        f"to 1, 200 steps of warm-up, then linear decay to 0; float32, seed {SEED}; {seconds / 60:.0f} minutes on "
        f"{torch.get_num_threads()} CPU thread(s), torch {torch.__version__}.",
        f"* Command: `python data/make.py {name}`. The bits of the weights depend on the machine.",
    ]
    (HERE / name / "README.md").write_text("\n".join(lines) + "\n" + findings(name), encoding="utf-8")


def findings(name: str) -> str:
    """The part of a card that a scan decides."""
    scores = il.scan(HERE / name)
    shown = scores.table[["name", "kind", "prefix_matching", "previous_token", "copying", "induction_logit"]]
    lines = [
        f"{FINDINGS} (`inductionlens scan data/{name}`): {len(scores.induction_heads())} induction head(s) of "
        f"{len(scores)}. {scores.provenance['behaviour']['case']}",
        "",
        "| " + " | ".join(shown.columns) + " |",
        "|" + "---|" * len(shown.columns),
    ]
    for row in shown.to_dict("records"):
        lines.append("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    return "\n".join(lines) + "\n"


def refresh(name: str) -> None:
    """Scan a model that is there and rewrite what its card says a scan finds."""
    path = HERE / name / "README.md"
    told = path.read_text(encoding="utf-8").partition(FINDINGS)[0]
    path.write_text(told + findings(name), encoding="utf-8")


MODELS = {
    "attn-only-1l": lambda name: attn_only(name, 1),
    "attn-only-2l": lambda name: attn_only(name, 2),
    "tiny-gpt2": tiny_gpt2,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"any of {', '.join(MODELS)}; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cards", action="store_true", help="train nothing, only scan again and renew the cards")
    given = parser.parse_args()
    if unknown := set(given.names) - set(MODELS):
        parser.error(f"there is no model {unknown.pop()!r}; there are {', '.join(MODELS)}")
    torch.set_num_threads(given.threads)
    for name in given.names or MODELS:
        refresh(name) if given.cards else MODELS[name](name)
