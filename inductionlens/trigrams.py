"""Skip trigrams: what a first-layer head says about three tokens."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.heads import Head
from inductionlens.models import Model
from inductionlens.models.circuits import ov_circuit, qk_circuit
from inductionlens.models.vocabulary import named_ids

#: Entries of a vocabulary by vocabulary matrix that are in memory at a time.
ENTRIES = 2**24


class Trigrams(NamedTuple):
    """For every source token b: the token a that looks at it most, and the token c it then raises most."""

    source: Int[Tensor, " source"]
    """Token ids b: "b ... a" makes c more likely."""
    destination: Int[Tensor, " source"]
    """The a with the largest attention score for b, over its score for an average source."""
    out: Int[Tensor, " source"]
    """The c whose logit rises most when b is attended to, of the tokenizer's own tokens (`named_ids`)."""
    attention: Float[Tensor, " source"]
    """That attention score above the destination's mean over sources, in nats before the softmax."""
    logit: Float[Tensor, " source"]
    """How much the logit of c rises above the mean over those tokens."""
    copies: Bool[Tensor, " source"]
    """Whether c is b itself: "b ... a -> b"."""


def skip_trigrams_of(model: Model, head: Head, ids: Int[Tensor, " source"], *, distance: int | None = None) -> Trigrams:
    """Read "source ... destination -> out" off a first-layer head's circuits, for the source tokens ``ids``.

    From E QK E^T / sqrt(d_head) and E OV W_U, some rows at a time, where E are the embeddings as the first layer norms
    them. Positions are left out, and the final norm's scale, which divides the logits, is not known. Elhage et al.
    2021, one-layer models.

    Raises:
        InputError: a head of a later layer, which reads more than embeddings, or a model without such circuits.
    """
    if head.layer:
        raise InputError(f"Skip trigrams are read off heads of layer 0, which read embeddings alone; got {head}.")
    w_e, w_u = model.W_E.detach().float(), model.W_U.detach().float()
    w_v, w_o = (part[head.index] for part in ov_circuit(model, 0).pair)
    w_q, w_k = (part[head.index] for part in qk_circuit(model, 0, distance).pair)
    scale = model.cfg.d_head**0.5 if model.cfg.use_attn_scale else 1.0
    ids, outs = ids.to(w_e.device), named_ids(model).to(w_u.device)
    read = _normed(model, w_e[ids])
    queries, keys, values = read @ w_q / scale, read @ w_k.T, read @ w_v
    usual, written = queries @ keys.mean(0), w_o @ w_u[:, outs]
    step, parts = max(1, ENTRIES // max(len(ids), len(outs))), []
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        logits = values[start : start + step] @ written
        logit, place = (logits - logits.mean(1, keepdim=True)).max(1)
        out = outs[place]
        attention, place = (queries @ keys[start : start + len(part)].T - usual[:, None]).max(0)
        parts.append((part, ids[place], out, attention, logit, out == part))
    return Trigrams(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _normed(model: Model, rows: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    """Embeddings as the first layer reads them where nothing else is there; gains are folded, rows centred."""
    if model.cfg.normalization_type is None:
        return rows
    centred = rows - rows.mean(-1, keepdim=True) if model.cfg.normalization_type.startswith("LN") else rows
    return centred / (centred.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt()
