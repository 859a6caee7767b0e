"""Tables of losses by position."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from inductionlens.intervals import mean_interval
from inductionlens.scores.losses import icl_score, loss_derivative

if TYPE_CHECKING:
    import pandas

#: The other pairs that the score is measured at, as shares of the chosen late and early index.
LATES, EARLIES = (0.6, 0.8, 1.0), (0.5, 1.0, 2.0)


def by_position_table(losses: Float[np.ndarray, "sequence index"]) -> "pandas.DataFrame":
    """Mean loss at every index, in nats, with its interval over windows; NaN losses, of padding, are left out."""
    import pandas as pd

    ends = [mean_interval(column[~np.isnan(column)][None]) for column in losses.T]
    low, high = np.array(ends).reshape(-1, 2).T
    return pd.DataFrame(
        {"index": np.arange(losses.shape[1]), "loss": np.nanmean(losses, axis=0), "loss_low": low, "loss_high": high}
    )


def pairs_table(losses: Float[np.ndarray, "sequence index"], late: int, early: int) -> "pandas.DataFrame":
    """The score at the chosen pair and at those around it whose later index is at least twice the earlier."""
    import pandas as pd

    grid = {(round(late * one), round(early * other)) for one in LATES for other in EARLIES}
    grid = sorted({pair for pair in grid if pair[0] > pair[1] and pair[0] >= 2 * pair[1]} | {(late, early)})
    values = torch.stack([icl_score(torch.from_numpy(losses), *pair) for pair in grid]).numpy()
    low, high = mean_interval(values)
    table = pd.DataFrame(grid, columns=["late", "early"])
    return table.assign(icl_score=values.mean(1), icl_low=low, icl_high=high)


def derivative_table(losses: Float[np.ndarray, "sequence index"]) -> "pandas.DataFrame":
    """Slope of loss on ln(index) in log-spaced bins, nats per e-fold, with its interval over windows."""
    import pandas as pd

    found = loss_derivative(torch.from_numpy(losses))
    slope = found.slope.numpy()
    low, high = mean_interval(slope.T)
    columns = {"first": found.first.numpy(), "last": found.last.numpy(), "slope": slope.mean(0)}
    return pd.DataFrame({**columns, "slope_low": low, "slope_high": high})
