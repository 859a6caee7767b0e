"""The columns of training tables: what each means."""

from inductionlens.tables import OLSSON, Column

#: Column -> its meaning; head scores and losses keep the names they have in a scan.
FORMATION_COLUMNS: dict[str, Column] = {
    "icl_score": Column(
        "loss at a late index of a window minus that at an early one; negative is more in-context learning", "float",
        "unbounded, negative is more", "nats", OLSSON, False, True,
    ),
    "training_loss": Column(
        "mean loss of the batches trained on since the snapshot before; empty where training is not known", "float",
        "0 and more, lower is better", "nats", OLSSON,
    ),
    "loss_slope": Column(
        "d loss / d ln(tokens), between the snapshots around; negative while the loss falls", "float", "unbounded",
        "nats per e-fold", OLSSON,
    ),
    "token": Column("which of the followed tokens, one of each window", "int"),
    "before_and_after": Column(
        "what zeroing the head does to the direction in which losses move while prefix matching changes",
        "float", "unbounded, negative undoes the change", "nats", OLSSON, False,
    ),
    "curve": Column("the column of a table of steps whose change is described", "str"),
    "seeds": Column("runs of the model", "int"),
    "changed": Column("runs of the model whose curve changes", "int"),
    "too_few": Column(
        "runs of the model whose curve does not change, in so few snapshots (below 10) that a change may be missed",
        "int",
    ),
    "formed": Column(
        "runs of the model in which an induction head formed: prefix matching breaks, and a scan finds one at the end; "
        "empty where none was scanned", "int",
    ),
    "start": Column(
        "step of the last snapshot before the change; mean over seeds, interval by Student's t plus half the distance "
        "between snapshots", "float",
                    "", "steps", "", False, True),
    "end": Column("step of the first snapshot after the change; the same", "float", "", "steps", "", False, True),
    "middle": Column("step half-way; the same", "float", "", "steps", "", False, True),
    "size": Column("of a change, the curve at its end minus at its start; of a QK term, its Frobenius norm", "float"),
    "sharpness": Column("how many times as fast as an even spread over the run; mean over seeds", "float", "from 1.5"),
    "after_prefix": Column("the curve's middle minus that of prefix matching, where both change", "float", "", "steps",
                           "", False, True),
    "overlap": Column("share of the curve's window and that of prefix matching that both have", "float", "0..1"),
    "query": Column("position that looks", "int"),
    "key": Column("position that is looked at", "int"),
    "query_token": Column("the letter of the token at the query; equal letters are equal tokens", "str"),
    "key_token": Column("the letter of the token at the key", "str"),
    "attention": Column(
        "how much of the query's attention the key gets; of skip trigrams, the destination's attention score for the "
        "source, above its mean over sources", "float",
    ),
    "target": Column("whether an induction head looks from this query to this key", "str"),
    "tokens": Column("tokens trained on so far; in tables of repeats, what blocks are made of", "str"),
    "induction_heads": Column(
        "heads that a scan of the last snapshot calls induction heads, strongest first; none, or empty where no scan "
        "was made", "str",
    ),
    "prefix_matching_head": Column("the head with the highest prefix matching at that step", "str"),
    "previous_token_head": Column("the head with the most attention to the previous token at that step", "str"),
    "problem": Column("why a checkpoint could not be read, or which others have the same weights; else empty", "str"),
    "argument": Column("which of the paper's arguments a claim belongs to", "str", source=OLSSON),
    "claim": Column("what is claimed, about which models", "str", source=OLSSON),
    "predicted": Column("what would be found if the claim holds", "str"),
    "measured": Column("what was found", "str"),
    "low": Column("lower end of the 95% interval over seeds (Student's t), where the claim is about a size", "float"),
    "high": Column("upper end of it", "float"),
    "verdict": Column("as predicted, not as predicted, or not measured; computed from the runs", "str"),
}  # fmt: skip
