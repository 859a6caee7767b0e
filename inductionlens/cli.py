"""The command line: the only room that prints."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inductionlens.errors import InputError

if TYPE_CHECKING:
    from inductionlens.head_scores import HeadScores

app = typer.Typer(
    name="inductionlens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which attention heads are induction heads?",
)
SHOWN = {
    "prefix_matching": "prefix matching",
    "previous_token": "previous token",
    "duplicate_token": "duplicate",
    "copying": "copying",
    "induction_logit": "logit effect",
}


def main() -> None:
    """Run the command line; bad input is one sentence on stderr and exit code 2, an interrupt is exit code 130."""
    warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"inductionlens: {message}\n")
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        sys.stderr.write(f"inductionlens: {error}\n")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"inductionlens: {place}{error.strerror or error}.\n")
        code = 2
    except Exception as error:
        # Typer carries its own copy of click, or uses the installed one: its usage errors are known by what they do.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if message.strip():  # empty where help was shown for want of a command
            sys.stderr.write(f"inductionlens: {message.rstrip('.')}; see --help.\n")
        code = 2
    if code == 130:
        sys.stderr.write("inductionlens: interrupted; no half-written file is left.\n")
    raise SystemExit(code if isinstance(code, int) else 0)


def _version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        print(version("inductionlens"))
        raise typer.Exit
    return asked


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def scan(
    model: Annotated[str, typer.Argument(help="A folder, 'planted', or a hub name such as gpt2.")],
    out: Annotated[Path | None, typer.Option(help="Write the table here: .csv, .parquet or .json.")] = None,
    format: Annotated[str | None, typer.Option(help="csv, parquet or json, whatever the suffix; without --out the table is printed.")] = None,
    seed: Annotated[int, typer.Option(help="Decides every random token.")] = 0,
    sequences: Annotated[int, typer.Option(help="Sequences per random probe, ten times as many for the logit effect.")] = 10,
    period: Annotated[int, typer.Option(help="Length of the repeated block, and of the copying sample, in tokens.")] = 25,
    repeats: Annotated[int, typer.Option(help="How often the block is repeated.")] = 4,
    logit_period: Annotated[int, typer.Option(help="Block length of the logit probe.")] = 30,
    bos: Annotated[int | None, typer.Option(help="Token id to start sequences with, instead of the model's own BOS.")] = None,
    no_bos: Annotated[bool, typer.Option("--no-bos", help="Start sequences without BOS.")] = False,
    text: Annotated[str, typer.Option(help="Text for previous_token: stdlib, random, or a .txt file or folder.")] = "auto",
    reduce: Annotated[str, typer.Option(help="How several targets count: sum, last, first, entry_mean, diagonal.")] = "sum",
    value_weighted: Annotated[bool, typer.Option("--value-weighted", help="Weigh attention by value norms.")] = False,
    copying_source: Annotated[str, typer.Option(help="value or head_output.")] = "value",
    logit_recipe: Annotated[str, typer.Option(help="default or mcdougall.")] = "default",
    no_controls: Annotated[bool, typer.Option("--no-controls", help="Skip the controls: verdicts by threshold alone.")] = False,
    threshold: Annotated[float, typer.Option(help="Attention from which a head is of a kind.")] = 0.4,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per forward pass.")] = None,
    head: Annotated[list[str] | None, typer.Option(help="Show this head too, such as 5.1; may be repeated.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Write per-sequence values here, in long form.")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    checkpoint: Annotated[int | None, typer.Option(help="Training checkpoint of a hub series, by step.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; CUDA by default where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (default), bfloat16 or float16.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:  # fmt: skip
    """Score every head of MODEL on repeated random tokens and say which are induction heads."""
    from inductionlens.files import check_writable, encode_table, format_of, sidecar_of, write_atomically

    if format is not None:
        format_of(Path("table"), format)
    for path in (out, samples):
        if path is not None:
            format_of(path, format if path is out else None)
            check_writable(path)
    if out is not None:
        check_writable(sidecar_of(out))
        if samples is not None and samples.resolve() in (out.resolve(), sidecar_of(out).resolve()):
            raise InputError(f"--samples and --out need files of their own; both would write {samples}.")
    if no_bos and bos is not None:
        raise InputError("--bos and --no-bos contradict each other; give one.")
    with _Progress(quiet, f"loading {model}") as progress:
        from inductionlens.heads import Head
        from inductionlens.models.loading import load_model
        from inductionlens.studies.options import ScanOptions
        from inductionlens.studies.scan import scan as run_scan

        options = ScanOptions(
            seed=seed, sequences=sequences, period=period, repeats=repeats, logit_period=logit_period,
            bos=False if no_bos else True if bos is None else bos, text=text, reduce=reduce,
            value_weighted=value_weighted, copying_source=copying_source, logit_recipe=logit_recipe,
            controls=not no_controls, threshold=threshold, batch_size=batch_size,
        )  # fmt: skip
        named = [Head.parse(name) for name in head or []]
        loaded = load_model(model, revision=revision, checkpoint=checkpoint, device=device, dtype=dtype)
        for name in named:
            name.check(loaded.cfg.n_layers, loaded.cfg.n_heads)
        progress.say(f"scanning {model}")
        scores = run_scan(loaded, options=options, on_progress=progress.at)
    if samples is not None:
        write_atomically(samples, encode_table(scores.samples_table(), format_of(samples)))
    if out is not None:
        scores.save(out, format)
    elif format is not None:
        sys.stdout.buffer.write(encode_table(scores.table, format))
        return
    if not quiet:
        _summary(scores, [name.label for name in named], out)


class _Progress:
    """A progress bar on stderr, or nothing."""

    def __init__(self, quiet: bool, task: str) -> None:
        self.quiet, self.task, self.bar = quiet or not sys.stderr.isatty(), task, None

    def __enter__(self) -> "_Progress":
        if not self.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self.bar = Progress(
                SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self.bar.start()
            self.id = self.bar.add_task(self.task, total=None)
        return self

    def say(self, task: str) -> None:
        if self.bar is not None:
            self.bar.update(self.id, description=task)

    def at(self, done: int, total: int) -> None:
        if self.bar is not None:
            self.bar.update(self.id, completed=done, total=total)

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def _summary(scores: "HeadScores", named: list[str], out: Path | None) -> None:
    """Print the heads that matter, how many are induction heads, and whether the model copies."""
    from rich import box
    from rich.table import Table

    from inductionlens.tables import KINDS

    table = scores.table
    shown = table[(table["kind"] != "none") | table["name"].isin(named)].sort_values("prefix_matching", ascending=False)
    order = list(KINDS)
    shown = shown.sort_values("kind", key=lambda kinds: kinds.map(order.index), kind="stable")
    console = _console()
    if len(shown):
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        grid.add_column("head")
        grid.add_column("kind", no_wrap=True)
        for title in SHOWN.values():
            grid.add_column(title, justify="right")
        for row in shown.to_dict("records"):
            grid.add_row(f"{row['layer']}.{row['head']}", row["kind"], *(_number(row[name]) for name in SHOWN))
        console.print(grid)
    found = len(scores.induction_heads())
    verb = "is an induction head" if found == 1 else "are induction heads"
    console.print(f"{found} of {len(table)} heads {verb}.", markup=False)
    console.print(scores.provenance["behaviour"]["case"], markup=False)
    if out is not None:
        console.print(f"{len(table)} rows written to {out}", markup=False)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}".replace("-0.000", "0.000")


@app.command()
def validate(
    model: Annotated[str, typer.Argument(help="A folder or a hub name; gpt2 for the published table.")],
    against: Annotated[Path | None, typer.Option(help="A table of yours (layer, head, scores) instead of GPT-2 small's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the differences per head here, as CSV.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print PASS or FAIL alone.")] = False,
) -> None:  # fmt: skip
    """Compare a model's attention scores with a published table, by its exact recipe: PASS (0) or FAIL (1)."""
    from inductionlens.files import check_writable, encode_table, write_atomically

    if out is not None:
        check_writable(out)
    with _Progress(quiet, f"validating {model}"):
        from inductionlens.models.loading import load_model
        from inductionlens.studies import reference

        reference.read_reference(against)
        found = reference.validate(load_model(model, device=device), against)
    if out is not None:
        write_atomically(out, encode_table(found.table, "csv"))
    if not quiet:
        if found.recipe.source:
            print(f"against {found.recipe.source}")
        for score, part in found.table.groupby("score", sort=False):
            print(f"{score}: {len(part)} heads, largest difference {part['difference'].abs().max():.1e}")
        for problem in found.problems:
            print(problem)
    print("PASS" if found.passed else "FAIL")
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A table written by scan.")],
    second: Annotated[Path, typer.Argument(help="Another, of a model of the same shape.")],
    out: Annotated[Path | None, typer.Option(help="Write every difference here, as CSV.")] = None,
    score: Annotated[str, typer.Option(help="The score whose changes are printed.")] = "prefix_matching",
    top: Annotated[int, typer.Option(help="How many heads are printed at most.")] = 10,
) -> None:
    """Say what changed between two scans: verdicts, and the heads whose score moved beyond its interval."""
    from inductionlens.files import check_writable, encode_table, write_atomically
    from inductionlens.head_scores import read_scores
    from inductionlens.studies.compare import compare as run_compare

    if top < 1:
        raise InputError(f"top must be at least 1; got {top}.")
    if out is not None:
        check_writable(out)
    table = run_compare(read_scores(first), read_scores(second))
    part = table[table["score"] == score]
    if part.empty:
        raise InputError(
            f"There is no score {score!r} in both tables; they share {', '.join(table['score'].unique())}."
        )
    if out is not None:
        write_atomically(out, encode_table(table, "csv"))
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
    print(f"{len(changed)} of {len(part)} heads changed in {score} beyond its interval; {verdicts}.")


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


