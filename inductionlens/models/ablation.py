"""Switch heads off inside a `with`."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.heads import Head, parse_heads
from inductionlens.models import Model
from inductionlens.models.activations import (
    Attention,
    as_for_inference,
    attention_layers,
    check_all_layers_attend,
    run_reduced,
)
from inductionlens.models.other_sources import check_class
from inductionlens.models.token_checks import checked_tokens

OUTPUTS = ("zero", "mean")
Hook = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class CleanRun:
    """What every head did on some tokens, with nothing switched off."""

    tokens: Int[Tensor, "batch pos"]
    """The tokens it ran on."""
    patterns: tuple[Float[Tensor, "batch head query key"], ...]
    """Attention, one tensor for each layer."""
    outputs: tuple[Float[Tensor, "batch pos head d_head"], ...]
    """Head outputs before W_O (``z``), one tensor for each layer."""

    def means(self) -> tuple[Float[Tensor, "head d_head"], ...]:
        """Each head's mean output over all sequences and positions."""
        return tuple(output.float().mean((0, 1)) for output in self.outputs)


def clean_run(model: Model, tokens: Int[Tensor, "batch pos"]) -> CleanRun:
    """Run a model once and keep what `ablate` can hold or put in place: every pattern and head output.

    Memory: layers x batch x heads x pos x pos for the patterns. The model may be processed or not; it is not changed.

    Raises:
        InputError: no TransformerLens model, or tokens that it cannot read.
    """
    check_class(model)
    check_all_layers_attend(model, "a clean run")
    tokens = checked_tokens(model, tokens, "tokens")
    patterns: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(layer: Attention) -> None:
        patterns.append(layer.pattern.to(layer.mixed.dtype).clone())
        outputs.append(layer.mixed.clone())

    run_reduced(model, tokens, keep, mixed=True)
    return CleanRun(tokens, tuple(patterns), tuple(outputs))


@contextlib.contextmanager
def ablate(
    model: Model,
    heads: Iterable[Head | str | tuple[int, int]],
    output: str | CleanRun = "zero",
    *,
    mean_over: Int[Tensor, "batch pos"] | None = None,
    patterns: "CleanRun | Sequence[Float[Tensor, 'batch head query key']] | None" = None,
) -> Iterator[None]:
    """Replace the output of ``heads`` while the ``with`` lasts; everything downstream is free to react.

    ``output`` is put in the place of each head's ``z``, before the output projection, at every position:

    * ``"zero"``: nothing is written. (Where value biases are not folded into b_O, they go as well; models from
      `load_model` have them folded, and b_O always stays.)
    * ``"mean"``: the head's mean output over all sequences and positions of ``mean_over``, tokens of your choice; by
      default those of ``patterns``, where that is a `CleanRun`.
    * a `CleanRun` of other tokens of the same shape: the head's output there, position by position.

    ``patterns`` holds attention, in every layer and head, at that of a clean run on the tokens the model will see:
    then only the values that later heads read can change (Olsson et al. 2022, Argument 3). Without it, later
    attention is recomputed: a previous-token head matters to the induction head above it.

    Uses may be nested; where two name one head, the inner one counts. Afterwards, also after an exception, the model
    is what it was, to the bit. Before the first use on a model, one short run checks that its class honours such
    edits; some drop them without a word. The edits hang on the model object: a thread that runs the same object
    meanwhile runs it ablated too, so give each thread a model of its own.

    Raises:
        InputError: an unknown head, no head or all of them, means over nothing, a run of another shape, edits that
            the model's class drops, a run after ``model.reset_hooks()`` inside the ``with``, or a ``with`` in
            which no ablated head ran.
    """
    check_class(model)
    chosen = _checked_heads(model, heads)
    values = _replacements(model, chosen, output, mean_over, patterns)
    held = None if patterns is None else _checked_patterns(model, patterns)
    check_edits(model, patterns=held is not None)
    ran: set[str] = set()
    hooks: list[tuple[str, Hook]] = []
    for layer in sorted({head.layer for head in chosen}):
        indices = [head.index for head in chosen if head.layer == layer]
        hooks.append((f"blocks.{layer}.attn.hook_z", _put(indices, values[layer], ran)))
    for layer, pattern in enumerate(held or ()):
        hooks.append((f"blocks.{layer}.attn.hook_pattern", _hold(layer, pattern)))
    first = model.blocks[chosen[0].layer]
    with model.hooks(fwd_hooks=hooks):
        watch = first.register_forward_pre_hook(_still_there(model, hooks), with_kwargs=True)
        try:
            yield
        finally:
            watch.remove()
    if not ran:
        named = ", ".join(str(head) for head in chosen)
        raise InputError(f"No ablated head ({named}) ran inside the with: run this model, from no later layer, in it.")


