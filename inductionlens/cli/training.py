"""train, formation: how heads come to be."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inductionlens.cli.options import BatchSize, Bos, Device, NoBos, Pool, Quiet, check_table, which_bos
from inductionlens.cli.speak import Progress, app

if TYPE_CHECKING:
    from inductionlens.studies.formation_result import Formation


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The run's folder: snapshots, losses, and what is needed to go on.")],
    layers: Annotated[int, typer.Option(help="Layers of attention.")] = 2,
    heads: Annotated[int, typer.Option(help="Heads in a layer.")] = 4,
    d_model: Annotated[int, typer.Option("--d-model", help="Width of the residual stream.")] = 64,
    d_head: Annotated[int, typer.Option("--d-head", help="Width of a head.")] = 16,
    d_vocab: Annotated[int, typer.Option("--d-vocab", help="Token ids, BOS counted; text needs 256.")] = 64,
    n_ctx: Annotated[int, typer.Option("--n-ctx", help="Tokens in a row, BOS counted.")] = 96,
    mlp: Annotated[bool, typer.Option("--mlp", help="With an MLP in each layer.")] = False,
    norm: Annotated[str, typer.Option(help="LN, RMS or none.")] = "LN",
    positions: Annotated[str, typer.Option(help="standard, rotary, or shortformer (TransformerLens 3.9).")] = "standard",
    smeared_keys: Annotated[bool, typer.Option("--smeared-keys", help="Mix each key with the one before it.")] = False,
    data: Annotated[str, typer.Option(help="repeats, bigrams, stdlib, renamed, or a .txt file or folder.")] = "repeats",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 600,
    batch_size: Annotated[int, typer.Option(help="Rows in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, after warm-up.")] = 3e-3,
    warmup: Annotated[int, typer.Option(help="Steps over which it rises.")] = 100,
    decay: Annotated[bool, typer.Option("--decay", help="Let it fall to zero at the last step.")] = False,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 0.01,
    snapshots: Annotated[int, typer.Option(help="About how many snapshots to keep.")] = 40,
    seed: Annotated[int, typer.Option(help="Decides the initial weights and every batch.")] = 0,
    device: Device = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train a toy and keep snapshots in OUT; run again after an interruption, it goes on where it stopped."""
    with Progress(quiet, f"training {out}") as progress:
        from inductionlens.studies.training import TrainOptions, train_toy

        options = TrainOptions(
            layers=layers, heads=heads, d_model=d_model, d_head=d_head, d_vocab=d_vocab, n_ctx=n_ctx, mlp=mlp,
            norm=norm, positions=positions, smeared_keys=smeared_keys, data=data, steps=steps, batch_size=batch_size,
            learning_rate=learning_rate, warmup=warmup, decay=decay, weight_decay=weight_decay, snapshots=snapshots,
            seed=seed,
        )  # fmt: skip
        train_toy(out, options, device=device, on_progress=progress.at)
    if not quiet:
        import pandas as pd

        table = pd.read_csv(out / "training.csv")
        count = len(list(out.glob("step-*")))
        print(
            f"{len(table)} steps, {table['tokens'].iloc[-1]:,} tokens; loss {table['loss'].iloc[0]:.2f} at first, "
            f"{table['loss'].tail(20).mean():.2f} over the last steps. {count} snapshots in {out}"
        )


@app.command()
def formation(
    run: Annotated[str, typer.Argument(help="A folder of checkpoints (step-350 ...), or a hub series such as EleutherAI/pythia-70m or attn-only-2l.")],
    out: Annotated[Path | None, typer.Option(help="Write the table of steps here: .csv, .parquet or .json; heads and losses go beside.")] = None,
    steps: Annotated[str, typer.Option(help="all, log, every:K, or steps with commas.")] = "all",
    sequences: Annotated[int, typer.Option(help="Sequences of repeated random blocks; the best head is chosen on half of them.")] = 20,
    period: Annotated[int | None, typer.Option(help="Length of the block; 25, or what fits four times.")] = None,
    windows: Annotated[int, typer.Option(help="Windows for losses by position.")] = 50,
    text: Annotated[str, typer.Option(help="Text for windows: stdlib, random, a .txt file or folder, hub:NAME.")] = "auto",
    length: Annotated[int | None, typer.Option(help="Tokens in a window; 512 or the context by default.")] = None,
    late: Annotated[int | None, typer.Option(help="Later token of the in-context-learning score.")] = None,
    early: Annotated[int | None, typer.Option(help="Earlier token of it.")] = None,
    no_ablate: Annotated[bool, typer.Option("--no-ablate", help="Do not zero every head at every snapshot.")] = False,
    free_attention: Annotated[bool, typer.Option("--free-attention", help="Let attention react to a zeroed head; by default it is held.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep fetched checkpoints on disk.")] = False,
    seed: Annotated[int, typer.Option(help="Decides every random token.")] = 0,
    bos: Bos = None,
    no_bos: NoBos = False,
    batch_size: BatchSize = None,
    pool: Pool = "tokenizer",
    device: Device = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Measure every checkpoint of RUN: when do induction heads form, and does in-context learning come with them?"""
    partial = None if out is None else out.with_name(out.name + ".partial")
    check_table(out)
    if out is not None:
        from inductionlens.studies.formation_result import files_of

        check_table(*files_of(out), partial)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"measuring {run}") as progress:
        from inductionlens.studies.formation import formation as measure
        from inductionlens.studies.formation_options import FormationOptions

        options = FormationOptions(
            sequences=sequences, period=period, n_windows=windows, text=text, length=length, late=late, early=early,
            ablate=not no_ablate, hold_patterns=not free_attention, seed=seed, bos=start, batch_size=batch_size, pool=pool,
        )  # fmt: skip
        found = measure(
            run, steps=steps, options=options, partial=partial, device=device, keep=keep, on_progress=progress.at
        )
    if out is not None:
        found.save(out)
    if not quiet:
        _summary(found, out)


def _summary(found: "Formation", out: Path | None) -> None:
    """Print where each curve breaks, and how far apart the breaks are."""
    for line in found.in_words():
        print(line)
    if out is not None:
        print(f"{len(found.steps)} rows written to {out}")


@app.command()
def reproduce(
    out: Annotated[Path, typer.Option(help="The folder for runs, tables, verdicts and the figure.")],
    preset: Annotated[str, typer.Option(help="quick (minutes) or full (hours).")] = "quick",
    workers: Annotated[int, typer.Option(help="Processes that share the work, one thread each.")] = 2,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train toys, watch them, and say which claims of Olsson et al. 2022 hold on them; goes on where it stopped."""
    with Progress(quiet, f"reproducing into {out}") as progress:
        from inductionlens.studies.reproduce import reproduce as run

        found = run(out, preset, workers=workers, on_progress=progress.at)
    if not quiet:
        for row in found.arguments.to_dict("records"):
            ends = "" if row["low"] != row["low"] else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
            print(f"Argument {row['argument']}, {row['verdict']}: {row['claim']} ({row['measured']}{ends}).")
        print(f"{len(found.runs)} runs; tables, arguments.csv and figure.png in {out}")
