"""Models in a local folder that save_pretrained left."""

import json
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.activations import Compared
from inductionlens.models.folder_checks import (
    check_causal,
    check_full_precision,
    check_report,
    check_room,
    check_shards,
    check_sizes,
    check_weights_file,
    first_line,
    loading_trouble,
)
from inductionlens.models.lens import has_hooked_transformer, lens, quiet
from inductionlens.models.origin import Origin
from inductionlens.models.processing import cast, check_weights, process
from inductionlens.models.same_model import LENGTH, check_same, given_folder_model
from inductionlens.models.writing import writing_of


def load_folder(folder: Path, config: dict[str, Any], *, device: str | None, dtype: str, length: int = LENGTH) -> Model:
    """Read a ``save_pretrained`` folder whose ``config.json`` is ``config``, without any network.

    What TransformerLens makes of it is compared with Hugging Face on a row of at most ``length`` tokens; when a longer
    row is run for the first time, the folder is read and compared once more.

    Raises:
        InputError: no causal language model, broken or missing weights, shapes that contradict the config, pickled
            weights that hold more than tensors, weights that are not finite, an empty tokenizer, or a model that
            TransformerLens does not compute as Hugging Face does.
    """
    lens()
    from transformers import AutoConfig, AutoModelForCausalLM

    check_causal(folder, config)
    check_sizes(folder, config)
    check_full_precision(folder, config)
    check_weights_file(folder)
    check_shards(folder)
    with quiet():
        try:
            hf_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise InputError(f"{folder}/config.json cannot be used: {first_line(error)}.") from error
        check_room(folder, hf_config)
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
    check_weights(hf_model, str(folder))
    tokenizer = _tokenizer(folder)
    # Read before TransformerLens, which gives a tokenizer without BOS its EOS for one, in place.
    bos = tokenizer.bos_token_id if tokenizer is not None else getattr(hf_config, "bos_token_id", None)
    # Read first: a TransformerBridge takes the model over.
    given = given_folder_model(hf_model, f"the model in {folder}", length)
    if has_hooked_transformer():
        model = _hooked(folder, hf_model, tokenizer, device=device)
    else:
        model = _bridged(folder, hf_model, tokenizer, device=device)
    del hf_model
    try:
        check_same(model, given, way_out=_newer())
        writing_of(model)  # before anything is rounded
    except InputError:
        raise
    except Exception as error:
        kind = config.get("model_type")
        raise InputError(
            f"TransformerLens takes the {kind} model in {folder}, but shows no attention that could be scored: "
            f"{type(error).__name__}: {first_line(error)}."
        ) from error
    model = cast(model, dtype, str(folder))
    model.inductionlens_origin = Origin(str(folder), "folder", bos=bos)
    again = partial(_compare_again, folder, config, device)
    model.inductionlens_compared = Compared(given.tokens.shape[1], again)
    return model


def _compare_again(folder: Path, config: dict[str, Any], device: str | None, length: int) -> None:
    """Load a folder once more, to compare its conversion with Hugging Face on a longer row; the copy is dropped."""
    if not folder.is_dir():
        warnings.warn(
            f"{folder} is gone, so rows of {length} tokens could not be compared with Hugging Face before they are "
            f"scored; rows of up to {LENGTH} were.",
            stacklevel=2,
        )
        return
    load_folder(folder, config, device=device, dtype="float32", length=length)


def _newer() -> str:
    return "; 'transformer-lens>=4.3' knows more of them" if has_hooked_transformer() else ""


def _hooked(folder: Path, hf_model: Any, tokenizer: Any, *, device: str | None) -> Model:
    """Copy a Hugging Face model's weights into a HookedTransformer.

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
            return process(lens().HookedTransformer(cfg, tokenizer=tokenizer), state)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"TransformerLens 3.9 cannot take the {config.model_type} model in {folder} ({first_line(error)}); "
                "'transformer-lens>=4.3' may."
            ) from error


def _bridged(folder: Path, hf_model: Any, tokenizer: Any, *, device: str | None) -> Model:
    """Let a TransformerBridge take over a Hugging Face model."""
    kind = hf_model.config.model_type
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = lens().TransformerBridge.boot_transformers(
                str(folder),
                hf_model=hf_model.to(device or "cpu"),
                tokenizer=tokenizer or _no_tokenizer(),
                device=device,
                dtype=torch.float32,
            )
            if tokenizer is None:
                model.tokenizer = None
            return process(model)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"TransformerLens cannot take the {kind} model in {folder}: {first_line(error)}."
            ) from error


def _no_tokenizer() -> Any:
    """A stand-in for the tokenizer of a folder without one; left to itself, a bridge makes one up."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<s>": 0}, unk_token="<s>"))
    # A bridge asks every tokenizer where it came from, and whether it adds BOS; one that does not is read once more.
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="<s>", add_bos_token=True, name_or_path=""
    )


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
