"""compare, why: what tables of scores say."""

from pathlib import Path
from typing import Annotated

import typer

from inductionlens.cli.options import Out, check_table
from inductionlens.cli.show import write
from inductionlens.cli.speak import app
from inductionlens.errors import InputError


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A table written by scan.")],
    second: Annotated[Path, typer.Argument(help="Another, of a model of the same shape.")],
    out: Out = None,
    score: Annotated[str, typer.Option(help="The score whose changes are printed.")] = "prefix_matching",
    top: Annotated[int, typer.Option(help="How many heads are printed at most.")] = 10,
) -> None:
    """Say what changed between two scans: verdicts, and the heads whose score moved beyond chance."""
    from inductionlens.head_scores import read_scores
    from inductionlens.studies.compare import compare as run_compare

    if top < 1:
        raise InputError(f"top must be at least 1; got {top}.")
    check_table(out)
    table = run_compare(read_scores(first), read_scores(second))
    part = table[[name == score for name in table["score"]]]
    if part.empty:
        raise InputError(
            f"There is no score {score!r} in both tables; they share {', '.join(table['score'].unique())}."
        )
    write(table, out, "compare", inputs=(first, second))
    moved = part[part["first_kind"] != part["second_kind"]]
    for row in moved.to_dict("records"):
        print(f"{row['layer']}.{row['head']} was {row['first_kind']}, is {row['second_kind']}")
    changed = part[part["changed"]].sort_values("difference", key=abs, ascending=False, kind="stable")
    for row in changed.head(top).to_dict("records"):
        print(
            f"{row['layer']}.{row['head']} {score} {row['first']:.3f} -> {row['second']:.3f} "
            f"({row['difference']:+.3f}, 95% interval {row['low']:+.3f} to {row['high']:+.3f})"
        )
    verdicts = f"{len(moved)} verdict{'s' if len(moved) != 1 else ''} changed"
    print(
        f"{len(changed)} of {len(part)} heads changed in {score} (Welch's t test, false discovery rate 5%); {verdicts}."
        if part["p_value"].notna().any()
        else f"Nothing can be said of {score}: its intervals are missing in one of the tables. The largest difference is "
        f"{part['difference'].abs().max():.3f}; {verdicts}."
    )


@app.command()
def why(
    scores: Annotated[Path, typer.Argument(help="A table written by scan.")],
    head: Annotated[list[str] | None, typer.Option(help="This head, such as 5.1; may be repeated.")] = None,
) -> None:
    """Say in words what each verdict of a table rests on: of the heads named, or of all that are of a kind."""
    from inductionlens.head_scores import read_scores

    table = read_scores(scores)
    if not {"kind", "why"} <= set(table.table.columns):
        raise InputError(f"{scores} has no columns kind and why; tables written by scan have them.")
    rows = (
        [table[name] for name in head] if head else [row for _, row in table.table.iterrows() if row["kind"] != "none"]
    )
    if not rows:
        print("No head of this table is of a kind; name one with --head to see what speaks against it.")
    for row in rows:
        print(f"{row['layer']}.{row['head']} {row['kind']}: {row['why']}")
