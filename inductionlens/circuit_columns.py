"""The columns of pair, circuit and trigram tables: what each means."""

from inductionlens.tables import ELHAGE, OLSSON, Column

_ATTENTION, _SHARE = "fraction of attention", "unbounded, 1 is all of it, 0 nothing, negative more than before"

#: Column -> its meaning; interval ends are NAME_low and NAME_high, as in head tables.
CIRCUIT_COLUMNS: dict[str, Column] = {
    "writer": Column("the earlier head, whose output is read", "str"),
    "reader": Column("the later head, which reads it", "str"),
    "via": Column("through what it is read: q (queries), k (keys) or v (values)", "str"),
    "writer_kind": Column("what kind of head the writer is, as in a scan", "str"),
    "reader_kind": Column("what kind of head the reader is, as in a scan", "str"),
    "composition": Column(
        "Frobenius norm of the writer's OV circuit times what the reader reads, over both norms, minus the mean of "
        "random matrices of the same shapes", "float", "about 0..1, 0 is chance", "ratio", ELHAGE, True,
    ),
    "composition_raw": Column(
        "the same with nothing subtracted", "float", "0..1, about 1/sqrt(d_model) for random matrices", "ratio", ELHAGE,
        True,
    ),
    "composition_z": Column(
        "composition in standard deviations of random matrices of the same shapes", "float", "unbounded, 0 is chance",
        "standard deviations", "this package", True,
    ),
    "eigen": Column(
        "Re(sum of eigenvalues) / sum of absolute values of the pair's circuit, vocabulary by vocabulary: the term of "
        "the reader's QK circuit that goes through the writer (q, k), or both OV circuits one after the other (v)",
        "float", "-1..1, positive matches or copies", "ratio", ELHAGE, True,
    ),
    "query_writer": Column("of a QK term: the head through which the query reads; empty for the embedding", "str"),
    "key_writer": Column("of a QK term: the head through which the key reads; empty for the embedding", "str"),
    "trace": Column("sum of the eigenvalues of a QK term", "float", "unbounded, positive matches", "", ELHAGE),
    "size": Column("Frobenius norm of a QK term between the two embeddings", "float", "0 and up", "", ELHAGE),
    "prefix_lost": Column(
        "which share of the reader's prefix matching is gone when its queries, keys or values alone are those of a "
        "model without the writer; empty where prefix matching is not clearly above that of attention spread evenly",
        "float", _SHARE, "share", "this package", True, True,
    ),
    "prefix_lost_direct": Column(
        "the same when only the writer's own output is taken out there: not what other parts have made of it", "float",
        _SHARE, "share", "this package", True,
    ),
    "logit_lost": Column(
        "as prefix_lost, of the reader's effect on the right logit; empty where that is below 0.01 or not clear of 0",
        "float", _SHARE, "share", "this package", True, True,
    ),
    "logit_lost_direct": Column(
        "as prefix_lost_direct, of the reader's effect on the right logit", "float", _SHARE, "share", "this package",
        True,
    ),
    "ablated_lost": Column(
        "the share of the reader's prefix matching that is lost when the writer is ablated altogether, everything free "
        "to react", "float", _SHARE, "share", "this package", True,
    ),
    "causal": Column("prefix_lost for q and k, logit_lost for v: what ranks paths", "float", _SHARE, "share"),
    "rank_composition": Column("place of the writer among all writers of the reader and via, by composition", "int"),
    "rank_causal": Column("the same by causal; empty where it was not measured", "int"),
    "ov_top1": Column(
        "of how many tokens the OV circuit raises the token itself most", "float", "0..1, higher copies more", "share",
        ELHAGE, True,
    ),
    "ov_top5": Column("of how many it is among the five raised most", "float", "0..1", "share", ELHAGE, True),
    "qk_eigen": Column(
        "ov_eigen's statistic of the QK circuit that compares a query's token with the token before the key, through "
        "earlier heads weighted by their previous-token attention", "float", "-1..1, positive matches like with like",
        "ratio", OLSSON, True,
    ),
    "qk_eigen_trace": Column(
        "the trace of the same circuit; compare inside one model only", "float", "unbounded, positive matches",
        "logits, unscaled", OLSSON, True,
    ),
    "source": Column("of a skip trigram: the earlier token", "str"),
    "destination": Column("of a skip trigram: the token that looks back", "str"),
    "out": Column("of a skip trigram: the token made more likely", "str"),
    "source_id": Column("the earlier token's id", "int", "0 and up"),
    "destination_id": Column("the id of the token that looks back", "int", "0 and up"),
    "out_id": Column("the id of the token made more likely", "int", "0 and up"),
    "copies": Column("whether a skip trigram's out is its source", "str"),
    "attention": Column(
        "the destination's attention score for the source, above its mean over sources", "float", "unbounded",
        "nats before the softmax", ELHAGE,
    ),
    "logit": Column(
        "how much the logit of out rises above the vocabulary's mean, before the final norm's scale", "float",
        "unbounded", "logits", ELHAGE,
    ),
    "all_copies": Column("share of all source tokens whose skip trigram copies", "float", "0..1", "share", ELHAGE),
    "own_token": Column(
        "of how many tokens the OV circuit raises the token itself most", "float", "0..1", "share", ELHAGE
    ),
    "copying_head": Column(
        "whether ov_eigen is more than 3 standard deviations above that of random weights", "str", "", "", ELHAGE
    ),
    "layers": Column("layers of the model", "int"),
    "tokens": Column("what repeated blocks are made of: uniform, zipf, shuffled or text", "str"),
    "confidence": Column(
        "mean probability of the right token on later copies", "float", "0..1, higher is better", "probability",
        ELHAGE, True, True,
    ),
    "advantage": Column(
        "loss on first copies minus loss on later ones", "float", "unbounded, positive helps", "nats", ELHAGE, True,
        True,
    ),
    "order_advantage": Column(
        "loss on later blocks in an order of their own minus loss on copies: how much depends on the order, beyond "
        "which tokens there are", "float", "unbounded, positive follows the order", "nats", "this package", True, True,
    ),
    "measure": Column("what losses were read on: copies (later copies of random blocks) or text", "str"),
    "term": Column("order N: paths through at most N heads; alone, without: one layer's heads, at order 1", "str"),
    "loss": Column(
        "mean loss with these paths alone", "float", "0 and up, lower is better", "nats", ELHAGE, True, True,
    ),
    "gain": Column("loss of order N - 1 minus loss of order N; for a layer, what its heads take off", "float",
                   "unbounded, positive helps", "nats", ELHAGE, True, True),
}  # fmt: skip
