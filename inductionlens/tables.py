"""The columns of a head table: what each means."""

from typing import NamedTuple

from inductionlens.detection import KINDS

OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"


class Column(NamedTuple):
    """What a column holds. Its key in `COLUMNS` is its name."""

    meaning: str
    dtype: str
    """``str``, ``int`` or ``float``: how it is read back."""
    range: str = ""
    unit: str = ""
    source: str = ""
    score: bool = False
    """Whether it is a number per head; most scores have an interval in NAME_low and NAME_high."""
    interval: bool = False


_ATTENTION = "fraction of attention"

COLUMNS: dict[str, Column] = {
    "model": Column("what the model was called: a hub name, a folder, planted", "str"),
    "revision": Column("hub revision asked for; empty for the default", "str"),
    "step": Column("training checkpoint asked for; empty for the final weights", "int"),
    "seed": Column("the seed that alone decides the random tokens", "int"),
    "probe": Column("the repeated-token stimulus: BOS, block length x repeats, number of sequences", "str"),
    "name": Column("the head's name, such as L5H1: text that no program takes for the number 5.1", "str"),
    "layer": Column("layer, counted from 0", "int"),
    "head": Column("(query) head inside the layer, counted from 0", "int"),
    "kv_head": Column("the key-value head that the query head shares; its own index without grouped queries", "int"),
    "kind": Column(f"what the rules call the head: {', '.join(KINDS)}", "str"),
    "why": Column("the verdict in words: the numbers it rests on, or what speaks against the nearest kind", "str"),
    "prefix_matching": Column(
        "attention from a repeated token to the token after its earlier copies",
        "float", "0..1, higher is more", _ATTENTION, f"{OLSSON}, Argument 4", True, True,
    ),
    "prefix_matching_gapped": Column(
        "the same where the copies stand at uneven distances: a head that looks a fixed distance back fails here",
        "float", "0..1, higher is more", _ATTENTION, "this package's control", True, True,
    ),
    "prefix_matching_fresh": Column(
        "the same positions on tokens that never repeat: what position alone explains",
        "float", "0..1, near prefix_matching means position", _ATTENTION, "this package's control", True, True,
    ),
    "prefix_matching_untrained": Column(
        "the largest prefix matching of any head of an untrained model of the same shape; one number per model",
        "float", "0..1", _ATTENTION, "this package's control",
    ),
    "p_value": Column(
        "how often chance puts the head's gapped score so far above what its attention gives at the same distances "
        "where nothing repeats: the larger of Welch's t and the exact rank-sum test over sequences, one-sided",
        "float", "above 0 to 1", "probability", "Welch 1947; Mann and Whitney 1947",
    ),
    "q_value": Column(
        "p_value corrected for the number of heads: the false discovery rate at which the head is still found",
        "float", "0..1", "probability", "Benjamini and Hochberg 1995",
    ),
    "prefix_matching_literal": Column(
        "attention to the token before the earlier copies: the literal reading of the paper's words; diagnostic",
        "float", "0..1, higher is more", _ATTENTION, f"{OLSSON}, wording of 2022-09-20", True, True,
    ),
    "duplicate_token": Column(
        "attention from a repeated token to its earlier copies",
        "float", "0..1, higher is more", _ATTENTION, "Wang et al. 2022, IOI circuit", True, True,
    ),
    "previous_token": Column(
        "attention to the token just before, over all positions but the first",
        "float", "0..1, higher is more", _ATTENTION, OLSSON, True, True,
    ),
    "previous_token_source": Column("what previous_token was measured on: text, or random (the probe)", "str"),
    "first_token": Column(
        "attention resting on the first token, over tokens with no earlier copy",
        "float", "0..1, higher is more", _ATTENTION, f"{ELHAGE}, where a head rests", True, True,
    ),
    "copying": Column(
        "how much more the head raises the attended token than the sample's others (contrast, pooled)",
        "float", "-1..1, positive copies, 0 neutral", "ratio", f"{OLSSON}; the contrast is this package's", True, True,
    ),
    "copying_per_token": Column(
        "the same contrast per attended token, then averaged",
        "float", "-1..1, positive copies", "ratio", f"{OLSSON}; the contrast is this package's", True, True,
    ),
    "copying_share": Column(
        "copying as the attended token's share of the whole rise, 2a/S - 1",
        "float", "-1..1, neutral about -0.92 at 25 tokens", "ratio", OLSSON, True, True,
    ),
    "copying_olsson_literal": Column(
        "copying by the paper's printed words, 4a/(a+S) - 1",
        "float", "-1..1, neutral about -0.85 at 25 tokens", "ratio", OLSSON, True, True,
    ),
    "copying_bansal": Column(
        "copying after Bansal et al.: softmax first, share of the most attended key",
        "float", "0..1, higher is more", "ratio", "Bansal et al. 2022, with the layer's own values", True, True,
    ),
    "induction_logit": Column(
        "direct effect, through attention to the token after the copy, on the logit of the right next token",
        "float", "unbounded, positive is induction, negative anti-induction", "logits",
        "McDougall et al. 2023, Copy Suppression", True, True,
    ),
    "ov_eigen": Column(
        "Re(sum of eigenvalues) / sum of absolute values of the OV circuit",
        "float", "-1..1, positive is copying", "ratio", ELHAGE, True,
    ),
    "ov_eigen_fraction": Column(
        "share of the OV circuit's eigenvalues with positive real part",
        "float", "0..1, 0.5 is neutral", "ratio", ELHAGE, True,
    ),
    "offset_peak": Column(
        "the offset from the earlier copy, -4..12, that gets most attention; 1 is induction, 0 duplicate", "int",
        "-4..12", "tokens", "this package",
    ),
    "offset_peak_value": Column(
        "attention at that offset", "float", "0..1, higher is more", _ATTENTION, "this package", True, True,
    ),
    "loss_first_copy": Column(
        "the model's mean loss on the block's first copy; one number per model",
        "float", "0 and up, lower is better", "nats", "this package",
    ),
    "loss_later_copies": Column(
        "the model's mean loss on later copies, without each block's first token; one number per model",
        "float", "0 and up, lower is better", "nats", "this package",
    ),
    "copying_gain": Column(
        "loss_first_copy - loss_later_copies; one number per model",
        "float", "higher copies more, about 0 for none", "nats", "this package",
    ),
}  # fmt: skip

SCORES: tuple[str, ...] = tuple(name for name, column in COLUMNS.items() if column.score)
#: A table without these is not a head table.
REQUIRED: tuple[str, ...] = ("layer", "head")


def explain(name: str, columns: dict[str, Column] = COLUMNS) -> Column | None:
    """What a column means, interval ends included; None for a column that ``columns`` does not have."""
    if name in columns:
        return columns[name]
    base, _, end = name.rpartition("_")
    if end in ("low", "high") and base in columns and columns[base].interval:
        which = {"low": "lower", "high": "upper"}[end]
        column = columns[base]
        return column._replace(
            meaning=f"{which} end of the 95% interval of {base}: Student's t over sequences, empty below 5",
            score=False,
            interval=False,
        )
    return None


def ordered() -> list[str]:
    """Every column of a full table, in order, interval ends after their score."""
    names: list[str] = []
    for name, column in COLUMNS.items():
        names += [name, f"{name}_low", f"{name}_high"] if column.interval else [name]
    return names
