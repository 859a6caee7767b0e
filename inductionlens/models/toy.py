"""Small transformers from a config, kept as JSON and safetensors."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.expected import EXPECTED, check_expected, next_log_probs
from inductionlens.models.lens import has_hooked_transformer, is_bridge, lens, quiet
from inductionlens.models.named_weights import named_weights, portable_weights, write_weights
from inductionlens.models.origin import Origin
from inductionlens.models.pretrained import _tokenizer as folder_tokenizer
from inductionlens.models.processing import cast, check_weights, process
from inductionlens.models.same_model import check_same, given_object
from inductionlens.models.token_checks import checked_tokens
from inductionlens.models.torch_settings import in_usual_torch

FORMAT = "inductionlens-toy"
#: Beyond these a config is taken for a mistake.
MOST_LAYERS, MOST_TOKENS, MOST_WEIGHTS = 1000, 2**15, 10**9
CHOICES: dict[str, tuple[Any, ...]] = {
    "normalization_type": ("LN", "RMS", None),
    "positional_embedding_type": ("standard", "rotary", "shortformer"),
    "act_fn": ("gelu", "gelu_new", "relu", "silu"),
    "use_attn_scale": (True, False),
    "smeared_keys": (True, False),
}


@dataclass(frozen=True)
class ToyConfig:
    """The shape of a toy transformer; the fields are TransformerLens's."""

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int
    d_mlp: int | None = None
    """Width of the MLPs; None for an attention-only model."""
    act_fn: str = "gelu"
    normalization_type: str | None = "LN"
    """``LN``, ``RMS`` or None."""
    positional_embedding_type: str = "standard"
    """``standard``, ``rotary`` or ``shortformer``."""
    use_attn_scale: bool = True
    """Whether attention scores are divided by sqrt(d_head)."""
    bos: int | None = 0
    """The token id that starts every sequence; None for none."""
    smeared_keys: bool = False
    """Whether each head mixes every key with the one before it, by a trainable alpha; see `smeared_keys`."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "n_ctx"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
                raise InputError(f"{name} must be a whole number of at least 1; got {_told(value)}.")
        width = self.d_mlp
        if width is not None and (not isinstance(width, int) or isinstance(width, bool) or not 1 <= width < 2**31):
            raise InputError(f"d_mlp must be a whole number of at least 1, or null for none; got {_told(width)}.")
        if self.n_ctx > MOST_TOKENS or self.n_layers > MOST_LAYERS or self.weights() > MOST_WEIGHTS:
            raise InputError(
                f"A toy has at most {MOST_LAYERS} layers, {MOST_TOKENS} tokens of context and {MOST_WEIGHTS:,} "
                f"weights; this one has {self.n_layers}, {self.n_ctx} and about {self.weights():,}."
            )
        bos, number = self.bos, isinstance(self.bos, int) and not isinstance(self.bos, bool)
        if bos is not None and not (number and 0 <= bos < self.d_vocab):
            raise InputError(f"bos must be an id below d_vocab {self.d_vocab}, or null for none; got {_told(bos)}.")
        for name, known in CHOICES.items():
            if not any(getattr(self, name) is choice or getattr(self, name) == choice for choice in known):
                told = ", ".join("null" if choice is None else str(choice) for choice in known)
                raise InputError(f"{name} must be one of {told}; got {_told(getattr(self, name))}.")
        if self.positional_embedding_type == "rotary" and self.d_head % 2:
            raise InputError(f"d_head must be even where positions are rotary; got {self.d_head}.")

    def weights(self) -> int:
        """About how many numbers such a toy has."""
        per_layer = self.d_model * (4 * self.n_heads * self.d_head + 2 * (self.d_mlp or 0) + 4)
        return self.n_layers * per_layer + self.d_model * (2 * self.d_vocab + self.n_ctx)


def _told(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else f"a number beyond 10^{30}"
    return text if len(text) <= 60 else text[:57] + "..."


def blank_toy(config: ToyConfig, device: str | None = None) -> Model:
    """A toy in the class of the TransformerLens at hand, its weights not set yet; the global generator is left alone.

    Raises:
        InputError: positions that the class does not have.
    """
    shape = asdict(config)
    for ours in ("bos", "smeared_keys"):
        shape.pop(ours)
    if config.positional_embedding_type == "rotary":
        shape["rotary_dim"] = config.d_head
    shape |= {"attn_only": config.d_mlp is None, "device": device or "cpu"}
    with quiet(), torch.random.fork_rng(devices=[]):
        if has_hooked_transformer():
            # TransformerLens's own seed would reseed the global generator: the weights are drawn elsewhere.
            model = lens().HookedTransformer(lens().HookedTransformerConfig(**shape, init_weights=False))
        else:
            model = _blank_bridge(config, shape)
    if config.smeared_keys:
        from inductionlens.models.smeared_keys import smear_keys

        smear_keys(model)
    return model


def _blank_bridge(config: ToyConfig, shape: dict[str, Any]) -> Model:
    if config.positional_embedding_type == "shortformer":
        raise InputError(
            "Shortformer positions are known to HookedTransformer alone: install 'transformer-lens>=3.9,<4' for them."
        )
    cfg = lens().TransformerBridgeConfig(**shape, architecture="TransformerLensNative")
    model = lens().TransformerBridge.boot_native(cfg)
    head = model.unembed.original_component
    # The bridge's own bias is not trained; HookedTransformer's is.
    bias = head._buffers.pop("bias")
    head.bias = torch.nn.Parameter(bias)
    for block in model.blocks:
        if not config.use_attn_scale:
            # Without a scale of its own TransformerLens 4.3 divides by sqrt(d_head) all the same.
            block.attn.original_component.scale = 1.0
    model.cfg.d_mlp = config.d_mlp
    return model


@in_usual_torch
def new_toy(config: ToyConfig, *, seed: int = 0) -> Model:
    """A trainable toy with random weights, norms not folded; ``seed`` alone decides them.

    Matrices are normal with standard deviation 0.8/sqrt(d_model), TransformerLens's own default, biases 0, norms 1.
    Where keys are smeared alpha is 0, so that each starts as the plain average of two.

    Raises:
        InputError: no `ToyConfig`, or a seed below 0 or of 2^63 and more.
    """
    if not isinstance(config, ToyConfig):
        raise InputError(f"config must be a ToyConfig; got {type(config).__name__}.")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2^63 - 1; got {seed!r}.")
    generator = torch.Generator().manual_seed(seed)
    model = blank_toy(config)
    drawn = {}
    for name, weight in named_weights(model).items():
        drawn[name] = torch.full(weight.shape, 1.0 if name.endswith(".w") else 0.0)
        if "W_" in name:
            drawn[name].normal_(0, 0.8 / config.d_model**0.5, generator=generator)
    write_weights(model, drawn.items())
    model.inductionlens_origin = Origin("toy", "toy", bos=config.bos)
    model.inductionlens_config = config
    return model


def save_toy(model: Model, folder: str | Path, *, expected: Int[Tensor, "n length"] | None = None) -> None:
    """Write a toy made by `new_toy` into a folder that `load_model` reads.

    ``config.json`` holds ``format`` ("inductionlens-toy"), ``version`` (1) and ``model``, the fields of `ToyConfig`.
    ``model.safetensors`` holds every weight under HookedTransformer's name and in its shape, norms not folded:

    * ``embed.W_E`` [d_vocab, d_model], ``pos_embed.W_pos`` [n_ctx, d_model] (not where positions are rotary),
      ``unembed.W_U`` [d_model, d_vocab], ``unembed.b_U`` [d_vocab]
    * for every layer N, ``blocks.N.attn.`` with ``W_Q``, ``W_K``, ``W_V`` [n_heads, d_model, d_head], ``W_O`` [n_heads,
      d_head, d_model], ``b_Q``, ``b_K``, ``b_V`` [n_heads, d_head], ``b_O`` [d_model], and ``alpha`` [n_heads] where
      keys are smeared
    * with MLPs, ``blocks.N.mlp.`` with ``W_in`` [d_model, d_mlp], ``b_in`` [d_mlp], ``W_out`` [d_mlp, d_model],
      ``b_out`` [d_model]
    * with norms, ``blocks.N.ln1.``, ``ln_final.`` and, with MLPs, ``blocks.N.ln2.`` with ``w`` [d_model], and ``b``
      [d_model] for LN

    None of these may be missing or left over: where a model has no bias, zeros are written. Rotary dimension i turns
    with i + d_head / 2. A tokenizer's files in the folder (as ``save_pretrained`` leaves them; written here where
    ``model.tokenizer`` is set) give the loaded model its words.

    ``expected`` are token ids, [n, length], for ``expected.safetensors``: those ``tokens``, and ``log_probs``
    [n, length - 1], what the model gives to each token after the first, in nats. `load_model` refuses weights that
    give others, by more than 0.001.

    Raises:
        InputError: not a toy, or tokens that it cannot read; nothing has been written.
    """
    from safetensors.torch import save_file

    config = getattr(model, "inductionlens_config", None)
    if config is None or getattr(model, "inductionlens_unembed_mean", None) is not None:
        raise InputError("Only toys made by new_toy, their norms not folded, can be saved as toys.")
    folder = Path(folder)
    kept = None
    if expected is not None:
        tokens = checked_tokens(model, expected, "expected", length=2).cpu().contiguous()
        kept = {"tokens": tokens, "log_probs": next_log_probs(model, tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    # What described other weights must not stay beside these.
    (folder / EXPECTED).unlink(missing_ok=True)
    save_file(portable_weights(model), folder / "model.safetensors")
    text = json.dumps({"format": FORMAT, "version": 1, "model": asdict(config)}, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    if getattr(model, "tokenizer", None) is not None:
        model.tokenizer.save_pretrained(folder)
    if kept is not None:
        save_file(kept, folder / EXPECTED)


def load_toy(folder: Path, config: dict[str, Any], *, device: str | None = None, dtype: str = "float32") -> Model:
    """Read a toy folder (see `save_toy`) whose ``config.json`` is ``config``, process its weights, and check that they
    fit.

    Raises:
        InputError: an unknown version or field, weights that are missing, broken, not finite or of other shapes, a
            tokenizer of more tokens than ``d_vocab``, log-probabilities that are not the expected ones, or processing
            that changes what the toy computes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if config.get("version") != 1:
        raise InputError(f"{folder}/config.json has version {config.get('version')!r} of the toy format; 1 is known.")
    try:
        shape = ToyConfig(**config["model"])
    except (TypeError, KeyError) as error:
        known = ", ".join(field.name for field in fields(ToyConfig))
        raise InputError(f"{folder}/config.json does not describe a toy ({error}); its fields are {known}.") from error
    path = folder / "model.safetensors"
    if not path.is_file():
        raise InputError(f"The folder {folder} has a config.json but no model.safetensors.")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"The weights {path} are truncated or corrupted: {error}.") from error
    held = sum(weight.numel() for weight in weights.values())
    if shape.weights() > 4 * held + 10**6:  # before room is made for them
        raise InputError(
            f"The weights {path} contradict config.json: it describes about {shape.weights():,} numbers and they are "
            f"{held:,}."
        )
    model = blank_toy(shape, device)
    expected = {name: tuple(weight.shape) for name, weight in named_weights(model).items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            hint = ": write zeros where there is no bias" if ".b" in name and name not in found else ""
            raise InputError(
                f"The weights {path} contradict config.json: {name} should be {_shape(expected.get(name))} "
                f"and is {_shape(found.get(name))}{hint}."
            )
    write_weights(model, weights.items())
    check_weights(model, str(folder))
    given = given_object(model, f"the toy in {folder}")
    model = process(model)
    check_same(model, given)
    _take_tokenizer(model, folder)
    check_expected(model, folder)
    model = cast(model, dtype, str(folder))
    model.inductionlens_origin = Origin(str(folder), "toy", bos=shape.bos)
    return model


def _take_tokenizer(model: Model, folder: Path) -> None:
    """Give a toy the tokenizer whose files lie in its folder, if any.

    Raises:
        InputError: it cannot be read, or names ids that the toy does not have.
    """
    tokenizer = folder_tokenizer(folder)
    if tokenizer is None:
        return
    last, d_vocab = max(tokenizer.get_vocab().values()), model.cfg.d_vocab
    if last >= d_vocab:
        raise InputError(
            f"The tokenizer in {folder} contradicts config.json: it names id {last}, and the ids of d_vocab {d_vocab} "
            f"end at {d_vocab - 1}."
        )
    if is_bridge(model):
        model.tokenizer = tokenizer
    else:
        with quiet():
            model.set_tokenizer(tokenizer)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape))
