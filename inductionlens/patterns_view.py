"""Attention patterns as a page to click through, offline."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from inductionlens.errors import InputError

if TYPE_CHECKING:
    from IPython.display import HTML

#: Tokens up to which a page is drawn: beyond, its cells are smaller than a pixel.
LARGEST = 200
#: What stands before the values in CircuitsVis's page, line break and all; JSON holds no raw line break, so no token
#: can be mistaken for it.
_CALL = "CircuitsVis.AttentionHeads,\n"


def attention_html(
    pattern: Float[np.ndarray, "head query key"] | Float[Tensor, "head query key"],
    tokens: Sequence[str],
    heads: Sequence[str] | None = None,
    max_heads: int = 4,
) -> str:
    """A page of CircuitsVis's attention heads, about 1.3 MB, that needs no network: its script is inside.

    ``pattern`` is attention in [0, 1], rows are queries, such as ``clean_run(model, tokens).patterns[layer][0]``;
    it is rounded to 3 decimals. ``tokens`` are the words beside rows and columns, at most 200, and are shown as text
    whatever they hold. ``heads`` names the heads; by default 0, 1, ... The first ``max_heads`` are drawn, so give the
    strongest first; the page says how many were left out.

        html = attention_html(il.clean_run(model, ids).patterns[2][0], model.to_str_tokens(ids[0]))
        Path("attention.html").write_text(html, encoding="utf-8")

    Raises:
        InputError: a pattern that is not square per head or not attention, too many tokens, or counts that differ.
    """
    values = _checked(pattern, tokens, max_heads)
    names = [str(index) for index in range(len(values))] if heads is None else [str(name) for name in heads]
    if len(names) != len(values):
        raise InputError(f"heads must name each of the pattern's {len(values)} heads; got {len(names)} names.")
    shown = min(len(values), max_heads)
    note = f"<p>{shown} of {len(values)} heads are drawn.</p>\n" if shown < len(values) else ""
    source = _source(np.round(values[:shown], 3), [str(token) for token in tokens], names[:shown])
    return f'<!doctype html>\n<meta charset="utf-8">\n<title>Attention</title>\n{note}{source}\n'


def show_attention(
    pattern: Float[np.ndarray, "head query key"] | Float[Tensor, "head query key"],
    tokens: Sequence[str],
    heads: Sequence[str] | None = None,
    max_heads: int = 4,
) -> "HTML":
    """`attention_html` for the last line of a notebook's cell; it adds about 1.3 MB to the notebook.

    Raises:
        InputError: as `attention_html`, or IPython is not installed.
    """
    html = attention_html(pattern, tokens, heads, max_heads)
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise InputError("show_attention draws in notebooks and needs IPython; write attention_html's page.") from error
    return HTML(html)


def _checked(
    pattern: Float[np.ndarray, "..."] | Float[Tensor, "..."], tokens: Sequence[str], max_heads: int
) -> Float[np.ndarray, "head query key"]:
    values = pattern.detach().float().cpu().numpy() if isinstance(pattern, Tensor) else pattern
    if values.ndim != 3 or values.shape[1] != values.shape[2] or 0 in values.shape:
        raise InputError(f"pattern must be [head, query, key], as many keys as queries; got shape {values.shape}.")
    if isinstance(tokens, str):
        raise InputError("tokens must be a list of words, one for each position; got one string.")
    if len(tokens) != values.shape[1]:
        raise InputError(f"tokens must be the pattern's {values.shape[1]} tokens; got {len(tokens)}.")
    if len(tokens) > LARGEST:
        raise InputError(f"At most {LARGEST} tokens can be drawn, got {len(tokens)}: cut the sequence, say [:, :100].")
    if max_heads < 1:
        raise InputError(f"max_heads must be at least 1; got {max_heads}.")
    if not np.isfinite(values).all():
        raise InputError("pattern holds NaN or infinity, which is no attention.")
    # Sums in half precision round a little past 1.
    if values.min() < 0 or values.max() > 1.01:
        raise InputError(
            f"pattern must be attention after the softmax, in [0, 1]; got {values.min():.3g} to {values.max():.3g}."
        )
    return values.astype(np.float64)


def _source(values: Float[np.ndarray, "head query key"], tokens: list[str], names: list[str]) -> str:
    """CircuitsVis's own page, script inside, with the values made safe to stand in a script."""
    from circuitsvis.attention import attention_heads

    # What `str` or a notebook make of CircuitsVis's answer loads the script from the network; local_src does not.
    source = attention_heads(values, tokens, attention_head_names=names).local_src
    before, call, after = source.rpartition(_CALL)
    given, _, end = after.partition("\n")
    assert call, "CircuitsVis writes its page in another way; see _CALL"
    # A token may hold "</script>", which ends the script, or "<!--", which hides its end; neither is special to JSON.
    return before + call + given.replace("</", "<\\/").replace("<!", "\\u003c!") + "\n" + end
