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
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.pool import Pool, make_pool
from inductionlens.studies.texts import read_texts

#: Windows of natural text for previous_token: 10 of 512 tokens, or of the whole context where that is shorter.
TEXT_WINDOWS, TEXT_LENGTH = 10, 512


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
    start, context = int(bos is not None), model.cfg.n_ctx
    for length, repeats, name in (
        (options.period, options.repeats, "period"),
        (options.logit_period, 2, "logit_period"),
    ):
        if start + length * repeats > context:
            # Controls need gaps of at least 2 tokens between the blocks.
            gaps = 2 * (repeats - 1) if options.controls and name == "period" else 0
            fits = (context - start - gaps) // repeats
            way_out = f"{name}={fits} fits" if fits >= 3 else "no probe fits so short a context"
            raise InputError(
                f"The model's context of {context} tokens is too short for {start + length * repeats} "
                f"({'BOS + ' if start else ''}{length} x {repeats}); {way_out}."
            )
    for length, name in ((options.period, "period"), (options.logit_period, "logit_period")):
        if length > len(pool):
            raise InputError(
                f"The vocabulary is too small: {name} is {length}, and {len(pool)} ids may be drawn; "
                f"{name}={len(pool)} fits."
            )
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
            period=options.logit_period, repeats=2, sequences=10 * options.sequences, purpose="logit", **common,
        ),
        gapped=gapped,
        fresh=fresh,
        text=text,
        text_name=text_name,
        pool=drawn,
    )  # fmt: skip


def _control_probes(
    model: Model, options: ScanOptions, pool: Int[Tensor, " pool"], bos: int | None
) -> tuple[GappedProbe, Int[Tensor, "batch pos"]]:
    """Gapped repeats, with gaps as large as context and vocabulary allow, and as long sequences without repeats."""
    shape = {"period": options.period, "repeats": options.repeats}
    fits = gap_that_fits(model.cfg.n_ctx, start=int(bos is not None), **shape)
    gap = min(fits, len(pool) - options.period)
    if gap < 2:
        raise InputError(
            f"The model's context of {model.cfg.n_ctx} tokens or its vocabulary leaves no room for gaps between "
            f"{options.repeats} blocks of {options.period}; use a smaller period, or go without controls "
            "(controls=False, --no-controls)."
        )
    common = {"sequences": options.sequences, "bos": bos, "seed": options.seed}
    gapped = gapped_tokens(pool, gap=gap, **shape, **common)
    return gapped, fresh_tokens(pool, period=options.period, length=gapped.tokens.shape[1], **common)


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
