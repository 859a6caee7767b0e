"""The tables of several runs, as one model-analysis table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inductionlens.scores.losses import loss_derivative
from inductionlens.scores.trajectories import loss_trajectories
from inductionlens.studies.changes import formed
from inductionlens.studies.formation_result import Formation

if TYPE_CHECKING:
    import pandas


def analysis(runs: Mapping[str, Formation]) -> dict[str, dict[str, Any]]:
    """What `draw_analysis` draws of some runs, by name: from their tables alone.

    Per-token-loss PCA (Olsson et al. 2022) is over all snapshots of all runs whose followed losses are those of the
    same tokens; runs on other tokens get a plane of their own. ``plane`` says which.
    """
    import pandas as pd

    found: dict[str, dict[str, Any]] = {}
    planes: dict[Any, list[str]] = {}
    for name, run in runs.items():
        change = formed(run.steps)
        found[name] = {"steps": run.steps, "heads": run.heads, "losses": run.losses, "before": run.before,
                       "window": (change.start, change.end) if change else None,
                       "derivative": derivative(run.losses)}  # fmt: skip
        tokens = (run.provenance.get("measured") or {}).get("followed")
        planes.setdefault(tokens or name, []).append(name)
    for plane, names in enumerate(planes.values()):
        losses = [runs[name].followed.pivot_table(index="step", columns="token", values="loss") for name in names]
        places = _plane(np.concatenate([part.to_numpy(dtype=float) for part in losses]))
        borders = np.cumsum([len(part) for part in losses])[:-1]
        for name, part, place in zip(names, losses, np.split(places, borders), strict=True):
            table = pd.DataFrame({"step": part.index, "first": place[:, 0], "second": place[:, 1]})
            found[name] |= {"trajectory": table, "plane": plane}
    return found


def _plane(losses: np.ndarray) -> np.ndarray:
    """Snapshots on the first two components; all at 0 where nothing differs."""
    if min(losses.shape) < 2 or (losses == losses[0]).all():
        return np.zeros((len(losses), 2))
    return loss_trajectories(torch.from_numpy(losses)).scores.numpy()


def derivative(losses: "pandas.DataFrame") -> "pandas.DataFrame":
    """``slope``, d loss / d ln(position) in nats per e-fold, by ``step`` and ``index``, a bin's middle; of a table of
    losses by position. See `loss_derivative`."""
    import pandas as pd

    rows = []
    for step, part in losses.groupby("step"):
        found = loss_derivative(torch.tensor(part.sort_values("index")["loss"].to_numpy(dtype=float))[None])
        middle = ((found.first + found.last) / 2).tolist()
        rows.append(pd.DataFrame({"step": step, "index": middle, "slope": found.slope[0].numpy()}))
    return pd.concat(rows, ignore_index=True)
