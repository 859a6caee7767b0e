"""The columns of training tables: what each means."""

from inductionlens.tables import OLSSON, Column

#: Column -> its meaning; head scores and losses keep the names they have in a scan.
FORMATION_COLUMNS: dict[str, Column] = {
    "icl_score": Column(
        "loss at a late index of a window minus that at an early one; negative is more in-context learning", "float",
        "unbounded, negative is more", "nats", OLSSON, False, True,
    ),
    "tokens": Column("tokens trained on so far; in tables of repeats, what blocks are made of", "str"),
    "prefix_matching_head": Column("the head with the highest prefix matching at that step", "str"),
    "previous_token_head": Column("the head with the most attention to the previous token at that step", "str"),
    "problem": Column("why a checkpoint could not be read; empty where it was", "str"),
    "argument": Column("which of the paper's arguments a claim belongs to", "str", source=OLSSON),
    "claim": Column("what is claimed, about which models", "str", source=OLSSON),
    "predicted": Column("what would be found if the claim holds", "str"),
    "measured": Column("what was found", "str"),
    "low": Column("lower end of the 95% interval over seeds (Student's t), where the claim is about a size", "float"),
    "high": Column("upper end of it", "float"),
    "verdict": Column("as predicted, not as predicted, or not measured; computed from the runs", "str"),
}  # fmt: skip
