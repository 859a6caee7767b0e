"""One door for models: by name, by folder, or as they are."""

import json
from pathlib import Path

import torch

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.torch_settings import in_usual_torch
from inductionlens.models.writing import writing_of

DTYPES = ("float32", "bfloat16", "float16")


@in_usual_torch
def load_model(
    source: "str | Path | Model",
    *,
    revision: str | None = None,
    checkpoint: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Model:
    """Give a model ready to be scored: norms folded, writing weights and W_U centred, in evaluation mode.

    ``source`` is a folder (saved by ``save_pretrained`` or by `save_toy`; no network is used), ``"planted"`` or
    ``"planted-KIND"``, a hub name that TransformerLens knows (``"gpt2"``, with a ``revision`` or a training
    ``checkpoint``), or a TransformerLens model you already have. A model object that is not processed yet is copied,
    never changed; it is scored as it would run for inference. What is scored is compared with what was given, folders
    with Hugging Face, attention and log-probabilities, and refused if it differs. ``device`` is ``"cpu"``, ``"cuda"``
    ...; by default CUDA where there is one. ``dtype`` is ``"float32"`` (default), ``"bfloat16"`` or ``"float16"``:
    weights are processed in float32 and rounded afterwards, and attention is scored from a float32 softmax of the
    rounded model's scores.

    Raises:
        InputError: the source cannot be found, read or scored; the message says why and what to do.
    """
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    if not isinstance(source, (str, Path)):
        if (revision, checkpoint, device, dtype) != (None, None, None, None):
            raise InputError("A model object is taken as it is; revision, checkpoint, device and dtype do not apply.")
        ready = _from_object(source)
        writing_of(ready)
        return ready
    model = _from_name(source, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
    writing_of(model)
    return model


def _from_name(
    source: str | Path, *, revision: str | None, checkpoint: int | None, device: str | None, dtype: str | None
) -> Model:
    device, dtype, named = check_device(device), dtype or "float32", str(source)
    try:
        folder = Path(source).expanduser()
        there = folder.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"The model {named} cannot be looked at: {getattr(error, 'strerror', None) or error}."
        ) from error
    planted = named == "planted" or named.startswith("planted-")
    if (there or planted) and (revision, checkpoint) != (None, None):
        raise InputError(f"revision and checkpoint are for hub models; {named} is {'local' if there else 'made here'}.")
    if there:
        return _from_folder(folder, named, device=device, dtype=dtype)
    if planted:
        from inductionlens.models.planted import planted as plant
        from inductionlens.models.processing import cast

        kind = named.removeprefix("planted").removeprefix("-") or "induction"
        return cast(plant(kind), dtype, named).to(device, print_details=False)
    from inductionlens.models.folder_checks import siblings
    from inductionlens.models.hub import load_hub

    if named.startswith((".", "/", "~")):
        near = siblings(named)
        raise InputError(f"There is no folder {named}{'; the nearest is ' + near[0] if near else ''}.")

    return load_hub(named, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)


def check_device(device: str | None) -> str:
    """The device that is meant, CUDA by default where there is one.

    Raises:
        InputError: it cannot be used here.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(device).type == "meta":
            raise NotImplementedError("nothing is computed there")
        torch.zeros(1, device=device).item()
    except Exception as error:  # unknown names and absent hardware bring errors of every kind
        raise InputError(f"The device {device!r} cannot be used here; 'cpu' always can.") from error
    return device


def _from_folder(folder: Path, named: str, *, device: str, dtype: str) -> Model:
    from inductionlens.models.checkpoint_names import STEP
    from inductionlens.models.other_sources import check_adapter

    if folder.is_file():
        raise InputError(f"{named} is a file; give the folder that holds its config.json.")
    check_adapter(folder)
    path = folder / "config.json"
    try:
        if not path.is_file():
            steps = sorted(one.name for one in folder.iterdir() if STEP.fullmatch(one.name))
            inside = f"; it holds checkpoints: give one of them, such as {folder / steps[-1]}" if steps else ""
            raise InputError(f"The folder {named} has no config.json, so it holds no model{inside}.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {str(error).splitlines()[0]}.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a JSON object; it holds a {type(config).__name__}.")
    from inductionlens.models import toy

    if config.get("format") == toy.FORMAT:
        return toy.load_toy(folder, config, device=device, dtype=dtype)
    from inductionlens.models.pretrained import load_folder

    return load_folder(folder, config, device=device, dtype=dtype)


def _from_object(model: Model) -> Model:
    from inductionlens.models.objects import check_object, ready_object
    from inductionlens.models.other_sources import check_class

    check_class(model)
    check_object(model)
    return ready_object(model)
