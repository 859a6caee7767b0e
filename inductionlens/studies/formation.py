"""When do induction heads appear, and what comes with them?"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from inductionlens.composition import measure_k_term
from inductionlens.effects import Stimulus, measure_effects
from inductionlens.errors import InputError
from inductionlens.files import write_table
from inductionlens.heads import Head
from inductionlens.measure import (
    losses_by_position,
    measure_attention,
    measure_induction_logit,
    measure_weights,
)
from inductionlens.models import Model
from inductionlens.models.checkpoints import Checkpoint, checkpoints, chosen_steps
from inductionlens.models.vocabulary import choose_bos, ordinary_ids
from inductionlens.partial import Partial
from inductionlens.phase_change import PhaseChange
from inductionlens.probes import Probe, generator_from, repeated_tokens, token_pool
from inductionlens.scores.attention import TARGETS
from inductionlens.scores.trajectories import before_and_after, before_and_after_score
from inductionlens.studies.changes import changes_of, in_words
from inductionlens.studies.provenance import environment
from inductionlens.studies.training import unseen_rows
from inductionlens.studies.windows import Windows, make_windows, pick_pair

if TYPE_CHECKING:
    import pandas

#: The attention scores of a snapshot, on the repeated probe.
ATTENTION = ("prefix_matching", "previous_token", "duplicate_token")
HEAD_SCORES = (*ATTENTION, "induction_logit", "ov_eigen", "qk_eigen", "qk_eigen_trace", "effect_icl")
MODEL_SCORES = ("loss", "icl_score", "loss_first_copy", "loss_later_copies", "copying_gain")


@dataclass(frozen=True)
class FormationOptions:
    """What is measured at every snapshot."""

    sequences: int = 10
    """Sequences of repeated random blocks; the logit effect has twice as many."""
    period: int | None = None
    """Length of the block; 25, or what fits the context four times."""
    n_windows: int = 50
    """Windows for losses by position."""
    text: str = "auto"
    """Where windows come from: ``auto`` takes what a run of `train_toy` was trained on, later batches than it saw, and
    for other series what `make_windows` does; all of that function's sources may be named."""
    length: int | None = None
    """Tokens in a window; 512 or the context by default."""
    late: int | None = None
    """The later index of the in-context-learning score."""
    early: int | None = None
    """The earlier one."""
    ablate: bool = True
    """Also zero every head at every snapshot and measure the in-context-learning score again."""
    bos: bool | int = True
    """Whether sequences start with BOS: the model's own, none, or a token id."""
    seed: int = 0
    """Decides every random token, and which token of a window is followed over training."""
    batch_size: int | None = None
    """Sequences per forward pass."""

    def __post_init__(self) -> None:
        for name in ("sequences", "n_windows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 2:
                raise InputError(f"{name} must be a whole number of at least 2; got {value!r}.")
        if self.period is not None and (not isinstance(self.period, int) or self.period < 3):
            raise InputError(f"period must be a whole number of at least 3; got {self.period!r}.")


@dataclass(frozen=True, eq=False)
class Formation:
    """A training run, snapshot by snapshot."""

    steps: "pandas.DataFrame"
    """One row per snapshot: ``step``, ``tokens``, losses, ``icl_score``, and its best head by prefix matching and by
    previous-token attention. ``problem`` says why a snapshot could not be read; its numbers are empty."""
    heads: "pandas.DataFrame"
    """One row per snapshot and head."""
    losses: "pandas.DataFrame"
    """Mean loss by ``step`` and ``index`` (context position)."""
    token_losses: Float[np.ndarray, "snapshot token"] = field(repr=False)
    """The loss of one fixed, randomly chosen token of each window, per snapshot: what per-token-loss PCA reads."""
    ablated_losses: Float[np.ndarray, "snapshot head token"] = field(repr=False)
    """The same tokens' losses with each head zeroed, heads layer by layer; empty without ablation."""
    provenance: dict[str, Any] = field(repr=False)
    """How it was measured."""

    def curve(self, column: str, head: Head | str | tuple[int, int] | None = None) -> "pandas.DataFrame":
        """``step`` and ``value`` of a column over training, of one head or of the model as a whole.

        Raises:
            InputError: no such column or head.
        """
        table = self.steps
        if head is not None:
            table = self.heads[self.heads["name"] == Head.parse(head).label]
        if column not in table.columns or table.empty:
            known = ", ".join(name for name in table.columns if name not in ("step", "tokens", "name"))
            raise InputError(f"There is no curve {column!r}{'' if head is None else f' of {head}'}; there are {known}.")
        return table[["step", column]].rename(columns={column: "value"}).reset_index(drop=True)

    def before_and_after(self, change: Any = None) -> "pandas.DataFrame":
        """What zeroing each head does to the direction in which losses moved during a change, by default that of prefix
        matching: one row per snapshot and head, ``before_and_after`` in nats, *negative where its removal undoes it*.

        Olsson et al. 2022: b, the unit vector of per-token losses at the end of the change minus at its start, times
        ablated minus clean losses. Empty where nothing changes or nothing was ablated.
        """
        import pandas as pd

        change = change or self.changes().get("prefix_matching")
        read = self.steps.loc[self.steps["problem"] == "", "step"].tolist()
        if change is None or not change.found or not self.ablated_losses.size:
            return pd.DataFrame({"step": [], "name": [], "before_and_after": []})
        start, end = (torch.from_numpy(self.token_losses[read.index(int(at))]) for at in (change.start, change.end))
        direction = before_and_after(start, end)
        names = self.heads["name"].drop_duplicates().tolist()
        rows = []
        for place, step in enumerate(read):
            clean, ablated = (torch.from_numpy(losses[place]) for losses in (self.token_losses, self.ablated_losses))
            scores = before_and_after_score(direction, clean, ablated).tolist()
            rows += [
                {"step": step, "name": name, "before_and_after": score}
                for name, score in zip(names, scores, strict=True)
            ]
        return pd.DataFrame(rows)

    def changes(self) -> dict[str, PhaseChange]:
        """Where prefix matching, the in-context-learning score and the gain on copies break; see `find_change`."""
        return changes_of(self.steps)

    def in_words(self) -> list[str]:
        """What happened, in sentences."""
        return in_words(self.steps)

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write ``steps``, whole or not at all, and their record; ``heads`` and ``losses`` go beside them."""
        path = Path(path)
        write_table(path, self.steps, self.provenance, format)
        for name in ("heads", "losses"):
            write_table(path.with_suffix(f".{name}{path.suffix}"), getattr(self, name), self.provenance, format)


def formation(
    source: str | Path | Sequence[Checkpoint],
    *,
    steps: str = "all",
    options: FormationOptions | None = None,
    partial: str | Path | None = None,
    device: str | None = None,
    keep: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Formation:
    """Measure every checkpoint of a run, one in memory at a time, and give how heads and losses develop.

    ``source`` is a folder of checkpoints (see `local_checkpoints`; `train_toy` leaves such folders), a hub repository
    that keeps them as branches (see `hub_checkpoints`; ``keep`` keeps the files), or a list of `Checkpoint`. ``steps``
    picks some of them (see `chosen_steps`). While one is measured the next one is read. Every checkpoint sees the same
    tokens. A checkpoint that cannot be read is reported in the table and left out. ``partial`` names a file for
    finished checkpoints: an interrupted call goes on from there and ends the same.

    Raises:
        InputError: nothing to measure, a setting that does not fit, or models that differ in shape.
    """
    if options is not None and settings:
        raise InputError("Give formation either options or settings by name, not both.")
    unknown = [name for name in settings if name not in FormationOptions.__dataclass_fields__]
    if unknown:
        known = ", ".join(FormationOptions.__dataclass_fields__)
        raise InputError(f"formation has no setting {unknown[0]!r}; it has {known}.")
    options = options or FormationOptions(**settings)
    named = isinstance(source, (str, Path))
    series = checkpoints(source, device=device, keep=keep) if named else list(source)
    if not series:
        raise InputError("There is no checkpoint to measure.")
    series = chosen_steps(series, steps)
    work = {"options": asdict(options), "checkpoints": [[one.step, one.name] for one in series]}
    parts = Partial(None if partial is None else Path(partial), work)
    stimuli: _Stimuli | None = None
    waiting = [one for one in series if str(one.step) not in parts.parts]
    for done, (one, model) in enumerate(_ahead(waiting), start=len(series) - len(waiting) + 1):
        part: dict[str, Any]
        if isinstance(model, InputError):
            part = {"problem": str(model)}
        else:
            stimuli = stimuli or _Stimuli(model, options, Path(source) if named else None)
            stimuli.check(model, one)
            part = stimuli.measure(model)
        parts.add(str(one.step), part)
        if on_progress is not None:
            on_progress(done, len(series))
    found = _tables(series, parts.parts)
    record = {"source": str(source) if isinstance(source, (str, Path)) else "checkpoints", **work, **environment()}
    record["measured"] = next((part["notes"] for part in parts.parts.values() if "notes" in part), {})
    parts.finish()
    return Formation(*found, record)


def _ahead(series: Sequence[Checkpoint]) -> Iterator[tuple[Checkpoint, Model | InputError]]:
    """Each checkpoint and its model, or why there is none; the next one is read while this one is worked on."""
    ready: queue.Queue[tuple[Checkpoint, Model | InputError | BaseException]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: tuple[Checkpoint, Any]) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def read() -> None:
        for one in series:
            if stop.is_set():
                return
            try:
                put((one, one.load()))
            except InputError as error:
                put((one, error))
            except BaseException as error:
                put((one, error))
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        for _ in series:
            one, model = ready.get()
            if isinstance(model, BaseException) and not isinstance(model, InputError):
                raise model
            yield one, model
    finally:
        stop.set()
        thread.join()


class _Stimuli:
    """What every checkpoint of a series runs on."""

    def __init__(self, model: Model, options: FormationOptions, folder: Path | None) -> None:
        self.options, self.shape = options, _shape(model)
        bos = choose_bos(model, options.bos)
        ids = ordinary_ids(model)
        pool = token_pool(ids if bos is None else ids[ids != bos])
        start = int(bos is not None)
        fits = (model.cfg.n_ctx - start) // 4
        period = options.period or min(25, fits, len(pool))
        if period > fits or period < 3 or period > len(pool):
            raise InputError(
                f"period must fit the context four times and the vocabulary once; {min(fits, len(pool))} does, "
                f"got {period}."
            )
        common = {"period": period, "bos": bos, "seed": options.seed}
        self.repeated: Probe = repeated_tokens(pool, repeats=4, sequences=options.sequences, **common)
        self.logit: Probe = repeated_tokens(pool, repeats=2, sequences=2 * options.sequences, purpose="logit", **common)
        own = unseen_rows(folder, options.n_windows) if folder and options.text == "auto" else None
        self.windows: Windows = own or make_windows(
            model, options.text, windows=options.n_windows, length=options.length, bos=options.bos, seed=options.seed
        )
        length = self.windows.tokens.shape[1]
        self.late, self.early = pick_pair(length, options.late, options.early)
        generator = generator_from(options.seed, "followed tokens")
        self.followed = torch.randint(0, length - 1, (options.n_windows,), generator=generator).numpy()

    def check(self, model: Model, one: Checkpoint) -> None:
        """Make sure that a later checkpoint is the same model."""
        if _shape(model) != self.shape:
            raise InputError(f"The checkpoint {one.name} has another shape than those before it; give one run.")

    def measure(self, model: Model) -> dict[str, Any]:
        """Everything about one checkpoint, in plain values."""
        options = self.options
        targets = {name: TARGETS[name] for name in ATTENTION}
        samples, copies = measure_attention(
            model, self.repeated, targets, with_losses=True, batch_size=options.batch_size
        )
        heads = {name: part.value() for name, part in samples.items()}
        heads["induction_logit"] = measure_induction_logit(model, self.logit, batch_size=options.batch_size).value()
        heads["ov_eigen"] = measure_weights(model)["ov_eigen"]
        k_term = measure_k_term(model, heads["previous_token"])
        heads |= {"qk_eigen": k_term.eigen, "qk_eigen_trace": k_term.trace}
        losses = losses_by_position(model, self.windows.tokens, options.batch_size)
        heads["effect_icl"], ablated = np.full(heads["ov_eigen"].shape, np.nan), []
        if options.ablate and heads["ov_eigen"].size > 1:
            heads["effect_icl"], ablated = self._effects(model)
        found = {name: float(values.mean()) for name, values in copies.items()}
        found["copying_gain"] = found["loss_first_copy"] - found["loss_later_copies"]
        found |= {
            "loss": float(losses.mean()),
            "icl_score": float((losses[:, self.late] - losses[:, self.early]).mean()),
        }
        return {
            "model": found,
            "heads": {name: values.tolist() for name, values in heads.items()},
            "losses": losses.mean(0).tolist(),
            "ablated": ablated,
            "followed": losses[np.arange(len(losses)), self.followed].tolist(),
            "notes": {
                "probe": self.repeated.describe(), "windows": self.windows.name, "icl": [self.late, self.early],
                "window_tokens": self.windows.tokens.shape[1],
            },
        }  # fmt: skip

    def _effects(self, model: Model) -> tuple[Float[np.ndarray, "layer head"], list[list[float]]]:
        """What zeroing each head takes away of the in-context-learning score (positive is lost), and the followed
        tokens' losses without it, heads layer by layer."""
        layers, heads = model.cfg.n_layers, model.cfg.n_heads
        every = [[Head(layer, head)] for layer in range(layers) for head in range(heads)]
        scored = sorted({self.early, self.late, *self.followed.tolist()})
        column = {at: place for place, at in enumerate(scored)}
        rows = {row.tobytes(): column[at] for row, at in zip(self.windows.tokens.numpy(), self.followed, strict=True)}

        def followed(losses: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            places = torch.tensor([rows[row.tobytes()] for row in tokens.cpu().numpy()], device=losses.device)
            return losses.gather(1, places[:, None])[:, 0]

        ends = (column[self.early], column[self.late])
        values = {"icl": lambda losses, tokens: losses[:, ends[1]] - losses[:, ends[0]], "followed": followed}
        stimulus = Stimulus("windows", self.windows.tokens, torch.tensor(scored), values)
        effects = measure_effects(model, stimulus, every, batch_size=self.options.batch_size)
        change = (effects.ablated["icl"] - effects.clean["icl"]).mean(1).reshape(layers, heads)
        return change, effects.ablated["followed"].tolist()


def _shape(model: Model) -> tuple[int, ...]:
    return (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.d_vocab, model.cfg.n_ctx)


def _tables(
    series: Sequence[Checkpoint], parts: dict[str, Any]
) -> tuple["pandas.DataFrame", "pandas.DataFrame", "pandas.DataFrame", np.ndarray, np.ndarray]:
    import pandas as pd

    steps, heads, losses, followed, ablated = [], [], [], [], []
    for one in series:
        part = parts[str(one.step)]
        row: dict[str, Any] = {"step": one.step, "tokens": one.tokens, "problem": part.get("problem", "")}
        if "problem" in part:
            steps.append(row)
            continue
        scores = {name: np.array(values, dtype=float) for name, values in part["heads"].items()}
        for name in ("prefix_matching", "previous_token"):
            best = Head(*map(int, np.unravel_index(np.nanargmax(scores[name]), scores[name].shape)))
            row |= {name: float(scores[name][best]), f"{name}_head": best.label}
        steps.append(row | part["model"])
        for layer, head in np.ndindex(scores["prefix_matching"].shape):
            own = {name: float(values[layer, head]) for name, values in scores.items()}
            heads.append({"step": one.step, "name": Head(layer, head).label, "layer": layer, "head": head, **own})
        losses += [{"step": one.step, "index": index, "loss": loss} for index, loss in enumerate(part["losses"])]
        followed.append(part["followed"])
        ablated.append(part["ablated"])
    table = pd.DataFrame(steps)
    table["tokens"] = table["tokens"].astype("Int64")
    order = ["step", "tokens", *MODEL_SCORES, "prefix_matching", "prefix_matching_head", "previous_token"]
    order += ["previous_token_head", "problem"]
    tokens = np.array(followed, dtype=float).reshape(len(followed), -1)
    without = np.array(ablated, dtype=float).reshape(len(ablated), -1, tokens.shape[1])
    return table.reindex(columns=order), pd.DataFrame(heads), pd.DataFrame(losses), tokens, without
