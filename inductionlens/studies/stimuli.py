"""Every token sequence that a scan runs a model on."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from inductionlens import corpus
from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.vocabulary import choose_bos, encoder
from inductionlens.probes import (
    GappedProbe,
    Probe,
    fresh_tokens,
    gap_that_fits,
    gapped_tokens,
    repeated_tokens,
)
from inductionlens.studies.options import LOGIT_SEQUENCES, ScanOptions
from inductionlens.studies.pool import TOKENIZER, Pool, make_pool
from inductionlens.studies.texts import read_texts

#: Windows of natural text for previous_token: 10 of 512 tokens, or of the whole context where that is shorter.
TEXT_WINDOWS, TEXT_LENGTH = 10, 512
#: Gaps of the controls vary from 1 to so many tokens at least.
LEAST_GAP = 2


@dataclass(frozen=True)
class ScanProbes:
    """The stimuli of one scan."""

    repeated: Probe
    """Blocks repeated back to back: attention scores and losses."""
    once: Probe
    """One block, nothing repeated: copying."""
    logit: Probe
    """One block and its repeat: the effect on the right logit."""
    gapped: GappedProbe | None
    """Blocks repeated at uneven distances, the control for heads that look a fixed distance back; None without."""
    fresh: Int[Tensor, "batch pos"] | None
    """Tokens that never repeat, to be read at the same positions; None without controls."""
    text: Probe | None
    """Windows of natural text: previous_token; None where it is measured on the repeated blocks."""
    text_name: str
    """Where the text came from."""
    pool: Pool
    """What random tokens were drawn from."""

    def sequences(self) -> int:
        """How many sequences there are in all."""
        parts = (self.repeated, self.once, self.logit, self.text, self.gapped)
        extra = 0 if self.fresh is None else len(self.fresh) + len(self.repeated.tokens)
        return sum(len(probe.tokens) for probe in parts if probe is not None) + extra


def make_probes(model: Model, options: ScanOptions) -> ScanProbes:
    """Draw every sequence of a scan from the model's own vocabulary.

    Raises:
        InputError: no BOS, a context or a vocabulary too small for the probes, or no text to read.
    """
    bos = choose_bos(model, options.bos)
    drawn = make_pool(model, bos, options.pool, options.text)
    pool = drawn.ids
    _check_room(options, model.cfg.n_ctx, int(bos is not None), len(pool))
    common = {"bos": bos, "seed": options.seed}
    mcdougall = options.logit_recipe == "mcdougall"
    # The plainest probe first: its complaints are the plainest.
    repeated = repeated_tokens(
        pool, period=options.period, repeats=options.repeats, sequences=options.sequences, **common
    )
    text, text_name = _text_probe(model, options, bos)
    gapped, fresh = _control_probes(model, options, pool, bos) if options.controls else (None, None)
    return ScanProbes(
        repeated=repeated,
        once=repeated_tokens(
            pool, period=options.period, repeats=1, sequences=options.sequences, purpose="once", **common
        ),
        logit=repeated_tokens(
            make_pool(model, bos, options.pool, options.text, trim=0.0).ids if mcdougall else pool,
            period=options.logit_period, repeats=2, sequences=LOGIT_SEQUENCES * options.sequences, purpose="logit",
            **common,
        ),
        gapped=gapped,
        fresh=fresh,
        text=text,
        text_name=text_name,
        pool=drawn,
    )  # fmt: skip


def fitting_logit_period(model: Model, bos: int | None, pool: str = TOKENIZER, text: str = "auto") -> int:
    """The longest block of the logit probe, at most the usual 30, that context and vocabulary allow."""
    ids = make_pool(model, bos, pool, text).ids
    return min(ScanOptions.logit_period, (model.cfg.n_ctx - int(bos is not None)) // 2, len(ids))


def _check_room(options: ScanOptions, context: int, start: int, ids: int) -> None:
    """Refuse blocks that the context or the vocabulary does not hold, with numbers that fit all probes at once.

    Raises:
        InputError: they do not fit.
    """
    room, gap = context - start, LEAST_GAP if options.controls else 0
    # The gapped control may have fewer copies than the repeated probe, and two at least.
    whatever_repeats = min((room - gap) // 2, ids - gap)
    most = {"period": min(room // options.repeats, whatever_repeats), "logit_period": min(room // 2, ids)}
    wrong = [name for name, length in most.items() if getattr(options, name) > length]
    if not wrong:
        return
    ways = [f"{name}={most[name]}" for name in wrong]
    repeats = room // options.period
    if "period" in wrong and repeats >= 2 and options.period <= whatever_repeats:
        ways[0] += f" (or repeats={repeats})"
    elif "period" in wrong and options.period <= min(room // options.repeats, ids):
        ways[0] += " (or no controls: controls=False, --no-controls)"
    fitting = f"{' and '.join(ways)} fit{'s' * (len(wrong) == 1)}"
    gaps = f", a gap of {gap} is for the controls" * bool(gap)
    raise InputError(
        f"{options.repeats} blocks of {options.period} tokens and 2 of {options.logit_period} do not fit: the model's "
        f"context is {context} tokens{', BOS counted' * start}{gaps}, and "
        f"{ids} ids may be drawn; {fitting if min(most.values()) >= 3 else 'no probe is so small'}."
    )


def _control_probes(
    model: Model, options: ScanOptions, pool: Int[Tensor, " pool"], bos: int | None
) -> tuple[GappedProbe, Int[Tensor, "batch pos"]]:
    """Gapped repeats, with as many copies and then as large gaps as context and vocabulary allow, and as long
    sequences without repeats."""
    start, period = int(bos is not None), options.period
    copies = min(options.repeats, (model.cfg.n_ctx - start + LEAST_GAP) // (period + LEAST_GAP))
    shape = {"period": period, "repeats": copies}
    gap = min(gap_that_fits(model.cfg.n_ctx, start=start, **shape), len(pool) - period)
    common = {"sequences": options.sequences, "bos": bos, "seed": options.seed}
    gapped = gapped_tokens(pool, gap=gap, **shape, **common)
    length = max(gapped.tokens.shape[1], start + period * options.repeats)
    return gapped, fresh_tokens(pool, period=period, length=length, **common)


def _text_probe(model: Model, options: ScanOptions, bos: int | None) -> tuple[Probe | None, str]:
    encode = encoder(model)
    if options.text == "random" or (options.text == "auto" and encode is None):
        return None, "the repeated probe"
    if encode is None:
        raise InputError("The model has no tokenizer to read text with; use text='random' (--text random).")
    length = min(TEXT_LENGTH, model.cfg.n_ctx)
    texts, name = read_texts(options.text, TEXT_WINDOWS, length)
    windows = corpus.text_windows(texts, encode, windows=TEXT_WINDOWS, length=length, bos=bos, seed=options.seed)
    probe = Probe(windows, bos, length - int(bos is not None), 1, options.seed)
    return probe, f"{name}, {len(windows)} windows of {length}, sha256 {corpus.digest(texts)}"
