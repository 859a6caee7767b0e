"""How heads are ablated, and on what."""

from dataclasses import dataclass
from pathlib import Path

from inductionlens.checks import check_choice, check_choices, check_settings, check_text
from inductionlens.studies.pool import TOKENIZER, check_pool

MEASURES = ("copies", "icl", "text")
METHODS = ("exact", "gradient")
OUTPUTS = ("zero", "mean")


@dataclass(frozen=True)
class AblationOptions:
    """Settings of `ablation_study`; the defaults ask for the plain effect of zeroing each head."""

    output: str = "zero"
    """What replaces a head's output: zero, or its mean over other sequences of the same stimulus."""
    hold_patterns: bool = False
    """Hold attention at the clean run's in every layer: only what later heads read through values changes."""
    method: str = "exact"
    """exact: each head is really removed. gradient: a first-order estimate, all heads from one backward pass."""
    measures: tuple[str, ...] = MEASURES
    """copies: loss on later copies of random blocks; icl: in-context-learning score; text: mean loss on windows."""
    text: str = "auto"
    """Where windows come from: stdlib, random, a .txt file or folder, hub:NAME; auto takes what the model can read."""
    n_windows: int = 20
    """How many windows."""
    length: int | None = None
    """Tokens in a window; 512 or the model's context by default."""
    late: int | None = None
    """The later token of the in-context-learning score, 0-based; 500 where the window is long enough."""
    early: int | None = None
    """The earlier token; 50 where the window is long enough."""
    sequences: int = 20
    """Sequences of repeated random blocks."""
    period: int = 25
    """Length of the repeated block."""
    repeats: int = 4
    """How often it is repeated."""
    groups: bool = True
    """Also remove the strongest 1, 2, 3 ... induction heads together, beside random heads and previous-token heads."""
    draws: int = 20
    """Random groups of each size."""
    controls: bool = True
    """Scan with the controls behind verdicts; without them blocks may fill the whole context, and heads are of a kind
    by threshold alone."""
    bos: bool | int = True
    """Whether sequences start with BOS: the model's own, none, or a token id."""
    seed: int = 0
    """Decides every random token and every random group."""
    batch_size: int | None = None
    """Sequences per forward pass."""
    pool: str | Path = TOKENIZER
    """Which ids random tokens are drawn from: ``tokenizer`` (its ordinary ones), ``text`` (those of them that occur in
    ``text``, or in the source text of the running Python), or a file of ids, one on each line or a JSON list."""

    def __post_init__(self) -> None:
        for name, known in (("output", OUTPUTS), ("method", METHODS)):
            check_choice(name, getattr(self, name), known)
        if self.measures:  # a study may have measures of the caller's alone
            check_choices("measures", self.measures, MEASURES)
        check_settings(
            least={"sequences": 2, "n_windows": 2}, sequences=self.sequences, period=self.period, repeats=self.repeats,
            n_windows=self.n_windows, length=self.length, late=self.late, early=self.early, draws=self.draws,
            hold_patterns=self.hold_patterns, groups=self.groups, controls=self.controls, bos=self.bos,
            seed=self.seed, batch_size=self.batch_size,
        )  # fmt: skip
        check_text(self.text)
        object.__setattr__(self, "pool", check_pool(self.pool, self.text))
