"""icl: does the model predict later tokens better."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inductionlens.cli.options import (
    BatchSize,
    Bos,
    Checkpoint,
    Device,
    Dtype,
    ModelName,
    NoBos,
    Pool,
    Quiet,
    Revision,
    check_table,
    which_bos,
)
from inductionlens.cli.speak import Progress, app, number

if TYPE_CHECKING:
    from inductionlens.studies.icl import InContextLearning


@app.command()
def icl(
    model: ModelName,
    out: Annotated[Path | None, typer.Option(help="Write the loss at every index here, .csv, .parquet or .json, and the rest beside it.")] = None,
    text: Annotated[str, typer.Option(help="stdlib, random, a .txt file or folder, or hub:NAME for a data set.")] = "auto",
    windows: Annotated[int, typer.Option(help="How many windows.")] = 50,
    length: Annotated[int | None, typer.Option(help="Tokens of a window, BOS counted; 512 or the whole context.")] = None,
    late: Annotated[int | None, typer.Option(help="The later index, from 0; 500 where it fits, else the last.")] = None,
    early: Annotated[int | None, typer.Option(help="The earlier index, from 0; 50 where it fits.")] = None,
    bos: Bos = None,
    no_bos: NoBos = False,
    seed: Annotated[int, typer.Option(help="Decides the windows and the resamples behind the intervals.")] = 0,
    batch_size: BatchSize = None,
    pool: Pool = "tokenizer",
    revision: Revision = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Measure in-context learning of MODEL: its loss by position, late minus early; negative is more."""
    from inductionlens.studies.pool import check_pool

    check_table(out)
    start = which_bos(bos, no_bos)
    check_pool(pool, text)
    with Progress(quiet, f"loading {model}") as progress:
        from inductionlens.models.loading import load_model
        from inductionlens.studies.icl import check_icl, in_context_learning

        settings = {"text": text, "n_windows": windows, "length": length, "late": late, "early": early, "bos": start,
                    "seed": seed, "batch_size": batch_size, "pool": pool}  # fmt: skip
        check_icl(**settings)
        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
        progress.say(f"losses of {model}")
        found = in_context_learning(loaded, **settings, on_progress=progress.at)
    if out is not None:
        found.save(out)
    if not quiet:
        _summary(found, out)


def _summary(found: "InContextLearning", out: Path | None) -> None:
    """Print the score with its sign explained, its range over other pairs, and where the table is."""
    count, indices = found.losses.shape
    interval = "no interval" if found.low != found.low else f"{number(found.low)}, {number(found.high)}"
    print(
        f"ICL score {number(found.score)} nats [{interval}]: loss at index {found.late} minus loss at index "
        f"{found.early}, negative means the model predicts later tokens better ({count} "
        f"window{'s' if count > 1 else ''} of {indices + 1} tokens: {found.provenance['windows']['text']})."
    )
    others = found.pairs[(found.pairs["late"] != found.late) | (found.pairs["early"] != found.early)]
    if len(others):
        ends = [others.loc[others["icl_score"].idxmin()], others.loc[others["icl_score"].idxmax()]]
        low, high = (number(end["icl_score"]) for end in ends)
        first, last = (f"({end['late']:.0f} minus {end['early']:.0f})" for end in ends)
        runs = f"is {low} too" if low == high else f"runs from {low} {first} to {high} {last}"
        print(f"Over {len(others)} other index pairs it {runs}.")
    if out is not None:
        print(f"{indices} rows written to {out}")
