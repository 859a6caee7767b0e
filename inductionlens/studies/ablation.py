"""What breaks when heads are removed?"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens.effects import Change, Stimulus, Value, measure_attribution, measure_effects
from inductionlens.files import write_table
from inductionlens.head_scores import HeadScores
from inductionlens.heads import Head, parse_heads
from inductionlens.measure import losses_by_position, measure_attention
from inductionlens.models import Model
from inductionlens.models.ablation import ablate, clean_run
from inductionlens.models.activations import check_all_layers_attend
from inductionlens.models.loading import load_model
from inductionlens.models.named_weights import weights_digest
from inductionlens.models.origin import origin_of
from inductionlens.models.processing import processing_of
from inductionlens.models.vocabulary import choose_bos
from inductionlens.partial import Partial
from inductionlens.studies.ablation_groups import Group, controls_beside, make_groups, why_fewer
from inductionlens.studies.ablation_options import AblationOptions
from inductionlens.studies.ablation_stimuli import copies_probe, make_stimuli
from inductionlens.studies.ablation_tables import group_rows, head_rows
from inductionlens.studies.ablation_writers import Writers, holds_writer, measure_writers
from inductionlens.studies.chosen_heads import check_heads, check_scores, chosen_heads
from inductionlens.studies.pool import TEXT
from inductionlens.studies.provenance import PACKAGES
from inductionlens.studies.scan import scan
from inductionlens.studies.settings import settled
from inductionlens.studies.stimuli import fitting_logit_period
from inductionlens.studies.windows import without_padding

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class AblationEffects:
    """What removing heads did: one row for each head, and one for each group of heads."""

    table: "pandas.DataFrame"
    """One row per head: ``effect_NAME`` is ablated minus clean, in nats, with its 95% interval over sequences, beside
    ``control_NAME``, the mean effect of the other heads of its layer that the scan calls of no kind; NaN where there
    are none."""
    groups: "pandas.DataFrame"
    """One row per group: the strongest k induction heads, k previous-token heads, and random sets of k others.
    ``p_NAME`` is the share of random sets that cost as much; ``holds_writer`` says which of them hold a head that the k
    induction heads read, and ``from_layers`` whether they match their layers."""
    losses: "pandas.DataFrame"
    """Mean loss on the windows by ``index``, ``clean`` and ``ablated`` (without the largest group of induction heads);
    empty where no group was removed, no window was read, or patterns were held."""
    clean: dict[str, float]
    """Each measure with nothing removed. With ``copies`` also ``copying_gain``: loss on the first copies of the same
    sequences minus loss on later ones."""
    provenance: dict[str, Any]
    """How it was measured."""
    samples: dict[str, Float[np.ndarray, "head sequence"]] = field(default_factory=dict, repr=False)
    """Per-sequence effects behind each measure, in the table's row order."""
    parts: Partial | None = field(default=None, repr=False)
    """Finished parts on disk, until `save`."""

    def share_of_copying_lost(self) -> dict[str, float]:
        """Which share of the model's copying gain goes with its induction heads, and with as many random ones (the
        mean over draws). Cost and gain are of the same sequences. 1 is all of it; NaN where no group was removed, or
        ``copies`` was not measured."""
        gain = self.clean.get("copying_gain", 0.0)
        if not len(self.groups) or not gain:
            return {"induction": float("nan"), "random": float("nan")}
        largest = self.groups[self.groups["k"] == self.groups["k"].max()]
        lost = largest.groupby("set")["effect_copies"].mean() / gain
        return {"induction": float(lost["induction"]), "random": float(lost["random"])}

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write the head table, whole or not at all, and its record; groups go to ``NAME.groups`` beside it.

        Finished parts are removed then.
        """
        path = Path(path)
        write_table(path, self.table, self.provenance | {"clean": self.clean}, format)
        if len(self.groups):
            write_table(path.with_suffix(f".groups{path.suffix}"), self.groups, self.provenance, format)
        if self.parts is not None:
            self.parts.finish()

    def plot(self, path: str | Path, measure: str | None = None) -> None:
        """Draw effects by head, against prefix matching, of groups, and losses by position, as .png, .svg or .pdf."""
        from inductionlens.plots.effects import plot_study

        plot_study(path, self.table, self.groups, self.losses, measure)


def ablation_study(
    model: Model | str | Path,
    windows: Int[Tensor, "batch pos"] | None = None,
    *,
    heads: Iterable[Head | str | tuple[int, int]] | str = "all",
    extra: Mapping[str, Value] | None = None,
    options: AblationOptions | None = None,
    scores: HeadScores | None = None,
    partial: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> AblationEffects:
    """Remove heads one by one, and in groups, and say what it costs. Olsson et al. 2022, Argument 3.

    ``windows`` are token ids for the ``icl`` and ``text`` measures; by default they are taken from ``text``. Padding on
    their right (the tokenizer's padding id, where that is neither EOS nor BOS) is left out: its losses are NaN.
    ``heads`` are those removed one by one: ``all``, a kind such as ``induction``, or names. ``extra`` adds measures:
    name -> function of the windows' losses [batch, pos - 1] (nats; entry i is the loss of token i + 1) and tokens
    [batch, pos], giving one number per sequence. ``scores`` is a scan of the same model, made here if not given.
    ``partial`` names a file for finished parts: an interrupted study goes on from there and ends the same, bit for
    bit; `AblationEffects.save` removes it.
    Settings may be given by name or as `AblationOptions`.

    Effects are ablated minus clean. ``effect_copies``: nats lost on later copies of random blocks. ``effect_icl``:
    positive means in-context learning lost (the score itself is negative where there is any). ``effect_text``: nats
    lost on text. Beside a head's effect stands ``control_...``, the mean effect of the other heads of its layer that
    are of no kind; groups stand beside random groups of as many other heads.

    Raises:
        InputError: an unknown head, option or measure; windows that do not fit; a measure of the wrong shape.
    """
    options = settled("ablation_study", AblationOptions, options, settings)
    heads = heads if isinstance(heads, str) else parse_heads(heads, "heads")
    check_heads(heads, "heads")
    model = load_model(model)
    check_all_layers_attend(model, "an ablation study")
    if scores is None:
        check_heads(heads, "heads", model)
        shape = {"period": options.period, "repeats": options.repeats, "bos": options.bos}
        start = choose_bos(model, options.bos)
        shape["logit_period"] = fitting_logit_period(model, start, options.pool, options.text)
        how = {"controls": options.controls, "batch_size": options.batch_size}
        text = options.text if options.pool == TEXT and options.text != "auto" else "random"
        scores = scan(model, seed=options.seed, text=text, pool=options.pool, **shape, **how)
    check_scores(model, scores)
    chosen = chosen_heads(model, heads, scores, "heads", "remove")
    stimuli, notes = make_stimuli(model, windows, options, {} if extra is None else extra)
    beside = controls_beside(scores, chosen)
    singles = sorted({*chosen, *(other for others in beside.values() for other in others)})
    groups = make_groups(scores, options) if options.groups and options.method == "exact" else []
    removed = [[head] for head in singles] + [list(group.heads) for group in groups]
    record = _record(model, options, notes, chosen)
    work = record | {"removed": [[str(head) for head in group] for group in removed], "weights": weights_digest(model)}
    parts = Partial(None if partial is None else Path(partial), work)
    writers, obstacle = measure_writers(model, groups, options)
    record["groups"] = _groups_record(why_fewer(scores, options), writers, obstacle)
    clean: dict[str, np.ndarray] = {}
    effects: dict[str, np.ndarray] = {}
    total = sum(len(stimulus.tokens) for stimulus in stimuli) * (len(removed) + 1)
    done = 0

    def on_part(key: str, part: dict[str, list[list[float]]]) -> None:
        nonlocal done
        parts.add(key, part)
        done += sum(len(row) for row in next(iter(part.values())))
        if on_progress is not None:
            on_progress(min(done, total), total)

    with parts:
        for stimulus in stimuli:
            change = _change(model, stimulus, options)
            if options.method == "gradient":
                found = measure_attribution(model, stimulus, change, batch_size=options.batch_size)
                for name, values in found.items():
                    effects[name] = np.stack([values[head.layer, head.index] for head in singles])
                continue
            measured = measure_effects(
                model, stimulus, removed, change, batch_size=options.batch_size, kept=parts.parts, on_part=on_part
            )
            clean |= measured.clean
            for name, values in measured.ablated.items():
                effects[name] = values - measured.clean[name]
    table, samples = head_rows(origin_of(model).name, scores, options, chosen, singles, beside, effects)
    by_group = group_rows(groups, len(singles), effects, options, holds_writer(groups, writers))
    losses = _losses(model, groups, stimuli, options)
    values = _clean_values(model, clean, options)
    return AblationEffects(table, by_group, losses, values, record, samples, parts)


def _losses(model: Model, groups: list[Group], stimuli: list[Stimulus], options: AblationOptions) -> "pandas.DataFrame":
    """Mean loss by position on the windows, with all heads and without the largest group of induction heads."""
    import pandas as pd

    found = [group for group in groups if group.set == "induction"]
    read = [stimulus for stimulus in stimuli if stimulus.name == "windows"]
    if not found or not read or options.hold_patterns:
        return pd.DataFrame({"index": [], "clean": [], "ablated": []})
    tokens, mean_over = read[0].tokens, read[0].mean_over
    clean = losses_by_position(model, tokens, options.batch_size)
    over = mean_over if options.output == "mean" else None
    with ablate(model, found[-1].heads, options.output, mean_over=over):
        ablated = losses_by_position(model, tokens, options.batch_size)
    text = tokens.shape[1] if read[0].lengths is None else int(read[0].lengths.max())
    clean, ablated = (
        np.nanmean(without_padding(losses, read[0].lengths)[:, : text - 1], axis=0) for losses in (clean, ablated)
    )
    return pd.DataFrame({"index": np.arange(len(clean)), "clean": clean, "ablated": ablated})


def _change(model: Model, stimulus: Stimulus, options: AblationOptions) -> Change:
    if options.output == "zero":
        return Change("zero", options.hold_patterns)
    return Change(clean_run(model, stimulus.mean_over).means(), options.hold_patterns)


def _clean_values(model: Model, clean: dict[str, np.ndarray], options: AblationOptions) -> dict[str, float]:
    """Means over sequences, and what copying gains on the sequences that ``copies`` is measured on."""
    means = {name: float(values.mean()) for name, values in clean.items()}
    if "copies" in options.measures:
        probe = copies_probe(model, options)
        _, losses = measure_attention(model, probe, {}, with_losses=True, batch_size=options.batch_size)
        means["copying_gain"] = float((losses["loss_first_copy"] - losses["loss_later_copies"]).mean())
    return means


def _groups_record(fewer: str, writers: Writers, obstacle: str) -> dict[str, Any]:
    """Why groups are fewer than they could be, and which heads the removed induction heads read."""
    lost: dict[str, float] = {}
    for read in writers.values():
        for head, share in read.items():
            lost[str(head)] = max(share, lost.get(str(head), 0.0))
    strongest = dict(sorted(lost.items(), key=lambda item: -item[1]))
    return {"fewer": fewer, "writers": strongest, "writers_not_measured": obstacle}


def _record(model: Model, options: AblationOptions, notes: dict[str, Any], chosen: list[Head]) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "model": {
            **asdict(origin_of(model)),
            "class": type(model).__name__,
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
            "processing": processing_of(model),
        },
        "options": asdict(options) | {"measures": list(options.measures)},
        "heads": [str(head) for head in chosen],
        "stimuli": notes,
        "versions": {name: version(name) for name in PACKAGES},
    }