def _still_there(model: Model, hooks: Sequence[tuple[str, Hook]]) -> Callable[..., None]:
    """What is called when the first ablated layer runs: it refuses to run without the edits."""

    def check(*_: Any, **__: Any) -> None:
        points = model.hook_dict
        for name, hook in hooks:
            if all(handle.user_hook is not hook for handle in points[name].fwd_hooks):
                raise InputError(
                    "The ablation was taken away inside its `with`, as model.reset_hooks() does, so this run would not "
                    "be ablated: leave the `with` first, or remove only hooks of your own."
                )

    return check


def _checked_heads(model: Model, heads: Iterable[Head | str | tuple[int, int]]) -> list[Head]:
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    chosen = [head.check(n_layers, n_heads) for head in parse_heads(heads, "heads")]
    attending = attention_layers(model)
    for head in chosen:
        if head.layer not in attending:
            raise InputError(f"There is no head {head}: layer {head.layer} of the model has no attention heads.")
    if len(chosen) == n_layers * n_heads:
        raise InputError(
            f"All {len(chosen)} heads of the model are to be ablated, which leaves nothing that could depend on them; "
            "name some of them."
        )
    return chosen


def _replacements(
    model: Model, heads: list[Head], output: str | CleanRun, mean_over: Tensor | None, patterns: object
) -> dict[int, Tensor | float]:
    """What goes into z, by layer: 0, means [head, d_head], or another run's outputs [batch, pos, head, d_head]."""
    layers = {head.layer for head in heads}
    if mean_over is not None and (not isinstance(output, str) or output != "mean"):
        raise InputError("mean_over says what means are over; give it with output='mean' alone.")
    if isinstance(output, CleanRun):
        _check_run(model, output, "output")
        return {layer: output.outputs[layer] for layer in layers}
    if not isinstance(output, str) or output not in OUTPUTS:
        raise InputError(f"output must be one of {', '.join(OUTPUTS)}, or a clean_run of other tokens; got {output!r}.")
    if output == "zero":
        return dict.fromkeys(layers, 0.0)
    if mean_over is None and not isinstance(patterns, CleanRun):
        raise InputError("output='mean' needs to know what the mean is over: give tokens as mean_over.")
    if mean_over is None:
        _check_run(model, patterns, "patterns")
        means = patterns.means()
    else:
        means = clean_run(model, checked_tokens(model, mean_over, "mean_over")).means()
    return {layer: means[layer] for layer in layers}


def _check_run(model: Model, run: CleanRun, name: str) -> None:
    """Refuse a run of a model of another shape."""
    cfg = model.cfg
    layers, (heads, width) = len(run.outputs), run.outputs[0].shape[2:]
    if (layers, heads, width) != (cfg.n_layers, cfg.n_heads, cfg.d_head):
        raise InputError(
            f"{name} is a run of {layers} layers of {heads} heads {width} wide, and the model has {cfg.n_layers} of "
            f"{cfg.n_heads}, {cfg.d_head} wide."
        )


def _checked_patterns(model: Model, patterns: "CleanRun | Sequence[Tensor]") -> "Sequence[Tensor]":
    held = patterns.patterns if isinstance(patterns, CleanRun) else patterns
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if not isinstance(held, (Sequence, Tensor)) or isinstance(held, str):
        raise InputError(f"patterns must be a clean_run, or a tensor for each layer; got {type(held).__name__}.")
    if len(held) != n_layers:
        raise InputError(f"patterns must hold one pattern for each of the model's {n_layers} layers; got {len(held)}.")
    for layer, pattern in enumerate(held):
        given = list(pattern.shape) if isinstance(pattern, Tensor) else type(pattern).__name__
        if not isinstance(pattern, Tensor) or pattern.ndim != 4 or pattern.shape[1] != n_heads:
            raise InputError(f"patterns must be [sequence, {n_heads}, query, key]; that of layer {layer} is {given}.")
        if not bool(pattern.isfinite().all()):
            raise InputError(f"patterns must hold finite numbers; that of layer {layer} does not.")
    return held


