"""Where the curves of a training run break, in words."""

from typing import TYPE_CHECKING

import numpy as np

from inductionlens.phase_change import ENOUGH, SNAPSHOTS, PhaseChange, find_change
from inductionlens.several_changes import co_occurrence

if TYPE_CHECKING:
    import pandas

#: Column of a table of steps -> what it is called in words, and its unit.
CURVES = {
    "prefix_matching": ("prefix matching of the best head", ""),
    "icl_score": ("in-context-learning score", " nats"),
    "copying_gain": ("gain on later copies", " nats"),
}

#: Steps named in a sentence.
MOST_NAMED = 8
#: How the ``problem`` of a snapshot begins that was measured, and whose weights other snapshots have too.
SAME = "same weights, bit for bit, as step "


def changes_of(steps: "pandas.DataFrame", curves: tuple[str, ...] = tuple(CURVES)) -> dict[str, PhaseChange]:
    """Where each curve of a table of steps breaks, on one axis; snapshots without numbers are left out.

    Curves that the table has not, of fewer than 6 snapshots, or that never move, are left out: there is nothing to look
    for.
    """
    found: dict[str, PhaseChange] = {}
    axis = None
    for name in filter(steps.columns.__contains__, curves):
        part = steps[["step", name]].dropna()
        values, steps_taken = (part[column].to_numpy(dtype=float) for column in (name, "step"))
        if (steps_taken > 0).sum() > 2 and _log_spaced(steps_taken):  # step 0 has no place on a logarithmic axis
            steps_taken, values = steps_taken[steps_taken > 0], values[steps_taken > 0]
        if len(values) < SNAPSHOTS or np.ptp(values) <= 1e-12 * np.abs(values).max():
            continue
        found[name] = find_change(steps_taken, values, axis=axis)
        axis = found[name].axis
    return found


def too_few(steps: "pandas.DataFrame", curve: str, change: PhaseChange | None) -> bool:
    """Whether a curve without a change has too few snapshots for that to be an answer; see `PhaseChange.too_few`."""
    if change is not None:
        return change.too_few
    return len(steps[["step", curve]].dropna()) < ENOUGH


def formed(steps: "pandas.DataFrame") -> PhaseChange | None:
    """The change in which a run formed an induction head: prefix matching breaks, and a scan of the last snapshot calls
    a head an induction head. None where it did not, and where no scan was made: attention alone is no verdict."""
    change = changes_of(steps, ("prefix_matching",)).get("prefix_matching")
    return change if change is not None and change.found and induction_heads(steps) else None


def induction_heads(steps: "pandas.DataFrame") -> list[str]:
    """The induction heads of the last snapshot that could be read, strongest first, as a scan has it."""
    last = last_verdict(steps)
    return [] if last in ("", "none") else last.split()


def last_verdict(steps: "pandas.DataFrame") -> str:
    """Names of heads, ``none``, or nothing where no scan was made."""
    read = steps.dropna(subset=["prefix_matching"])
    return str(read["induction_heads"].iloc[-1]) if "induction_heads" in read.columns and len(read) else ""


def _log_spaced(steps: np.ndarray) -> bool:
    """Whether the steps above 0 are spaced more evenly on a logarithmic axis, as `find_change` decides it."""
    gaps = [np.diff(place) for place in (np.log(steps[steps > 0]), steps[steps > 0])]
    log, linear = (gap.std() / gap.mean() for gap in gaps)
    return bool(log < linear)


def in_words(steps: "pandas.DataFrame") -> list[str]:
    """One sentence per curve, and one on whether copying heads and in-context learning come together."""
    changes = changes_of(steps)
    read = steps.dropna(subset=["loss"])
    said = [f"{len(read)} of {len(steps)} checkpoints measured."] if len(read) < len(steps) else []
    said += _same_weights(read)
    for name, (called, unit) in CURVES.items():
        first, last = read[name].iloc[0], read[name].iloc[-1]
        whole = f"{called}: {first:.2f} at first, {last:.2f}{unit} at the end"
        if name not in changes:
            said.append(f"{whole}; too few snapshots, or too even, to look for a change.")
        elif changes[name].found:
            change = changes[name]
            said.append(
                f"{whole}; changes from step {change.start:.0f} to {change.end:.0f} ({change.size:+.2f}, "
                f"{change.sharpness:.1f} times as fast as an even spread)."
            )
        elif changes[name].too_few:
            count = len(changes[name].steps)
            said.append(
                f"{whole}; {count} snapshots are too few to tell whether it changes abruptly: {ENOUGH} can show it."
            )
        else:
            said.append(f"{whole}; no abrupt change (p = {changes[name].p_value:.2g}).")
    said.append(_verdict(read, changes.get("prefix_matching")))
    pair = [changes.get(name) for name in ("prefix_matching", "icl_score")]
    if all(one is not None and one.found for one in pair):
        together = co_occurrence(*pair)
        side = "after" if together.steps >= 0 else "before"
        said.append(
            f"In-context learning changes {abs(together.steps):.0f} steps {side} prefix matching (middle to middle); "
            f"their windows overlap by {together.overlap:.0%}."
        )
    return said


def _same_weights(read: "pandas.DataFrame") -> list[str]:
    """Which snapshots are no snapshots of their own."""
    copies = read[read["problem"].astype(str).str.startswith(SAME)] if "problem" in read.columns else read[:0]
    if copies.empty:
        return []
    steps = [str(step) for step in copies["step"]]
    named = ", ".join(steps[:MOST_NAMED]) + (f" and {len(steps) - MOST_NAMED} more" * (len(steps) > MOST_NAMED))
    return [
        f"{len(steps)} checkpoints have the same weights, bit for bit, as others (steps {named}; see problem): they "
        "cannot all be of the steps that they are named after."
    ]


def _verdict(read: "pandas.DataFrame", change: PhaseChange | None) -> str:
    """Which heads are induction heads at the end, and whether they came in an abrupt change."""
    last, verdict = read.iloc[-1], last_verdict(read)
    head = f"{last['prefix_matching_head']}, at {last['prefix_matching']:.2f}"
    if not verdict:
        return (
            f"No scan was made at step {last['step']}, so no head is called an induction head; the head that matches "
            f"prefixes best is {head}."
        )
    if verdict == "none":
        return f"No induction head at step {last['step']}, by a scan; the head that matches prefixes best is {head}."
    names = verdict.split()
    heads = f"Induction head{'s' if len(names) > 1 else ''} at step {last['step']}, by a scan: {', '.join(names)}"
    if change is not None and change.found:
        return f"{heads}; formed in the change from step {change.start:.0f} to {change.end:.0f}."
    if change is None or change.too_few:
        return f"{heads}; whether formed in an abrupt change cannot be told from these snapshots."
    return f"{heads}; not formed in an abrupt change."
