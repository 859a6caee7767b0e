"""Training throughput, as a ratio measured in one run: python tests/benchmarks/training.py [--layers N] [--threads N]

The default toy of `train_toy`, its batches made beforehand, beside the same transformer written in plain PyTorch (one
fused attention call, no hooks), the same optimiser and clipping. Steps alternate in blocks of ten.
"""

import argparse
from importlib.metadata import version

import torch
from scan import seconds
from torch import nn

from inductionlens.models.toy import new_toy
from inductionlens.models.training import Trainer
from inductionlens.studies.training import TrainOptions
from inductionlens.training_batches import training_batches

BLOCK, BLOCKS = 10, 8


class Layer(nn.Module):
    """One attention layer with its norm and residual."""

    def __init__(self, options: TrainOptions) -> None:
        super().__init__()
        inner = options.heads * options.d_head
        self.heads, self.norm = options.heads, nn.LayerNorm(options.d_model)
        self.qkv, self.out = nn.Linear(options.d_model, 3 * inner), nn.Linear(inner, options.d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class Plain(nn.Module):
    """The same transformer without TransformerLens."""

    def __init__(self, options: TrainOptions) -> None:
        super().__init__()
        self.tokens = nn.Embedding(options.d_vocab, options.d_model)
        self.places = nn.Embedding(options.n_ctx, options.d_model)
        self.layers = nn.Sequential(*(Layer(options) for _ in range(options.layers)))
        self.norm, self.head = nn.LayerNorm(options.d_model), nn.Linear(options.d_model, options.d_vocab)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        x = self.tokens(rows) + self.places(torch.arange(rows.shape[1]))
        logits = self.head(self.norm(self.layers(x)))[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    options = TrainOptions(layers=given.layers)
    at = training_batches(
        options.data, batch_size=options.batch_size, length=options.n_ctx, d_vocab=options.d_vocab, seed=0
    )
    batches = [at(step) for step in range(BLOCK)]
    toy, plain = new_toy(options.config()), Plain(options)
    ours = Trainer(toy, lambda rows: toy(rows, return_type="loss"), steps=10**6)
    theirs = Trainer(plain, plain, steps=10**6)

    def block(trainer: Trainer) -> None:
        for batch in batches:
            trainer.learn(batch)

    block(ours), block(theirs)
    pairs = [(seconds(lambda: block(ours)), seconds(lambda: block(theirs))) for _ in range(BLOCKS)]
    ratios = sorted(one / other for one, other in pairs)
    fastest = min(one for one, _ in pairs) / BLOCK
    making = seconds(lambda: [at(step) for step in range(100, 110)]) / BLOCK
    tokens = options.batch_size * options.n_ctx
    kind = f"TransformerLens {version('transformer-lens')}, {type(toy).__name__}"
    print(f"{kind}, {given.layers} layers, {given.threads} thread(s)")
    print(f"a step / a step of plain PyTorch: {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(f"{tokens / fastest:,.0f} tokens a second; making a batch takes {making / fastest:.0%} of a step")


if __name__ == "__main__":
    main()
