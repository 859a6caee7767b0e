"""What removing all heads costs, as ratios measured in one run: python tests/benchmarks/ablation.py [--every N]

A model of GPT-2 small's shape with random weights, 4 sequences of 129 tokens, the loss on later copies, float32, CPU.
The naive sweep runs the whole model once per head inside `ablate`. ``--every`` takes every n-th head for a shorter run.
"""

import argparse
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scan import gpt2, ratio, seconds
from scipy.stats import spearmanr

import inductionlens as il
from inductionlens.effects import Stimulus, measure_attribution, measure_effects
from inductionlens.heads import Head
from inductionlens.models.ablation import ablate
from inductionlens.models.lens import has_hooked_transformer
from inductionlens.probes import repeated_tokens, token_pool
from inductionlens.scores.losses import copy_positions

DATA = Path(__file__).parents[2] / "data"


def ranks() -> None:
    """How the first-order estimate ranks heads, beside the exact effect, on the models in data/."""
    for name in ("tiny-gpt2", "attn-only-2l"):
        exact, quick = (
            il.ablation_study(DATA / name, method=method, groups=False).table for method in ("exact", "gradient")
        )
        for measure in ("copies", "icl", "text"):
            found = spearmanr(exact[f"effect_{measure}"], quick[f"effect_{measure}"]).statistic
            print(
                f"{name}, {measure}: rank correlation of gradient and exact effects {found:+.2f} ({len(exact)} heads)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every n-th head")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ranks", action="store_true", help="rank correlation on the models in data/ instead")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.ranks:
        ranks()
        return
    torch.manual_seed(0)
    model = gpt2()
    probe = repeated_tokens(token_pool(range(50256)), period=32, repeats=4, sequences=4, bos=50256)
    _, later = copy_positions(probe.tokens.shape[1], start=1, period=32)
    scored = later.nonzero()[:, 0]
    stimulus = Stimulus("copies", probe.tokens, scored, {"copies": lambda losses, tokens: losses.mean(1)})
    heads = [Head(layer, head) for layer in range(12) for head in range(12)][:: given.every]
    no_unembedding = {} if has_hooked_transformer() else {"logits_to_keep": 1, "use_cache": False}
    found: dict[str, np.ndarray] = {}

    def naive(part: slice) -> None:
        rows = []
        for head in heads[part]:
            with ablate(model, [head]), torch.no_grad():
                rows.append(model(probe.tokens, return_type="loss", loss_per_token=True)[:, scored].mean(1).numpy())
        found["naive"] = np.stack(rows)

    def exact(part: slice) -> None:
        found["exact"] = measure_effects(model, stimulus, [[head] for head in heads[part]]).ablated["copies"]

    def plain() -> None:
        with torch.no_grad():
            model(probe.tokens, return_type=None, **no_unembedding)

    def gradient() -> None:
        measure_attribution(model, stimulus)

    start = time.perf_counter()
    plain()
    # By turns, a third of the heads at a time: a machine that slows down for a while slows both down.
    costs, difference = [], 0.0
    for third in (slice(first, None, 3) for first in range(3)):
        costs.append((seconds(lambda: exact(third)), seconds(lambda: naive(third))))  # noqa: B023
        difference = max(difference, np.abs(found["exact"] - found["naive"]).max())
    sweep = sum(ours for ours, _ in costs) / sum(theirs for _, theirs in costs)
    thirds = ", ".join(f"{ours / theirs:.2f}" for ours, theirs in costs)
    low, middle, high = ratio(gradient, plain, 3)
    print(f"TransformerLens {version('transformer-lens')}, {type(model).__name__}, {len(heads)} heads")
    print(f"exact sweep / naive sweep, same tokens: {sweep:.2f} (by thirds {thirds})")
    print(f"largest difference between them: {difference:.1e} nats")
    print(f"gradient, all heads / plain pass: {middle:.2f} ({low:.2f} to {high:.2f})")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
