"""Models that are not scored as they come."""

from pathlib import Path

from inductionlens.errors import InputError
from inductionlens.models.lens import model_class

MERGE = "merge it into its model, merge_and_unload(), save that, save_pretrained(FOLDER), and give the folder"


def check_class(model: object) -> None:
    """Make sure that an object is a model of the TransformerLens that is installed.

    Raises:
        InputError: it is another object, or its weights were made under ``torch.inference_mode()``.
    """
    kind = f"{type(model).__module__}.{type(model).__name__}"
    if hasattr(model, "merge_and_unload") or getattr(model, "peft_config", None):
        raise InputError(f"The model ({kind}) has an adapter beside its weights: {MERGE}.")
    if not isinstance(model, model_class()):
        way_out = "; save it, save_pretrained(FOLDER), and give the folder" if hasattr(model, "save_pretrained") else ""
        known = f"a hub name, a folder or a TransformerLens model ({model_class().__name__})"
        raise InputError(f"A model is {known}; got {kind}{way_out}.")
    if any(weight.is_inference() for weight in model.parameters()):
        raise InputError(
            "The model was made under torch.inference_mode(), where weights can be neither processed nor take "
            "gradients; make it under torch.no_grad()."
        )


def check_adapter(folder: Path) -> None:
    """Refuse a folder that holds an adapter (LoRA and alike) and not the model that it changes.

    Raises:
        InputError: there is an ``adapter_config.json`` and no weights of a model.
    """
    if not (folder / "adapter_config.json").is_file():
        return
    weights = [path for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind)]
    if all(path.name.startswith("adapter_model") for path in weights):
        raise InputError(f"The folder {folder} holds an adapter, no model: {MERGE}.")
