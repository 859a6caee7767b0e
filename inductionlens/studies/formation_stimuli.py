"""What every checkpoint of a series runs on, and its measurements."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from inductionlens.composition import measure_k_term
from inductionlens.effects import Change, Stimulus, measure_effects
from inductionlens.errors import InputError
from inductionlens.heads import Head
from inductionlens.intervals import mean_interval
from inductionlens.measure import losses_by_position, measure_attention, measure_induction_logit, measure_weights
from inductionlens.models import Model
from inductionlens.models.checkpoints import Checkpoint
from inductionlens.models.vocabulary import choose_bos
from inductionlens.probes import Probe, generator_from, repeated_tokens
from inductionlens.scores.attention import TARGETS
from inductionlens.studies.formation_options import FormationOptions
from inductionlens.studies.pool import TEXT, Pool, make_pool
from inductionlens.studies.scan import scan
from inductionlens.studies.training import unseen_rows
from inductionlens.studies.windows import Windows, make_windows, pick_pair

#: The attention scores of a snapshot, on the repeated probe.
ATTENTION = ("prefix_matching", "previous_token", "duplicate_token")


class Stimuli:
    """What every checkpoint of a series runs on."""

    def __init__(self, model: Model, options: FormationOptions, folder: Path | None) -> None:
        self.options, self.shape = options, shape_of(model)
        bos = choose_bos(model, options.bos)
        self.pool: Pool = make_pool(model, bos, options.pool, options.text)
        pool = self.pool.ids
        start = int(bos is not None)
        fits = (model.cfg.n_ctx - start) // 4
        period = options.period or min(25, fits, len(pool))
        most = min(fits, len(pool))
        if not 3 <= period <= most:
            raise InputError(
                f"period must be at least 3 and fit the context four times and the vocabulary once; "
                f"{f'{most} does' if most >= 3 else 'none does here'}, got {period}."
            )
        common = {"period": period, "bos": bos, "seed": options.seed}
        self.repeated: Probe = repeated_tokens(pool, repeats=4, sequences=options.sequences, **common)
        self.logit: Probe = repeated_tokens(pool, repeats=2, sequences=2 * options.sequences, purpose="logit", **common)
        own = unseen_rows(folder, options.n_windows, options.length) if folder and options.text == "auto" else None
        self.windows: Windows = own or make_windows(
            model,
            options.text,
            windows=options.n_windows,
            length=options.length,
            bos=options.bos,
            seed=options.seed,
            pool=options.pool,
        )
        length = self.windows.tokens.shape[1]
        self.late, self.early = pick_pair(length, options.late, options.early)
        generator = generator_from(options.seed, "followed tokens")
        self.followed = torch.randint(0, length - 1, (options.n_windows,), generator=generator).numpy()
        # Equal windows, as short texts give, are one: they follow one token.
        first = {row.tobytes(): place for place, row in reversed(list(enumerate(self.windows.tokens.numpy())))}
        self.followed = self.followed[[first[row.tobytes()] for row in self.windows.tokens.numpy()]]
        same = self.windows.tokens.numpy().tobytes() + self.followed.tobytes()
        #: Equal for runs whose losses are those of the same tokens, which may share a plane.
        self.digest = hashlib.sha256(same).hexdigest()[:16]

    def check(self, model: Model, one: Checkpoint) -> None:
        """Make sure that a later checkpoint is the same model."""
        if shape_of(model) != self.shape:
            raise InputError(f"The checkpoint {one.name} has another shape than those before it; give one run.")

    def measure(self, model: Model) -> dict[str, Any]:
        """Everything about one checkpoint, in plain values."""
        options = self.options
        targets = {name: TARGETS[name] for name in ATTENTION}
        samples, copies = measure_attention(
            model, self.repeated, targets, with_losses=True, batch_size=options.batch_size
        )
        heads = {name: part.value() for name, part in samples.items()}
        ends = mean_interval(samples["prefix_matching"].numerator.reshape(-1, options.sequences))
        shape = heads["prefix_matching"].shape
        heads["prefix_matching_low"], heads["prefix_matching_high"] = (end.reshape(shape) for end in ends)
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
        scores = losses[:, self.late] - losses[:, self.early]
        (low,), (high,) = mean_interval(scores[None].astype(float))
        found |= {"loss": float(losses.mean()), "icl_score": float(scores.mean())}
        found |= {"icl_score_low": float(low), "icl_score_high": float(high)}
        return {
            "model": found,
            "best": {name: best_head(samples[name].numerator) for name in ("prefix_matching", "previous_token")},
            "heads": {name: values.tolist() for name, values in heads.items()},
            "losses": losses.mean(0).tolist(),
            "ablated": ablated,
            "followed": losses[np.arange(len(losses)), self.followed].tolist(),
            "notes": {
                "probe": self.repeated.describe(), "pool": self.pool.record(),
                "windows": self.windows.name, "icl": [self.late, self.early],
                "window_tokens": self.windows.tokens.shape[1], "followed": self.digest,
            },
        }  # fmt: skip

    def verdicts(self, model: Model) -> dict[str, Any]:
        """What a scan of this checkpoint calls every head (``kind``, layer by head), or why none could be made.

        Blocks are as long as leaves room for gaps of their own length, at most 25 tokens.
        """
        start = int(self.repeated.bos is not None)
        room, ids = model.cfg.n_ctx - start, len(self.pool.ids)
        period = min(25, room // 7, ids // 2)
        given = self.options.pool == TEXT and self.options.text != "auto"
        text = self.options.text if given else "random"
        try:
            scores = scan(
                model, period=period, logit_period=min(30, room // 2, ids), text=text, bos=self.options.bos,
                pool=self.options.pool, seed=self.options.seed, batch_size=self.options.batch_size,
            )  # fmt: skip
        except InputError as error:
            return {"reason": f"no scan could be made: {error}"}
        kinds = np.array(scores.table["kind"], dtype=object).reshape(self.shape[:2])
        return {"kind": kinds.tolist(), "strongest": [head.label for head in scores.induction_heads()]}

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
        how = Change(hold_patterns=self.options.hold_patterns)
        effects = measure_effects(model, stimulus, every, how, batch_size=self.options.batch_size)
        change = (effects.ablated["icl"] - effects.clean["icl"]).mean(1).reshape(layers, heads)
        return change, effects.ablated["followed"].tolist()


def best_head(samples: Float[np.ndarray, "layer head sequence"]) -> dict[str, Any]:
    """The head with the highest score on every other sequence, and its score and interval on those between.

    Chosen and measured on the same sequences, the largest of many scores is too large, and its interval misses.
    """
    choosing, measuring = samples[..., ::2], samples[..., 1::2]
    layer, head = map(int, np.unravel_index(np.nanargmax(choosing.mean(-1)), samples.shape[:2]))
    (low,), (high,) = mean_interval(measuring[layer, head][None])
    value = float(measuring[layer, head].mean())
    return {"head": Head(layer, head).label, "value": value, "low": float(low), "high": float(high)}


def shape_of(model: Model) -> tuple[int, ...]:
    """What two checkpoints of one run have in common."""
    return (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.d_vocab, model.cfg.n_ctx)
