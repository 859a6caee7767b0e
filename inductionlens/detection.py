"""Tables in, verdicts out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas

#: Attention from which a head counts as of a kind. Our parameter; others use 0.2 to 0.8. In GPT-2 small the published
#: repeated-token scores fall from 0.85 to 0.48 below the five heads that all sources agree on.
THRESHOLD = 0.4
#: Loss, in nats, by which later copies must be cheaper than the first for a model to count as copying.
COPIES = 1.0

NONE = "none"


class Rule(NamedTuple):
    """A kind of head: its attention score at least the threshold and, where named, the sign of another score."""

    kind: str
    score: str
    sign_of: str | None
    sign: int
    source: str


#: The first rule that holds names the head.
RULES: tuple[Rule, ...] = (
    Rule("induction", "prefix_matching", "induction_logit", 1, "Olsson et al. 2022; McDougall et al. 2023"),
    Rule(
        "anti_induction",
        "prefix_matching",
        "induction_logit",
        -1,
        "Olsson et al. 2022, Argument 4; McDougall et al. 2023",
    ),
    Rule("previous_token", "previous_token", None, 0, "Elhage et al. 2021"),
    Rule("duplicate_token", "duplicate_token", None, 0, "Wang et al. 2022"),
)


def kinds(table: "pandas.DataFrame", threshold: float = THRESHOLD) -> list[str]:
    """The kind of each head of a table, by the first of `RULES` that holds; ``none`` where none does."""
    found = []
    for row in table.to_dict("records"):
        matching = (
            rule.kind
            for rule in RULES
            if row[rule.score] >= threshold and (rule.sign_of is None or row[rule.sign_of] * rule.sign > 0)
        )
        found.append(next(matching, NONE))
    return found


def copying_case(behaviour: Mapping[str, float], table: "pandas.DataFrame", threshold: float = THRESHOLD) -> str:
    """Whether the model copies repeated random tokens at all, and whether induction heads go with it, in words.

    A model copies if ``copying_gain`` is above 1 nat with an interval above 0. One of four cases; whether the heads
    found explain the copying is a question for ablation.
    """
    gain, low = behaviour["copying_gain"], behaviour["copying_gain_low"]
    copies = gain > COPIES and not low <= 0
    found = sum(kind == "induction" for kind in table["kind"])
    matching = int((table["prefix_matching"] >= threshold).sum())
    losses = (
        f"{behaviour['loss_first_copy']:.2f} nats on first copies, {behaviour['loss_later_copies']:.2f} on later ones, "
        f"{behaviour['ln_vocabulary']:.2f} for a uniform guess"
    )
    if copies and found:
        return f"The model copies, with induction heads ({losses})."
    if copies:
        top = table.loc[table["offset_peak_value"].idxmax()]
        return (
            f"The model copies, but no induction head was found ({losses}); "
            f"most attention at one offset: {top['offset_peak_value']:.2f} at {top['offset_peak']:+d} from the copy, "
            f"head {top['layer']}.{top['head']}."
        )
    if matching:
        heads = f"{matching} heads match" if matching > 1 else "1 head matches"
        return f"The model does not copy, though {heads} prefixes ({losses})."
    return f"The model does not copy and no head matches prefixes ({losses})."
