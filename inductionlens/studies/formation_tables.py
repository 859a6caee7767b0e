"""Measured checkpoints into tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inductionlens.heads import Head
from inductionlens.models.checkpoints import Checkpoint

if TYPE_CHECKING:
    import pandas

MODEL_SCORES = ("loss", "icl_score", "loss_first_copy", "loss_later_copies", "copying_gain")


def tables_of(
    series: Sequence[Checkpoint], parts: dict[str, Any]
) -> tuple["pandas.DataFrame", "pandas.DataFrame", "pandas.DataFrame", np.ndarray, np.ndarray]:
    """Steps, heads and losses by position, one part per checkpoint, and the losses of followed tokens without and with
    each head zeroed."""
    import pandas as pd

    steps, heads, losses, followed, ablated = [], [], [], [], []
    for one in series:
        part = parts[str(one.step)]
        row: dict[str, Any] = {"step": one.step, "tokens": one.tokens, "problem": part.get("problem", "")}
        if "problem" in part:
            steps.append(row)
            continue
        scores = {name: np.array(values, dtype=float) for name, values in part["heads"].items()}
        for name in ("prefix_matching", "previous_token"):
            best = Head(*map(int, np.unravel_index(np.nanargmax(scores[name]), scores[name].shape)))
            row |= {name: float(scores[name][best]), f"{name}_head": best.label}
        steps.append(row | part["model"])
        for layer, head in np.ndindex(scores["prefix_matching"].shape):
            own = {name: float(values[layer, head]) for name, values in scores.items()}
            heads.append({"step": one.step, "name": Head(layer, head).label, "layer": layer, "head": head, **own})
        losses += [{"step": one.step, "index": index, "loss": loss} for index, loss in enumerate(part["losses"])]
        followed.append(part["followed"])
        ablated.append(part["ablated"])
    table = pd.DataFrame(steps)
    table["tokens"] = table["tokens"].astype("Int64")
    order = ["step", "tokens", *MODEL_SCORES, "prefix_matching", "prefix_matching_head", "previous_token"]
    order += ["previous_token_head", "problem"]
    tokens = np.array(followed, dtype=float).reshape(len(followed), -1)
    without = np.array(ablated, dtype=float).reshape(len(ablated), -1, tokens.shape[1])
    return table.reindex(columns=order), pd.DataFrame(heads), pd.DataFrame(losses), tokens, without
