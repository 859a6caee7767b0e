"""scan: which heads are induction heads."""

import sys
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
    which_bos,
)
from inductionlens.cli.speak import Progress, app, console_out, number

if TYPE_CHECKING:
    from inductionlens.head_scores import HeadScores

SHOWN = {
    "prefix_matching": "prefix matching",
    "previous_token": "previous token",
    "duplicate_token": "duplicate",
    "copying": "copying",
    "induction_logit": "logit effect",
}


@app.command()
def scan(
    model: ModelName,
    out: Annotated[Path | None, typer.Option(help="Write the table here: .csv, .parquet or .json.")] = None,
    format: Annotated[str | None, typer.Option(help="csv, parquet or json, whatever the suffix; without --out the table is printed.")] = None,
    seed: Annotated[int, typer.Option(help="Decides every random token.")] = 0,
    sequences: Annotated[int, typer.Option(help="Sequences per random probe, ten times as many for the logit effect.")] = 10,
    period: Annotated[int, typer.Option(help="Length of the repeated block, and of the copying sample, in tokens.")] = 25,
    repeats: Annotated[int, typer.Option(help="How often the block is repeated.")] = 4,
    logit_period: Annotated[int, typer.Option(help="Block length of the logit probe.")] = 30,
    bos: Bos = None,
    no_bos: NoBos = False,
    text: Annotated[str, typer.Option(help="Text for previous_token: stdlib, random, a .txt file or folder, hub:NAME.")] = "auto",
    reduce: Annotated[str, typer.Option(help="How several targets count: sum, last, first, entry_mean, diagonal.")] = "sum",
    value_weighted: Annotated[bool, typer.Option("--value-weighted", help="Weigh attention by value norms.")] = False,
    copying_source: Annotated[str, typer.Option(help="value or head_output.")] = "value",
    logit_recipe: Annotated[str, typer.Option(help="default or mcdougall.")] = "default",
    no_controls: NoControls = False,
    threshold: Annotated[float, typer.Option(help="Attention from which a head is of a kind.")] = 0.4,
    batch_size: BatchSize = None,
    pool: Pool = "tokenizer",
    head: Annotated[list[str] | None, typer.Option(help="Show this head too, such as 5.1; may be repeated.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Write per-sequence values here, in long form.")] = None,
    revision: Revision = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Score every head of MODEL on repeated random tokens and say which are induction heads."""
    from inductionlens.files import check_writable, encode_table, format_of, sidecar_of, write_table

    if format is not None:
        format_of(Path("table"), format)
    if out is not None:
        format_of(out, format)
        for path in (out, sidecar_of(out)):
            check_writable(path)
    check_table(samples)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"loading {model}") as progress:
        from inductionlens.heads import Head
        from inductionlens.models.loading import load_model
        from inductionlens.studies.options import ScanOptions
        from inductionlens.studies.scan import scan as run_scan

        options = ScanOptions(
            seed=seed, sequences=sequences, period=period, repeats=repeats, logit_period=logit_period,
            bos=start, text=text, reduce=reduce,
            value_weighted=value_weighted, copying_source=copying_source, logit_recipe=logit_recipe,
            controls=not no_controls, threshold=threshold, batch_size=batch_size, pool=pool,
        )  # fmt: skip
        named = [Head.parse(name) for name in head or []]
        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
        for name in named:
            name.check(loaded.cfg.n_layers, loaded.cfg.n_heads)
        progress.say(f"scanning {model}")
        scores = run_scan(loaded, options=options, on_progress=progress.at)
    if samples is not None:
        write_table(samples, scores.samples_table(), scores.provenance)
    if out is not None:
        scores.save(out, format)
    elif format is not None:
        sys.stdout.buffer.write(encode_table(scores.table, format))
        return
    if not quiet:
        _summary(scores, [name.label for name in named], out)


def _summary(scores: "HeadScores", named: list[str], out: Path | None) -> None:
    """Print the heads that matter, how many are induction heads, and whether the model copies."""
    from rich import box
    from rich.table import Table

    from inductionlens.detection import KINDS
    from inductionlens.intervals import FEWEST

    table = scores.table
    shown = table[(table["kind"] != "none") | table["name"].isin(named)].sort_values("prefix_matching", ascending=False)
    order = list(KINDS)
    shown = shown.sort_values("kind", key=lambda kinds: kinds.map(order.index), kind="stable")
    console = console_out()
    if len(shown):
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        grid.add_column("head")
        grid.add_column("kind", no_wrap=True)
        for title in SHOWN.values():
            grid.add_column(title, justify="right")
        for row in shown.to_dict("records"):
            grid.add_row(f"{row['layer']}.{row['head']}", row["kind"], *(number(row[name]) for name in SHOWN))
        console.print(grid)
    found = len(scores.induction_heads())
    verb = "is an induction head" if found == 1 else "are induction heads"
    console.print(f"{found} of {len(table)} heads {verb}.", markup=False)
    console.print(scores.provenance["behaviour"]["case"], markup=False)
    if not scores.provenance["options"]["controls"]:
        console.print(WITHOUT_CONTROLS, markup=False)
    if (sequences := scores.provenance["options"]["sequences"]) < FEWEST:
        console.print(
            f"Intervals are empty: that takes at least {FEWEST} sequences, and there are {sequences} (--sequences).",
            markup=False,
        )
    if out is not None:
        console.print(f"{len(table)} rows written to {out}", markup=False)
