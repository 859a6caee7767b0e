"""Score some models here, to be compared with the same models elsewhere: python tests/carried/make.py [FOLDER]

The tables beside this file were made with TransformerLens 3.9 (HookedTransformer); `test_carried.py` scores the same
models with whichever TransformerLens runs it.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import torch

import inductionlens as il
from inductionlens.models.named_weights import portable_weights, write_weights

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "data"
#: Settings that touch every score, and text that does not depend on the running Python.
SETTINGS = {"text": "random", "seed": 1}


def rotary():
    """A random toy with rotary positions, which the two classes keep in different orders."""
    config = il.ToyConfig(
        n_layers=2, n_heads=3, d_model=24, d_head=8, d_vocab=64, n_ctx=128, positional_embedding_type="rotary"
    )
    model = il.new_toy(config, seed=2)
    drawn = {}
    generator = torch.Generator().manual_seed(3)
    for name, weight in portable_weights(model).items():
        biased = torch.randn(weight.shape, generator=generator) * 0.3 if "b_" in name else 0.0
        drawn[name] = 2 * weight + biased
    write_weights(model, drawn.items())
    return model


def smeared():
    """A random toy whose heads smear their keys, each to another degree; norms to be folded."""
    config = il.ToyConfig(n_layers=2, n_heads=3, d_model=24, d_head=8, d_vocab=64, n_ctx=128, smeared_keys=True)
    model = il.new_toy(config, seed=4)
    drawn = {}
    generator = torch.Generator().manual_seed(5)
    for name, weight in portable_weights(model).items():
        drawn[name] = weight + torch.randn(weight.shape, generator=generator) * (2.0 if "alpha" in name else 0.3)
    write_weights(model, drawn.items())
    return model


MODELS = {
    "planted": lambda: "planted",
    "attn-only-2l": lambda: DATA / "attn-only-2l",
    "tiny-gpt2": lambda: DATA / "tiny-gpt2",
    "rotary": rotary,
    "smeared": smeared,
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in MODELS.items():
        table = il.scan(model(), **SETTINGS).table
        table.assign(transformer_lens=version("transformer-lens")).to_csv(folder / f"{name}.csv", index=False)


if __name__ == "__main__":
    main()
