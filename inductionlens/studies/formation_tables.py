"""Measured checkpoints into tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from inductionlens.heads import Head
from inductionlens.models.checkpoints import Checkpoint
from inductionlens.scores.losses import log_slope
from inductionlens.scores.trajectories import before_and_after, before_and_after_score
from inductionlens.studies.changes import MOST_NAMED, SAME, changes_of

if TYPE_CHECKING:
    import pandas

MODEL_SCORES = ("training_loss", "loss", "loss_slope", "icl_score", "icl_score_low", "icl_score_high",
                "loss_first_copy", "loss_later_copies", "copying_gain")  # fmt: skip
#: Of the best head of a snapshot, chosen on half of the sequences and measured on the other half.
BEST = ("prefix_matching", "prefix_matching_low", "prefix_matching_high", "prefix_matching_head", "previous_token",
        "previous_token_low", "previous_token_high", "previous_token_head", "previous_token_source",
        "induction_heads")  # fmt: skip


def tables_of(
    series: Sequence[Checkpoint], parts: dict[str, Any], training: Float[np.ndarray, " step"] | None = None
) -> dict[str, "pandas.DataFrame"]:
    """The tables of a `Formation`, by name, from one part per checkpoint; ``training`` holds the loss of every step of
    training, from the first, where it is known."""
    import pandas as pd

    steps, heads, losses, followed, ablated = [], [], [], [], {}
    equal = _equal_weights(series, parts)
    for one in series:
        part = parts[str(one.step)]
        problem = part.get("problem", equal.get(one.step, ""))
        row: dict[str, Any] = {"step": one.step, "tokens": one.tokens, "problem": problem}
        if "problem" in part:
            steps.append(row)
            continue
        scores = {name: np.array(values, dtype=float) for name, values in part["heads"].items()}
        for name, best in part["best"].items():
            row |= {name: best["value"], f"{name}_head": best["head"]}
            row |= {f"{name}_low": best["low"], f"{name}_high": best["high"]}
        row["previous_token_source"] = "random"
        verdicts = part.get("verdicts", {})
        row["induction_heads"] = " ".join(verdicts["strongest"]) or "none" if "kind" in verdicts else ""
        steps.append(row | part["model"])
        for layer, head in np.ndindex(scores["prefix_matching"].shape):
            values = {name: float(values[layer, head]) for name, values in scores.items()}
            kind = verdicts["kind"][layer][head] if "kind" in verdicts else ""
            heads.append({"step": one.step, "name": Head(layer, head).label, "layer": layer, "head": head,
                          "kind": kind, **values, "previous_token_source": "random"})  # fmt: skip
        losses += [{"step": one.step, "index": index, "loss": loss} for index, loss in enumerate(part["losses"])]
        followed += [{"step": one.step, "token": token, "loss": loss} for token, loss in enumerate(part["followed"])]
        ablated[one.step] = np.array(part["ablated"], dtype=float)
    order = ["step", "tokens", *MODEL_SCORES, *BEST, "problem"]
    table = pd.DataFrame(steps).reindex(columns=order)
    table["tokens"] = table["tokens"].astype("Int64")
    table["loss_slope"] = _slope(table)
    table["training_loss"] = _training_loss(table["step"].tolist(), training)
    found = {"steps": table, "heads": pd.DataFrame(heads), "losses": pd.DataFrame(losses)}
    found["followed"] = pd.DataFrame(followed)
    return found | {"before": _before(table, found["heads"], found["followed"], ablated)}


def _equal_weights(series: Sequence[Checkpoint], parts: dict[str, Any]) -> dict[int, str]:
    """Steps whose weights are those of other steps too, bit for bit, and which: not all can be what they are called."""
    alike: dict[str, list[int]] = {}
    for one in series:
        alike.setdefault(parts[str(one.step)].get("weights", f"step {one.step}"), []).append(one.step)
    said = {}
    for group in alike.values():
        for step in group if len(group) > 1 else []:
            others = [other for other in group if other != step]
            more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
            said[step] = f"{SAME}{', '.join(map(str, others[:MOST_NAMED]))}{more}"
    return said


def _slope(table: "pandas.DataFrame") -> "pandas.Series":
    """d loss / d ln tokens at every snapshot, in nats per e-fold; of steps where tokens are not known, which is the
    same for batches of one size. Empty at step 0, whose logarithm is not."""
    axis = table["step" if table["tokens"].isna().any() else "tokens"].astype(float)
    there = (axis > 0) & table["loss"].notna()
    slope = table["loss"] * np.nan
    if there.sum() > 1:
        places, losses = (torch.tensor(part[there].to_numpy(dtype=float)) for part in (axis, table["loss"]))
        slope[there] = log_slope(places, losses).numpy()
    return slope


def _training_loss(steps: list[int], training: Float[np.ndarray, " step"] | None) -> list[float]:
    """The mean loss of the batches since the snapshot before; NaN at the first one, and where it is not known."""
    found = []
    for before, step in zip([None, *steps], steps, strict=False):
        batches = [] if training is None or before is None else training[before:step]
        found.append(float(np.mean(batches)) if len(batches) else np.nan)
    return found


def _before(
    steps: "pandas.DataFrame", heads: "pandas.DataFrame", followed: "pandas.DataFrame", ablated: dict[int, np.ndarray]
) -> "pandas.DataFrame":
    """The before-and-after score of every head at every snapshot, for the change of prefix matching."""
    import pandas as pd

    change = changes_of(steps).get("prefix_matching")
    if change is None or not change.found or not all(losses.size for losses in ablated.values()):
        return pd.DataFrame({"step": [], "name": [], "before_and_after": []})
    clean = {step: torch.tensor(part["loss"].to_numpy()) for step, part in followed.groupby("step")}
    direction = before_and_after(clean[int(change.start)], clean[int(change.end)])
    names = heads["name"].drop_duplicates().tolist()
    rows = []
    for step, losses in ablated.items():
        scores = before_and_after_score(direction, clean[step], torch.from_numpy(losses)).tolist()
        rows += [{"step": step, "name": name, "before_and_after": score}
                 for name, score in zip(names, scores, strict=True)]  # fmt: skip
    return pd.DataFrame(rows)
