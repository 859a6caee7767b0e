"""Columns of tables that no other module explains."""

from inductionlens.tables import OLSSON, Column

_LOST, _SHARE = "unbounded, positive is lost", "0..1"

#: Of the values behind a scan, one row per head, score and sequence.
SAMPLES = {
    "score": Column("the score that the value is of; `offset +1` is attention one past an earlier copy", "str"),
    "sequence": Column("which sequence of the score's probe, from 0", "int"),
    "value": Column("the score of this head on this sequence alone; empty where it is undefined", "float"),
}

#: Of two scans against each other.
COMPARE = {
    "score": Column("the score that is compared", "str"),
    "first": Column("the score in the first table", "float"),
    "second": Column("the score in the second table", "float"),
    "difference": Column("second minus first", "float"),
    "low": Column("lower end of the 95% interval of the difference; empty for scores without intervals", "float"),
    "high": Column("upper end of the 95% interval of the difference", "float"),
    "changed": Column("whether the difference is more than chance", "str"),
    "p_value": Column("p-value of the difference, were both scores equal", "float", "0..1", "probability"),
    "q_value": Column(
        "p_value corrected for the number of heads: the false discovery rate", "float", "0..1", "probability",
        "Benjamini and Hochberg 1995",
    ),
    "first_kind": Column("what kind of head it is in the first table", "str"),
    "second_kind": Column("what kind of head it is in the second table", "str"),
}  # fmt: skip

#: Of a scan against the heads that others have named.
RANKS = {
    "source": Column("who published the heads", "str"),
    "published": Column("what the published heads are said to be", "str"),
    "column": Column("the column of the scan that should rank these heads high", "str"),
    "heads": Column("how many heads were published", "int"),
    "above": Column(
        "probability that a published head scores above another one: the area under the ROC curve; of negative "
        "effects, below", "float", "0..1, 0.5 is chance", "probability", "Mann and Whitney 1947",
    ),
    "p_value": Column("one-sided p-value of that, by the U test", "float", "0..1", "probability",
                      "Mann and Whitney 1947"),
    "rank_correlation": Column(
        "Spearman's rank correlation with the published values; empty for fewer than 4 heads", "float", "-1..1",
    ),
}  # fmt: skip

#: Of a model against a published table.
VALIDATE = {
    "score": Column("previous_token, duplicate_token or induction: a mean over one diagonal of the pattern", "str"),
    "published": Column("the published value", "float", _SHARE, "fraction of attention"),
    "measured": Column("the value measured here, by the published recipe", "float", _SHARE, "fraction of attention"),
    "difference": Column("measured minus published", "float", "-1..1, 0 is agreement", "fraction of attention"),
}

STEP = Column("optimiser step of the snapshot", "int", "0 and up", "steps")
TOKENS_SEEN = Column("tokens trained on up to this step; empty where not known", "int", "0 and up", "tokens")

#: Of a run's snapshots, one row each.
STEPS = {
    "step": STEP,
    "tokens": TOKENS_SEEN,
    "loss": Column("mean loss on the windows", "float", "0 and up, lower is better", "nats", OLSSON),
    "prefix_matching": Column("prefix matching of the head that has most of it at that step", "float",
                              "0..1, higher is more", "fraction of attention", OLSSON, False, True),
    "previous_token": Column("attention to the token before, of the head that has most of it at that step", "float",
                             "0..1, higher is more", "fraction of attention", OLSSON, False, True),
}  # fmt: skip

#: Of runs, watched: at the last snapshot unless the meaning says otherwise.
RUNS = {
    "model": Column("layers of the toy, and what is special about it", "str"),
    "seed": Column("training seed", "int"),
    "prefix_matching": Column("prefix matching of the best head at the end", "float", "0..1", "fraction of attention"),
    "icl_score": Column("in-context-learning score at the end", "float", "negative is more", "nats", OLSSON),
    "copying_gain": Column("loss on first copies minus loss on later ones, at the end", "float", "", "nats"),
    **{
        f"{curve}_{part}": Column(f"{meaning} of {called}; empty where it does not change", "float", "", unit)
        for curve, called in (("prefix", "prefix matching"), ("icl", "in-context learning"))
        for part, meaning, unit in (
            ("start", "step of the last snapshot before the change", "steps"),
            ("end", "step of the first snapshot after the change", "steps"),
            ("middle", "step half-way through the change", "steps"),
            ("size", "value after the change minus value before it", ""),
        )
    },
    "layers": Column("layers of attention", "int"),
    "mlp": Column("whether each layer has an MLP", "str"),
    "smeared_keys": Column("whether each key is mixed with the one before it", "str"),
    "spacing": Column("steps between the snapshots around the middle of the change of prefix matching", "float", "",
                      "steps"),
    "formed": Column("whether an induction head formed: prefix matching breaks, a scan finds one at the end", "str"),
    "induction_heads": Column("the run's induction heads, by a scan of its last snapshot", "str"),
    "qk_eigen": Column("their mean qk_eigen; empty where there is none", "float", "-1..1, positive matches", "ratio"),
    "lost": Column("icl_score without the induction heads minus with them, attention held", "float", _LOST, "nats"),
    "lost_random": Column("the same without as many other heads, drawn at random: the mean over draws", "float", _LOST,
                          "nats"),
    "lost_random_most": Column("the largest loss of those draws", "float", _LOST, "nats"),
    "lost_free": Column("as lost, attention free to react", "float", _LOST, "nats"),
    "lost_random_free": Column("as lost_random, attention free to react", "float", _LOST, "nats"),
    "lost_random_free_most": Column("as lost_random_most, attention free to react", "float", _LOST, "nats"),
}  # fmt: skip
