"""What a scan measures, and how."""

from dataclasses import dataclass

from inductionlens.detection import THRESHOLD
from inductionlens.errors import InputError
from inductionlens.scores.attention import REDUCTIONS
from inductionlens.scores.logits import SOURCES


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

    def __post_init__(self) -> None:
        for name, least in (("sequences", 1), ("period", 3), ("repeats", 2), ("logit_period", 3), ("batch_size", 1)):
            value = getattr(self, name)
            if name == "batch_size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise InputError(f"{name} must be a whole number; got {value!r}.")
            if value < least:
                raise InputError(f"{name} must be at least {least}; got {value}.")
        if not isinstance(self.bos, int):
            raise InputError(f"bos must be True, False or a token id; got {self.bos!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InputError(f"seed must lie between 0 and 2^63 - 1; got {self.seed}.")
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not 0 < self.threshold <= 1:
            raise InputError(f"threshold must lie above 0 and at most at 1; got {self.threshold!r}.")
        choices = (("reduce", REDUCTIONS), ("copying_source", SOURCES), ("logit_recipe", ("default", "mcdougall")))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}.")
