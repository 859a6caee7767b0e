"""Is the model that is scored the model that was given?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.activations import Attention, as_for_inference, attention_layers, logits_at, run_reduced
from inductionlens.models.folder_checks import first_line

#: Tokens of the row that is compared when a model is loaded; folders are compared again for longer rows.
LENGTH = 512
#: What configs call the longest row that a model takes.
CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx", "seq_length")
#: Most by which attention, and log-probabilities in nats, may differ. Half precision rounds whatever it computes.
ATTENTION, LOG_PROBABILITY = 1e-3, 1e-3
ATTENTION_HALF, LOG_PROBABILITY_HALF = 0.1, 0.5
#: What rounding may add to a log-probability, as a part of the largest logit (GPT-2's are about 100).
ROUNDING = 1e-5


@dataclass(frozen=True)
class Given:
    """What the model as it was given makes of one row of tokens."""

    named: str
    """What the messages call it: ``the model in FOLDER``."""
    computed_by: str
    """Who ran it: ``Hugging Face``, or the object itself."""
    tokens: Int[Tensor, "1 pos"]
    logits: Float[Tensor, "pos vocabulary"]
    patterns: list[Float[Tensor, "1 head query key"]] | None = None
    """Attention of each layer that has any; None where it was not asked for."""


def row_of_tokens(vocabulary: int, length: int) -> Int[Tensor, "1 pos"]:
    """The same ``length`` random ids for every model of a ``vocabulary``, repeated once: as random blocks repeat."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randint(vocabulary, (1, -(-length // 2)), generator=generator)
    return half.repeat(1, 2)[:, :length]


def given_folder_model(hf_model: Any, named: str, length: int = LENGTH) -> Given:
    """What Hugging Face makes of a row of at most ``length`` tokens.

    Raises:
        InputError: the model does not run.
    """
    try:
        config = hf_model.config.get_text_config()
        named_sizes = (getattr(config, name, None) for name in CONTEXTS)
        length = min([length, *(size for size in named_sizes if isinstance(size, int) and size > 0)])
        tokens = row_of_tokens(config.vocab_size, length)
        attention = length <= LENGTH
        with torch.no_grad():
            output = hf_model(tokens, output_attentions=attention, use_cache=False, return_dict=True)
        attentions = getattr(output, "attentions", None) or ()
        patterns = [pattern.float() for pattern in attentions if pattern is not None]
        return Given(named, "Hugging Face", tokens, output.logits[0].float(), patterns if attention else None)
    except Exception as error:
        raise InputError(f"{_sentence(named)} does not run as its config says: {first_line(error)}.") from error


def given_object(model: Model, named: str) -> Given:
    """What a TransformerLens model, as it would run for inference, makes of a row of tokens.

    Raises:
        InputError: the model does not run.
    """
    tokens = row_of_tokens(model.cfg.d_vocab, min(model.cfg.n_ctx, LENGTH))
    try:
        with torch.no_grad(), as_for_inference(model):
            logits = model(tokens.to(next(model.parameters()).device), return_type="logits")
    except Exception as error:
        raise InputError(f"{_sentence(named)} does not run: {first_line(error)}.") from error
    return Given(named, "the model that was given", tokens, logits[0].float().cpu())


def check_same(model: Model, given: Given, *, way_out: str = "") -> None:
    """Refuse a model that computes something else than the one that was given, on the way its scores are computed.

    Conversions leave out, without a word, what they do not know: rotary scaling, biases, multipliers, norms. One
    forward pass of each tells: attention layer by layer, then the log-probabilities of all tokens along a row. Logits
    that differ by one factor throughout are put right: `weights.logit_multiplier` is the factor.

    Raises:
        InputError: attention differs by more than 0.001, log-probabilities by more than 0.001 nats (and 1e-5 of the
            largest logit), or some attention goes to later tokens; the message says which part it is.
    """
    half = model.cfg.dtype in (torch.float16, torch.bfloat16)
    model.inductionlens_logit_multiplier = 1.0
    apart, residual = _attention_apart(model, given)
    wrong = [layer for layer, most in apart.items() if not most <= (ATTENTION_HALF if half else ATTENTION)]
    if wrong:
        told = f"attention of layer {wrong[0]} differs by up to {apart[wrong[0]]:.2g}"
        raise InputError(_refusal(given, told, way_out))
    rounding = ROUNDING * float(given.logits.abs().max())
    allowed = LOG_PROBABILITY_HALF if half else LOG_PROBABILITY + rounding
    difference = _log_probabilities_apart(model, residual, given)
    if not difference <= allowed:
        model.inductionlens_logit_multiplier = _multiplier(model, residual, given)
        difference = _log_probabilities_apart(model, residual, given)
    if not difference <= allowed:
        where = " though attention agrees in every layer: it is something after the last" if apart else ""
        told = f"log-probabilities differ by up to {difference:.2g} nats{where}"
        raise InputError(_refusal(given, told, way_out))
    model.inductionlens_modules = _modules(model)


