"""Where a model came from: what tables record about it."""

import inspect
from dataclasses import dataclass
from typing import Any

from inductionlens.models import Model


@dataclass(frozen=True)
class Origin:
    """What a table says about the model it was measured on."""

    name: str
    """What the user called it: a hub name, a folder, ``planted`` or a class name."""
    kind: str
    """``hub``, ``folder``, ``toy``, ``planted`` or ``object``."""
    revision: str | None = None
    """The hub revision asked for."""
    checkpoint: int | None = None
    """The training step or token count of the checkpoint asked for."""
    bos: int | None = None
    """The model's own BOS id, where it names one."""


def origin_of(model: Model) -> Origin:
    """The record that `load_model` left on the model, or one made from an object that the user built."""
    record = getattr(model, "inductionlens_origin", None)
    if record is not None:
        return record
    tokenizer = getattr(model, "tokenizer", None)
    name = getattr(model.cfg, "model_name", None)
    return Origin(
        name=name if name not in (None, "custom") else type(model).__name__,
        kind="object",
        bos=_own_bos(tokenizer) if tokenizer is not None else None,
    )


def _own_bos(tokenizer: Any) -> int | None:
    """The BOS id that a tokenizer names itself: TransformerLens puts EOS in the place of a BOS that is not there."""
    if tokenizer.bos_token != tokenizer.eos_token:
        return tokenizer.bos_token_id
    parameter = inspect.signature(type(tokenizer).__init__).parameters.get("bos_token")
    named = tokenizer.init_kwargs.get("bos_token", parameter.default if parameter is not None else None)
    return tokenizer.bos_token_id if named is not None else None
