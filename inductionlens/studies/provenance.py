"""The record of how a table was measured."""

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inductionlens.column_tables import INTERVALS
from inductionlens.errors import InputError
from inductionlens.intervals import KIND
from inductionlens.models import Model
from inductionlens.models.activations import attention_layers
from inductionlens.models.attention_code import attention_code
from inductionlens.models.circuits import Obstacle, ov_obstacle
from inductionlens.models.origin import origin_of
from inductionlens.models.processing import processing_of
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.stimuli import ScanProbes

PACKAGES = ("inductionlens", "transformer-lens", "torch", "transformers", "numpy", "pandas", "scipy")


def provenance(model: Model, probes: ScanProbes, options: ScanOptions, behaviour: dict[str, Any],
               sequences: dict[str, int]) -> dict[str, Any]:  # fmt: skip
    """Everything that decides the numbers, in plain values; no time and no path but the model's own, so that equal
    scans leave equal records. ``sequences`` says how many stand behind each score."""
    mcdougall = options.logit_recipe == "mcdougall"
    return {
        "command": "scan",
        "model": model_record(model),
        "options": asdict(options),
        "probes": {
            "attention": probes.repeated.describe(),
            "previous_token": probes.text_name,
            "copying": probes.once.describe(),
            "induction_logit": probes.logit.describe() + (", whole vocabulary" if mcdougall else ""),
            "bos": probes.repeated.bos,
            "pool": probes.pool.record(),
        },
        "variants": {
            "prefix_matching": options.reduce + (", value-weighted" if options.value_weighted else ""),
            "copying": f"contrast, pooled, source {options.copying_source}",
            "induction_logit": "logits not centred, W_U's mean column put back" if mcdougall else "logits centred",
        },
        "behaviour": behaviour,
        "intervals": {"kind": KIND, "sequences": sequences},
        **environment(),
    }


def study_record(
    command: str,
    model: Model | Sequence[Mapping[str, Any]] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    inputs: Iterable[str | Path] = (),
) -> dict[str, Any]:
    """Everything that decides the numbers of a table that ``command`` writes, in plain values.

    ``model`` is the model that was measured, or the `model_record` of each of several. ``options`` hold every setting
    that the numbers depend on. ``inputs`` are the files that were read; their names and bytes are recorded. No time
    and no folder, so that equal calls leave equal records.

    Raises:
        InputError: an input cannot be read.
    """
    record: dict[str, Any] = {"command": command}
    if model is not None:
        record["model"] = [dict(one) for one in model] if isinstance(model, Sequence) else model_record(model)
    record["options"] = {name: _plain(value) for name, value in (options or {}).items()}
    files = [_input(Path(path)) for path in inputs]
    if files:
        record["inputs"] = files
    if command in INTERVALS:
        record["intervals"] = INTERVALS[command]
    return {**record, **environment()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _input(path: Path) -> dict[str, str]:
    try:
        return {"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except (OSError, ValueError) as error:
        raise InputError(f"{path!s} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def model_record(model: Model) -> dict[str, Any]:
    """What a model is and how it was prepared."""
    cfg = model.cfg
    return {
        **asdict(origin_of(model)),
        "class": type(model).__name__,
        "layers": cfg.n_layers,
        "heads": cfg.n_heads,
        "context": cfg.n_ctx,
        "vocabulary": cfg.d_vocab,
        "dtype": str(cfg.dtype).removeprefix("torch."),
        "device": next(model.parameters()).device.type,
        "attention": attention_code(model),
        "processing": processing_of(model),
        "left_empty": left_empty(model),
    }


def left_empty(model: Model) -> dict[str, str]:
    """The scores that a model has none of, and why."""
    reasons = {}
    obstacle = ov_obstacle(model)
    if obstacle is not None:
        reasons |= dict.fromkeys(("ov_eigen", "ov_eigen_fraction"), f"{obstacle}")
    if obstacle is Obstacle.UNKNOWN:
        reasons |= dict.fromkeys(("induction_logit", "copying"), f"{obstacle}")
    without = sorted(set(range(model.cfg.n_layers)) - set(attention_layers(model)))
    return reasons | {f"layer {layer}": "it has no attention heads" for layer in without}


def environment() -> dict[str, Any]:
    """The versions of Python and of the packages that compute."""
    return {"python": platform.python_version(), "versions": {name: version(name) for name in PACKAGES}}
