"""Copying: what a head writes about the tokens it attends to."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from inductionlens.errors import InputError

NORMALIZATIONS: tuple[str, ...] = ("contrast", "contrast_per_token", "share", "olsson_literal", "bansal")
SOURCES: tuple[str, ...] = ("value", "head_output")


class Ratio(NamedTuple):
    """A score that is one sum divided by another, kept apart per sequence: sum first, divide once."""

    numerator: Float[Tensor, "batch head"]
    denominator: Float[Tensor, "batch head"]

    def pooled(self) -> Float[Tensor, " head"]:
        """The score over all sequences; NaN where the denominator is 0."""
        return self.numerator.sum(0) / self.denominator.sum(0)


def direct_logits(
    values: Float[Tensor, "batch source head d_head"],
    w_o: Float[Tensor, "head d_head d_model"],
    columns: Float[Tensor, "batch token d_model"],
) -> Float[Tensor, "batch head source token"]:
    """What each head would add to the logits of the sample's own tokens, were it to attend to one source alone.

    Unbounded, logits before the final norm's scale. ``columns`` are the sample tokens' columns of the centred W_U, so
    nothing of the vocabulary's size is made per head.
    """
    read = torch.einsum("hed,btd->bhet", w_o.float(), columns.float())
    return torch.einsum("bshe,bhet->bhst", values.float(), read)


def copying(
    pattern: Float[Tensor, "batch head query key"],
    direct: Float[Tensor, "batch head source token"],
    *,
    first: int,
    normalization: str = "contrast",
    source: str = "value",
) -> Ratio:
    """In [-1, 1], higher is more copying; 0 is neutral, -1 raises only other tokens. (``bansal``: in [0, 1].)

    Our direct[b, h, k, j] is the effect on sample token j of attending to k; ``first`` is the first position that
    counts (1 after a BOS). A source is weighed by the attention it receives. With Z = relu(direct), a the rise of the
    attended token, m the mean rise of the other sample tokens, S the rise of all:

    * ``contrast``  (a - m) / (a + m), pooled over sources and sequences, divided once. Neutral heads score 0.
    * ``contrast_per_token``  the same ratio per source token, averaged with the attention it receives; sources
      that raise nothing are left out.
    * ``share``  2a/S - 1, the share of the rise that is the attended token's.
    * ``olsson_literal``  4a/(a+S) - 1, Olsson et al.'s printed words; neutral heads score about -0.9.
    * ``bansal``  Bansal et al. 2022: per query, softmax first, minus the mean over attendable tokens, relu, the share
      of the most attended key; 0 where nothing rises. Here from the layer's own values, where theirs come from the
      raw embeddings.

    ``source="head_output"`` reads ``direct`` as the effect of each query's mixed head output instead, each attended
    key being its own target. Source: Olsson et al. 2022; ``contrast`` is ours, because the printed formula cannot give
    the published figures.

    Raises:
        InputError: an unknown normalization or source, ``bansal`` of a head output, or fewer than 2 sample tokens.
    """
    if normalization not in NORMALIZATIONS:
        raise InputError(f"normalization must be one of {', '.join(NORMALIZATIONS)}; got {normalization!r}.")
    if source not in SOURCES:
        raise InputError(f"source must be one of {', '.join(SOURCES)}; got {source!r}.")
    if direct.shape[-1] - first < 2:
        raise InputError(f"Copying compares a token with others: it needs at least 2; got {direct.shape[-1] - first}.")
    if normalization == "bansal":
        if source == "head_output":
            raise InputError("normalization 'bansal' is defined for source 'value' only; got source 'head_output'.")
        return _bansal(pattern.float(), direct, first)
    rise = direct[:, :, first:, first:].relu()
    weights = pattern[:, :, first:, first:].float()
    weight = weights.sum(2)
    if source == "value":
        attended, total = weight * rise.diagonal(dim1=-2, dim2=-1), weight * rise.sum(-1)
    else:
        attended, total = (weights * rise).sum(2), (weights * rise.sum(-1, keepdim=True)).sum(2)
    mean_other = (total - attended).clamp_min(0) / (rise.shape[-1] - 1)
    if normalization == "contrast_per_token":
        ratio = (attended - mean_other) / (attended + mean_other)
        weight = torch.where(ratio.isnan(), 0.0, weight)
        return Ratio((weight * ratio.nan_to_num()).sum(-1), weight.sum(-1))
    a, m, s = attended.sum(-1), mean_other.sum(-1), total.sum(-1)
    if normalization == "contrast":
        return Ratio(a - m, a + m)
    if normalization == "share":
        return Ratio(2 * a - s, s)
    return Ratio(3 * a - s, a + s)


def _bansal(
    pattern: Float[Tensor, "batch head query key"], direct: Float[Tensor, "batch head source token"], first: int
) -> Ratio:
    """Bansal et al.'s copying; the softmax's sum over the vocabulary cancels in the ratio and is never formed."""
    attendable = torch.ones_like(direct[0, 0], dtype=torch.bool).tril()
    raised = (direct - direct.amax(-1, keepdim=True)).exp() * attendable
    raised = ((raised - raised.sum(-1, keepdim=True) / attendable.sum(-1, keepdim=True)) * attendable).relu()
    top = pattern.argmax(-1, keepdim=True)
    share = (raised.gather(-1, top)[..., 0] / raised.sum(-1)).nan_to_num(0.0)[:, :, first:]
    return Ratio(share.sum(-1), torch.full_like(share[..., 0], share.shape[-1]))


def logit_effect(
    attention: Float[Tensor, "batch head query"],
    values: Float[Tensor, "batch query head d_head"],
    w_o: Float[Tensor, "head d_head d_model"],
    columns: Float[Tensor, "batch query d_model"],
) -> Float[Tensor, "batch head query"]:
    """Logits, unbounded, before the final norm's scale: what a head adds to one token's logit through one source.

    attention[b, h, q] times values[b, q, h] W_O[h] columns[b, q], where q counts the destinations, ``attention`` is
    that paid to the destination's source, ``values`` are the source's and ``columns`` the right token's column of W_U.
    """
    read = torch.einsum("hed,bqd->bqhe", w_o.float(), columns.float())
    return attention.float() * (values.float() * read).sum(-1).permute(0, 2, 1)
