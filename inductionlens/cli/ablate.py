"""ablate: what breaks when heads are removed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inductionlens.cli.options import (
    WITHOUT_CONTROLS,
    BatchSize,
    Bos,
    Checkpoint,
    Device,
    Dtype,
    ModelName,
    NoBos,
    NoControls,
    Pool,
    Quiet,
    Revision,
    check_table,
    names_of,
    which_bos,
)
from inductionlens.cli.speak import Progress, app, console_out

if TYPE_CHECKING:
    import pandas
    from rich.console import Console

    from inductionlens.studies.ablation import AblationEffects

MEANING = {
    "copies": "nats lost on later copies of random blocks",
    "icl": "in-context learning lost, in nats",
    "text": "nats lost on text",
}
#: Writers named in a sentence; the record has them all.
MOST_NAMED = 6


@app.command()
def ablate(
    model: ModelName,
    heads: Annotated[str, typer.Option(help="all, a kind such as induction, or names: 5.1,6.9.")] = "all",
    out: Annotated[Path | None, typer.Option(help="Write the effects here: .csv, .parquet or .json; groups go beside.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the effects here: .png, .svg or .pdf.")] = None,
    output: Annotated[str, typer.Option(help="What replaces a head's output: zero or mean.")] = "zero",
    hold_patterns: Annotated[bool, typer.Option("--hold-patterns", help="Hold attention at the clean run's.")] = False,
    method: Annotated[str, typer.Option(help="exact, or gradient: a first-order estimate of all heads at once.")] = "exact",
    measures: Annotated[str, typer.Option(help="Any of copies, icl, text, with commas.")] = "copies,icl,text",
    text: Annotated[str, typer.Option(help="Text for windows: stdlib, random, a .txt file or folder, hub:NAME.")] = "auto",
    windows: Annotated[int, typer.Option(help="Windows of text.")] = 20,
    length: Annotated[int | None, typer.Option(help="Tokens in a window; 512 or the context by default.")] = None,
    late: Annotated[int | None, typer.Option(help="Later token of the in-context-learning score.")] = None,
    early: Annotated[int | None, typer.Option(help="Earlier token of it.")] = None,
    sequences: Annotated[int, typer.Option(help="Sequences of repeated random blocks.")] = 20,
    period: Annotated[int, typer.Option(help="Length of the repeated block.")] = 25,
    repeats: Annotated[int, typer.Option(help="How often it is repeated.")] = 4,
    no_groups: Annotated[bool, typer.Option("--no-groups", help="Remove heads one by one only.")] = False,
    draws: Annotated[int, typer.Option(help="Random groups of each size.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides every random token and group.")] = 0,
    no_controls: NoControls = False,
    bos: Bos = None,
    no_bos: NoBos = False,
    batch_size: BatchSize = None,
    pool: Pool = "tokenizer",
    revision: Revision = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Remove heads of MODEL, one by one and in groups, and say what it costs, beside random heads."""
    partial = None if out is None else out.with_name(out.name + ".partial")
    check_table(out, *([partial] if partial else []))
    if picture is not None:
        from inductionlens.plots import check_picture

        check_picture(picture)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"loading {model}") as progress:
        from inductionlens.models.loading import load_model
        from inductionlens.studies.ablation import ablation_study
        from inductionlens.studies.ablation_options import AblationOptions
        from inductionlens.studies.chosen_heads import check_heads

        options = AblationOptions(
            output=output, hold_patterns=hold_patterns, method=method,
            measures=names_of(measures), text=text, n_windows=windows, length=length,
            late=late, early=early, sequences=sequences, period=period, repeats=repeats, groups=not no_groups,
            draws=draws, controls=not no_controls, seed=seed, bos=start, batch_size=batch_size, pool=pool,
        )  # fmt: skip
        check_heads(heads, "heads")
        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
        progress.say(f"ablating {model}")
        effects = ablation_study(loaded, heads=heads, options=options, partial=partial, on_progress=progress.at)
    if out is not None:
        effects.save(out)
    if picture is not None:
        effects.plot(picture)
    if not quiet:
        _summary(effects, out)


