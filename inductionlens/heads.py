"""How an attention head is named."""

import re
from collections.abc import Iterable
from numbers import Integral
from typing import NamedTuple, Union

from inductionlens.errors import InputError

_SPELLINGS = re.compile(r"(?:(\d+)\.(\d+)|[Ll](\d+)[Hh](\d+))")


class Head(NamedTuple):
    """An attention head: 0-based layer and 0-based index inside the layer, the query head under grouped queries.

    ``Head(5, 1)`` is written ``5.1`` and also read from ``L5H1``.
    """

    layer: int
    index: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"

    @property
    def label(self) -> str:
        """``L5H1``: unlike ``5.1`` no spreadsheet takes it for a number, and 5.10 stays apart from 5.1."""
        return f"L{self.layer}H{self.index}"

    def __repr__(self) -> str:
        return f"Head({self.layer}, {self.index})"

    @classmethod
    def parse(cls, name: Union[str, tuple[int, int], "Head"]) -> "Head":
        """Read a head from ``"5.1"``, ``"L5H1"``, ``(5, 1)`` or a ``Head``.

        Raises:
            InputError: the name is none of these.
        """
        if _is_pair(name) and min(name) >= 0:
            return cls(*map(int, name))
        match = _SPELLINGS.fullmatch(name.strip()) if isinstance(name, str) else None
        if match is None:
            raise InputError(f"A head is named like 5.1, L5H1 or (5, 1), layer first; got {name!r}.")
        parts = [part for part in match.groups() if part is not None]
        if max(map(len, parts)) > 9:
            raise InputError(f"There is no head {name[:12]}...: no model has so many layers or heads.")
        return cls(*map(int, parts))

    def check(self, n_layers: int, n_heads: int) -> "Head":
        """Give the head back if a model of that shape has it.

        Raises:
            InputError: it has not.
        """
        if self.layer < n_layers and self.index < n_heads:
            return self
        raise InputError(f"There is no head {self}: the model has {n_layers} layers of {n_heads} heads.")


def _is_pair(name: object) -> bool:
    """Whether it is a pair of whole numbers, numpy's too; truths are none, though Python counts with them."""
    whole = isinstance(name, tuple) and all(isinstance(part, Integral) and not isinstance(part, bool) for part in name)
    return whole and len(name) == 2


def parse_heads(heads: object, argument: str) -> list[Head]:
    """The heads that a caller names, each once, layer by layer: one, several, or ``"5.1, 6.9"``.

    Raises:
        InputError: they are no heads, or there is none; in terms of ``argument``.
    """
    if isinstance(heads, str):
        heads = heads.split(",")
    elif _is_pair(heads):
        heads = [heads]
    if not isinstance(heads, Iterable):
        raise InputError(f"{argument} must name heads, such as ['5.1', 'L6H9', (7, 10)]; got {heads!r}.")
    chosen = sorted({Head.parse(head) for head in heads})
    if not chosen:
        raise InputError(f"{argument} must name at least one head, such as '5.1'; got none.")
    return chosen
