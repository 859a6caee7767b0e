"""What a scan measures, and how."""

from dataclasses import dataclass
from pathlib import Path

from inductionlens.checks import check_choice, check_settings, check_size, check_text, told
from inductionlens.detection import THRESHOLD
from inductionlens.errors import InputError
from inductionlens.scores.attention import REDUCTIONS
from inductionlens.scores.logits import SOURCES
from inductionlens.studies.pool import TOKENIZER, check_pool

#: Sequences of the logit probe for each of the others.
LOGIT_SEQUENCES = 10


@dataclass(frozen=True)
class ScanOptions:
    """What a scan measures, and how. The defaults are those of Olsson et al. 2022 where the paper gives them."""

    seed: int = 0
    """Decides every random token, and the resamples behind the intervals."""
    sequences: int = 10
    """Sequences per probe; the logit probe has ten times as many."""
    period: int = 25
    """Length of the repeated block, in tokens."""
    repeats: int = 4
    """How often the block stands in a sequence."""
    logit_period: int = 30
    """Block length of the logit probe, which repeats it once."""
    bos: bool | int = True
    """Start sequences with the model's BOS (True), with this token id, or with none (False)."""
    text: str = "auto"
    """Where ``previous_token`` is measured: ``stdlib`` (source text of the running Python), a .txt file or folder,
    ``hub:NAME`` (a data set of the hub), ``random`` (the repeated probe), or ``auto``: stdlib where the model has a
    tokenizer, else random."""
    reduce: str = "sum"
    """How a query's several targets count; see `inductionlens.scores.attention.weigh`. ``diagonal`` is the plain
    diagonal of two-repeat recipes."""
    value_weighted: bool = False
    """Weigh attention by the norm of the value vectors."""
    copying_source: str = "value"
    """Read copying from each attended value or from the mixed head output."""
    logit_recipe: str = "default"
    """``mcdougall`` draws from the whole vocabulary and does not centre the logits."""
    threshold: float = THRESHOLD
    """Attention from which a head counts as of a kind."""
    controls: bool = True
    """Run the controls behind p, q and verdicts: gapped repeats, tokens that never repeat, an untrained twin."""
    batch_size: int | None = None
    """Sequences per forward pass; by default as many as hold about 2,048 tokens. Changes no result beyond 1e-6."""
    pool: str | Path = TOKENIZER
    """Which ids random tokens are drawn from: ``tokenizer`` (its ordinary ones), ``text`` (those of them that occur in
    ``text``, or in the source text of the running Python), or a file of ids, one on each line or a JSON list."""

    def __post_init__(self) -> None:
        check_settings(
            sequences=self.sequences, period=self.period, repeats=self.repeats, logit_period=self.logit_period,
            batch_size=self.batch_size, bos=self.bos, seed=self.seed, value_weighted=self.value_weighted,
            controls=self.controls,
        )  # fmt: skip
        check_size(LOGIT_SEQUENCES * self.sequences, 2 * self.logit_period, smaller="sequences or logit_period")
        check_text(self.text)
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not 0 < self.threshold <= 1:
            raise InputError(f"threshold must lie above 0 and at most at 1; got {told(self.threshold)}.")
        choices = (("reduce", REDUCTIONS), ("copying_source", SOURCES), ("logit_recipe", ("default", "mcdougall")))
        for name, known in choices:
            check_choice(name, getattr(self, name), known)
        object.__setattr__(self, "pool", check_pool(self.pool, self.text))
