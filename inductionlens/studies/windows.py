"""Windows of tokens that losses by position are read on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from inductionlens import corpus
from inductionlens.errors import InputError
from inductionlens.models import Model
from inductionlens.models.vocabulary import choose_bos, encoder, text_lengths
from inductionlens.probes import fresh_tokens, repeated_tokens
from inductionlens.scores.losses import check_pair
from inductionlens.studies.pool import TOKENIZER, Pool, make_pool
from inductionlens.studies.texts import read_texts

#: Tokens of a window, BOS counted, and the pair of the in-context learning score there: Olsson et al. 2022.
LENGTH, LATE, EARLY = 512, 500, 50
#: The longest block of random windows: just so long that at index `EARLY` nothing has repeated yet, since toys that
#: were trained on short repeats look back no further.
BLOCK = EARLY + 1


@dataclass(frozen=True, eq=False)
class Windows:
    """Sequences of one length to run a model on, and where they came from."""

    tokens: Int[Tensor, "batch pos"]
    """Token ids, [batch, pos]."""
    name: str
    """Where the text came from, in words."""
    bos: int | None
    """The id at position 0 of every window; None for none."""
    digest: str | None = None
    """A fingerprint of the text (`inductionlens.corpus.digest`); None where there is no text."""
    lengths: Int[Tensor, " batch"] | None = None
    """Tokens of each window before its padding; None where no window has any."""
    pool: Pool | None = None
    """What random windows were drawn from; None for text."""

    @property
    def padding(self) -> int:
        """How many positions are padding."""
        return 0 if self.lengths is None else int((self.tokens.shape[1] - self.lengths).sum())

    @property
    def shortest(self) -> int:
        """Tokens of the window that has fewest."""
        return self.tokens.shape[1] if self.lengths is None else int(self.lengths.min())

    @property
    def longest(self) -> int:
        """Tokens of the window that has most."""
        return self.tokens.shape[1] if self.lengths is None else int(self.lengths.max())


def given_windows(model: Model, tokens: Int[Tensor, "batch pos"], name: str) -> Windows:
    """Windows of a caller's own tokens, with padding on the right (`text_lengths`) told apart from text.

    Raises:
        InputError: padding in front of tokens, or a window with fewer than 3 tokens of text.
    """
    lengths = text_lengths(model, tokens)
    if int(lengths.min()) < 3:
        row = int(lengths.argmin())
        raise InputError(
            f"Every window needs at least 3 tokens before its padding; window {row} has {int(lengths[row])}."
        )
    return Windows(tokens, name, None, None, None if bool((lengths == tokens.shape[1]).all()) else lengths)


def without_padding(
    losses: Float[np.ndarray, "batch index"], lengths: Int[Tensor, " batch"] | None
) -> Float[np.ndarray, "batch index"]:
    """Losses by position, NaN where the token that is predicted is padding."""
    if lengths is None:
        return losses
    return np.where(np.arange(1, losses.shape[1] + 1) < lengths.numpy()[:, None], losses, np.nan)


def make_windows(
    model: Model,
    text: str | Path = "auto",
    *,
    windows: int = 50,
    length: int | None = None,
    bos: bool | int = True,
    seed: int = 0,
    pool: str | Path = TOKENIZER,
) -> Windows:
    """Cut windows of ``length`` tokens, BOS counted, by default 512 or the whole context where that is shorter.

    ``text`` is ``"stdlib"`` (source text of the running Python, offline), a .txt file or a folder of them,
    ``"hub:NAME"`` (a data set of the Hugging Face hub, streamed; ``"hub:NAME:CONFIGURATION"`` where it has several),
    ``"random"`` (for toys: a random block, repeated to fill the window), or ``"auto"``: stdlib where the model has a
    tokenizer, else random. The same text and seed give the same windows. ``pool`` (see `make_pool`) says which ids
    random blocks are drawn from.

    Raises:
        InputError: a window that does not fit the context, no BOS, no tokenizer, or text that is missing or too short.
    """
    length = min(LENGTH, model.cfg.n_ctx) if length is None else length
    if windows < 1:
        raise InputError(f"windows must be at least 1; got {windows}.")
    if not 3 <= length <= model.cfg.n_ctx:
        raise InputError(
            f"length must lie between 3 and {model.cfg.n_ctx}, the tokens of the model's context; got {length}."
        )
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2^63 - 1; got {seed}.")
    first, encode = choose_bos(model, bos), encoder(model)
    if text == "random" or (text == "auto" and encode is None):
        return _random_windows(make_pool(model, first, pool, text), windows, length, first, seed)
    if encode is None:
        raise InputError("The model has no tokenizer to read text with; use text='random' (--text random).")
    texts, name = read_texts(text, windows, length)
    try:
        tokens = corpus.text_windows(texts, encode, windows=windows, length=length, bos=first, seed=seed)
    except InputError as error:
        raise InputError(
            f"{str(error).rstrip('.')}, or ask for fewer or shorter windows (windows, length; --windows, --length)."
        ) from error
    return Windows(tokens, name, first, corpus.digest(texts))


def _random_windows(pool: Pool, windows: int, length: int, bos: int | None, seed: int) -> Windows:
    """Windows of one random block each, repeated; no id comes twice in a block before the pool has run out."""
    start = int(bos is not None)
    block = min(BLOCK, (length - start) // 2)
    if block < 3:
        raise InputError(
            f"length must be at least {6 + start} for random windows, which repeat a block of 3 tokens or more; "
            f"got {length}."
        )
    repeats = -(-(length - start) // block)
    shape = {"sequences": windows, "seed": seed}
    if block <= len(pool.ids):
        tokens = repeated_tokens(pool.ids, period=block, repeats=repeats, bos=bos, purpose="windows", **shape).tokens
    else:
        tokens = fresh_tokens(pool.ids, period=len(pool.ids), length=start + block, bos=bos, **shape)
        tokens = tokens[:, [*range(start), *(start + place % block for place in range(repeats * block))]]
    return Windows(tokens[:, :length], f"random blocks of {block} tokens, each repeated", bos, pool=pool)


def pick_pair(length: int, late: int | None = None, early: int | None = None) -> tuple[int, int]:
    """The pair (late, early) of indices, from 0, into the ``length`` - 1 losses of a window of ``length`` tokens.

    By default (500, 50), as Olsson et al. 2022 have it; in shorter windows the last index, and 50 where that is at
    least 100, else a fifth of it.

    Raises:
        InputError: a pair that does not fit; the message says what does.
    """
    if length < 3:
        raise InputError(f"A window must have at least 3 tokens, which give 2 losses to compare; got {length}.")
    if late is None:
        late = LATE if length - 2 >= LATE else length - 2
    if early is None:
        early = EARLY if late >= 2 * EARLY else late // 5
    check_pair(late, early, length - 1)
    return late, early
