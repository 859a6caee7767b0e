"""The record of how a table was measured."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from inductionlens.models import Model
from inductionlens.models.origin import origin_of
from inductionlens.models.processing import processing_of
from inductionlens.probes import TRIM
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.stimuli import ScanProbes

PACKAGES = ("inductionlens", "transformer-lens", "torch", "transformers", "numpy", "pandas", "scipy")


def provenance(model: Model, probes: ScanProbes, options: ScanOptions, behaviour: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides the numbers, in plain values; no time and no path but the model's own, so that equal
    scans leave equal records."""
    mcdougall = options.logit_recipe == "mcdougall"
    pool = f"ordinary ids in order, {TRIM:.0%} off each end, without replacement inside a block"
    return {
        "model": model_record(model),
        "options": asdict(options),
        "probes": {
            "attention": probes.repeated.describe(),
            "previous_token": probes.text_name,
            "copying": probes.once.describe(),
            "induction_logit": probes.logit.describe() + (", whole vocabulary" if mcdougall else ""),
            "bos": probes.repeated.bos,
            "pool": pool,
        },
        "variants": {
            "prefix_matching": options.reduce + (", value-weighted" if options.value_weighted else ""),
            "copying": f"contrast, pooled, source {options.copying_source}",
            "induction_logit": "logits not centred, W_U's mean column put back" if mcdougall else "logits centred",
        },
        "behaviour": behaviour,
        **environment(),
    }


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
        "attention": "eager",
        "processing": processing_of(model),
    }


def environment() -> dict[str, Any]:
    """The versions of Python and of the packages that compute."""
    return {"python": platform.python_version(), "versions": {name: version(name) for name in PACKAGES}}