def _put(indices: list[int], value: Tensor | float, ran: set[str]) -> Hook:
    def hook(z: Tensor, hook: object) -> Tensor:
        ran.add("z")
        changed = z.clone()
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape != z.shape:
            raise InputError(
                f"output is a run on {_size(value)} and the model runs on {_size(z)}: give a run of the same shape."
            )
        changed[:, :, indices] = value[..., indices, :].to(z) if isinstance(value, Tensor) else value
        return changed

    return hook


def _hold(layer: int, held: Float[Tensor, "batch head query key"]) -> Hook:
    def hook(pattern: Tensor, hook: object) -> Tensor:
        if held.shape != pattern.shape:
            raise InputError(
                f"patterns are of {len(held)} sequences of {held.shape[-1]} tokens and the model runs on "
                f"{len(pattern)} of {pattern.shape[-1]}: hold those of the same tokens, batch by batch."
            )
        return held.to(pattern)

    return hook


def _size(z: Float[Tensor, "batch pos head d_head"]) -> str:
    return f"{z.shape[0]} sequences of {z.shape[1]} tokens"


def check_edits(model: Model, *, patterns: bool) -> None:
    """Make sure that the model's class honours edits of head outputs, and of attention if ``patterns``.

    Known cases drop them: TransformerBridge's GPT-Neo keeps Hugging Face's own attention. Done once for each model.

    Raises:
        InputError: an edit made no difference where it must.
    """
    checked = getattr(model, "inductionlens_edits", frozenset())
    wanted = {"z", "pattern"} if patterns else {"z"}
    if wanted <= checked:
        return
    cfg = model.cfg
    tokens = torch.arange(min(6, cfg.n_ctx, cfg.d_vocab))[None]
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(tensor: Tensor, hook: object) -> None:
            kept[name] = tensor.detach().clone()

        return hook

    def forced(pattern: Tensor, hook: object) -> Tensor:
        return torch.ones_like(pattern).tril() / torch.arange(1, pattern.shape[-1] + 1, device=pattern.device)[:, None]

    def emptied(z: Tensor, hook: object) -> Tensor:
        return torch.zeros_like(z)

    layer = attention_layers(model)[-1]
    block = f"blocks.{layer}.attn.hook_"
    if patterns:
        _run_hooked(model, tokens, [(block + "pattern", forced), (block + "v", keep("v")), (block + "z", keep("z"))])
        v = kept["v"].repeat_interleave(cfg.n_heads // kept["v"].shape[2], dim=2).float()
        expected = v.cumsum(1) / torch.arange(1, v.shape[1] + 1, device=v.device)[:, None, None]
        if not torch.allclose(kept["z"].float(), expected, rtol=1e-2, atol=1e-3 * (1 + float(v.abs().max()))):
            raise InputError(
                "This model's class drops edits of attention, so patterns cannot be held; ablate without patterns."
            )
    last = f"blocks.{layer}.hook_resid_post"
    _run_hooked(model, tokens, [(block + "z", keep("z")), (last, keep("clean"))])
    _run_hooked(model, tokens, [(block + "z", emptied), (last, keep("emptied"))])
    writes = torch.einsum("bphe,hed->bpd", kept["z"].float(), model.blocks[layer].attn.W_O.detach().float())
    if bool((writes.abs() > 1e-4).any()) and torch.equal(kept["clean"], kept["emptied"]):
        raise InputError("This model's class drops edits of head outputs, so its heads cannot be ablated.")
    model.inductionlens_edits = checked | wanted


def _run_hooked(model: Model, tokens: Tensor, hooks: list[tuple[str, Hook]]) -> None:
    device = next(model.parameters()).device
    with torch.no_grad(), as_for_inference(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a bridge's own word about dropped edits; ours is an error
        model.run_with_hooks(tokens.to(device), return_type=None, fwd_hooks=hooks)
