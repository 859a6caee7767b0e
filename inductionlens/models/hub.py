"""Models of the Hugging Face hub, by name."""

import contextlib
import difflib
import importlib
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.folder_checks import first_line, siblings
from inductionlens.models.lens import has_hooked_transformer, lens, quiet
from inductionlens.models.origin import Origin
from inductionlens.models.processing import cast, centre_unembedding, check_weights, process
from inductionlens.models.same_model import check_same, given_object

OFFLINE_WAYS = (
    "offline, give a folder saved by save_pretrained, fill the Hugging Face cache beforehand, or try 'planted'"
)
#: Repositories in TransformerLens's own format.
TL_FORMAT = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")


def load_hub(name: str, *, revision: str | None, checkpoint: int | None, device: str | None, dtype: str) -> Model:
    """Fetch a hub model that TransformerLens knows, by name or alias, at a revision or a training checkpoint.

    Raises:
        InputError: an unknown name (the nearest are named), code from the hub, no network, or no such checkpoint.
    """
    with quiet(), offline_if_unreachable():
        official = official_name(name)
        try:
            fetch = _fetch_hooked if has_hooked_transformer() else _fetch_bridge
            model = fetch(official, revision, checkpoint, device)
            bos = _hub_bos(model)
        except (OSError, ConnectionError) as error:
            way_out = "check the revision or checkpoint, or " if revision or checkpoint is not None else ""
            raise InputError(
                f"{name} could not be fetched from the hub ({first_line(error)}); {way_out}{OFFLINE_WAYS}."
            ) from error
        except Exception as error:
            raise InputError(f"{name} could not be loaded: {first_line(error)}.") from error
    check_weights(model, name)
    model = cast(model, dtype, name)
    model.inductionlens_origin = Origin(name, "hub", revision, checkpoint, bos)
    return model


def official_name(name: str) -> str:
    """The hub's name of a model that TransformerLens calls by this name or alias."""
    module = "loading_from_pretrained" if has_hooked_transformer() else "supported_models"
    names = importlib.import_module(f"transformer_lens.{module}")
    try:
        official = names.get_official_model_name(name)
    except ValueError as error:
        if not has_hooked_transformer() and name.count("/") == 1 and not Path(name).parent.is_dir():
            return name  # a TransformerBridge takes any model of an architecture that it knows
        aliases = [alias for short in names.MODEL_ALIASES.values() for alias in short]
        known = {*names.OFFICIAL_MODEL_NAMES, *aliases, "planted"}
        raise InputError(_unknown(name, known)) from error
    # 3.9 would run such a model's own files unasked; 4.x, and Hugging Face, do not.
    if official.startswith(getattr(names, "NEED_REMOTE_CODE_MODELS", ("bigcode/santacoder",))):
        raise InputError(f"{name} would run code from the hub, and weights are data here: it is not loaded.")
    return official


def _fetch_hooked(name: str, revision: str | None, checkpoint: int | None, device: str | None) -> Model:
    extra = {} if revision is None else {"revision": revision}
    model = lens().HookedTransformer.from_pretrained(
        name, checkpoint_value=checkpoint, device=device, dtype="float32", center_unembed=False, **extra
    )
    return centre_unembedding(model).eval().requires_grad_(False)


def _fetch_bridge(name: str, revision: str | None, checkpoint: int | None, device: str | None) -> Model:
    bridge = lens().TransformerBridge
    if name.startswith(TL_FORMAT):
        model = bridge.boot_tl_legacy(name, checkpoint_value=checkpoint, device=device)
    else:
        model = bridge.boot_transformers(name, revision=revision, checkpoint_value=checkpoint, device=device)
    given = given_object(model, f"the model {name}")
    model = process(model)
    check_same(model, given)
    return model


def _hub_bos(model: Model) -> int | None:
    """The BOS id of the hub's own tokenizer; TransformerLens has put EOS in the place of a BOS that is not there."""
    from transformers import AutoTokenizer

    if model.tokenizer is None:
        return None
    return AutoTokenizer.from_pretrained(model.cfg.tokenizer_name, trust_remote_code=False).bos_token_id


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
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


def _unknown(name: str, known: set[str]) -> str:
    near = siblings(name) + difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    offer = f"the nearest names are {', '.join(near[:4])}" if near else "its hub models are named in its documentation"
    return f"There is no folder {name} and no model of that name that TransformerLens knows; {offer}."
