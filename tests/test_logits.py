"""Copying and logit effects against their slow twins and known answers."""

import numpy as np
import pytest
import torch
import twins

from inductionlens import InputError
from inductionlens.scores import logits, losses
from inductionlens.scores.logits import NORMALIZATIONS, copying, direct_logits, logit_effect

BATCH, HEADS, POS, D_HEAD, D_MODEL, VOCAB = 2, 3, 7, 4, 5, 11


@pytest.fixture(scope="module")
def made():
    """Random attention, values and weights of a made-up layer, and the twin's nested lists of them."""
    g = torch.Generator().manual_seed(0)
    causal = torch.ones(POS, POS, dtype=torch.bool).tril()
    pattern = torch.randn(BATCH, HEADS, POS, POS, generator=g).masked_fill(~causal, -torch.inf).softmax(-1)
    values = torch.randn(BATCH, POS, HEADS, D_HEAD, generator=g)
    w_o = torch.randn(HEADS, D_HEAD, D_MODEL, generator=g)
    w_u = torch.randn(D_MODEL, VOCAB, generator=g) + 0.5
    tokens = torch.stack([torch.randperm(VOCAB, generator=g)[:POS] for _ in range(BATCH)])
    return pattern, values, w_o, w_u, tokens


def columns_of(w_u, tokens):
    return (w_u - w_u.mean(1, keepdim=True))[:, tokens].permute(1, 2, 0)


