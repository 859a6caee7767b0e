"""What a scan costs, as ratios measured in one run: python tests/benchmarks/scan.py [--pairs N] [--threads N]

A model of GPT-2 small's shape with random weights, batches of 8 x 129 tokens, float32, CPU. Every row alternates with
its reference, A B A B ..., and the median of the paired ratios is printed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformer_lens.head_detector import detect_head

from inductionlens.measure import attention_targets, measure_attention, measure_copying, measure_induction_logit
from inductionlens.models.activations import run_reduced
from inductionlens.models.lens import has_hooked_transformer
from inductionlens.models.loading import load_model
from inductionlens.models.same_model import check_same, given_object
from inductionlens.probes import repeated_tokens, token_pool

BATCH, PERIOD, REPEATS = 8, 32, 4


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(work: Callable[[], object], reference: Callable[[], object], pairs: int) -> tuple[float, float, float]:
    """Smallest, median and largest of ``pairs`` ratios, after one warm-up of each."""
    work(), reference()
    found = sorted(seconds(work) / seconds(reference) for _ in range(pairs))
    return found[0], statistics.median(found), found[-1]


def peak_megabytes(work: Callable[[], object]) -> float:
    """The highest memory use of this process during ``work``, as Linux counts it."""
    Path("/proc/self/clear_refs").write_text("5")
    work()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def gpt2(**shape: int) -> Any:
    """GPT-2 small's shape, or another, with random weights, loaded from a folder as any model is."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(folder)
        return load_model(folder)


def long_rows() -> list[tuple[str, float]]:
    """What one row of 4,096 tokens costs one layer of 12 heads, beyond the loaded model."""
    model = gpt2(n_layer=1, n_positions=4096, vocab_size=5000, bos_token_id=0, eos_token_id=0)
    pool = token_pool(range(1, 5000))
    repeated = repeated_tokens(pool, period=1023, repeats=4, sequences=1, bos=0)
    once = repeated_tokens(pool, period=4095, repeats=1, sequences=1, bos=0)
    before = peak_megabytes(lambda: None)

    def plain() -> None:
        with torch.no_grad():
            model(repeated.tokens, return_type=None)

    def all_scores() -> None:
        measure_attention(model, repeated, attention_targets(repeated), with_losses=True)
        measure_copying(model, once)

    found = [("one row of 4,096 tokens, 12 heads: plain pass", peak_megabytes(plain) - before)]
    return [*found, ("the same: attention, losses and copying", peak_megabytes(all_scores) - before)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = gpt2()
    pool = token_pool(range(50256))
    repeated = repeated_tokens(pool, period=PERIOD, repeats=REPEATS, sequences=BATCH, bos=50256)
    once = repeated_tokens(pool, period=PERIOD * REPEATS, repeats=1, sequences=BATCH, bos=50256)
    logit = repeated_tokens(pool, period=PERIOD * REPEATS // 2, repeats=2, sequences=BATCH, bos=50256)
    targets = attention_targets(repeated)
    everything = {"batch_size": BATCH}
    no_unembedding = {} if has_hooked_transformer() else {"logits_to_keep": 1, "use_cache": False}

    def plain() -> None:
        with torch.no_grad():
            model(repeated.tokens, return_type=None, **no_unembedding)

    def attention() -> None:
        measure_attention(model, repeated, targets, **everything)

    def hooks_only() -> None:
        run_reduced(model, repeated.tokens, lambda layer: None)

    def with_losses() -> None:
        measure_attention(model, repeated, targets, with_losses=True, **everything)

    def all_scores() -> None:
        with_losses()
        measure_copying(model, once, **everything)
        measure_induction_logit(model, logit, **everything)

    def three_plain() -> None:
        for _ in range(3):
            plain()

    # The detector takes strings only: here a string, or a list of them, names the rows of tokens it stands for.
    model.to_tokens = lambda rows: repeated.tokens[[int(row) for row in rows]]

    def detector() -> None:
        for kind in ("previous_token_head", "duplicate_token_head", "induction_head"):
            with torch.no_grad():
                detect_head(model, [str(row) for row in range(BATCH)], kind)

    def compared() -> None:
        check_same(model, given_object(model, "the model"))

    # In growing order, before anything else: memory that was once used may stay with the process.
    passes = peak_megabytes(plain)
    memory = [("attention scores, beyond the plain pass", peak_megabytes(attention) - passes), *long_rows()]
    rows = [
        ("comparing with the model given, once a model / plain pass", ratio(compared, plain, given.pairs)),
        ("hooks alone / plain pass", ratio(hooks_only, plain, given.pairs)),
        ("attention scores / plain pass over the same tokens", ratio(attention, plain, given.pairs)),
        ("all scores and losses / plain passes over the same tokens", ratio(all_scores, three_plain, given.pairs)),
        ("detect_head, its three kinds / attention scores, same tokens", ratio(detector, attention, given.pairs)),
    ]
    print(f"TransformerLens {version('transformer-lens')}, {type(model).__name__}")
    print(f"{'what':62} {'min':>6} {'median':>6} {'max':>6}")
    for name, (low, middle, high) in rows:
        print(f"{name:62} {low:6.2f} {middle:6.2f} {high:6.2f}")
    print(f"{'peak memory':62} {'MiB':>6}")
    for name, size in memory:
        print(f"{name:62} {size:6.0f}")


if __name__ == "__main__":
    main()
