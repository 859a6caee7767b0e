"""watch: one head's attention over training."""

from pathlib import Path
from typing import Annotated

import typer

from inductionlens.cli.options import Bos, Device, NoBos, Quiet, check_table, which_bos
from inductionlens.cli.show import write
from inductionlens.cli.speak import Progress, app


@app.command()
def watch(
    run: Annotated[str, typer.Argument(help="A folder of checkpoints, or a hub series; as for formation.")],
    out: Annotated[Path, typer.Option(help="A picture (.png, .svg, .pdf), a moving one (.gif), or the table (.csv, .parquet, .json).")],
    head: Annotated[str | None, typer.Option(help="This head, such as 1.0; by default the best at the last checkpoint.")] = None,
    steps: Annotated[str, typer.Option(help="all, log, every:K, or steps with commas.")] = "all",
    frames: Annotated[int | None, typer.Option(help="At most so many checkpoints, evenly; 8, or 40 in a moving picture.")] = None,
    period: Annotated[int, typer.Option(help="Length of the block that comes three times.")] = 8,
    keep: Annotated[bool, typer.Option("--keep", help="Keep fetched checkpoints on disk.")] = False,
    seed: Annotated[int, typer.Option(help="Decides the random tokens.")] = 0,
    bos: Bos = None,
    no_bos: NoBos = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Show one head's attention pattern forming, snapshot by snapshot, on a block of random tokens that comes again."""
    from inductionlens.files import FORMATS
    from inductionlens.plots.patterns import check_forming, plot_forming

    as_table = out.suffix.lower() in FORMATS
    if as_table:
        check_table(out)
    else:
        check_forming(out)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"reading {run}") as progress:
        from inductionlens.studies.watching import watch as look

        usual = 40 if out.suffix.lower() == ".gif" else None if as_table else 8
        most = usual if frames is None else frames
        found = look(
            run, head, steps=steps, frames=most, period=period, bos=start, seed=seed, device=device, keep=keep,
            on_progress=progress.at,
        )  # fmt: skip
    if as_table:
        options = {"source": run, "head": str(found.head), "steps": steps, "frames": most, "period": period,
                   "bos": start, "seed": seed}  # fmt: skip
        write(found.table(), out, "watch", options=options)
    else:
        plot_forming(found.table(), str(found.head), out)
    if not quiet:
        for step, problem in sorted(found.problems.items()):
            print(f"Step {step} was left out: {problem}")
        first, last = found.prefix_matching[0], found.prefix_matching[-1]
        print(
            f"Head {found.head}: prefix matching {first:.2f} at step {found.steps[0]}, {last:.2f} at step "
            f"{found.steps[-1]}, on one sequence; {len(found.steps)} snapshots written to {out}"
        )
