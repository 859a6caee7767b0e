"""The tables of an ablation study."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

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
        _add_effect(table, name, values[rows], options)
        table[f"control_{name}"] = [
            values[[place[other] for other in beside[head]]].mean() if beside[head] else np.nan for head in chosen
        ]
    return table, {name: values[rows] for name, values in effects.items()}


def group_rows(
    groups: list[Group], start: int, effects: dict[str, np.ndarray], options: AblationOptions, holds_writer: list[str]
) -> "pandas.DataFrame":
    """One row per group; ``effects`` hold the groups from row ``start`` on, ``holds_writer`` an answer for each."""
    import pandas as pd

    table = pd.DataFrame(
        [
            {
                "set": group.set, "k": len(group.heads), "draw": group.draw, "heads": " ".join(map(str, group.heads)),
                "from_layers": group.from_layers, "holds_writer": answer,
            }
            for group, answer in zip(groups, holds_writer, strict=True)
        ]
    )  # fmt: skip
    for name, values in effects.items() if groups else ():
        _add_effect(table, name, values[start:], options)
        table[f"p_{name}"] = _p_values(table, f"effect_{name}")
    return table


def _add_effect(
    table: "pandas.DataFrame", name: str, values: Float[np.ndarray, "row sequence"], options: AblationOptions
) -> None:
    """Mean effects and their intervals, as three columns."""
    low, high = mean_interval(values)
    table[f"effect_{name}"], table[f"effect_{name}_low"], table[f"effect_{name}_high"] = values.mean(1), low, high


def _p_values(table: "pandas.DataFrame", effect: str) -> list[float]:
    """(C + 1) / (n + 1) of each set: C of the n random sets of as many heads cost at least as much. Never 0.

    NaN of a random set, and where there is none to compare with.
    """
    p = []
    for row in table.to_dict("records"):
        random = table[(table["set"] == "random") & (table["k"] == row["k"])][effect]
        compared = row["set"] != "random" and len(random)
        p.append(((random >= row[effect]).sum() + 1) / (len(random) + 1) if compared else np.nan)
    return p
