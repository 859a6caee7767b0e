"""How what a head writes reaches the residual stream."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from inductionlens.models import Model
from inductionlens.models.activations import as_for_inference, attention_layers, no_unembedding

#: Most by which what is added may differ from what should be, of its own size; in half precision.
TOLERANCE, TOLERANCE_HALF = 1e-3, 0.05


@dataclass(frozen=True)
class Writing:
    """What one layer does with z W_O before it is added to the residual stream."""

    multiplier: float = 1.0
    """What it is multiplied by: Granite's ``residual_multiplier``; 1 in most models."""
    gain: Float[Tensor, " d_model"] | None = None
    """The gain of a norm that follows (Gemma 2 and 3); None where none does."""
    centred: bool = False
    """Whether that norm takes the mean away first, as LayerNorm does."""
    known: bool = True
    """Whether the above was found to be all that happens, from the values that hooks show to the residual stream."""


def writing_of(model: Model) -> tuple[Writing, ...]:
    """What each layer does with its heads' outputs, measured on the model itself; once for each model.

    A config need not say it, so every head's z is replaced by random numbers, MLPs are silenced, and what arrives in
    the residual stream is compared with z W_O: as it is, multiplied by one number, or normed by the layer's own norm.
    """
    kept = getattr(model, "inductionlens_writing", None)
    if kept is None:
        kept = _measured(model)
        model.inductionlens_writing = kept
    return kept


def _measured(model: Model) -> tuple[Writing, ...]:
    cfg = model.cfg
    try:
        with torch.no_grad():
            runs = [_arrived(model, seed) for seed in (1, 2)]
            layers = range(cfg.n_layers)
            return tuple(
                _writing(model, layer, [run[layer] for run in runs]) if layer in runs[0] else Writing()
                for layer in layers
            )
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return (Writing(known=False),) * cfg.n_layers  # a class without these hooks or weights


class _Arrived(NamedTuple):
    """One layer in a run in which its z was replaced."""

    z: Float[Tensor, "batch pos head d_head"]
    """What was put in its place."""
    added: Float[Tensor, "batch pos d_model"]
    """What reached the residual stream."""
    mixes: bool
    """Whether the z of its own was the values, as hooks show them, mixed by attention."""


def _arrived(model: Model, seed: int) -> dict[int, _Arrived]:
    """For each layer with attention, what random z makes of the residual stream."""
    cfg = model.cfg
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.arange(min(4, cfg.n_ctx, cfg.d_vocab))[None]
    random: dict[int, Tensor] = {}
    streams: dict[str, Tensor] = {}

    def replace(layer: int) -> Callable[..., Tensor]:
        def hook(z: Tensor, hook: object) -> Tensor:
            streams[f"blocks.{layer}.attn.hook_z"] = z.detach().clone()
            random[layer] = torch.randn(z.shape, generator=generator).to(z)
            return random[layer]

        return hook

    def keep(name: str) -> Callable[..., None]:
        def hook(stream: Tensor, hook: object) -> None:
            streams[name] = stream.detach().clone()

        return hook

    def silence(written: Any, hook: object) -> Any:
        return torch.zeros_like(written)

    known = model.hook_dict
    hooks: list[tuple[str, Callable[..., Any]]] = []
    layers = attention_layers(model)
    for layer in layers:
        block, attn = f"blocks.{layer}.hook_", f"blocks.{layer}.attn.hook_"
        hooks += [(attn + "z", replace(layer)), *((attn + name, keep(attn + name)) for name in ("v", "pattern"))]
        hooks += [(block + name, keep(block + name)) for name in ("resid_pre", "resid_post")]
        hooks += [(block + "mlp_out", silence)] if block + "mlp_out" in known else []
        hooks += [(block + "resid_mid", keep(block + "resid_mid"))] if block + "resid_mid" in known else []
    device = next(model.parameters()).device
    with as_for_inference(model):
        model.run_with_hooks(tokens.to(device), return_type=None, fwd_hooks=hooks, **no_unembedding(model))
    arrived = {}
    for layer in layers:
        block = f"blocks.{layer}.hook_"
        after = streams.get(block + "resid_mid", streams[block + "resid_post"])
        added = (after - streams[block + "resid_pre"]).float()
        arrived[layer] = _Arrived(random[layer], added, _mixes(model, streams, f"blocks.{layer}.attn.hook_"))
    return arrived


def _mixes(model: Model, streams: dict[str, Tensor], attn: str) -> bool:
    values, pattern, z = (streams[attn + name].float() for name in ("v", "pattern", "z"))
    values = values.repeat_interleave(model.cfg.n_heads // values.shape[2], dim=2)
    mixed = torch.einsum("bhqk,bkhe->bqhe", pattern, values)
    return bool((mixed - z).norm() <= _tolerance(model) * z.norm())


def _tolerance(model: Model) -> float:
    return TOLERANCE_HALF if model.cfg.dtype in (torch.float16, torch.bfloat16) else TOLERANCE


def _writing(model: Model, layer: int, runs: list[_Arrived]) -> Writing:
    """Which description fits what arrived of two random outputs; biases, and whatever else does not change, cancel."""
    attn, block = model.blocks[layer].attn, model.blocks[layer]
    w_o = attn.W_O.detach().float()
    written = [torch.einsum("bphe,hed->bpd", run.z.float(), w_o) for run in runs]
    arrived, tolerance = runs[1].added - runs[0].added, _tolerance(model)
    if not all(run.mixes for run in runs):
        return Writing(known=False)  # OLMo clips values after they are shown

    def fits(expected: Tensor) -> bool:
        return bool((arrived - expected).norm() <= tolerance * arrived.norm())

    change = written[1] - written[0]
    if not change.any():
        return Writing()  # nothing is written, whatever is done with it
    multiplier = float((arrived * change).sum() / change.square().sum())
    multiplier = 1.0 if abs(multiplier - 1) <= tolerance else float(f"{multiplier:.6g}")
    if multiplier > 0 and fits(multiplier * change):
        return Writing(multiplier)
    norm = getattr(block, "ln1_post", None)
    if norm is None:
        return Writing(known=False)
    bias = getattr(attn, "b_O", None)
    gain = _gain(norm)
    for centred in (False, True):
        normed = [
            _normed(output if bias is None else output + bias.float(), norm, model.cfg, centred) for output in written
        ]
        if fits(gain * (normed[1] - normed[0])):
            return Writing(gain=gain, centred=centred)
    return Writing(known=False)


def _gain(norm: Any) -> Float[Tensor, " d_model"]:
    weight = norm.w.detach().float()
    return weight + 1 if bool(getattr(norm, "uses_weight_offset", False)) else weight


def _normed(output: Tensor, norm: Any, cfg: Any, centred: bool) -> Tensor:
    output = output - output.mean(-1, keepdim=True) if centred else output
    eps = getattr(norm, "eps", None)
    eps = eps if isinstance(eps, float) else cfg.eps
    return output / (output.square().mean(-1, keepdim=True) + eps).sqrt()
