"""The tables of an ablation study."""

from typing import TYPE_CHECKING

import numpy as np

from inductionlens.head_scores import HeadScores
from inductionlens.heads import Head
from inductionlens.intervals import mean_interval
from inductionlens.studies.ablation_groups import Group
from inductionlens.studies.ablation_options import AblationOptions

if TYPE_CHECKING:
    import pandas


def head_rows(
    model: str, scores: HeadScores, options: AblationOptions, chosen: list[Head], singles: list[Head],
    beside: dict[Head, list[Head]], effects: dict[str, np.ndarray],
) -> "tuple[pandas.DataFrame, dict[str, np.ndarray]]":  # fmt: skip
    """One row per chosen head, its effects beside those of its controls, and the effects of every sequence."""
    import pandas as pd

    place = {head: row for row, head in enumerate(singles)}
    rows = [place[head] for head in chosen]
    described = scores.table.set_index(["layer", "head"])
    table = pd.DataFrame(
        {
            "model": model,
            "name": [head.label for head in chosen],
            "layer": [head.layer for head in chosen],
            "head": [head.index for head in chosen],
            "kind": [described.loc[(head.layer, head.index), "kind"] for head in chosen],
            "prefix_matching": [float(described.loc[(head.layer, head.index), "prefix_matching"]) for head in chosen],
            "output": options.output,
            "patterns": "held" if options.hold_patterns else "recomputed",
            "method": options.method,
        }
    )
    for name, values in effects.items():
        own = values[rows]
        low, high = mean_interval(own, seed=options.seed)
        table[f"effect_{name}"], table[f"effect_{name}_low"], table[f"effect_{name}_high"] = own.mean(1), low, high
        table[f"control_{name}"] = [
            values[[place[other] for other in beside[head]]].mean() if beside[head] else np.nan for head in chosen
        ]
    return table, {name: values[rows] for name, values in effects.items()}


def group_rows(
    groups: list[Group], start: int, effects: dict[str, np.ndarray], options: AblationOptions
) -> "pandas.DataFrame":
    """One row per group; ``effects`` hold the groups from row ``start`` on."""
    import pandas as pd

    table = pd.DataFrame(
        [
            {"set": group.set, "k": len(group.heads), "draw": group.draw, "heads": " ".join(map(str, group.heads))}
            for group in groups
        ]
    )
    for name, values in effects.items() if groups else ():
        part = values[start:]
        low, high = mean_interval(part, seed=options.seed)
        table[f"effect_{name}"], table[f"effect_{name}_low"], table[f"effect_{name}_high"] = part.mean(1), low, high
    return table
