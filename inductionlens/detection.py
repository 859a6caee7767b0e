"""Tables in, verdicts out."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas

#: Attention from which a head counts as of a kind. Our parameter; others use 0.2 to 0.8. In GPT-2 small the published
#: repeated-token scores fall from 0.85 to 0.48 below the five heads that all sources agree on.
THRESHOLD = 0.4
#: Loss, in nats, by which later copies must be cheaper than the first for a model to count as copying.
COPIES = 1.0
#: Expected share of false discoveries among the heads found (Benjamini and Hochberg 1995).
FALSE_DISCOVERIES = 0.05

NONE = "none"
OLSSON, MCDOUGALL = "Olsson et al. 2022", "McDougall et al. 2023"


class Condition(NamedTuple):
    """One thing that must hold of a row: ``column`` is ``above`` or ``at least`` or ``at most`` something."""

    column: str
    relation: str
    """``>``, ``<``, ``>=`` or ``<=``; a NaN satisfies none."""
    bound: float | str
    """A number, ``threshold``, or another column."""
    source: str
    control: bool = False
    """Whether it needs the controls; left out of the rules where a scan was made without them."""

    def holds(self, row: Mapping[str, Any], threshold: float) -> bool:
        bound = threshold if self.bound == "threshold" else row.get(self.bound, self.bound)
        value = float(row[self.column])
        relations = {">": value > bound, "<": value < bound, ">=": value >= bound, "<=": value <= bound}
        return relations[self.relation]


class Rule(NamedTuple):
    """A kind of head and all that must hold for it."""

    kind: str
    conditions: tuple[Condition, ...]


_MATCHES = (
    Condition("prefix_matching", ">=", "threshold", f"{OLSSON}, Argument 4"),
    Condition("q_value", "<=", FALSE_DISCOVERIES, "Benjamini and Hochberg 1995", True),
    Condition("prefix_matching_gapped", ">", "prefix_matching_fresh", "control of this package", True),
    Condition("prefix_matching", ">", "prefix_matching_untrained", "control of this package", True),
)
#: The whole interval of the effect on the right logit, not its sign alone: a head that writes noise has a sign too.
_RAISES = Condition("induction_logit_low", ">", 0.0, MCDOUGALL)
_LOWERS = Condition("induction_logit_high", "<", 0.0, f"{OLSSON}, anti-copying prefix search; {MCDOUGALL}")

#: The first rule that holds names the head. A copying score clearly of the other sign (its whole interval) than the
#: logit effect makes a matching head ``mixed``: attention, effect and copying are three axes that need not agree.
#: A head whose attention matches prefixes and whose effect is not clear of 0 is ``matching``.
RULES: tuple[Rule, ...] = (
    Rule("mixed", (*_MATCHES, _RAISES, Condition("copying_high", "<", 0.0, f"{OLSSON}, copying as third axis"))),
    Rule("mixed", (*_MATCHES, _LOWERS, Condition("copying_low", ">", 0.0, f"{OLSSON}, copying as third axis"))),
    Rule("induction", (*_MATCHES, _RAISES)),
    Rule("anti_induction", (*_MATCHES, _LOWERS)),
    Rule("matching", _MATCHES),
    Rule("previous_token", (Condition("previous_token", ">=", "threshold", "Elhage et al. 2021"),)),
    Rule("duplicate_token", (Condition("duplicate_token", ">=", "threshold", "Wang et al. 2022"),)),
)
#: Every kind of head, in the order of the rules.
KINDS: tuple[str, ...] = (*dict.fromkeys(rule.kind for rule in RULES), NONE)


def verdicts(
    table: "pandas.DataFrame", threshold: float = THRESHOLD, *, controlled: bool = True
) -> tuple[list[str], list[str]]:
    """The kind of each head of a table by the first of `RULES` that holds, and why, in words.

    Without controls (``controlled=False``) the conditions that need them are left out, and the words say so.
    """
    found, why = [], []
    for row in table.to_dict("records"):
        kind = next((rule.kind for rule in RULES if not _failures(rule, row, threshold, controlled)), NONE)
        found.append(kind)
        why.append(_why(kind, row, threshold, controlled))
    return found, why


def _failures(rule: Rule, row: Mapping[str, Any], threshold: float, controlled: bool) -> list[Condition]:
    counted = (condition for condition in rule.conditions if controlled or not condition.control)
    return [condition for condition in counted if not condition.holds(row, threshold)]


def _why(kind: str, row: Mapping[str, Any], threshold: float, controlled: bool) -> str:
    if kind in ("previous_token", "duplicate_token"):
        return f"{row[kind]:.2f} of its attention goes {'one token back' if kind == 'previous_token' else 'to copies'}"
    told = f"prefix matching {row['prefix_matching']:.2f}"
    if controlled:
        told += (
            f", {row['prefix_matching_gapped']:.2f} with uneven gaps, {row['prefix_matching_fresh']:.2f} where nothing "
            f"repeats, q = {row['q_value']:.2g}"
        )
    else:
        told += " (no controls)"
    effect = row["induction_logit"]
    told += f"; right logit {effect:+.2f}" if math.isfinite(effect) else "; logit effect undefined"
    ends = [row.get(f"induction_logit{end}", math.nan) for end in ("_low", "_high")]
    told += f" [{ends[0]:+.2f}, {ends[1]:+.2f}]" if all(math.isfinite(end) for end in ends) else ""
    if math.isfinite(row.get("copying", math.nan)):
        told += f"; copying {row['copying']:+.2f}"
    if kind == NONE:
        if not row["prefix_matching"] >= threshold:
            return f"no attention score reaches {threshold:g}"
        failed = [condition for condition in _MATCHES if (controlled or not condition.control)
                  and not condition.holds(row, threshold)]  # fmt: skip
        return f"{told}; but not {', '.join(_words(condition) for condition in failed)}"
    return f"{told}; its effect on the right logit is not clear of 0" if kind == "matching" else told


def _words(condition: Condition) -> str:
    bound = f"{condition.bound:g}" if isinstance(condition.bound, float) else condition.bound
    return f"{condition.column} {condition.relation} {bound}"


def copying_case(behaviour: Mapping[str, float], table: "pandas.DataFrame", threshold: float = THRESHOLD) -> str:
    """Whether the model copies repeated random tokens at all, and whether induction heads go with it, in words.

    A model copies if ``copying_gain`` is above 1 nat with an interval above 0. One of four cases; whether the heads
    found explain the copying is a question for ablation. Where a model copies without an induction head, the head with
    most attention at one offset is named, with its own verdict and the reasons for it.
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
            f"head {top['layer']}.{top['head']} ({top['kind']}: {top['why']})."
        )
    if matching:
        heads = f"{matching} heads match" if matching > 1 else "1 head matches"
        return f"The model does not copy, though {heads} prefixes ({losses})."
    return f"The model does not copy and no head matches prefixes ({losses})."
