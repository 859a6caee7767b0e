"""Eigenvalue statistics of a head's circuits."""

from jaxtyping import Complex, Float
from torch import Tensor


def eigenvalue_score(eigenvalues: Complex[Tensor, "*head d_head"]) -> Float[Tensor, "*head"]:
    """In [-1, 1], higher is more: Re(sum of eigenvalues) / sum of their absolute values; NaN where all are 0.

    Of an OV circuit, 1 is copying and -1 anti-copying. Elhage et al. 2021. Positive eigenvalues are necessary for
    copying, not sufficient: eigenvectors need not be orthogonal.
    """
    return eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)


def positive_fraction(eigenvalues: Complex[Tensor, "*head d_head"]) -> Float[Tensor, "*head"]:
    """In [0, 1]: the share of non-zero eigenvalues whose real part is positive; NaN where all are 0."""
    counted = eigenvalues.abs() > 1e-6 * eigenvalues.abs().amax(-1, keepdim=True)
    return ((eigenvalues.real > 0) & counted).sum(-1) / counted.sum(-1)
