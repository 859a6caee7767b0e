"""validate, ranks: what others have published."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from inductionlens.cli.options import Columns, Device, Out, check_table
from inductionlens.cli.show import write
from inductionlens.cli.speak import Progress, app, say


@app.command()
def validate(
    model: Annotated[str, typer.Argument(help="A folder or a hub name; gpt2 for the published table.")],
    against: Annotated[Path | None, typer.Option(help="A table of yours (layer, head, scores) instead of GPT-2 small's.")] = None,
    columns: Columns = None,
    out: Out = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print PASS or FAIL alone.")] = False,
) -> None:  # fmt: skip
    """Compare a model's attention scores with a published table, by its exact recipe: PASS (0) or FAIL (1)."""
    check_table(out)
    with Progress(quiet, f"validating {model}"):
        from inductionlens.models.loading import load_model
        from inductionlens.published_columns import parse_columns
        from inductionlens.studies import reference

        theirs = parse_columns(columns)
        reference.read_reference(against, theirs)
        loaded = load_model(model, device=device)
        found = reference.validate(loaded, against, columns=theirs)
    published = reference.reference_path(against)
    inputs = [path for path in (published, published.with_suffix(".recipe.json")) if path.is_file()]
    write(found.table, out, "validate", loaded, {"recipe": asdict(found.recipe)}, inputs)
    if not quiet:
        if found.recipe.source:
            say(f"against {found.recipe.source}")
        for score, part in found.table.groupby("score", sort=False):
            say(f"{score}: {len(part)} heads, largest difference {part['difference'].abs().max():.1e}")
        for problem in found.problems:
            say(problem)
    say("PASS" if found.passed else "FAIL")
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def ranks(
    scores: Annotated[Path, typer.Argument(help="A table written by scan, of GPT-2 small or one of 14 others.")],
    model: Annotated[str | None, typer.Option(help="Which model it is, such as gpt2; by default what the table says.")] = None,
    columns: Columns = None,
    out: Out = None,
) -> None:  # fmt: skip
    """Say how a table ranks the heads that papers have named: agreement of ranks, no PASS or FAIL."""
    from inductionlens.head_scores import read_scores
    from inductionlens.published_columns import parse_columns
    from inductionlens.studies.rank_agreement import rank_agreement

    check_table(out)
    table = rank_agreement(read_scores(scores, columns=parse_columns(columns)), model)
    write(table, out, "ranks", options={"model": model}, inputs=[scores])
    for row in table.to_dict("records"):
        heads = f"{row['heads']} head{'s' if row['heads'] > 1 else ''}"
        order = row["rank_correlation"]
        among = "" if order != order else f"; rank correlation among them {order:.2f}"
        say(
            f"{row['source']}, {row['published']}: by {row['column']}, {heads} of theirs beat others in "
            f"{row['above']:.0%} of pairs (p = {row['p_value']:.1g}){among}"
        )
