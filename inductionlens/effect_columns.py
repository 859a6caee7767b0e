"""The columns of ablation and loss tables: what each means."""

from inductionlens.tables import OLSSON, Column

_SIGN = "unbounded, positive where removal costs"

#: Column -> its meaning; interval ends are NAME_low and NAME_high, as in head tables.
EFFECT_COLUMNS: dict[str, Column] = {
    "output": Column("what replaced the head's output before the output projection: zero, or its mean", "str"),
    "patterns": Column("whether attention was recomputed, or held at the clean run's in every layer", "str"),
    "method": Column("exact: the head was really removed; gradient: a first-order estimate", "str"),
    "effect_copies": Column(
        "loss on later copies of random blocks, ablated minus clean", "float", _SIGN, "nats", f"{OLSSON}, Argument 3",
        True, True,
    ),
    "effect_icl": Column(
        "in-context-learning score, ablated minus clean: positive means in-context learning lost", "float",
        _SIGN, "nats", f"{OLSSON}, Argument 3", True, True,
    ),
    "effect_text": Column(
        "mean loss on the windows, ablated minus clean", "float", _SIGN, "nats", "this package", True, True,
    ),
    "control_copies": Column(
        "effect_copies of the other heads of the layer, their mean", "float", _SIGN, "nats", "this package's control",
    ),
    "control_icl": Column(
        "effect_icl of the other heads of the layer, their mean", "float", _SIGN, "nats", "this package's control",
    ),
    "control_text": Column(
        "effect_text of the other heads of the layer, their mean", "float", _SIGN, "nats", "this package's control",
    ),
    "set": Column("which heads were removed together: induction, previous_token or random", "str"),
    "k": Column("how many heads were removed together", "int"),
    "draw": Column("which random set of this size", "int"),
    "heads": Column("the heads removed together", "str"),
    "index": Column("position in the array of per-token losses, from 0: the loss of token index + 1", "int"),
    "loss": Column("mean loss at that index", "float", "0 and up, lower is better", "nats", OLSSON, False, True),
}  # fmt: skip
