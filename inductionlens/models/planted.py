"""Weights written by hand: models whose heads are known exactly."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from inductionlens.errors import InputError
from inductionlens.heads import Head
from inductionlens.models import Model
from inductionlens.models.named_weights import named_weights, write_weights
from inductionlens.models.origin import Origin
from inductionlens.models.processing import process
from inductionlens.models.torch_settings import in_usual_torch
from inductionlens.models.toy import ToyConfig, blank_toy

# Attention scores: a match outweighs the resting place, which outweighs everything else. In float32 a match leaves
# exactly 0 for the rest, and a resting head still leaves a trace (e^-40) from which copying can be read.
MATCH, REST = 240.0, 40.0
#: How far back the fixed-offset impostor looks: the token after the copy on a block of 25, and nowhere else.
FIXED_OFFSET = 24


class Space(NamedTuple):
    """Which directions of the residual stream and of a head hold what."""

    vocab: int
    ctx: int

    @property
    def token(self) -> slice:
        """Residual: the current token, one-hot. The same size opens a head's own space."""
        return slice(0, self.vocab)

    @property
    def position(self) -> slice:
        """Residual and head: the current position, one-hot."""
        return slice(self.vocab, self.vocab + self.ctx)

    @property
    def constant(self) -> int:
        """Head: one direction in which every query is 1."""
        return self.vocab + self.ctx

    @property
    def memory(self) -> int:
        """Residual: where a layer-0 head leaves word for layer 1."""
        return self.vocab + self.ctx

    @property
    def output(self) -> int:
        """Residual: what W_U reads."""
        return self.memory + max(self.vocab, self.ctx)

    @property
    def d_model(self) -> int:
        return self.output + self.vocab


class HeadWeights(NamedTuple):
    """One head's matrices, zero until written: q, k, v [d_model, d_head], o [d_head, d_model]."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    o: torch.Tensor


def _diagonal(matrix: torch.Tensor, rows: range | slice, columns: range | slice, value: float = 1.0) -> None:
    """Write ``value`` where the i-th of ``rows`` meets the i-th of ``columns``."""
    rows, columns = (range(part.start, part.stop) if isinstance(part, slice) else part for part in (rows, columns))
    matrix[list(rows), list(columns)] = value


def _rest_on_first(head: HeadWeights, space: Space) -> None:
    head.q[space.token, space.constant] = 1.0
    head.k[space.position.start, space.constant] = REST


def _look_back(head: HeadWeights, space: Space, distance: int, read: int) -> None:
    """Attend from i to i - distance, where position i is read from residual direction ``read`` + i."""
    here = range(read + distance, read + space.ctx)
    _diagonal(head.q, here, range(space.position.start, space.position.stop - distance), MATCH)
    _diagonal(head.k, space.position, space.position)


def _copy_token(head: HeadWeights, space: Space, to: int, value: float = 1.0) -> None:
    """Write the attended token into the residual from ``to`` on; token 0, BOS, is written nowhere."""
    _diagonal(head.v, range(1, space.vocab), range(1, space.vocab))
    _diagonal(head.o, space.token, range(to, to + space.vocab), value)


def _previous_token(head: HeadWeights, space: Space) -> None:
    _look_back(head, space, 1, space.position.start)
    _copy_token(head, space, space.memory)


def _induction(head: HeadWeights, space: Space, value: float = 1.0) -> None:
    _diagonal(head.q, space.token, space.token, MATCH)
    _diagonal(head.k, range(space.memory, space.memory + space.vocab), space.token)
    _rest_on_first(head, space)
    _copy_token(head, space, space.output, value)


def _anti_copying(head: HeadWeights, space: Space) -> None:
    _induction(head, space, -1.0)


def _attend_to_duplicate(head: HeadWeights, space: Space) -> None:
    _diagonal(head.q, space.token, space.token, MATCH)
    _diagonal(head.k, space.token, space.token)
    # A token also matches itself: its own position is pushed below everything else.
    _diagonal(head.q, space.position, space.position, -2 * MATCH)
    _diagonal(head.k, space.position, space.position)
    _rest_on_first(head, space)


def _duplicate_token(head: HeadWeights, space: Space) -> None:
    _attend_to_duplicate(head, space)
    _copy_token(head, space, space.output)


def _fixed_offset(head: HeadWeights, space: Space) -> None:
    _look_back(head, space, FIXED_OFFSET, space.position.start)
    _rest_on_first(head, space)
    _copy_token(head, space, space.output)


def _point_at_duplicate(head: HeadWeights, space: Space, first: int = 2) -> None:
    _attend_to_duplicate(head, space)
    # A copy at position 1 is not pointed at where the token before it is meant: there stands only BOS.
    later = range(space.position.start + first, space.position.stop)
    _diagonal(head.v, later, later)
    _diagonal(head.o, space.position, range(space.memory, space.memory + space.ctx))


def _point_at_copy(head: HeadWeights, space: Space) -> None:
    _point_at_duplicate(head, space, 1)


def _after_pointer(head: HeadWeights, space: Space) -> None:
    """Attend to the position after the one that a layer-0 head has left in memory, read by the query."""
    _diagonal(head.q, range(space.memory, space.memory + space.ctx - 1), range(space.vocab + 1, space.constant), MATCH)
    _diagonal(head.k, space.position, space.position)
    _rest_on_first(head, space)
    _copy_token(head, space, space.output)


def _current_token(head: HeadWeights, space: Space) -> None:
    _look_back(head, space, 0, space.position.start)
    _copy_token(head, space, space.memory)


def _fixed_offset_of_memory(head: HeadWeights, space: Space) -> None:
    """Attend a fixed distance back, and copy what a layer-0 head has left there."""
    _look_back(head, space, FIXED_OFFSET, space.position.start)
    _rest_on_first(head, space)
    _diagonal(head.v, range(space.memory + 1, space.memory + space.vocab), range(1, space.vocab))
    _diagonal(head.o, space.token, range(space.output, space.output + space.vocab))


def _match_token(head: HeadWeights, space: Space) -> None:
    """Match the query's token with the key's: a duplicate-token head that also matches itself, and where the key is the
    previous position's an induction head. The first two keys are then one and the same, and a resting head halves."""
    _diagonal(head.q, space.token, space.token, MATCH)
    _diagonal(head.k, space.token, space.token)
    _rest_on_first(head, space)
    _copy_token(head, space, space.output)


