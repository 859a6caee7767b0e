"""Eigenvalue statistics of a head's circuits, and how two heads compose."""

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from inductionlens.probes import generator_from

#: Gaussian pairs behind the baseline of composition scores; at least 20 are asked for.
DRAWS = 50


def eigenvalue_score(eigenvalues: Complex[Tensor, "*head d_head"]) -> Float[Tensor, "*head"]:
    """In [-1, 1], higher is more: Re(sum of eigenvalues) / sum of their absolute values; NaN where all are 0.

    Of an OV circuit, 1 is copying and -1 anti-copying; of a QK circuit, 1 is matching a token with itself. Elhage et
    al. 2021. Positive eigenvalues are necessary for copying, not sufficient: eigenvectors need not be orthogonal.
    """
    return eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)


def positive_fraction(eigenvalues: Complex[Tensor, "*head d_head"]) -> Float[Tensor, "*head"]:
    """In [0, 1]: the share of non-zero eigenvalues whose real part is positive; NaN where all are 0."""
    counted = eigenvalues.abs() > 1e-6 * eigenvalues.abs().amax(-1, keepdim=True)
    return ((eigenvalues.real > 0) & counted).sum(-1) / counted.sum(-1)


def small_left(
    a: Float[Tensor, "head d_model d_head"], b: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head d_head d_model"]:
    """d_head rows in place of the d_model rows of a @ b: the norm of a @ b @ X is the same for every X."""
    return torch.linalg.qr(a, mode="r").R @ b


def composition(
    left: Float[Tensor, "writer d_head d_model"], right: Float[Tensor, "reader d_head d_model"]
) -> Float[Tensor, "writer reader"]:
    """In [0, 1], higher is more: |L R| / (|L| |R|), Frobenius norms; NaN where a matrix is 0. Elhage et al. 2021.

    L is what each writer writes (OV) and R what each reader reads: QK for Q-composition, its transpose for
    K-composition, OV for V-composition. ``left`` is `small_left` of L's factors, ``right`` that of R transposed.
    Random matrices of these shapes score about 1/sqrt(d_model): see `random_composition`.

    TransformerLens's own composition scores give the same numbers; they form the pairs that cannot be, with every pair
    in memory at once, and a singular value decomposition for what one triangular factor does.
    """
    writers, readers, size = len(left), len(right), left.shape[1]
    # One large product for all pairs: d_head x d_head blocks, of which only the norms are kept.
    product = left.flatten(0, 1) @ right.flatten(0, 1).T
    norms = product.view(writers, size, readers, right.shape[1]).pow_(2).sum((1, 3)).sqrt()
    return norms / (left.flatten(1).norm(dim=1)[:, None] * right.flatten(1).norm(dim=1))


class Baseline(NamedTuple):
    """What random matrices of the same shapes score."""

    mean: float
    """Mean over draws; about 1/sqrt(d_model)."""
    spread: float
    """Standard deviation over draws."""


def random_composition(d_model: int, d_head: int, *, draws: int = DRAWS, seed: int = 0) -> Baseline:
    """The composition of products of Gaussian factors: the baseline that is subtracted, and its spread.

    Elhage et al. 2021 subtract such an expectation; how many draws they took is not stated.
    """
    generator = generator_from(seed, "composition")
    found = []
    for _ in range(draws):
        factors = torch.randn(4, 1, d_model, d_head, generator=generator)
        left, right = (small_left(factors[side], factors[side + 1].transpose(-2, -1)) for side in (0, 2))
        found.append(composition(left, right)[0, 0])
    scores = torch.stack(found).double()
    return Baseline(float(scores.mean()), float(scores.std()))
