"""Model objects that the user already has."""

from typing import Any

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.origin import Origin, origin_of
from inductionlens.models.processing import check_weights, processed, unprocessed
from inductionlens.models.same_model import check_same, given_object, was_compared


def check_object(model: Model) -> None:
    """Refuse a model object that cannot be scored as it stands.

    Raises:
        InputError: hooks that were left on it, outputs that are no next tokens, attention to later tokens, or weights
            that cannot be read.
    """
    cfg, name = model.cfg, origin_of(model).name
    left = sorted(hooked for hooked, hooks in _hooks(model).items() if not all(map(_is_ours, hooks)))
    if left:
        raise InputError(
            f"{name} has hooks left on it ({', '.join(left[:3])}{' ...' if len(left) > 3 else ''}), which would act on "
            "every score; remove them (model.reset_hooks(), and what you added as permanent) or use them in a "
            "`with model.hooks(...)` that ends before."
        )
    if getattr(cfg, "attention_dir", "causal") != "causal":
        raise InputError(
            f"{name} attends to later tokens (attention_dir is {cfg.attention_dir!r}), so it does not predict the next "
            "token from earlier ones; induction heads are looked for in causal language models such as GPT-2."
        )
    outputs = getattr(cfg, "d_vocab_out", cfg.d_vocab)
    if outputs not in (-1, cfg.d_vocab):
        raise InputError(
            f"{name} reads {cfg.d_vocab} tokens and writes {outputs}, so its outputs are no next tokens; models whose "
            "d_vocab_out is their d_vocab are scored."
        )
    check_weights(model, name)


def ready_object(model: Model) -> Model:
    """The model if it is processed, else a processed copy; either is compared with the model as it was given.

    Raises:
        InputError: it cannot be processed, or what is scored would be another model.
    """
    origin: Origin = origin_of(model)
    ablated = any(_is_from(handle, "inductionlens.") for hooks in _hooks(model).values() for handle in hooks)
    if ablated and unprocessed(model) is not None:
        raise InputError(
            "Heads are ablated in this model, and it has to be copied and processed to be scored: process it first, "
            "`model = il.load_model(model)`, and ablate that."
        )
    ready = processed(model)
    if ready is model and was_compared(model):
        return model
    check_same(ready, given_object(model, f"the model {origin.name}"))
    if ready is not model:
        ready.inductionlens_origin = origin
    return ready


def _hooks(model: Model) -> dict[str, list[Any]]:
    """The functions that hang on a model's named activations."""
    points = model.hook_dict
    return {name: hooks for name, point in points.items() if (hooks := [*point.fwd_hooks, *point.bwd_hooks])}


def _is_from(handle: Any, *packages: str) -> bool:
    hook = handle.user_hook
    return (getattr(getattr(hook, "func", hook), "__module__", None) or "").startswith(packages)


def _is_ours(handle: Any) -> bool:
    """Whether a hook was hung there by this package, as those of an `ablate` that has not ended are, or by
    TransformerLens itself, whose bridges for OPT do their work in hooks."""
    return _is_from(handle, "inductionlens.", "transformer_lens.")
