"""Pretrained models, by hub name or local folder."""

import contextlib
import difflib
import json
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.activations import Attention, run_reduced
from inductionlens.models.folder_checks import (
    check_causal,
    check_report,
    check_weights_file,
    first_line,
    loading_trouble,
)
from inductionlens.models.origin import Origin
from inductionlens.models.processing import build, cast, centre_unembedding, check_finite, lens, quiet

OFFLINE_WAYS = (
    "offline, give a folder saved by save_pretrained, fill the Hugging Face cache beforehand, or try 'planted'"
)


def load_folder(folder: Path, config: dict[str, Any], *, device: str | None, dtype: str) -> Model:
    """Read a ``save_pretrained`` folder whose ``config.json`` is ``config``, without any network.

    Raises:
        InputError: no causal language model, broken or missing weights, shapes that contradict the config, pickled
            weights that hold more than tensors, weights that are not finite, or an empty tokenizer.
    """
    lens()
    from transformers import AutoConfig, AutoModelForCausalLM

    check_causal(folder, config)
    check_weights_file(folder)
    with quiet():
        try:
            hf_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise InputError(f"{folder}/config.json cannot be used: {first_line(error)}.") from error
        try:
            hf_model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=hf_config,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation="eager",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:
            raise InputError(loading_trouble(folder, error)) from error
    check_report(folder, report)
    check_finite(hf_model, str(folder))
    tokenizer = _tokenizer(folder)
    # Read before TransformerLens, which gives a tokenizer without BOS its EOS for one, in place.
    bos = tokenizer.bos_token_id if tokenizer is not None else getattr(hf_config, "bos_token_id", None)
    model = _convert(folder, hf_model, tokenizer, device=device)
    _check_same(folder, hf_model, model)
    del hf_model
    model = cast(model, dtype, str(folder))
    model.inductionlens_origin = Origin(str(folder), "folder", bos=bos)
    return model


def _check_same(folder: Path, hf_model: Any, model: Model) -> None:
    """Refuse a conversion that computes other attention than Hugging Face does.

    Configs can hold settings that a conversion does not know, and would silently leave out: rotary scaling, sliding
    windows, biases. One forward pass of each on the same tokens tells.

    Raises:
        InputError: some attention differs by more than 0.001.
    """
    length = min(model.cfg.n_ctx, 512)
    tokens = (torch.arange(length)[None] * 7 + 1) % model.cfg.d_vocab
    worst = 0.0
    with torch.no_grad():
        expected = hf_model(tokens, output_attentions=True, use_cache=False).attentions

    def compare(layer: Attention) -> None:
        nonlocal worst
        worst = max(worst, float((layer.pattern.cpu() - expected[layer.layer]).abs().max()))

    run_reduced(model, tokens, compare)
    if not worst <= 1e-3:
        raise InputError(
            f"TransformerLens does not compute the {hf_model.config.model_type} model in {folder} as Hugging Face "
            f"does (attention differs by up to {worst:.2g}): its config has settings that are not supported."
        )


def load_hub(name: str, *, revision: str | None, checkpoint: int | None, device: str | None, dtype: str) -> Model:
    """Fetch a hub model that TransformerLens knows, by name or alias, at a revision or a training checkpoint.

    Raises:
        InputError: an unknown name (the nearest are named), code from the hub, no network, or no such checkpoint.
    """
    with quiet(), _offline_if_unreachable():
        from transformer_lens import loading_from_pretrained as loading

        try:
            official = loading.get_official_model_name(name)
        except ValueError as error:
            known = {*loading.OFFICIAL_MODEL_NAMES, *loading.make_model_alias_map(), "planted"}
            raise InputError(_unknown(name, known)) from error
        if official.startswith(loading.NEED_REMOTE_CODE_MODELS):
            raise InputError(f"{name} would run code from the hub, and weights are data here: it is not loaded.")
        extra = {} if revision is None else {"revision": revision}
        try:
            model = lens().HookedTransformer.from_pretrained(
                name, checkpoint_value=checkpoint, device=device, dtype="float32", center_unembed=False, **extra
            )
            bos = _hub_bos(model)
        except (OSError, ConnectionError) as error:
            way_out = "check the revision or checkpoint, or " if revision or checkpoint is not None else ""
            raise InputError(
                f"{name} could not be fetched from the hub ({first_line(error)}); {way_out}{OFFLINE_WAYS}."
            ) from error
        except Exception as error:
            raise InputError(f"{name} could not be loaded: {first_line(error)}.") from error
    check_finite(model, name)
    model = cast(centre_unembedding(model).eval().requires_grad_(False), dtype, name)
    model.inductionlens_origin = Origin(name, "hub", revision, checkpoint, bos)
    return model


