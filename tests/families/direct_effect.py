"""Direct logit effects by hand, from a Hugging Face model's own modules."""

import contextlib
from typing import Any

import torch
from hugging_face import Record, Witness
from torch import Tensor


def direct_effects(witness: Witness, tokens: Tensor, query: Tensor, key: Tensor) -> dict[int, Tensor]:
    """See `Witness.logit_effects`.

    Raises:
        NotImplementedError: the family's code does not let its values, or its last norm, be seen.
    """
    record = _record(witness, tokens)
    bias = {layer: _value_biases(witness, layer, tokens) for layer in witness.writes}
    head = witness.model.get_output_embeddings()
    final = record.made(record.kept["unembedded"])
    if final is None:
        raise NotImplementedError("no norm stands right before the unembedding")
    columns = head.weight - head.weight.mean(0)
    columns = columns[tokens[:, query + 1]] * _factor(record, witness)
    rows, effects = slice(None), {}
    for layer, write in witness.writes.items():
        values = _expanded(record.kept["values", layer] - bias[layer], witness.n_heads)[rows, key]
        gate = _gate(record, layer, witness.n_heads)[rows, query]
        w_o = (write.weight if type(write).__name__ == "Conv1D" else write.weight.T).detach()
        written = torch.einsum("bqhd,hdm->bqhm", values * gate, w_o.view(witness.n_heads, -1, w_o.shape[1]))
        after = record.read(record.kept["written", layer])
        if after is not None:
            written = held_norm(after, record.kept["written", layer][rows, query], written)
        given = next(given for norm, given, _ in reversed(record.normed) if norm is final)
        normed = held_norm(final, given[rows, query], written * multiplier(witness.config))
        effect = (normed * columns[:, :, None]).sum(-1)
        attended = record.kept["pattern", layer][rows, :, query, key].transpose(1, 2)
        effects[layer] = (effect * attended).mean((0, 1)).detach()
    return effects


def _record(witness: Witness, tokens: Tensor) -> Record:
    record = Record()
    with contextlib.ExitStack() as stack:
        _watch(witness, record, stack)
        record.kept["logits"] = witness.run(tokens).logits
    return record


def _watch(witness: Witness, record: Record, stack: contextlib.ExitStack) -> None:
    stack.enter_context(record.norms(witness.model))
    head = witness.model.get_output_embeddings()
    stack.enter_context(record.inputs("unembedded", head))
    stack.enter_context(record.outputs("raw logits", head))
    for layer, write in witness.writes.items():
        stack.enter_context(record.inputs(("z", layer), write))
        stack.enter_context(record.outputs(("written", layer), write))
    parents = [m for m in witness.model.modules() if any(child in witness.writes.values() for child in m.children())]
    if not parents or not all(hasattr(_code(parent), "eager_attention_forward") for parent in parents):
        raise NotImplementedError("its attention is code of its own")
    stack.enter_context(record.attention(parents[0], lambda module: getattr(module, "layer_idx", None)))


def _code(module: Any) -> Any:
    import sys

    return sys.modules[type(module).__module__]


def _value_biases(witness: Witness, layer: int, tokens: Tensor) -> Tensor:
    """The values of a layer that reads nothing, [batch, kv_head, pos, d_head]."""
    record = Record()
    with contextlib.ExitStack() as stack:
        _watch(witness, record, stack)
        stack.enter_context(witness._nothing_read(layer, record))
        witness.run(tokens)
    return record.kept["values", layer]


def _expanded(values: Tensor, n_heads: int) -> Tensor:
    """Values [batch, pos, head, d_head] from [batch, kv_head, pos, d_head]."""
    return values.repeat_interleave(n_heads // values.shape[1], dim=1).transpose(1, 2)


def _gate(record: Record, layer: int, n_heads: int) -> Tensor:
    """What stands between mixed values and W_O (a gate, a norm held at its scale), element by element; else ones."""
    mixed, z = record.kept["mixed", layer], record.kept["z", layer]
    mixed = mixed.reshape(z.shape)
    ratio = torch.where(mixed.abs() > 1e-9, z / mixed, 1.0)
    return ratio.view(*z.shape[:2], n_heads, -1)


def _factor(record: Record, witness: Witness) -> float:
    """What logits are multiplied by after the unembedding; 1 where they are bent instead (a soft cap)."""
    raw, logits = record.kept["raw logits"], record.kept["logits"]
    factor = float((raw * logits).sum() / (raw * raw).sum())
    return factor if torch.allclose(logits, raw * factor, rtol=1e-3, atol=1e-4) else 1.0


def multiplier(config: Any) -> float:
    """What a family multiplies everything that attention writes by."""
    return (getattr(config, "residual_multiplier", None) or 1.0) * (
        getattr(config, "attention_out_multiplier", None) or 1.0
    )


def held_norm(norm: Any, given: Tensor, written: Tensor) -> Tensor:
    """What a norm makes of a small part of what it was given, its scale held: [batch, query, head, d_model]."""
    width = given.shape[-1]
    plus = torch.ones(width)
    plus[1::2] = -1.0
    plus *= 1e3  # so large that the norm's epsilon is nothing
    gain = (norm(plus[None]) - norm(-plus[None]))[0] / 2 * plus.sign()
    shift = torch.randn(1, width, generator=torch.Generator().manual_seed(0)) * 1e3
    centred = torch.allclose(norm(shift), norm(shift + 1e3), atol=1e-3)
    eps = next((getattr(norm, name) for name in ("eps", "variance_epsilon", "norm_eps") if hasattr(norm, name)), 1e-6)
    if centred:
        given, written = given - given.mean(-1, keepdim=True), written - written.mean(-1, keepdim=True)
    scale = (given.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return written * gain / scale[:, :, None]
