"""What a model folder must hold to be read."""

import difflib
import json
from pathlib import Path
from typing import Any

from inductionlens.errors import InputError

#: Numbers that may be described without being there; what is missing of them is then named.
SPARE = 10**7


def check_causal(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a config of a model that does not predict the next token, or of none at all."""
    kind, names = config.get("model_type"), config.get("architectures") or []
    if not isinstance(kind, str):
        raise InputError(f"{folder}/config.json names no model_type, so no one can tell what model this is.")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"architectures in {folder}/config.json must be a list of names; got {names!r}.")
    # A bare "...Model" is a save without a head of its own: the embeddings are then tied or found missing.
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel", "Model")) for name in names) or not names
    encoder = kind in ("bert", "roberta", "albert", "distilbert", "electra", "deberta", "deberta-v2", "t5", "bart")
    if encoder or not causal or config.get("is_encoder_decoder"):
        raise InputError(
            f"The model in {folder} is {(names or [kind])[0]}, which does not predict the next token from earlier "
            "ones; induction heads are looked for in causal language models such as GPT-2."
        )


#: What names of numbers hold for which a model makes room.
_SIZES = (
    "size", "layer", "head", "hidden", "embd", "dim", "inner", "expert", "vocab", "position", "ctx", "context",
    "length", "window", "rank", "state", "label",
)  # fmt: skip


def check_sizes(folder: Path, config: dict[str, Any], name: str = "") -> None:
    """Refuse sizes that no model has, before room is made for them."""
    for key, value in config.items():
        named = f"{name}{key}"
        if isinstance(value, dict):
            check_sizes(folder, value, f"{named}.")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if (number and value != value) or value in (float("inf"), -float("inf")):
            raise InputError(f"{folder}/config.json cannot be used: {named} is {value}.")
        # Contexts of ten million tokens exist; other whole numbers, such as tokens seen in training, make no room.
        long = any(word in key for word in ("position", "ctx", "context", "length", "window", "theta"))
        most = 1000 if "layer" in key else 10**9 if long else 10**7
        if isinstance(value, int) and abs(value) > most and any(word in key for word in _SIZES):
            told = str(value) if abs(value) < 10**20 else "a number beyond 10^20"
            raise InputError(f"{folder}/config.json cannot be used: {named} is {told}, and at most {most} is expected.")


def check_full_precision(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a quantised model: its packed weights can be run, but not folded, centred or read."""
    packed = config.get("quantization_config")
    if packed:
        method = packed.get("quant_method", "unknown") if isinstance(packed, dict) else packed
        raise InputError(
            f"The model in {folder} is quantised ({method}), and packed weights cannot be folded or read; save the "
            "model dequantised, or load it in bfloat16 (dtype='bfloat16', --dtype bfloat16) from its full weights."
        )


def check_weights_file(folder: Path) -> None:
    """Refuse a folder without any weights."""
    patterns = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
    if not any(list(folder.glob(pattern)) for pattern in patterns):
        raise InputError(f"The folder {folder} has a config.json but no weights (model.safetensors).")


def check_shards(folder: Path) -> None:
    """Refuse an index of weights that names files outside its folder, or is none."""
    for path in sorted([*folder.glob("*.safetensors.index.json"), *folder.glob("*.bin.index.json")]):
        try:
            names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path} is no index of weights: {type(error).__name__}.") from error
        for name in sorted(names, key=str):
            if not isinstance(name, str) or name != Path(name).name or name == "..":
                raise InputError(f"{path} names {name!r}; weights must lie in the folder {folder} itself.")


def check_room(folder: Path, hf_config: Any) -> None:
    """Refuse a config that describes far more numbers than the folder's files can hold, before room is made for them.

    The model is laid out without memory. A number takes a byte at least.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(hf_config, trust_remote_code=False)
    except Exception:
        return  # the loader says why
    numbers = sum(weight.numel() for weight in model.parameters())
    held = sum(path.stat().st_size for ending in ("safetensors", "bin") for path in folder.glob(f"*.{ending}"))
    if numbers > held + SPARE:
        raise InputError(
            f"{folder}/config.json describes {numbers:,} numbers, and the folder's weights take {held:,} bytes: one of "
            "them belongs to another model."
        )


def loading_trouble(folder: Path, error: Exception) -> str:
    """What an error of Hugging Face's loader means, in one sentence."""
    kind = type(error).__name__
    if kind == "UnpicklingError" or "weights_only" in str(error).lower() or "unpickling" in str(error).lower():
        return (
            f"The pickled weights in {folder} hold more than tensors, or are broken; weights are data here and no "
            "code is run for them: save them as safetensors."
        )
    return f"The weights in {folder} are truncated, corrupted or of an unknown kind: {kind}: {first_line(error)}."


def check_report(folder: Path, report: Any) -> None:
    """Refuse weights that are of other shapes than the config says, missing, or without a place in it."""
    report = report if isinstance(report, dict) else vars(report)
    mismatched = list(report.get("mismatched_keys") or ())
    if mismatched:
        name, found, expected = ([*list(mismatched[0]), None, None])[:3]
        raise InputError(
            f"The weights in {folder} contradict config.json: {name} is {_shape(found)} and should be "
            f"{_shape(expected)}."
        )
    missing, unexpected = (sorted(report.get(kind) or ()) for kind in ("missing_keys", "unexpected_keys"))
    if missing:
        raise InputError(f"The weights in {folder} are incomplete: {_and_more(missing)} missing.")
    if unexpected:
        raise InputError(
            f"The weights in {folder} contradict config.json: it has no place for {_and_more(unexpected)}."
        )


def _and_more(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) if shape is not None else "of another shape"


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a sentence of our own."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]


def siblings(name: str) -> list[str]:
    """Model folders beside a folder that is not there, the most alike first."""
    try:
        parent = Path(name).expanduser().parent
        folders = [str(parent / path.name) for path in parent.iterdir() if (path / "config.json").is_file()]
    except (OSError, RuntimeError):
        return []
    return difflib.get_close_matches(name, folders, n=3, cutoff=0.6)