def _hub_bos(model: Model) -> int | None:
    """The BOS id of the hub's own tokenizer; TransformerLens has put EOS in the place of a BOS that is not there."""
    from transformers import AutoTokenizer

    if model.tokenizer is None:
        return None
    return AutoTokenizer.from_pretrained(model.cfg.tokenizer_name, trust_remote_code=False).bos_token_id


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Use the local cache alone where the hub's address is not known, instead of half a minute of retries."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not urllib.request.getproxies():  # a proxy would resolve the name for us
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _convert(folder: Path, hf_model: Any, tokenizer: Any, *, device: str | None) -> Model:
    """Hand a Hugging Face model's weights to TransformerLens.

    TransformerLens guesses the architecture from the path before it reads the config, and reads ``n_ctx``, which
    transformers 5 no longer writes: so it is given a config of its own in a folder whose name says nothing.
    """
    from transformer_lens import loading_from_pretrained as loading

    config = hf_model.config
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp", str(Path.home()))
    place = next((p for p in places if not any(name in p.lower() for name in ("llama", "gemma"))), None)
    with quiet(), tempfile.TemporaryDirectory(prefix="config-", dir=place) as neutral:
        plain = config.to_dict()
        plain["architectures"] = [type(hf_model).__name__]
        if hasattr(config, "n_positions"):
            plain["n_ctx"] = config.n_positions
        (Path(neutral) / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        try:
            cfg = loading.get_pretrained_model_config(neutral, device=device, dtype=torch.float32)
            cfg.d_mlp = getattr(config, "n_inner", None) or cfg.d_mlp
            state = loading.get_pretrained_state_dict(neutral, cfg, hf_model=hf_model)
            cfg.tokenizer_name = None
            cfg.model_name = folder.resolve().name
            return build(cfg, state, tokenizer)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"TransformerLens cannot take the {config.model_type} model in {folder}: {first_line(error)}."
            ) from error


def _tokenizer(folder: Path) -> Any:
    """The folder's own tokenizer, or None where it has no tokenizer files at all."""
    from transformers import AutoTokenizer

    files = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model", "merges.txt", "spiece.model")
    if not any((folder / name).exists() for name in files):
        return None
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise InputError(f"The tokenizer in {folder} could not be read: {first_line(error)}.") from error
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) == 0:
        raise InputError(
            f"The tokenizer in {folder} has no tokens; put its tokenizer.json there, or remove its other files to "
            "score the model on all its token ids."
        )
    return tokenizer


def siblings(name: str) -> list[str]:
    """Model folders beside a folder that is not there, the most alike first."""
    try:
        parent = Path(name).expanduser().parent
        folders = [str(parent / path.name) for path in parent.iterdir() if (path / "config.json").is_file()]
    except (OSError, RuntimeError):
        return []
    return difflib.get_close_matches(name, folders, n=3, cutoff=0.6)


def _unknown(name: str, known: set[str]) -> str:
    near = siblings(name) + difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    offer = f"the nearest names are {', '.join(near[:4])}" if near else "its hub models are named in its documentation"
    return f"There is no folder {name} and no model of that name that TransformerLens knows; {offer}."
