"""Eigenvalue scores against dense twins and known answers."""

import numpy as np
import pytest
import torch
import twins

from inductionlens.models.circuits import ov_eigenvalues
from inductionlens.scores.circuits import eigenvalue_score, positive_fraction


def eigenvalues(matrix):
    return torch.linalg.eigvals(matrix.double())


@pytest.mark.parametrize(("sign", "fraction"), [(1, 1), (-1, 0)])
def test_identity_copies_and_its_negative_anti_copies(sign, fraction):
    found = eigenvalues(sign * torch.eye(8))
    assert float(eigenvalue_score(found)) == pytest.approx(sign)
    assert float(positive_fraction(found)) == fraction


def test_the_real_part_is_taken_of_the_sum():
    """A rotation by 60 degrees: eigenvalues cos +- i sin, their sum over their sizes is cos."""
    cos, sin = 0.5, 3**0.5 / 2
    assert float(eigenvalue_score(eigenvalues(torch.tensor([[cos, -sin], [sin, cos]])))) == pytest.approx(0.5)


def test_zeros_are_undefined_in_the_score_and_not_counted_in_the_fraction():
    assert eigenvalue_score(torch.zeros(3, dtype=torch.complex128)).isnan()
    assert positive_fraction(torch.zeros(3, dtype=torch.complex128)).isnan()
    assert float(positive_fraction(torch.tensor([2.0, -1.0, 0.0, 0.0]).to(torch.complex128))) == 0.5


@pytest.mark.parametrize(("d_model", "d_head", "spread"), [(64, 16, 0.097), (32, 8, 0.21)])
def test_random_heads_score_nothing_within_the_published_spread(d_model, d_head, spread):
    g = torch.Generator().manual_seed(0)
    matrix = torch.randn(400, d_head, d_model, generator=g) @ torch.randn(400, d_model, d_head, generator=g)
    scores = eigenvalue_score(eigenvalues(matrix))
    assert float(scores.mean()) == pytest.approx(0, abs=4 * spread / 20)
    assert float(scores.std()) == pytest.approx(spread, rel=0.15)
    assert float(positive_fraction(eigenvalues(matrix)).mean()) == pytest.approx(0.5, abs=0.03)


def test_a_models_eigenvalues_are_those_of_the_dense_circuit(random_toy):
    found = ov_eigenvalues(random_toy)
    score, fraction = eigenvalue_score(found), positive_fraction(found)
    w_e, w_u = random_toy.W_E.double().numpy(), random_toy.W_U.double().numpy()
    for layer in range(2):
        for head in range(3):
            attn = random_toy.blocks[layer].attn
            w_v, w_o = (weight[head].double().numpy() for weight in (attn.W_V, attn.W_O))
            expected = twins.ov_eigen(w_e, w_v, w_o, w_u)
            assert (float(score[layer, head]), float(fraction[layer, head])) == pytest.approx(expected, abs=1e-4)
            dense = np.trace(w_e @ w_v @ w_o @ w_u)
            assert float(found[layer, head].sum().real) == pytest.approx(dense, rel=1e-4)
