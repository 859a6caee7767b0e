"""orders, trigrams, repeats: what heads know, and how."""

from typing import Annotated, Any

import typer

from inductionlens.cli.options import (
    BatchSize,
    Bos,
    Checkpoint,
    Device,
    Distance,
    Dtype,
    ModelName,
    NoBos,
    Out,
    Pool,
    Quiet,
    Revision,
    Seed,
    check_table,
    names_of,
    which_bos,
)
from inductionlens.cli.show import show, write, wrote
from inductionlens.cli.speak import Progress, app, number


@app.command()
def orders(
    model: ModelName,
    out: Out = None,
    measures: Annotated[str, typer.Option(help="copies, text, or both with a comma.")] = "copies,text",
    text: Annotated[str, typer.Option(help="Text for windows: stdlib, random, a .txt file or folder, hub:NAME.")] = "auto",
    windows: Annotated[int, typer.Option(help="Windows of text.")] = 20,
    length: Annotated[int | None, typer.Option(help="Tokens in a window; 512 or the context by default.")] = None,
    sequences: Annotated[int, typer.Option(help="Sequences of repeated random blocks.")] = 20,
    period: Annotated[int, typer.Option(help="Length of the repeated block.")] = 25,
    repeats: Annotated[int, typer.Option(help="How often it is repeated.")] = 4,
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
    """Say how much loss MODEL saves through 0, 1, 2 ... heads in a row, and what each layer's heads add."""
    from inductionlens.files import write_table

    check_table(out)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"loading {model}") as progress:
        from inductionlens.models.loading import load_model
        from inductionlens.studies.orders import measured_orders, order_options

        settings = {"text": text, "n_windows": windows, "length": length, "sequences": sequences, "period": period,
                    "repeats": repeats, "seed": seed, "bos": start, "batch_size": batch_size, "pool": pool}  # fmt: skip
        names = names_of(measures)
        order_options(names, settings)
        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
        progress.say(f"orders of {model}")
        table, record = measured_orders(loaded, None, names, progress.at, settings)
    if out is not None:
        write_table(out, table, record)
    if not quiet:
        show(table, {"measure": "measure", "term": "term", "loss": "loss", "gain": "gain"})
        print("Nats. gain: what a term takes off the loss; order 0 off a uniform guess.")
        wrote(table, out)


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
        from inductionlens.studies.trigrams import check_trigrams, skip_trigrams

        options = {"heads": head, "top": top, "distance": distance, "seed": seed}
        check_trigrams(**options)
        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device)
        table = skip_trigrams(loaded, **options)
    write(table, out, "trigrams", loaded, options)
    if not quiet:
        shown = table.assign(
            trigram=[f"{source!r} ... {destination!r} -> {token!r}" for source, destination, token in
                     zip(table["source"], table["destination"], table["out"], strict=True)],
        )  # fmt: skip
        show(shown, {"name": "head", "trigram": "skip trigram", "attention": "attention", "logit": "logit"})
        heads = table.drop_duplicates("name")
        for row in heads.to_dict("records"):
            print(f"0.{row['head']} {'copies' if row['copying_head'] else 'does not copy'}: ov_eigen {number(row['ov_eigen'])}, "
                  f"{row['own_token']:.0%} of tokens raise themselves most")  # fmt: skip
        print(f"{int(heads['copying_head'].sum())} of {len(heads)} heads copy.")
        wrote(table, out)


@app.command()
def repeats(
    models: Annotated[list[str], typer.Argument(help="Models to compare: folders, 'planted', hub names.")],
    out: Out = None,
    tokens: Annotated[str, typer.Option(help="Any of uniform, zipf, shuffled, text, with commas.")] = "uniform,zipf,shuffled,text",
    period: Annotated[int, typer.Option(help="Length of the repeated block.")] = 25,
    times: Annotated[int, typer.Option("--times", "--repeats", help="How often it stands in a sequence.")] = 4,
    sequences: Annotated[int, typer.Option(help="Sequences of each kind.")] = 20,
    seed: Seed = 0,
    bos: Bos = None,
    no_bos: NoBos = False,
    batch_size: BatchSize = None,
    pool: Pool = "tokenizer",
    device: Device = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Repeat blocks of tokens of several kinds: how sure is each of MODELS, and does its best head still match?"""
    check_table(out)
    start = which_bos(bos, no_bos)
    with Progress(quiet, f"repeats in {', '.join(models)}") as progress:
        from inductionlens.models.loading import load_model
        from inductionlens.models.vocabulary import choose_bos
        from inductionlens.studies.pool import check_pool, make_pool
        from inductionlens.studies.provenance import model_record
        from inductionlens.studies.repeats import check_repeats
        from inductionlens.studies.repeats import repeats as run_repeats

        check_pool(pool)
        records: list[dict[str, Any]] = []

        def load(name: str) -> Any:
            loaded = load_model(name, device=device)
            drawn = make_pool(loaded, choose_bos(loaded, start), pool)
            records.append(model_record(loaded) | {"pool": drawn.record()})
            return loaded

        options = {
            "distributions": names_of(tokens), "period": period, "repeats": times,
            "sequences": sequences, "bos": start, "seed": seed, "batch_size": batch_size,
            "pool": pool,
        }  # fmt: skip
        check_repeats(**options)
        table = run_repeats(map(load, models), **options, on_model=lambda done: progress.at(done, len(models)))
    write(table, out, "repeats", records, options)
    if not quiet:
        titles = {
            "model": "model",
            "tokens": "tokens",
            "head": "head",
            "prefix_matching": "prefix",
            "first_token": "rests",
        }
        titles |= {"confidence": "sure", "advantage": "gain", "order_advantage": "order"}
        show(table, titles)
        print(
            "prefix: prefix matching of the model's best head; rests: its attention to the first token where nothing matches; "
            "sure: mean probability of the right token on later copies; gain: nats saved on later copies; order: against the "
            "same tokens in another order."
        )
        wrote(table, out)
