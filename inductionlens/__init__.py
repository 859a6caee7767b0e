"""Find the induction heads of a language model."""

from importlib import import_module
from typing import Any

#: Public name -> the module that holds it. Loaded on first use, so that importing the package costs no torch.
PUBLIC = {
    "ablate": "models.ablation",
    "ablation_study": "studies.ablation",
    "clean_run": "models.ablation",
    "Head": "heads",
    "HeadScores": "head_scores",
    "InputError": "errors",
    "ToyConfig": "models.toy",
    "circuit": "studies.circuit",
    "compare": "studies.compare",
    "formation": "studies.formation",
    "in_context_learning": "studies.icl",
    "load_model": "models.loading",
    "new_toy": "models.toy",
    "planted": "models.planted",
    "path_orders": "studies.orders",
    "read_scores": "head_scores",
    "repeated_tokens": "probes",
    "repeats": "studies.repeats",
    "reproduce": "studies.reproduce",
    "save_toy": "models.toy",
    "scan": "studies.scan",
    "skip_trigrams": "studies.trigrams",
    "token_pool": "probes",
    "train_toy": "studies.training",
    "validate": "studies.reference",
}

__all__ = [*sorted(PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("inductionlens")
    if name in PUBLIC:
        return getattr(import_module(f"inductionlens.{PUBLIC[name]}"), name)
    raise AttributeError(f"module 'inductionlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
