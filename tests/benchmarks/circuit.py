"""What reading circuits costs, as ratios measured in one run: python tests/benchmarks/circuit.py [--threads N]

A model of GPT-2 small's shape with random weights, float32, CPU. Composition of all 9,504 pairs, Q, K and V, with the
random baseline; beside it TransformerLens's own scores for one of the three kinds. Paths: every writer into the heads
of one layer, on 10 sequences of 51 tokens, beside one whole pass for each writer and input.
"""

import argparse
import ctypes
import time
from importlib.metadata import version

import numpy as np
import torch
from scan import gpt2, peak_megabytes, seconds

from inductionlens.composition import measure_composition
from inductionlens.heads import Head
from inductionlens.models.lens import has_hooked_transformer
from inductionlens.paths import measure_paths
from inductionlens.probes import repeated_tokens, token_pool

READERS = [Head(6, index) for index in range(12)]
WRITERS = [Head(layer, index) for layer in range(6) for index in range(12)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = gpt2()
    probe = repeated_tokens(token_pool(range(50256)), period=25, repeats=2, sequences=10, bos=50256)
    no_unembedding = {} if has_hooked_transformer() else {"logits_to_keep": 1, "use_cache": False}
    start = time.perf_counter()

    def plain() -> None:
        with torch.no_grad():
            model(probe.tokens, return_type=None, **no_unembedding)

    def ours() -> None:
        measure_composition(model)

    def theirs() -> None:
        model.all_composition_scores("K")

    def paths() -> None:
        measure_paths(model, probe, WRITERS, READERS)

    ctypes.CDLL(None).malloc_trim(0)  # what loading has used and freed would hide what is used now
    before = peak_megabytes(lambda: None)
    memory = peak_megabytes(ours) - before
    plain()
    all_pairs = sorted(seconds(ours) for _ in range(3))
    one_pass = sorted(seconds(plain) for _ in range(5))[2]
    # Naive: for each writer one whole pass without it, then for query, key and value each a whole pass with that input.
    naive = len(WRITERS) * 4 * one_pass
    measured = seconds(paths)
    raw = measure_composition(model).raw["k"]
    their_memory = peak_megabytes(theirs) - before
    their_time = seconds(theirs)
    their_scores = model.all_composition_scores("K")
    their_scores = getattr(their_scores, "scores", their_scores).detach().numpy()
    difference = np.nanmax(np.abs(np.where(np.isfinite(raw), raw - their_scores, np.nan)))
    print(f"TransformerLens {version('transformer-lens')}, {type(model).__name__}, {given.threads} thread(s)")
    print(f"composition of all pairs, Q, K and V: {all_pairs[1]:.2f} s ({all_pairs[0]:.2f} to {all_pairs[2]:.2f})")
    print(f"peak memory beyond the model: {memory:.0f} MiB")
    print(f"TransformerLens's own scores, K alone / all three of ours: {their_time / all_pairs[1]:.1f} times as long")
    print(f"their peak memory: {their_memory:.0f} MiB; largest difference of K: {difference:.1e}")
    print(f"paths of 72 writers into 12 heads / one whole pass per writer and input: {measured / naive:.2f}")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
