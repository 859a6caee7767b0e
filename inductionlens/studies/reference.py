"""Against published tables."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from inductionlens.cells import numbers
from inductionlens.errors import InputError
from inductionlens.files import FORMATS, checked_path, read_raw
from inductionlens.measure import measure_attention
from inductionlens.models import Model
from inductionlens.models.loading import load_model
from inductionlens.probes import Probe
from inductionlens.published_columns import listed, renamed
from inductionlens.scores.attention import fixed_distance

if TYPE_CHECKING:
    import pandas

SCORES = ("previous_token", "duplicate_token", "induction")


@dataclass(frozen=True)
class Recipe:
    """How a table of diagonal scores was measured: a plain two-repeat stimulus without BOS."""

    seed: int = 0
    """Seed of PyTorch's CPU generator."""
    low: int = 100
    """Smallest token id drawn."""
    high: int = 20000
    """One more than the largest id drawn; ids are drawn with replacement."""
    sequences: int = 2
    """Sequences in the batch."""
    period: int = 100
    """Length of the block, which is repeated once."""
    tolerance: float = 1e-3
    """Largest difference that a score may show."""
    above: float = 0.8
    """Heads above this must be the same ones."""
    source: str = ""
    """Who published the table."""

    def __post_init__(self) -> None:
        for name in ("seed", "low", "high", "sequences", "period"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
                raise InputError(f"A recipe's {name} must be a whole number below 2^31; got {value!r}.")
        for name in ("tolerance", "above"):
            if not isinstance(getattr(self, name), (int, float)) or not abs(getattr(self, name)) < 1e9:
                raise InputError(f"A recipe's {name} must be a number; got {getattr(self, name)!r}.")
        if not isinstance(self.source, str):
            raise InputError(f"A recipe's source must be text; got {self.source!r}.")
        if self.sequences * self.period > 10**7:
            raise InputError(f"A recipe's sequences x period must stay below 10^7; got {self.sequences * self.period}.")
        for name, least in (("sequences", 1), ("period", 3), ("low", 0)):
            if getattr(self, name) < least:
                raise InputError(f"A recipe's {name} must be at least {least}; got {getattr(self, name)}.")
        if self.high <= self.low:
            raise InputError(f"A recipe's high must lie above its low {self.low}; got {self.high}.")
        if not self.tolerance > 0:
            raise InputError(f"A recipe's tolerance must be above 0; got {self.tolerance}.")


def reference_folder() -> Path:
    """Where the published tables are: inside the installed package, or in a clone's data/reference."""
    package = Path(__file__).parent.parent
    inside = package / "reference_tables"
    return inside if inside.is_dir() else package.parent / "data" / "reference"


def reference_path(path: str | Path | None = None) -> Path:
    """The file of a published table; GPT-2 small's by default."""
    return reference_folder() / "gpt2_small_transformerlens_demo.csv" if path is None else checked_path(path)


def read_reference(
    path: str | Path | None = None, columns: Mapping[str, str] | None = None
) -> "tuple[pandas.DataFrame, Recipe]":
    """A table of published scores (columns layer, head and any of previous_token, duplicate_token, induction) and its
    recipe, from ``FILE.recipe.json`` beside ``FILE.csv``, or GPT-2 small's where there is none. ``columns`` says what
    the table calls ours (ours: theirs).

    Raises:
        InputError: the table or its recipe cannot be read.
    """
    import pandas as pd

    path = reference_path(path)
    table = renamed(_read(path), columns, ("layer", "head", *SCORES), f"The reference {path}")
    scores = [name for name in SCORES if name in table.columns]
    if not {"layer", "head"} <= set(table.columns) or not scores:
        raise InputError(
            f"The reference {path} needs the columns layer, head and any of {', '.join(SCORES)}; its columns are "
            f"{listed(table.columns)}, and --columns OUR=THEIRS (columns={{our: their}}) says what is what."
        )
    table = table[["layer", "head", *scores]]
    if not all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes) or table.isna().any(axis=None):
        raise InputError(f"The reference {path} must hold a number in every cell.")
    places = table[["layer", "head"]]
    if (places % 1 != 0).any(axis=None) or (places < 0).any(axis=None) or (places > 10**4).any(axis=None):
        raise InputError(f"The reference {path} must name layers and heads by whole numbers from 0 to 10,000.")
    table = table.astype({"layer": "int64", "head": "int64"})
    if table.duplicated(["layer", "head"]).any():
        raise InputError(f"The reference {path} names a head twice.")
    beside = path.with_suffix(".recipe.json")
    if not beside.is_file():
        return table, Recipe()
    try:
        return table, Recipe(**json.loads(beside.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"The recipe {beside} is not usable: {str(error).splitlines()[0]}") from error


def _read(path: Path) -> "pandas.DataFrame":
    """The table of a reference: of a file that tables are read from, or of an archive of one CSV."""
    import pandas as pd

    if path.suffix.lower() in (*FORMATS, ".tsv"):
        table, _ = read_raw(path, None)
        for name in table.columns:
            with suppress(ValueError, TypeError, OverflowError):  # text stays text
                table[name] = numbers(table[name])
        return table
    try:
        return pd.read_csv(path)
    except Exception as error:  # archives bring errors of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The reference {path!s} cannot be read: {reason}.") from error


def measure_recipe(
    model: Model, recipe: Recipe, on_progress: Callable[[int], None] | None = None
) -> "pandas.DataFrame":
    """Diagonal attention of every head by a recipe: one row per head, columns layer, head and the three scores.

    Plain means of pattern entries at query minus key = 1, L and L - 1, spurious entries included, as published.

    Raises:
        InputError: the model's context or vocabulary is too small for the recipe.
    """
    import pandas as pd

    cfg = model.cfg
    if cfg.n_ctx < 2 * recipe.period:
        raise InputError(f"The recipe needs {2 * recipe.period} tokens and the model's context is {cfg.n_ctx}.")
    if cfg.d_vocab < recipe.high:
        raise InputError(f"The recipe draws ids below {recipe.high} and the model has {cfg.d_vocab} tokens.")
    generator = torch.Generator().manual_seed(recipe.seed)
    block = torch.randint(recipe.low, recipe.high, (recipe.sequences, recipe.period), generator=generator)
    probe = Probe(torch.cat([block, block], dim=1), None, recipe.period, 2, recipe.seed)
    distances = dict(zip(SCORES, (1, recipe.period, recipe.period - 1), strict=True))
    targets = {
        name: lambda tokens, bos, distance=distance: fixed_distance(tokens, distance)
        for name, distance in distances.items()
    }
    samples, _ = measure_attention(model, probe, targets, progress=on_progress)
    layer, head = np.divmod(np.arange(cfg.n_layers * cfg.n_heads), cfg.n_heads)
    values = {name: part.value().reshape(-1) for name, part in samples.items()}
    return pd.DataFrame({"layer": layer, "head": head, **values})


@dataclass(frozen=True)
class Validation:
    """What a comparison with a published table found."""

    table: "pandas.DataFrame"
    """One row per head and score: layer, head, score, published, measured, difference."""
    problems: list[str]
    """What differs, one sentence each; empty for a pass."""
    recipe: Recipe
    """How both were measured."""

    @property
    def passed(self) -> bool:
        """Whether every score lies within the tolerance and the sets of high heads are equal."""
        return not self.problems


def validate(
    model: Model | str | Path,
    against: str | Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Validation:
    """Measure a model by a published recipe and compare it head by head with the published table.

    ``columns`` says what the table calls ours (ours: theirs), such as ``{"induction": "induction_score"}``.

    Raises:
        InputError: the model, the table or the recipe cannot be used.
    """
    published, recipe = read_reference(against, columns)
    model = load_model(model)
    measured = measure_recipe(model, recipe, on_progress)
    scores = [name for name in SCORES if name in published.columns]
    long = [table.melt(["layer", "head"], scores, "score", name) for table, name in
            ((published, "published"), (measured, "measured"))]  # fmt: skip
    table = long[0].merge(long[1], on=["layer", "head", "score"], how="outer")
    table["difference"] = table["measured"] - table["published"]
    problems = []
    absent = table["difference"].isna()
    if absent.any():
        sizes = f"{len(published)} heads in the table, {len(measured)} in the model"
        problems.append(f"the table and the model do not have the same heads: {sizes}")
    for score in scores:
        problems += _differences(table[(table["score"] == score) & ~absent], score, recipe)
    return Validation(table, problems, recipe)


def _differences(part: "pandas.DataFrame", score: str, recipe: Recipe) -> list[str]:
    """What differs between published and measured values of one score, in sentences."""
    problems = []
    beyond = part[part["difference"].abs() > recipe.tolerance]
    if len(beyond):
        worst = beyond.loc[beyond["difference"].abs().idxmax()]
        problems.append(
            f"{score}: {len(beyond)} of {len(part)} heads differ by more than {recipe.tolerance:g}, most head "
            f"{worst['layer']}.{worst['head']} (published {worst['published']:.4f}, measured {worst['measured']:.4f})"
        )
    moved = part[(part["published"] > recipe.above) != (part["measured"] > recipe.above)]
    if len(moved):
        names = ", ".join(f"{row['layer']}.{row['head']}" for row in moved.to_dict("records"))
        problems.append(f"{score}: the heads above {recipe.above:g} are not the same; {names} moved")
    return problems
