"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from inductionlens.errors import InputError

ModelName = Annotated[str, typer.Argument(help="A folder, 'planted', or a hub name such as gpt2.")]
Bos = Annotated[int | None, typer.Option(help="Token id to start sequences with, instead of the model's own BOS.")]
NoBos = Annotated[bool, typer.Option("--no-bos", help="Start sequences without BOS.")]
BatchSize = Annotated[int | None, typer.Option(help="Sequences per forward pass.")]
Revision = Annotated[str | None, typer.Option(help="Hub revision.")]
Checkpoint = Annotated[int | None, typer.Option(help="Training checkpoint of a hub series, by step.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; CUDA by default where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32 (default), bfloat16 or float16.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]
Out = Annotated[Path | None, typer.Option(help="Write the table here: .csv, .parquet or .json.")]
Columns = Annotated[list[str] | None, typer.Option(metavar="OUR=THEIRS", help="What a table that others wrote calls our columns, with commas: head=head_idx,prefix_matching=score.")]  # fmt: skip
Seed = Annotated[int, typer.Option(help="Decides every random token and resample.")]
NoControls = Annotated[
    bool, typer.Option("--no-controls", help="Scan without controls: heads are of a kind by threshold alone.")
]
Pool = Annotated[str, typer.Option(help="Ids to draw random tokens from: tokenizer, text (those that occur in it), or a file of ids.")]  # fmt: skip
Distance = Annotated[int | None, typer.Option(help="For rotary models: how far back keys lie; 0 turns nothing.")]


def which_bos(bos: int | None, no_bos: bool) -> bool | int:
    """``--bos`` and ``--no-bos`` as one setting: True for the model's own, a token id, or False for none.

    Raises:
        InputError: both were given.
    """
    if no_bos and bos is not None:
        raise InputError("--bos and --no-bos contradict each other; give one.")
    return False if no_bos else True if bos is None else bos


#: Said after every summary of verdicts that were made without controls.
WITHOUT_CONTROLS = (
    "The controls were left out: heads are of a kind by threshold alone, so a head that looks a fixed distance back, or "
    "that would score as high without any learning, may be called an induction head."
)


def names_of(words: str) -> tuple[str, ...]:
    """Names that were given with commas between them."""
    return tuple(name.strip() for name in words.split(","))


def check_table(out: Path | None, *more: Path) -> None:
    """Refuse, before any work is done, a table and its record that could not be written, or other files beside them.

    Raises:
        InputError: an unknown suffix or a place that cannot be written.
    """
    from inductionlens.files import check_writable, format_of, sidecar_of

    if out is not None:
        format_of(out)
        for path in (out, sidecar_of(out), *more):
            check_writable(path)
