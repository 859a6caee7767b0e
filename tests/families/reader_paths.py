"""What a reader loses without one earlier head, by hand, on a Hugging Face model."""

import contextlib
from typing import Any, NamedTuple

import torch
from direct_effect import held_norm, multiplier
from hugging_face import Record, Witness
from torch import Tensor


class Lost(NamedTuple):
    """Shares of the reader's prefix matching that are lost, one for each head of layer 0."""

    ablated: list[float]
    """With the head left out altogether."""
    by_key: list[float]
    """With the head, and what others made of it, kept from the reader's keys; empty where no k_proj is known."""
    by_key_direct: list[float]
    """With the head's own output alone kept from the reader's keys."""


def lost_without(witness: Witness, tokens: Tensor, period: int) -> Lost:
    """Shares that reader 1.0 loses on [BOS, block, block] without each head of layer 0.

    Raises:
        NotImplementedError: the output matrices of layers 0 and 1 are not known by their names.
    """
    if not {0, 1} <= witness.writes.keys():
        raise NotImplementedError("layers 0 and 1 have no output matrix of attention that is known by its name")
    query = torch.arange(1 + period, 1 + 2 * period)

    def prefix() -> float:
        return float(witness.patterns(tokens)[1][:, 0, query, query - period + 1].double().mean())

    keys, clean = _keys_of(witness), prefix()
    lost = Lost([], [], [])
    with _kept(witness, keys, tokens) as record:
        normed, norm = record.kept.get("keys"), record.made(record.kept.get("keys"))
    for head in range(witness.n_heads):
        with witness.without(0, head, tokens), _kept(witness, keys, tokens) as less:
            lost.ablated.append(1 - prefix() / clean)
        if normed is None or norm is None:
            continue
        with _fed(keys, less.kept["keys"]):
            lost.by_key.append(1 - prefix() / clean)
        given = next(given for module, given, _ in record.normed if module is norm)
        with torch.no_grad():
            direct = norm(given - _written(witness, record, head, tokens))
        with _fed(keys, direct):
            lost.by_key_direct.append(1 - prefix() / clean)
    return lost


def _keys_of(witness: Witness) -> Any:
    """The module that makes the keys of layer 1 and nothing else, or None."""
    named = dict(witness.model.named_modules())
    return next((named[name] for name in named if ".1." in name and name.endswith("attn.k_proj")), None)


@contextlib.contextmanager
def _kept(witness: Witness, keys: Any, tokens: Tensor) -> Any:
    """A record of one run on ``tokens``; open afterwards for what is done in the same state of the model."""
    record = Record()
    with contextlib.ExitStack() as stack:
        stack.enter_context(record.norms(witness.model))
        stack.enter_context(record.inputs("z", witness.writes[0]))
        stack.enter_context(record.outputs("written", witness.writes[0]))
        if keys is not None:
            stack.enter_context(record.inputs("keys", keys))
        witness.run(tokens)
    yield record


@contextlib.contextmanager
def _fed(module: Any, value: Tensor) -> Any:
    handle = module.register_forward_pre_hook(lambda _, args: (value, *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def _written(witness: Witness, record: Record, head: int, tokens: Tensor) -> Tensor:
    """What a head of layer 0 adds to the residual stream, its value bias left out."""
    z = record.kept["z"] - witness.value_bias(0, tokens)
    alone = torch.zeros_like(z).view(*tokens.shape, witness.n_heads, -1)
    alone[:, :, head] = z.view_as(alone)[:, :, head]
    write = witness.writes[0]
    w_o = write.weight if type(write).__name__ == "Conv1D" else write.weight.T
    written = alone.view_as(z) @ w_o
    after = record.read(record.kept["written"])
    if after is not None:
        written = held_norm(after, record.kept["written"], written[:, :, None])[:, :, 0]
    return written * multiplier(witness.config)
