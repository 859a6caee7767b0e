"""The columns of ablation and loss tables: what each means."""

from inductionlens.tables import OLSSON, Column

_SIGN = "unbounded, positive where removal costs"
_CONTROL = "of the other heads of the layer that are of no kind, their mean; empty where there are none"
_P = "of a set of heads: how often a random set of as many others costs at least as much, by effect_"
_P_RANGE = "above 0 to 1, (C+1)/(n+1)"

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
        f"effect_copies {_CONTROL}", "float", _SIGN, "nats", "this package's control",
    ),
    "control_icl": Column(
        f"effect_icl {_CONTROL}", "float", _SIGN, "nats", "this package's control",
    ),
    "control_text": Column(
        f"effect_text {_CONTROL}", "float", _SIGN, "nats", "this package's control",
    ),
    "p_copies": Column(f"{_P}copies", "float", _P_RANGE, "probability", "this package's control"),
    "p_icl": Column(f"{_P}icl", "float", _P_RANGE, "probability", "this package's control"),
    "p_text": Column(f"{_P}text", "float", _P_RANGE, "probability", "this package's control"),
    "set": Column("which heads were removed together: induction, previous_token or random", "str"),
    "k": Column("how many heads were removed together", "int"),
    "draw": Column("which random set of this size", "int"),
    "heads": Column("the heads removed together", "str"),
    "from_layers": Column(
        "of a random set: same where it has as many heads of each layer as the induction set, any where it was drawn "
        "from all other heads; empty for other sets", "str",
    ),
    "holds_writer": Column(
        "of a random set: yes or no, does it hold an earlier head without which one of the k induction heads loses at "
        "least 10% of its prefix matching, or of its logit effect through values; empty for other sets", "str",
    ),
    "index": Column("position in the array of per-token losses, from 0: the loss of token index + 1", "int"),
    "loss": Column("mean loss at that index", "float", "0 and up, lower is better", "nats", OLSSON, False, True),
}  # fmt: skip
