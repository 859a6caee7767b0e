"""How often a verdict is wrong on random models: python tests/benchmarks/false_verdicts.py"""

from collections.abc import Iterator
from typing import Any

import torch

import inductionlens as il
from inductionlens.models.named_weights import named_weights

CONFIG = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 8, "d_vocab": 80, "n_ctx": 64}


def random_scans(models: int = 200) -> Iterator[Any]:
    """Head tables of models with random weights, sharper in attention than at any initialisation (4 x W_Q, W_K)."""
    for seed in range(models):
        model = il.new_toy(il.ToyConfig(**CONFIG), seed=seed)
        with torch.no_grad():
            for name, weight in named_weights(model).items():
                if name.endswith(("W_Q", "W_K")):
                    weight.mul_(4)
        yield il.scan(model, seed=seed, period=8, logit_period=8, sequences=5).table


def main() -> None:
    torch.set_num_threads(1)
    tables = list(random_scans())
    heads = sum(len(table) for table in tables)
    wrong = sum(bool(table["kind"].isin(["induction", "anti_induction", "mixed"]).any()) for table in tables)
    print(f"{wrong} of {len(tables)} random models have a head called induction, anti_induction or mixed")
    print(f"{sum(int((table['q_value'] <= 0.05).sum()) for table in tables)} of {heads} heads have q <= 0.05")
    print(f"largest prefix matching: {max(table['prefix_matching'].max() for table in tables):.2f}")


if __name__ == "__main__":
    main()