@app.command()
def columns(
    name: Annotated[str | None, typer.Argument(help="One column; all of them by default.")] = None,
) -> None:
    """Explain every column of a head table: meaning, range, unit and source."""
    from rich import box
    from rich.table import Table

    from inductionlens.tables import COLUMNS, explain

    if name is not None and explain(name) is None:
        import difflib

        near = difflib.get_close_matches(name, COLUMNS, n=2)
        raise InputError(
            f"There is no column {name!r}; {'the nearest are ' + ', '.join(near) if near else 'all are listed without a name'}."
        )
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("column", "meaning", "range", "unit", "source"):
        grid.add_column(title, overflow="fold")
    for key in COLUMNS if name is None else [name]:
        column = explain(key)
        assert column is not None
        ends = f"{key}\n{key}_low\n{key}_high" if column.interval else key
        grid.add_row(ends, column.meaning, column.range, column.unit, column.source)
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(grid)
    if name is None:
        print("NAME_low and NAME_high are the ends of the 95% bootstrap interval of NAME over sequences.")


@app.command()
def plot(
    scores: Annotated[Path, typer.Argument(help="A table written by scan.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
    score: Annotated[list[str] | None, typer.Option(help="Show this score; may be repeated. Six by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing.")] = False,
) -> None:
    """Draw a table of head scores as a mosaic: layers by heads, one grid per score."""
    from inductionlens.head_scores import read_scores
    from inductionlens.plots import check_picture, plot_mosaic

    check_picture(out)
    plot_mosaic(read_scores(scores).table, out, tuple(score) if score else None)
    if not quiet:
        print(f"mosaic written to {out}")
