"""What is measured at every snapshot of a run."""

from dataclasses import dataclass
from pathlib import Path

from inductionlens.checks import check_settings, check_text
from inductionlens.studies.pool import TOKENIZER, check_pool


@dataclass(frozen=True)
class FormationOptions:
    """What is measured at every snapshot."""

    sequences: int = 20
    """Sequences of repeated random blocks: on every other one the best head is chosen, on the others it is measured.
    The logit effect has twice as many."""
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
    hold_patterns: bool = True
    """Hold attention at the clean run's while a head is zeroed, as Olsson et al. 2022 do: what a head writes for others
    to find their place by is then not counted. Otherwise attention may react."""
    bos: bool | int = True
    """Whether sequences start with BOS: the model's own, none, or a token id."""
    seed: int = 0
    """Decides every random token, and which token of a window is followed over training."""
    batch_size: int | None = None
    """Sequences per forward pass."""
    pool: str | Path = TOKENIZER
    """Which ids random tokens are drawn from: ``tokenizer`` (its ordinary ones), ``text`` (those of them that occur in
    ``text``, or in the source text of the running Python), or a file of ids, one on each line or a JSON list."""

    def __post_init__(self) -> None:
        period = {} if self.period is None else {"period": self.period, "repeats": 4}
        check_settings(
            least={"sequences": 2, "n_windows": 2}, sequences=self.sequences, **period, n_windows=self.n_windows,
            length=self.length, late=self.late, early=self.early, ablate=self.ablate,
            hold_patterns=self.hold_patterns, bos=self.bos, seed=self.seed, batch_size=self.batch_size,
        )  # fmt: skip
        check_text(self.text)
        object.__setattr__(self, "pool", check_pool(self.pool, self.text))
