"""The token ids that random sequences are drawn from."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inductionlens.corpus import Text, check_text
from inductionlens.errors import InputError
from inductionlens.file_text import regular_size
from inductionlens.models import Model
from inductionlens.models.vocabulary import encoder, ordinary_ids
from inductionlens.probes import TRIM, token_pool
from inductionlens.studies.texts import read_texts

#: What `pool` may be, other than a file.
TOKENIZER, TEXT = "tokenizer", "text"
#: Characters of text that are searched for tokens: the first so many of every text, in proportion to its length.
SEARCHED = 2**21
#: Bytes beyond which a file is taken for something else than a list of ids.
MOST_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class Pool:
    """Token ids to draw from, and where they come from."""

    ids: Int[Tensor, " pool"]
    """The ids, ascending."""
    source: str
    """``tokenizer``, ``text`` or the name of a file."""
    how: str
    """How they were chosen, in words."""

    def record(self) -> dict[str, Any]:
        """What the record of a table says of it."""
        digest = hashlib.sha256(self.ids.numpy().tobytes()).hexdigest()[:12]
        how = f"{self.how}; without replacement inside a block"
        return {"source": self.source, "ids": len(self.ids), "sha256": digest, "how": how}


def make_pool(
    model: Model, bos: int | None, pool: str | Path = TOKENIZER, text: str | Path = "auto", *, trim: float = TRIM
) -> Pool:
    """The ids that a study of ``model`` draws random tokens from, ``bos`` left out.

    ``pool`` is ``tokenizer`` (its ordinary ids without ``trim`` of them at each end), ``text`` (the ordinary ids that
    occur in ``text``, or in the source text of the running Python where that names no text), or a file of ids (see
    `read_ids`), which are taken as they are.

    Raises:
        InputError: no tokenizer to read text with, no ordinary token in the text, or ids that the model does not have.
    """
    source = str(pool)
    ids = ordinary_ids(model)
    how = f"ordinary ids in order, {trim:.0%} off each end"
    if source == TEXT:
        ids, how = _ids_in_text(model, ids, text)
    elif source != TOKENIZER:
        ids, source, how = torch.tensor(read_ids(pool)).unique(), Path(pool).name, "ids of a file"
        if int(ids[-1]) >= model.cfg.d_vocab:
            raise InputError(
                f"pool {pool} must hold ids below the model's {model.cfg.d_vocab} tokens; it holds {int(ids[-1])}."
            )
    ids = ids if bos is None else ids[ids != bos]
    return Pool(token_pool(ids, trim if source == TOKENIZER else 0.0), source, how)


def check_pool(pool: str | Path, text: str | Path = "auto") -> str:
    """Refuse, before a model is loaded, a ``pool`` that is neither a known word nor a file of ids; it is given back.

    Raises:
        InputError: as `read_ids`, or a text that cannot be had.
    """
    if not isinstance(pool, (str, Path)) or not str(pool):
        raise InputError(f"pool must be {TOKENIZER}, {TEXT} or a file of token ids; got {pool!r}.")
    if str(pool) not in (TOKENIZER, TEXT):
        read_ids(pool)
    check_text(text)
    return str(pool)


def read_ids(path: str | Path) -> list[int]:
    """Token ids from a file: one on each line, or a JSON list.

    Raises:
        InputError: no such file, none of ids, or one that holds none.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"pool must be {TOKENIZER}, {TEXT} or a file of token ids; there is no file {path}.")
    if regular_size(path, "pool") > MOST_BYTES:
        raise InputError(f"The pool {path} is too large for a list of token ids.")
    try:
        content = path.read_text(encoding="utf-8-sig").strip()
        ids = json.loads(content) if content.startswith("[") else [int(line) for line in content.split()]
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rstrip(".")
        raise InputError(f"The pool {path} must hold token ids, one on each line or a JSON list: {reason}.") from error
    wrong = [value for value in ids if type(value) is not int or not 0 <= value < 2**31]
    if wrong or not ids:
        given = f"it holds {wrong[0]!r:.60}" if wrong else "it is empty"
        raise InputError(f"The pool {path} must hold token ids, whole numbers from 0 on; {given}.")
    return ids


def _ids_in_text(
    model: Model, ordinary: Int[Tensor, " vocabulary"], text: str | Path
) -> tuple[Int[Tensor, " pool"], str]:
    encode = encoder(model)
    if encode is None:
        raise InputError(
            "The model has no tokenizer, so no text says which of its ids occur; use pool='tokenizer' or a file of ids "
            "(--pool)."
        )
    texts, name = _texts(text)
    share = min(1.0, SEARCHED / max(1, sum(len(part.text) for part in texts)))
    found: set[int] = set()
    for part in texts:
        found.update(encode(part.text[: int(len(part.text) * share) + 1]))
    ids = torch.tensor([index for index in ordinary.tolist() if index in found], dtype=torch.long)
    if not len(ids):
        raise InputError(f"No ordinary token of the model occurs in the text {name}; use another text or pool.")
    return ids, f"ordinary ids that occur in {name}"


def _texts(text: str | Path) -> tuple[list[Text], str]:
    """The texts to search, and their name; of a data set of the hub some rows."""
    if str(text) == "random":
        text = "stdlib"
    texts, name = read_texts(text, 50, 512)
    return list(texts), name