def was_compared(model: Model) -> bool:
    """Whether `check_same` found a model right before, and no part of it was exchanged since."""
    return getattr(model, "inductionlens_modules", None) == _modules(model)


def _modules(model: Model) -> int:
    return hash(tuple(map(id, model.modules())))


def _attention_apart(model: Model, given: Given) -> tuple[dict[int, float], Float[Tensor, "1 pos d_model"]]:
    """By how much each layer's attention differs, if it was given, and what the unembedding would read."""
    apart: dict[int, float] = {}
    layers = attention_layers(model)
    if not layers:
        raise InputError(f"{_sentence(given.named)} has no attention heads that could be looked at.")
    patterns = given.patterns if given.patterns and len(given.patterns) == len(layers) else None
    expected = None if patterns is None else dict(zip(layers, patterns, strict=True))

    def compare(layer: Attention) -> None:
        pattern = layer.pattern.float().cpu()
        if bool((pattern.triu(1) > 1e-6).any()):
            raise InputError(
                f"In {given.named} attention goes to later tokens (layer {layer.layer}): it does not predict the next "
                "token from earlier ones; induction heads are looked for in causal language models such as GPT-2."
            )
        if expected is not None and expected[layer.layer].shape == pattern.shape:
            apart[layer.layer] = float((pattern - expected[layer.layer].cpu()).abs().max())

    return apart, run_reduced(model, given.tokens, compare).residual


def _rows(model: Model, residual: Tensor, given: Given) -> Iterator[tuple[Float[Tensor, "at vocabulary"], ...]]:
    """Scored and given logits, some positions at a time."""
    size = max(1, 2**24 // given.logits.shape[-1])
    for at in torch.arange(given.tokens.shape[1]).split(size):
        scored = logits_at(model, residual, at)[0].float().cpu()
        if scored.shape[-1] != given.logits.shape[-1]:
            told = f"there are {scored.shape[-1]} logits in place of {given.logits.shape[-1]}"
            raise InputError(_refusal(given, told, ""))
        yield scored, given.logits[at]


def _log_probabilities_apart(model: Model, residual: Tensor, given: Given) -> float:
    rows = _rows(model, residual, given)
    return max(float((scored.log_softmax(-1) - expected.log_softmax(-1)).abs().max()) for scored, expected in rows)


def _multiplier(model: Model, residual: Tensor, given: Given) -> float:
    """The factor that turns scored logits into given ones best; 1 where they have a soft cap, or none is positive."""
    if (getattr(model.cfg, "output_logits_soft_cap", None) or -1.0) > 0:
        return 1.0
    both = square = 0.0
    for scored, expected in _rows(model, residual, given):
        scored, expected = (rows.double() - rows.double().mean(-1, keepdim=True) for rows in (scored, expected))
        both, square = both + float((scored * expected).sum()), square + float(scored.square().sum())
    return float(f"{both / square:.6g}") if both > 0 and square > 0 else 1.0


def _sentence(named: str) -> str:
    return named[0].upper() + named[1:]


def _refusal(given: Given, difference: str, way_out: str) -> str:
    return (
        f"TransformerLens does not compute {given.named} as {given.computed_by} does: on a row of "
        f"{given.tokens.shape[1]} tokens {difference}. The model has settings that are not supported{way_out}."
    )
