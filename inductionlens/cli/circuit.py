"""circuit: which head feeds which."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inductionlens.cli.options import (
    WITHOUT_CONTROLS,
    BatchSize,
    Bos,
    Checkpoint,
    Device,
    Distance,
    Dtype,
    ModelName,
    NoBos,
    NoControls,
    Pool,
    Quiet,
    Revision,
    Seed,
    check_table,
    which_bos,
)
from inductionlens.cli.show import write
from inductionlens.cli.speak import Progress, app, console_out

if TYPE_CHECKING:
    import pandas

    from inductionlens.studies.circuit import Circuit

SHOWN_PATHS, SHOWN_READERS, LEAST_SHOWN = 3, 8, 0.02
VIA = {"q": "queries", "k": "keys", "v": "values"}


@app.command()
def circuit(
    model: ModelName,
    readers: Annotated[str, typer.Option(help="Heads to take apart: a kind such as induction, names (1.2,1.3), or all.")] = "induction",
    out: Annotated[Path | None, typer.Option(help="Write the pairs here: .csv, .parquet or .json; heads go beside.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the circuit here: .png, .svg or .pdf.")] = None,
    terms: Annotated[Path | None, typer.Option(help="Write every term of the readers' QK circuits here.")] = None,
    sequences: Annotated[int, typer.Option(help="Sequences of one repeated random block.")] = 10,
    period: Annotated[int, typer.Option(help="Length of the block.")] = 25,
    distance: Distance = None,
    no_controls: NoControls = False,
    seed: Seed = 0,
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
    """Say which earlier heads the heads of MODEL read, through queries, keys or values: by weights and by effect."""
    check_table(out, *([] if out is None else [out.with_suffix(f".heads{out.suffix}")]))
    if picture is not None:
        from inductionlens.plots import check_picture

        check_picture(picture)
    if terms is not None:
        check_table(terms)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"loading {model}") as progress:
        from inductionlens.models.loading import load_model
        from inductionlens.studies.circuit import check_circuit, qk_expansion
        from inductionlens.studies.circuit import circuit as take_apart

        settings = {"sequences": sequences, "period": period, "bos": start, "seed": seed, "distance": distance,
                    "controls": not no_controls, "batch_size": batch_size, "pool": pool}  # fmt: skip
        check_circuit(readers, **settings)
        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
        progress.say(f"taking {model} apart")
        found = take_apart(loaded, readers=readers, **settings, on_progress=progress.at)
        expansions = [qk_expansion(loaded, reader, distance=distance) for reader in found.readers if terms is not None]
    if out is not None:
        found.save(out)
    if terms is not None:
        import pandas as pd

        how = {"readers": [str(reader) for reader in found.readers], "distance": distance}
        write(pd.concat(expansions, ignore_index=True), terms, "circuit", loaded, how)
    if picture is not None:
        found.plot(picture)
    if not quiet:
        _summary(found, out)
        if no_controls:
            console_out().print(WITHOUT_CONTROLS, markup=False)


def _summary(found: "Circuit", out: Path | None) -> None:
    """Print each reader's strongest paths, weights beside effects, and what ablating their writers costs."""
    from rich import box
    from rich.table import Table

    console = console_out()
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("path", "comp.", "rank", "lost", "direct", "logit lost", "ablated"):
        grid.add_column(title, justify="left" if title == "path" else "right", no_wrap=True)
    said = []
    for reader in found.readers[:SHOWN_READERS]:
        paths = found.paths(reader)
        carries = paths[paths["causal"] > LEAST_SHOWN].head(SHOWN_PATHS)
        for row in (carries if len(carries) else paths.head(1)).to_dict("records"):
            known = row["composition"] == row["composition"]
            grid.add_row(
                f"{_dotted(row['writer'])} -> {reader} via {row['via'].upper()}",
                f"{row['composition']:+.3f}" if known else "-", str(row["rank_composition"]) if known else "-",
                *(_share(row[name]) for name in ("prefix_lost", "prefix_lost_direct", "logit_lost", "ablated_lost")),
            )  # fmt: skip
        said.append(_sentence(paths, str(reader)))
    console.print(grid)
    console.print(
        "comp.: composition above random matrices of the same shapes, and its rank among the reader's writers. lost: share of "
        "the reader's prefix matching gone without the writer in that input alone; direct: without its own output there, not "
        "what other parts made of it; ablated: without the writer everywhere.",
        markup=False,
    )
    for sentence in said:
        console.print(sentence, markup=False)
    if len(found.readers) > SHOWN_READERS:
        console.print(f"{len(found.readers) - SHOWN_READERS} more readers are in the table.", markup=False)
    if out is not None:
        console.print(f"{len(found.pairs)} rows written to {out}", markup=False)


def _sentence(paths: "pandas.DataFrame", reader: str) -> str:
    """One reader in words: its strongest path, and which head costs it most when ablated."""
    best = paths.iloc[0]
    if paths["causal"].isna().all():
        return (
            f"{reader} has nothing that a writer could take away: its prefix matching of {best['prefix_matching']:.3f} is "
            f"not clearly above that of evenly spread attention, and its effect on the right logit, {best['induction_logit']:+.3f}, "
            "is below 0.01 or not clear of 0."
        )
    if not best["causal"] > 0:
        return f"{reader} reads no earlier head that matters to it here."
    what = "right-logit effect" if best["via"] == "v" else "prefix matching"
    said = f"{reader} reads {_dotted(best['writer'])} through its {VIA[best['via']]}: {best['causal']:.0%} of its {what} goes with it"
    ablated = paths.drop_duplicates("writer").sort_values("ablated_lost", ascending=False, kind="stable").iloc[0]
    if not ablated["ablated_lost"] > 0:
        return f"{said}."
    same = "it" if ablated["writer"] == best["writer"] else _dotted(ablated["writer"])
    return f"{said}; of all heads, ablating {same} costs {reader} most ({ablated['ablated_lost']:.0%})."


def _dotted(label: str) -> str:
    from inductionlens.heads import Head

    return str(Head.parse(label))


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.0%}".replace("-0%", "0%")
