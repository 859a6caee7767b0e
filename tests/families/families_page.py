"""docs/families.md: which families are scored, and how we know."""

import re
from importlib.metadata import version
from pathlib import Path

from tiny_models import predicts_next_token
from verdicts import BUILD, MOST, PARTS, REFUSED, RIGHT, UNCOMPARED

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
LINES = ("3.9", "4.x")
OPENING = """# Model families

Which architectures can be scored, from `python tests/families/sweep.py`. It builds each architecture that
TransformerLens lists and transformers has code for, with two layers and random weights, saves it with
`save_pretrained`, gives the folder to `load_model`, and compares what the package says with what Hugging Face's own
model computes on the same tokens:

* **attention**: `scan`'s prefix matching, from Hugging Face's eager attention;
* **losses**: `in_context_learning`'s loss of every token, from Hugging Face's logits;
* **removal**: what `ablation_study` says a head costs, with that head's slice of the output matrix's input emptied;
* **logit effect**: `scan`'s `induction_logit`, from values, output matrix, norms and unembedding by hand;
* **circuit**: the shares that `circuit` says a reader loses without each earlier head, altogether and through its keys.

*right*: equal up to rounding ({most}). *refused*: one sentence says
why, and no number is given. *not compared*: it runs, and the family's own code hides what the comparison needs. A WRONG
or a TRACEBACK is a fault, and a test fails.
"""


def written_anew(found: dict[str, dict[str, list[str]]], page: Path = PAGE) -> str:
    """The page with the table of the installed TransformerLens made from ``found`` and the other line's kept."""
    installed = version("transformer-lens")
    line = LINES[0] if installed.startswith("3.") else LINES[1]
    kept = page.read_text(encoding="utf-8") if page.exists() else ""
    parts = dict(re.findall(r"<!-- (\S+) -->\n(.*?)<!-- end -->", kept, re.DOTALL))
    parts[line] = f"\n## TransformerLens {installed}, transformers {version('transformers')}\n\n{_table(found)}\n"
    most = ", ".join(f"{part} {value:g}" for part, value in MOST.items())
    opening = OPENING.format(most=most)
    return opening + "".join(f"\n<!-- {name} -->\n{parts[name]}<!-- end -->\n" for name in LINES if name in parts)


def _table(found: dict[str, dict[str, list[str]]]) -> str:
    rows = [f"| family | {' | '.join(PARTS)} | why |", "|---" * (len(PARTS) + 2) + "|"]
    others = []
    for name, parts in found.items():
        verdict = parts["load"][0]
        if verdict == REFUSED and not predicts_next_token(name.split(",")[0]):
            others.append(name)
            continue
        cells = [parts[part][0] if part in parts else verdict for part in PARTS]
        notes = dict.fromkeys(detail for verdict, detail in parts.values() if verdict not in (RIGHT, UNCOMPARED))
        rows.append(f"| {name} | {' | '.join(cells)} | {_cell(' '.join(notes))} |")
    count = sum(all(verdict in (RIGHT, UNCOMPARED) for verdict, _ in parts.values()) for parts in found.values())
    unbuilt = sum(parts["load"][0] == BUILD for parts in found.values())
    summary = f"{len(found)} families: {count} right in every part that was compared, {len(others)} no language models"
    summary += f", {unbuilt} not built here" if unbuilt else ""
    no_models = f"Refused, because they do not predict the next token from earlier ones: {', '.join(others)}."
    return "\n".join([f"{summary}.", "", *rows, "", *([no_models] if others else [])])


def _cell(text: str) -> str:
    """Text that fits into one cell."""
    return re.sub(r"\S*/model\b", "FOLDER", text).replace("|", "/")