def _before_pointer(head: HeadWeights, space: Space) -> None:
    _look_back(head, space, 1, space.memory)
    _rest_on_first(head, space)
    _copy_token(head, space, space.output)


Writer = Callable[[HeadWeights, Space], None]
_BELOW, _ABOVE = Head(0, 1), Head(1, 2)

#: Kind of planted model -> the heads written into its 2 layers of 3; all others are idle (uniform, writing nothing).
PLANTED: dict[str, dict[Head, tuple[str, Writer]]] = {
    "induction": {_BELOW: ("previous_token", _previous_token), _ABOVE: ("induction", _induction)},
    "anti-copying": {_BELOW: ("previous_token", _previous_token), _ABOVE: ("anti_induction", _anti_copying)},
    "duplicate-token": {_ABOVE: ("duplicate_token", _duplicate_token)},
    "fixed-offset": {_ABOVE: ("fixed_offset", _fixed_offset)},
    "offset-minus-one": {
        _BELOW: ("duplicate_token", _point_at_duplicate),
        _ABOVE: ("offset_minus_one", _before_pointer),
    },
    "pointer": {_BELOW: ("duplicate_token", _point_at_copy), _ABOVE: ("induction", _after_pointer)},
    "v-composition": {_BELOW: ("current_token", _current_token), _ABOVE: ("fixed_offset", _fixed_offset_of_memory)},
    "smeared-induction": {_BELOW: ("induction", _match_token)},
    "idle": {},
}
#: Kinds whose keys are smeared -> the heads whose key is the previous position's alone; the others' is their own.
SMEARED: dict[str, tuple[Head, ...]] = {"smeared-induction": (_BELOW,)}
#: sigmoid(40) is 1 in float32, and sigmoid(-40) leaves no trace beside it; infinite weights are not read from files.
OWN_KEY = 40.0


@in_usual_torch
def planted(kind: str = "induction", *, d_vocab: int = 64, n_ctx: int = 192, logit: float = 10.0) -> Model:
    """A two-layer attention-only model of 3 heads a layer whose heads are known, because we wrote them.

    ``induction`` has a previous-token head 0.1 and an induction head 1.2 that reads it through its keys and through
    nothing else (K-composition). ``pointer`` is an induction head by Q-composition: 0.1 leaves the copy's position, and
    the query of 1.2 looks one further. In ``v-composition`` 1.2 looks a fixed distance back and copies, through its
    values alone, the token that 0.1 left there (no verdict calls it an induction head). In ``smeared-induction`` 0.1 is
    an induction head all by itself: its keys are the previous position's (alpha -40), and it halves its rest between
    the first two keys, so that it copies half of the first token where nothing repeats. The other kinds are impostors,
    see `PLANTED`. Token 0 is BOS, there is no norm, and residual directions are one-hot, so every answer is exact: on a
    repeated token the right logit is ``logit`` above all others, elsewhere all logits are equal. Made in milliseconds.

    Raises:
        InputError: an unknown kind, or sizes too small for a circuit.
    """
    if kind not in PLANTED:
        raise InputError(f"There is no planted model {kind!r}; the kinds are {', '.join(PLANTED)}.")
    for name, value, least in (("d_vocab", d_vocab, 3), ("n_ctx", n_ctx, 3)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    if not isinstance(logit, (int, float)) or isinstance(logit, bool) or not math.isfinite(logit):
        raise InputError(f"logit must be a finite number; got {logit!r}.")
    space = Space(d_vocab, n_ctx)
    config = ToyConfig(
        n_layers=2,
        n_heads=3,
        d_model=space.d_model,
        d_head=space.vocab + space.ctx + 1,
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        normalization_type=None,
        use_attn_scale=False,
        smeared_keys=kind in SMEARED,
    )
    model = blank_toy(config)
    state = {name: torch.zeros(weight.shape) for name, weight in named_weights(model).items()}
    _diagonal(state["embed.W_E"], range(d_vocab), space.token)
    _diagonal(state["pos_embed.W_pos"], range(n_ctx), space.position)
    _diagonal(state["unembed.W_U"], range(space.output, space.d_model), range(d_vocab), logit)
    for head, (_, write) in PLANTED[kind].items():
        matrices = (state[f"blocks.{head.layer}.attn.W_{letter}"][head.index] for letter in "QKVO")
        write(HeadWeights(*matrices), space)
    if kind in SMEARED:
        for layer in range(config.n_layers):
            state[f"blocks.{layer}.attn.alpha"].fill_(OWN_KEY)
        for head in SMEARED[kind]:
            state[f"blocks.{head.layer}.attn.alpha"][head.index] = -OWN_KEY
    write_weights(model, state.items())
    model = process(model)
    model.inductionlens_origin = Origin("planted" if kind == "induction" else f"planted-{kind}", "planted", bos=0)
    model.inductionlens_config = config
    return model
