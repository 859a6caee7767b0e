"""Training checkpoints on the hub, fetched and removed one by one."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.checkpoint_names import EXAMPLES, by_step, check_step
from inductionlens.models.checkpoints import Checkpoint, tokens_at
from inductionlens.models.folder_checks import first_line
from inductionlens.models.hub import TL_FORMAT, load_hub, official_name, offline_if_unreachable
from inductionlens.models.loading import load_model

#: Start of a repository's name -> tokens in an optimiser step, as the papers have it: 1,024 rows of 2,048 tokens
#: (Biderman et al. 2023; the first release, -v0, had other batches), 512 rows of 1,024 (Mistral, stanford-crfm).
TOKENS_PER_STEP = {"EleutherAI/pythia-": 2_097_152, "stanford-crfm/": 524_288}
#: Files of TransformerLens's own series. Numbers above a thousand million count tokens, as TransformerLens reads them.
_FILE = re.compile(r"checkpoints/.*_(\d+)\.pth")
TOKENS = 10**9


def hub_checkpoints(
    repository: str,
    *,
    device: str | None = None,
    keep: bool = False,
    branches: Callable[[str], list[str]] | None = None,
    fetch: Callable[[str, str], Path] | None = None,
    discard: Callable[[Path], None] | None = None,
) -> list[Checkpoint]:
    """The checkpoints of a hub repository that keeps them as branches, ``step1000`` (EleutherAI's Pythia) or
    ``checkpoint-1000`` (stanford-crfm's GPT-2), or as files, as TransformerLens's own toys do (``attn-only-2l``,
    ``NeelNanda/...``; see `file_checkpoints`). `by_step` has the other names that are read, and says what becomes of
    stages: ``NAME@PREFIX``, such as ``allenai/OLMo-2-1124-7B@stage1``, takes those branches alone that start so.

    Each is fetched when it is asked for, and its files are removed as soon as the model is in memory, unless ``keep``:
    disk use stays at one or two checkpoints however long the series. ``branches``, ``fetch`` and ``discard`` stand for
    the hub's own calls.

    Raises:
        InputError: the repository cannot be reached, has no checkpoints, or has trainings that do not follow one
            another.
    """
    repository, _, prefix = repository.partition("@")
    if branches is None:
        repository = _official_or_own(repository)
        if repository.startswith(TL_FORMAT):
            if prefix:
                raise InputError(f"{repository} keeps its checkpoints as files, not as branches; leave @{prefix} out.")
            return file_checkpoints(repository, device=device, keep=keep)
    branches, fetch, discard = branches or _branches, fetch or _fetch, discard or _discard
    names = [branch for branch in branches(repository) if not prefix or branch.startswith(f"{prefix}-")]
    found = by_step(names, repository, f"name one, such as {repository}@{{stage}}")
    if not found:
        start = f" that start with {prefix}" if prefix else ""
        raise InputError(f"{repository} has no branches{start} named {EXAMPLES}.")

    def loader(branch: str) -> Callable[[], Model]:
        def load() -> Model:
            try:
                place = fetch(repository, branch)
            except (OSError, ValueError) as error:
                raise InputError(f"{repository}@{branch} could not be fetched: {first_line(error)}.") from error
            try:
                return load_model(place, device=device)
            finally:
                if not keep:
                    discard(place)

        return load

    per_step = _tokens_per_step(repository)
    return [
        Checkpoint(step, tokens_at(step, per_step), f"{repository}@{name}", loader(name))
        for step, name in found.items()
    ]


def _official_or_own(name: str) -> str:
    """The repository that TransformerLens means by a name; one that it does not know may be a series all the same."""
    try:
        return official_name(name)
    except InputError:
        if "/" not in name:
            raise
        return name


def _tokens_per_step(repository: str) -> int | None:
    if "-v0" in repository:
        return None
    return next((tokens for start, tokens in TOKENS_PER_STEP.items() if repository.startswith(start)), None)


def file_checkpoints(
    repository: str,
    *,
    device: str | None = None,
    keep: bool = False,
    files: Callable[[str], list[str]] | None = None,
    fetch: Callable[[str, str], Path] | None = None,
    discard: Callable[[Path], None] | None = None,
) -> list[Checkpoint]:
    """The checkpoints of a repository in TransformerLens's own format, files ``checkpoints/NAME_1000.pth``.

    Where the largest number is above a thousand million, as in most of these series, numbers count tokens, and ``step``
    holds them too. TransformerLens reads the files; each is removed from the hub's cache once it is in memory, unless
    ``keep``. ``files``, ``fetch`` and ``discard`` stand for the hub's own calls.

    Raises:
        InputError: the repository cannot be reached, or has no such files.
    """
    files, fetch, discard = files or _files, fetch or _fetch_file, discard or _discard_file
    found: dict[int, str] = {}
    for name in files(repository):
        match = _FILE.fullmatch(name)
        if match:
            _once(repository, found, int(match.group(1)), name)
    if not found:
        raise InputError(f"{repository} has no files checkpoints/NAME_1000.pth, so it is no series.")
    in_tokens = max(found) > TOKENS

    def loader(number: int, name: str) -> Callable[[], Model]:
        def load() -> Model:
            with offline_if_unreachable():
                try:
                    place = fetch(repository, name)
                except (OSError, ValueError) as error:
                    raise InputError(f"{repository}: {name} could not be fetched: {first_line(error)}.") from error
            try:
                return load_hub(repository, revision=None, checkpoint=number, device=device, dtype="float32")
            finally:
                if not keep:
                    discard(place)

        return load

    return [
        Checkpoint(number, number if in_tokens else None, f"{repository}: {name}", loader(number, name))
        for number, name in sorted(found.items())
    ]


def _branches(repository: str) -> list[str]:
    from huggingface_hub import HfApi

    with _listing(repository):
        return [reference.name for reference in HfApi().list_repo_refs(repository).branches]


def _files(repository: str) -> list[str]:
    from huggingface_hub import HfApi

    with _listing(repository):
        return HfApi().list_repo_files(repository)


@contextlib.contextmanager
def _listing(repository: str) -> Iterator[None]:
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        with offline_if_unreachable():
            yield
    except Exception as error:
        reason = "there is no network" if isinstance(error, OfflineModeIsEnabled) else first_line(error)
        raise InputError(
            f"There is no folder {repository}, and checkpoints of {repository} could not be listed on the hub "
            f"({reason}); give a folder of checkpoints, or try again with a network."
        ) from error


def _fetch(repository: str, branch: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin"]
    return Path(snapshot_download(repository, revision=branch, allow_patterns=wanted))


def _discard(place: Path) -> None:
    """Remove a fetched snapshot, and files that no other snapshot shares, from the hub's cache."""
    from huggingface_hub import scan_cache_dir

    for repository in scan_cache_dir().repos:
        for revision in repository.revisions:
            if revision.snapshot_path == place:
                scan_cache_dir().delete_revisions(revision.commit_hash).execute()
                return


def _fetch_file(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name))


def _discard_file(place: Path) -> None:
    """Remove one fetched file from the hub's cache: what it points to, and itself."""
    place.resolve().unlink(missing_ok=True)
    place.unlink(missing_ok=True)


def _once(repository: str, found: dict[int, str], step: int, name: str) -> None:
    if step in found:
        raise InputError(f"{repository} holds step {step} twice: {found[step]} and {name}.")
    check_step(step, f"{repository}: {name}")
    found[step] = name