@pytest.mark.parametrize("first", [1, 0], ids=["bos", "no-bos"])
@pytest.mark.parametrize("source", ["value", "head_output"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_copying_equals_its_twin(normalization, source, first, made):
    pattern, values, w_o, w_u, tokens = made
    if source == "value":
        vectors = values
    else:
        vectors = torch.einsum("bhqk,bkhe->bqhe", pattern, values)
    direct = direct_logits(vectors, w_o, columns_of(w_u, tokens))
    if normalization == "bansal" and source == "head_output":
        with pytest.raises(InputError, match="'bansal' is defined for source 'value' only"):
            copying(pattern, direct, first=first, normalization=normalization, source=source)
        return
    score = copying(pattern, direct, first=first, normalization=normalization, source=source).pooled()
    expected = twins.copying(
        pattern.tolist(), values.permute(0, 2, 1, 3).tolist(), w_o.tolist(), w_u.tolist(), tokens.tolist(),
        first, normalization, source,
    )  # fmt: skip
    assert score.tolist() == pytest.approx(expected, abs=1e-5)


def copying_of(direct, normalization):
    """Copying of a head that attends evenly to every earlier token, without BOS."""
    pos = direct.shape[-1]
    pattern = torch.ones(pos, pos).tril()
    pattern = (pattern / pattern.sum(-1, keepdim=True)).expand(len(direct), 1, pos, pos)
    return float(copying(pattern, direct, first=0, normalization=normalization).pooled())


# Metrics, section 8: (spread of the random effect, effect on the diagonal, share, literal, contrast, per token).
COPIERS = {
    "random": (1, 0, -0.92, -0.85, 0.00, -0.42),
    "+1 sd": (1, 1, -0.80, -0.63, 0.46, 0.17),
    "+6 sd": (1, 6, -0.23, 0.11, 0.88, 0.87),
    "perfect": (0, 1, 1, 1, 1, 1),
    "-1 sd": (1, -1, -0.98, -0.97, -0.65, -0.85),
    "-6 sd": (1, -6, -1, -1, -1, -1),
}


@pytest.mark.parametrize("name", COPIERS)
def test_known_copiers(name):
    spread, diagonal, share, literal, contrast, per_token = COPIERS[name]
    g = torch.Generator().manual_seed(0)
    direct = spread * torch.randn(2000, 1, 25, 25, generator=g) + diagonal * torch.eye(25)
    for normalization, expected in (
        ("share", share), ("olsson_literal", literal), ("contrast", contrast), ("contrast_per_token", per_token),
    ):  # fmt: skip
        assert copying_of(direct, normalization) == pytest.approx(expected, abs=0.02), normalization


def test_sums_are_divided_once():
    """Pooling weighs a sequence by its rise: the mean of two sequences' ratios would be 0."""
    direct = torch.zeros(2, 1, 3, 3)
    direct[0] = 9 * torch.eye(3)
    direct[1] = 1 - torch.eye(3)
    assert copying_of(direct, "contrast") > 0.7


def test_nothing_raised_is_undefined_not_zero():
    flat = torch.zeros(1, 1, 4, 4)
    for normalization in NORMALIZATIONS:
        assert (
            (copying_of(flat, normalization) == 0)
            if normalization == "bansal"
            else np.isnan(copying_of(flat, normalization))
        )


def test_scaling_the_head_leaves_copying_and_negating_turns_it():
    g = torch.Generator().manual_seed(1)
    direct = torch.randn(50, 1, 12, 12, generator=g) + 3 * torch.eye(12)
    assert copying_of(direct, "contrast") == pytest.approx(copying_of(7 * direct, "contrast"), abs=1e-6)
    assert copying_of(-direct, "contrast") < -0.9


def test_bad_choices_list_the_good_ones():
    pattern, direct = torch.ones(1, 1, 4, 4) / 4, torch.ones(1, 1, 4, 4)
    with pytest.raises(InputError, match="contrast, contrast_per_token, share, olsson_literal, bansal; got 'mean'"):
        copying(pattern, direct, first=0, normalization="mean")
    with pytest.raises(InputError, match="source must be one of value, head_output; got 'z'"):
        copying(pattern, direct, first=0, source="z")
    with pytest.raises(InputError, match="at least 2; got 1"):
        copying(pattern, direct, first=3)


def test_copying_leaves_its_inputs_alone(made):
    pattern, values, w_o, w_u, tokens = made
    direct = direct_logits(values, w_o, columns_of(w_u, tokens))
    kept = [tensor.clone() for tensor in (pattern, direct)]
    for normalization in NORMALIZATIONS:
        copying(pattern, direct, first=1, normalization=normalization)
    assert torch.equal(pattern, kept[0])
    assert torch.equal(direct, kept[1])


def test_logit_effect_is_attention_times_effect():
    """With A = 1 and v W_O U_c[:, t] = c the effect is c; scaling the head scales it; zero stays zero."""
    attention = torch.tensor([[[1.0, 0.5]]])
    values = torch.tensor([[[[2.0, 1.0]], [[1.0, 3.0]]]])
    w_o = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]])
    columns = torch.tensor([[[1.0, 1.0, 0.5], [0.0, 2.0, 1.0]]])
    expected = [[[1 * (2 * 2 + 1 * 1), 0.5 * (1 * 2 + 3 * 2)]]]
    assert logit_effect(attention, values, w_o, columns).tolist() == expected
    assert torch.equal(logit_effect(attention, values, 3 * w_o, columns), 3 * torch.tensor(expected))
    assert logit_effect(attention, values, 0 * w_o, columns).abs().sum() == 0


@pytest.mark.parametrize("start", [1, 0])
def test_losses_by_copy_equal_their_twin(start):
    g = torch.Generator().manual_seed(0)
    period, repeats = 5, 3
    pos = start + period * repeats
    scores = torch.randn(2, pos, VOCAB, generator=g)
    tokens = torch.randint(0, VOCAB, (2, pos), generator=g)
    first, later = losses.copy_positions(pos, start=start, period=period)
    per_token = losses.token_losses(scores[:, :-1], tokens[:, 1:])
    for row in range(2):
        expected = twins.losses_by_copy(scores[row].tolist(), tokens[row].tolist(), start, period)
        found = (float(per_token[row, first].mean()), float(per_token[row, later].mean()))
        assert found == pytest.approx(expected, abs=1e-5)
    assert (int(first.sum()), int(later.sum())) == (period - (1 - start), (repeats - 1) * (period - 1))


def test_a_flat_model_loses_the_log_of_its_vocabulary():
    loss = losses.token_losses(torch.zeros(1, 4, VOCAB), torch.zeros(1, 4, dtype=torch.long))
    assert loss[0].tolist() == pytest.approx([np.log(VOCAB)] * 4)


def test_pooled_ratio_is_a_ratio_of_sums():
    ratio = logits.Ratio(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [9.0]]))
    assert ratio.pooled().tolist() == pytest.approx([0.3])
