"""compare, why: what tables of scores say."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inductionlens.cli.options import Columns, Out, check_table
from inductionlens.cli.show import write
from inductionlens.cli.speak import app, say
from inductionlens.errors import InputError

if TYPE_CHECKING:
    import pandas


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A table written by scan.")],
    second: Annotated[Path, typer.Argument(help="Another, of a model of the same shape.")],
    out: Out = None,
    score: Annotated[str, typer.Option(help="The score whose changes are printed.")] = "prefix_matching",
    top: Annotated[int, typer.Option(help="How many heads are printed at most.")] = 10,
    columns: Columns = None,
) -> None:
    """Say what changed between two scans: verdicts, and the heads whose score moved beyond chance."""
    from inductionlens.head_scores import read_scores
    from inductionlens.published_columns import parse_columns
    from inductionlens.studies.compare import compare as run_compare

    if top < 1:
        raise InputError(f"top must be at least 1; got {top}.")
    check_table(out)
    named = _for_each(first, second, parse_columns(columns))
    table = run_compare(*(read_scores(path, columns=own) for path, own in zip((first, second), named, strict=True)))
    part = table[[name == score for name in table["score"]]]
    if part.empty:
        raise InputError(
            f"There is no score {score!r} in both tables; they share {', '.join(table['score'].unique())}."
        )
    write(table, out, "compare", inputs=(first, second))
    for sentence in _changes_in_words(part, score, top):
        say(sentence)


def _for_each(first: Path, second: Path, columns: dict[str, str] | None) -> list[dict[str, str] | None]:
    """What ``--columns`` says of each table: where only one of them has a name of others, the other needs it not."""
    if columns is None:
        return [None, None]
    from inductionlens.files import read_raw

    names = [set(read_raw(path, None)[0].columns) for path in (first, second)]
    return [
        {ours: theirs for ours, theirs in columns.items() if theirs in own or theirs not in other}
        for own, other in (names, names[::-1])
    ]


def _changes_in_words(part: "pandas.DataFrame", score: str, top: int) -> list[str]:
    """Which verdicts changed, which heads did in one score, and how many; or why nothing can be said."""
    judged = (part[["first_kind", "second_kind"]] != "").all(axis=None)
    moved = part[part["first_kind"] != part["second_kind"]] if judged else part[:0]
    said = [f"{_place(row)} was {row['first_kind']}, is {row['second_kind']}" for row in moved.to_dict("records")]
    changed = part[part["changed"]].sort_values("difference", key=abs, ascending=False, kind="stable")
    said += [
        f"{_place(row)} {score} {row['first']:.3f} -> {row['second']:.3f} "
        f"({row['difference']:+.3f}, 95% interval {row['low']:+.3f} to {row['high']:+.3f})"
        for row in changed.head(top).to_dict("records")
    ]
    verdicts = f"{len(moved)} verdict{'s' if len(moved) != 1 else ''} changed" if judged else "there are no verdicts"
    tested = int(part["p_value"].notna().sum())
    if not tested:
        largest = part.loc[part["difference"].abs().idxmax()] if part["difference"].notna().any() else None
        difference = (
            "No head has it in both tables"
            if largest is None
            else f"The largest difference is {largest['difference']:+.3f}, at head {_place(largest)} "
            f"({largest['first']:.3f} -> {largest['second']:.3f})"
        )
        reason = "at least one of the tables has no intervals of it"
        return [*said, f"Nothing can be said of {score}: {reason}. {difference}; {verdicts}."]
    untested = f" (nothing can be said of {len(part) - tested} without intervals)" if tested < len(part) else ""
    return [
        *said,
        f"{len(changed)} of {len(part)} heads changed in {score} (Welch's t test, false discovery rate 5%){untested}; "
        f"{verdicts}.",
    ]


def _place(row: Any) -> str:
    """The head of a row, such as 5.1."""
    return f"{row['layer']}.{row['head']}"


@app.command()
def why(
    scores: Annotated[Path, typer.Argument(help="A table written by scan.")],
    head: Annotated[list[str] | None, typer.Option(help="This head, such as 5.1; may be repeated.")] = None,
    columns: Columns = None,
) -> None:
    """Say in words what each verdict of a table rests on: of the heads named, or of all that are of a kind."""
    from inductionlens.head_scores import read_scores
    from inductionlens.published_columns import parse_columns

    table = read_scores(scores, columns=parse_columns(columns))
    if not {"kind", "why"} <= set(table.table.columns):
        raise InputError(f"{scores} has no columns kind and why; tables written by scan have them.")
    rows = (
        [table[name] for name in head] if head else [row for _, row in table.table.iterrows() if row["kind"] != "none"]
    )
    if not rows:
        say("No head of this table is of a kind; name one with --head to see what speaks against it.")
    for row in rows:
        say(f"{row['layer']}.{row['head']} {row['kind']}: {row['why']}")
