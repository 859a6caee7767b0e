"""Do the heads that others name rank high here too?"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inductionlens.errors import InputError
from inductionlens.head_scores import HeadScores
from inductionlens.studies.reference import reference_folder

if TYPE_CHECKING:
    import pandas

LABELS, EFFECTS = "gpt2_small_literature_labels.csv", "direct_logit_15_models.csv"
LABELLED = "gpt2-small"
#: The kind of head that a paper names -> the column that should rank it high.
COLUMN_OF = {
    "induction": "prefix_matching",
    "previous_token": "previous_token",
    "duplicate_token": "duplicate_token",
}
#: Name in the published tables -> layers, and heads in each: a table of another shape is of another model.
SHAPES = {
    "distillgpt2": (6, 12), "gelu-4l": (4, 8), "gpt-neo-125m": (12, 12), "gpt2-medium": (24, 16),
    "gpt2-small": (12, 12), "opt-125m": (12, 12), "pythia-1.4b": (24, 16), "pythia-160m": (12, 12),
    "pythia-160m-deduped": (12, 12), "pythia-410m": (24, 16), "pythia-6.9b": (32, 32), "pythia-70m": (6, 8),
    "pythia-70m-deduped": (6, 8), "solu-4l": (4, 8), "stanford-gpt2-small-a": (12, 12),
}  # fmt: skip
#: Hub name -> the name in the published tables.
ALIASES = {
    "gpt2": "gpt2-small",
    "distilgpt2": "distillgpt2",
    "alias-gpt2-small-x21": "stanford-gpt2-small-a",
}


def rank_agreement(scores: HeadScores, model: str | None = None) -> "pandas.DataFrame":
    """How a scan ranks the heads that others have published. Stimuli and processing differ, so ranks alone compare.

    One row for each published set: ``source``; ``published``, what its heads are said to be; ``column``, ours;
    ``heads``, how many it names; ``above``, in [0, 1], the probability that a named head scores above one that is not
    named (the area under the ROC curve; 0.5 is chance, for negative effects a named head should score below, and is
    counted so); ``p_value``, Mann and Whitney's one-sided U test of that; ``rank_correlation``, in [-1, 1], Spearman's
    over the named heads, where their values were published for at least 4.

    Labels (Wang et al. 2022; Kissane et al. 2024) are of GPT-2 small; direct logit effects (McDougall et al. 2023) of
    15 models. ``model`` says which one this is; by default the table's own ``model`` column does.

    Raises:
        InputError: nothing is published about the model, or the table is of another shape or has none of the columns.
    """
    import pandas as pd

    name = _published_name(scores, model)
    _check_shape(scores.table, name)
    table = scores.table.set_index(["layer", "head"])
    effects = pd.read_csv(reference_folder() / EFFECTS)
    effects = effects[effects["model"] == name]
    sets = [
        ("McDougall et al. 2023", f"direct effect {side} 0", "induction_logit", sign, part, part["induction_logit"])
        for side, sign in (("above", 1), ("below", -1))
        for part in [effects[sign * effects["induction_logit"] > 0]]
    ]
    if name == LABELLED:
        labels = pd.read_csv(reference_folder() / LABELS)
        for (source, kind), part in labels.groupby(["source", "type"], sort=False):
            if kind in COLUMN_OF:
                sets.append((source, f"{kind} heads", COLUMN_OF[kind], 1, part, None))
    rows = [
        {"source": source, "published": said, "column": column} | _agreement(table[column], part, values, sign=sign)
        for source, said, column, sign, part, values in sets
        if len(part) and column in table.columns
    ]
    if not rows:
        wanted = ", ".join(sorted({column for _, _, column, _, part, _ in sets if len(part)}))
        raise InputError(f"The table has none of the columns that were published for {name}: {wanted}.")
    return pd.DataFrame(rows)


def _published_name(scores: HeadScores, model: str | None) -> str:
    import pandas as pd

    if model is None:
        if "model" not in scores.table.columns:
            raise InputError("This table does not say which model it is of; name it (model=NAME, --model NAME).")
        model = str(scores.table["model"].iloc[0])
    short = Path(model).name.lower()
    name = ALIASES.get(short, short)
    known = sorted(pd.read_csv(reference_folder() / EFFECTS)["model"].unique())
    if name not in known:
        raise InputError(
            f"No ranks are published for {model!r}; name the model (model=NAME, --model NAME) if it is one of "
            f"{', '.join(known)}."
        )
    return name


def _check_shape(table: "pandas.DataFrame", name: str) -> None:
    ours, published = (int(table["layer"].max()) + 1, int(table["head"].max()) + 1), SHAPES[name]
    if ours != published:
        raise InputError(
            f"The table has {ours[0]} layers of {ours[1]} heads, and {name} has {published[0]} layers of "
            f"{published[1]} heads; name the model that the table is of (model=NAME, --model NAME)."
        )


def _agreement(
    ours: "pandas.Series", part: "pandas.DataFrame", values: "pandas.Series | None", *, sign: int
) -> dict[str, int | float]:
    from scipy.stats import mannwhitneyu, spearmanr

    named = list(zip(part["layer"], part["head"], strict=True))
    missing = [f"{layer}.{head}" for layer, head in named if (layer, head) not in ours.index]
    if missing:
        raise InputError(f"The published model has heads that this table lacks: {', '.join(missing)}.")
    mine = sign * ours.loc[named].to_numpy(dtype=float)
    rest = sign * ours.drop(named).to_numpy(dtype=float)
    rest = rest[~np.isnan(rest)]
    if np.isnan(mine).any() or not len(rest):
        raise InputError(f"The table has no value of {ours.name} for a head that was published.")
    test = mannwhitneyu(mine, rest, alternative="greater")
    ranked = values is not None and len(named) >= 4 and len(np.unique(mine)) > 1
    correlation = spearmanr(sign * mine, values).statistic if ranked else np.nan
    return {
        "heads": len(named),
        "above": float(test.statistic) / (len(mine) * len(rest)),
        "p_value": float(test.pvalue),
        "rank_correlation": float(correlation),
    }