def _summary(effects: "AblationEffects", out: Path | None) -> None:
    """Print the heads that cost most, the largest groups, and the share of copying that is lost."""
    from rich import box
    from rich.table import Table

    console, table = console_out(), effects.table
    names = [column.removeprefix("effect_") for column in table.columns if column.startswith("effect_")]
    names = [name for name in names if f"control_{name}" in table.columns]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("head")
    grid.add_column("kind", no_wrap=True)
    for name in names:
        grid.add_column(name, justify="right")
        grid.add_column("others", justify="right")
    for row in table.sort_values(f"effect_{names[0]}", ascending=False, kind="stable").head(10).to_dict("records"):
        cells = (_signed(row[kind + name]) for name in names for kind in ("effect_", "control_"))
        grid.add_row(f"{row['layer']}.{row['head']}", row["kind"], *cells)
    console.print(grid)
    first = table.iloc[0]
    how = f"{first['output']} output, patterns {first['patterns']}, {first['method']}"
    console.print(
        f"Ablated minus clean ({how}); others: mean of the other heads of the layer that are of no kind, - for none.",
        markup=False,
    )
    for name in names:
        if name in MEANING:
            console.print(f"{name}: {MEANING[name]}.", markup=False)
    _groups(effects, names, console)
    if not effects.provenance["options"]["controls"]:
        console.print(WITHOUT_CONTROLS, markup=False)
    if out is not None:
        console.print(f"{len(table)} rows written to {out}", markup=False)


def _signed(value: float) -> str:
    """Three decimals with their sign, a dash for what is not there."""
    return "-" if value != value else f"{value:+.3f}"


def _groups(effects: "AblationEffects", names: list[str], console: "Console") -> None:
    """Say what the largest groups cost, beside random sets with and without a head that they read."""
    groups, record = effects.groups, effects.provenance["groups"]
    if not len(groups):
        if effects.provenance["options"]["groups"]:
            console.print(f"No groups were removed: {record['fewer']}.", markup=False)
        return
    largest = groups[groups["k"] == groups["k"].max()]
    k, random = int(groups["k"].max()), largest[largest["set"] == "random"]
    removed = f"the {k} strongest induction heads" if k > 1 else "the strongest induction head"
    for name in names:
        induction = largest[largest["set"] == "induction"].iloc[0]
        console.print(
            f"{name}: without {removed} {_signed(induction[f'effect_{name}'])}, p = {induction[f'p_{name}']:.2g}. "
            f"Random sets of {k}: {_by_writer(random, f'effect_{name}')}.",
            markup=False,
        )
    console.print(
        "p: (C + 1) / (n + 1), where C of n random sets cost at least as much. "
        + ("Random sets are of the same layers." if set(random["from_layers"]) == {"same"} else
           "Random sets are of any layer: there are too few other heads in the layers of the induction heads."),
        markup=False,
    )  # fmt: skip
    if record["writers_not_measured"]:
        console.print(f"Which heads they read was not measured: {record['writers_not_measured']}", markup=False)
    elif record["writers"]:
        heads = list(record["writers"])
        named = ", ".join(heads[:MOST_NAMED]) + (f" and {len(heads) - MOST_NAMED} more" * (len(heads) > MOST_NAMED))
        console.print(f"A writer: an earlier head that the induction heads read ({named}).", markup=False)
    else:
        console.print("A writer: an earlier head that the induction heads read; none was found.", markup=False)
    if record["fewer"]:
        console.print(f"Groups end at {k} head{'s' if k > 1 else ''}: {record['fewer']}.", markup=False)
    share = effects.share_of_copying_lost()
    if share["induction"] == share["induction"]:
        console.print(
            f"Of the copying gain {share['induction']:.0%} goes with them, {share['random']:.0%} with random ones.",
            markup=False,
        )


def _by_writer(random: "pandas.DataFrame", effect: str) -> str:
    """Mean effects of random sets with and without a writer, and how many there are of each."""
    said = []
    for answer, words in (("yes", " with a writer"), ("no", " without"), ("", "")):
        costs = random[random["holds_writer"] == answer][effect]
        if len(costs):
            said.append(f"{_signed(costs.mean())}{words} ({len(costs)} set{'s' if len(costs) > 1 else ''})")
    return ", ".join(said)
