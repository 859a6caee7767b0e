"""circuit, orders, trigrams, repeats: how heads are built."""

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
    Quiet,
    Revision,
    check_table,
    which_bos,
)
from inductionlens.cli.speak import Progress, app, console_out, number

if TYPE_CHECKING:
    import pandas

    from inductionlens.studies.circuit import Circuit

SHOWN_PATHS, SHOWN_READERS, LEAST_SHOWN = 3, 8, 0.02
Out = Annotated[Path | None, typer.Option(help="Write the table here: .csv, .parquet or .json.")]
Seed = Annotated[int, typer.Option(help="Decides every random token and resample.")]
Distance = Annotated[int | None, typer.Option(help="For rotary models: how far back keys lie; 0 turns nothing.")]
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
    seed: Seed = 0,
    bos: Bos = None,
    no_bos: NoBos = False,
    batch_size: BatchSize = None,
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
        from inductionlens.studies.circuit import circuit as take_apart
        from inductionlens.studies.circuit import qk_expansion

        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
        progress.say(f"taking {model} apart")
        found = take_apart(
            loaded, readers=readers, sequences=sequences, period=period, bos=start, seed=seed, distance=distance,
            batch_size=batch_size, on_progress=progress.at,
        )  # fmt: skip
        expansions = [qk_expansion(loaded, reader, distance=distance) for reader in found.readers if terms is not None]
    if out is not None:
        found.save(out)
    if terms is not None:
        import pandas as pd

        _write(pd.concat(expansions, ignore_index=True), terms)
    if picture is not None:
        found.plot(picture)
    if not quiet:
        _summary(found, out)


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


@app.command()
def orders(
    model: ModelName,
    out: Out = None,
    measures: Annotated[str, typer.Option(help="copies, text, or both with a comma.")] = "copies,text",
    text: Annotated[str, typer.Option(help="Text for windows: stdlib, random, a .txt file or folder, hub:NAME.")] = "auto",
    windows: Annotated[int, typer.Option(help="Windows of text.")] = 20,
    length: Annotated[int | None, typer.Option(help="Tokens in a window; 512 or the context by default.")] = None,
    sequences: Annotated[int, typer.Option(help="Sequences of repeated random blocks.")] = 20,
    seed: Seed = 0,
    bos: Bos = None,
    no_bos: NoBos = False,
    batch_size: BatchSize = None,
    revision: Revision = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Say how much loss MODEL saves through 0, 1, 2 ... heads in a row, and what each layer's heads add."""
    check_table(out)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"loading {model}") as progress:
        from inductionlens.models.loading import load_model
        from inductionlens.studies.orders import path_orders

        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
        progress.say(f"orders of {model}")
        table = path_orders(
            loaded, measures=tuple(name.strip() for name in measures.split(",")), text=text, n_windows=windows,
            length=length, sequences=sequences, seed=seed, bos=start, batch_size=batch_size, on_progress=progress.at,
        )  # fmt: skip
    _write(table, out)
    if not quiet:
        _show(table, {"measure": "measure", "term": "term", "loss": "loss", "gain": "gain"})
        print("Nats. gain: what a term takes off the loss; order 0 off a uniform guess.")
        _wrote(table, out)


@app.command()
def trigrams(
    model: ModelName,
    head: Annotated[list[str] | None, typer.Option(help="This head of layer 0 alone, such as 0.3; may be repeated.")] = None,
    out: Out = None,
    top: Annotated[int, typer.Option(help="Skip trigrams of each head.")] = 5,
    distance: Distance = None,
    seed: Seed = 0,
    revision: Revision = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Read skip trigrams, source ... destination -> out, off the first-layer heads of MODEL, and count copying heads."""
    check_table(out)
    with Progress(quiet, f"loading {model}"):
        from inductionlens.models.loading import load_model
        from inductionlens.studies.trigrams import skip_trigrams

        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device)
        table = skip_trigrams(loaded, heads=head, top=top, distance=distance, seed=seed)
    _write(table, out)
    if not quiet:
        shown = table.assign(
            trigram=[f"{source!r} ... {destination!r} -> {token!r}" for source, destination, token in
                     zip(table["source"], table["destination"], table["out"], strict=True)],
        )  # fmt: skip
        _show(shown, {"name": "head", "trigram": "skip trigram", "attention": "attention", "logit": "logit"})
        heads = table.drop_duplicates("name")
        for row in heads.to_dict("records"):
            print(f"0.{row['head']} {'copies' if row['copying_head'] else 'does not copy'}: ov_eigen {number(row['ov_eigen'])}, "
                  f"{row['own_token']:.0%} of tokens raise themselves most")  # fmt: skip
        print(f"{int(heads['copying_head'].sum())} of {len(heads)} heads copy.")
        _wrote(table, out)


@app.command()
def repeats(
    models: Annotated[list[str], typer.Argument(help="Models to compare: folders, 'planted', hub names.")],
    out: Out = None,
    tokens: Annotated[str, typer.Option(help="Any of uniform, zipf, shuffled, text, with commas.")] = "uniform,zipf,shuffled,text",
    period: Annotated[int, typer.Option(help="Length of the repeated block.")] = 25,
    times: Annotated[int, typer.Option(help="How often it stands in a sequence.")] = 4,
    sequences: Annotated[int, typer.Option(help="Sequences of each kind.")] = 20,
    seed: Seed = 0,
    bos: Bos = None,
    no_bos: NoBos = False,
    batch_size: BatchSize = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Repeat blocks of tokens of several kinds: how sure is each of MODELS, and does its best head still match?"""
    check_table(out)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"repeats in {', '.join(models)}"):
        from inductionlens.models.loading import load_model
        from inductionlens.studies.repeats import repeats as run_repeats

        table = run_repeats(
            (load_model(model, device=device) for model in models), period=period, repeats=times, sequences=sequences,
            distributions=tuple(name.strip() for name in tokens.split(",")), bos=start, seed=seed, batch_size=batch_size,
        )  # fmt: skip
    _write(table, out)
    if not quiet:
        titles = {
            "model": "model",
            "tokens": "tokens",
            "head": "head",
            "prefix_matching": "prefix",
            "first_token": "rests",
        }
        titles |= {"confidence": "sure", "advantage": "gain", "order_advantage": "order"}
        _show(table, titles)
        print(
            "prefix: prefix matching of the model's best head; rests: its attention to the first token where nothing matches; "
            "sure: mean probability of the right token on later copies; gain: nats saved on later copies; order: against the "
            "same tokens in another order."
        )
        _wrote(table, out)


def _write(table: "pandas.DataFrame", out: Path | None) -> None:
    from inductionlens.files import encode_table, format_of, write_atomically

    if out is not None:
        write_atomically(out, encode_table(table, format_of(out)))


def _wrote(table: "pandas.DataFrame", out: Path | None) -> None:
    if out is not None:
        print(f"{len(table)} rows written to {out}")


def _show(table: "pandas.DataFrame", titles: dict[str, str]) -> None:
    """Print some columns of a table, numbers with three decimals."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, title in titles.items():
        text = table[column].dtype.kind not in "fi"
        grid.add_column(title, justify="left" if text else "right", no_wrap=text)
    for row in table.to_dict("records"):
        grid.add_row(
            *(number(row[name]) if isinstance(row[name], float) else escape(str(row[name])) for name in titles)
        )
    console_out().print(grid)
