"""Heads as a caller names them: all, kinds, names."""

from collections.abc import Iterable

from inductionlens.detection import KINDS
from inductionlens.errors import InputError
from inductionlens.head_scores import HeadScores
from inductionlens.heads import Head, parse_heads
from inductionlens.models import Model


def check_heads(heads: Iterable[Head | str | tuple[int, int]] | str, argument: str, model: Model | None = None) -> None:
    """Refuse heads that are neither ``all``, a kind nor names, or that ``model`` has not; for before a scan.

    Raises:
        InputError: in terms of ``argument``.
    """
    if isinstance(heads, str) and not any(letter.isdigit() for letter in heads):
        if heads != "all" and heads not in KINDS:
            raise InputError(
                f"There is no kind {heads!r} of head; {argument} may be all, names such as 5.1, or a kind: "
                f"{', '.join(KINDS)}."
            )
        return
    for head in parse_heads(heads, argument):
        if model is not None:
            head.check(model.cfg.n_layers, model.cfg.n_heads)


def chosen_heads(
    model: Model, heads: Iterable[Head | str | tuple[int, int]] | str, scores: HeadScores, argument: str, purpose: str
) -> list[Head]:
    """The heads that ``heads`` means, layer by layer: ``all``, a kind that the scan found, or names.

    Raises:
        InputError: an unknown head or kind, no head of that kind, or no head at all; in terms of ``argument``.
    """
    everything = [Head(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    if isinstance(heads, str) and heads == "all":
        return everything
    if isinstance(heads, str) and not any(letter.isdigit() for letter in heads):
        found = sorted(scores.heads(heads))
        if not found:
            raise InputError(
                f"The scan found no {heads} head to {purpose}; name heads, or take all of them ({argument}='all')."
            )
        return found
    return [head.check(model.cfg.n_layers, model.cfg.n_heads) for head in parse_heads(heads, argument)]


def check_scores(model: Model, scores: object) -> None:
    """Make sure that ``scores`` can be a scan of this model.

    Raises:
        InputError: it is no table of a scan, or one of a model of another shape.
    """
    if not isinstance(scores, HeadScores):
        raise InputError(f"scores must be what scan or read_scores gives; got {type(scores).__name__}.")
    layers, heads = (int(scores.table[name].max()) + 1 if len(scores) else 0 for name in ("layer", "head"))
    if (layers, heads, len(scores)) != (model.cfg.n_layers, model.cfg.n_heads, model.cfg.n_layers * model.cfg.n_heads):
        raise InputError(
            f"scores must be a scan of this model, {model.cfg.n_layers} layers of {model.cfg.n_heads} heads; it has "
            f"{len(scores)} heads in {layers} layers."
        )
