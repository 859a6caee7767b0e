"""Attention scores against their slow twins, their known answers and their laws."""

import re

import pytest
import torch
import twins

from inductionlens import InputError, repeated_tokens
from inductionlens.scores import attention
from inductionlens.scores.attention import TARGETS, attend, attention_to, weigh

BOS = 0
POOL = torch.arange(1, 200)


def probe(period=25, repeats=4, bos=BOS, sequences=2):
    return repeated_tokens(POOL, period=period, repeats=repeats, sequences=sequences, bos=bos, seed=5)


def uniform(tokens):
    pos = tokens.shape[1]
    causal = torch.ones(pos, pos).tril()
    return (causal / causal.sum(-1, keepdim=True)).expand(len(tokens), 1, pos, pos)


def ideal(target, choose=None):
    """A head that spreads its attention evenly over its targets, or picks one, and rests on key 0 without any."""
    picked = target.float()
    if choose == "last":
        picked = torch.nn.functional.one_hot((target.shape[2] - 1) - target.flip(2).int().argmax(2), target.shape[2])
    elif choose == "first":
        picked = torch.nn.functional.one_hot(target.int().argmax(2), target.shape[2])
    picked = picked.float() * target.any(-1, keepdim=True)
    rest = torch.zeros_like(picked)
    rest[:, :, 0] = ~target.any(-1)
    total = picked + rest
    return (total / total.sum(-1, keepdim=True))[:, None]


def behind(tokens, distance):
    """A head that always looks ``distance`` back, and rests on key 0 where it cannot."""
    return ideal(attention.fixed_distance(tokens, distance))


TWINS = {
    "prefix_matching": twins.prefix_matching,
    "prefix_matching_literal": twins.prefix_matching_literal,
    "duplicate_token": twins.duplicate_token,
    "previous_token": twins.previous_token,
    "first_token": twins.first_token,
}


def test_every_score_has_a_twin():
    assert TWINS.keys() == TARGETS.keys()


@pytest.mark.parametrize("bos", [BOS, None], ids=["bos", "no-bos"])
@pytest.mark.parametrize("name", TARGETS)
def test_score_equals_its_twin_on_ragged_rows(name, bos, ragged, patterns):
    scores = attention_to(TARGETS[name](ragged, bos), patterns)
    for row in range(len(ragged)):
        expected = TWINS[name](patterns[row].tolist(), ragged[row].tolist(), bos)
        assert scores[row].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("reduce", ["sum", "last", "first", "entry_mean"])
def test_each_reduction_equals_its_twin(reduce, ragged, patterns):
    scores = attention_to(attention.after_copy(ragged, BOS), patterns, reduce=reduce)
    for row in range(len(ragged)):
        expected = twins.prefix_matching(patterns[row].tolist(), ragged[row].tolist(), BOS, reduce)
        assert scores[row].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("offset", attention.OFFSETS)
def test_each_offset_equals_its_twin(offset, ragged, patterns):
    target = attention.at_offset(ragged, BOS, offset)
    for row in range(len(ragged)):
        if not target[row].any():
            continue
        score = attention_to(target[row : row + 1], patterns[row : row + 1])[0]
        expected = twins.offset(patterns[row].tolist(), ragged[row].tolist(), BOS, offset)
        assert score.tolist() == pytest.approx(expected, abs=1e-6)


def test_offsets_span_the_documented_range():
    assert list(attention.OFFSETS) == list(range(-4, 13))


@pytest.mark.parametrize("distance", [1, 3, 7])
def test_diagonal_equals_its_twin(distance, ragged, patterns):
    scores = attention_to(attention.fixed_distance(ragged, distance), patterns)
    for row in range(len(ragged)):
        assert scores[row].tolist() == pytest.approx(twins.diagonal(patterns[row].tolist(), distance), abs=1e-6)


def test_value_weighting_equals_its_twin(patterns):
    values = torch.randn(5, 14, 3, 4, generator=torch.Generator().manual_seed(3))
    weighted = attention.value_weighted(patterns, values)
    expected = twins.value_weighted(patterns[1].tolist(), values[1].permute(1, 0, 2).tolist())
    assert torch.allclose(weighted[1], torch.tensor(expected), atol=1e-6)
    assert torch.allclose(weighted.sum(-1), torch.ones(5, 3, 14), atol=1e-6)


# Metrics, section 4: heads whose scores are known on BOS + 25 x 4.
KNOWN = {
    "uniform": (uniform, 0.0307, 0.0302, 0.0307, 0.0420),
    "induction": (lambda t: ideal(attention.after_copy(t, BOS)), 1, 0, 0, 0.01),
    "induction, latest copy": (lambda t: ideal(attention.after_copy(t, BOS), "last"), 1, 0, 0, 0.01),
    "induction, first copy": (lambda t: ideal(attention.after_copy(t, BOS), "first"), 1, 0, 0, 0.01),
    "duplicate token": (lambda t: ideal(attention.on_copy(t, BOS)), 0, 0, 1, 0.01),
    "offset -1": (lambda t: ideal(attention.before_copy(t, BOS)), 0, 1, 0, 0.01),
    "previous token": (lambda t: behind(t, 1), 0, 0, 0, 1),
    "all on BOS": (lambda t: ideal(torch.zeros(len(t), t.shape[1], t.shape[1], dtype=torch.bool)), 0, 0, 0, 0.01),
    "all on itself": (lambda t: torch.eye(t.shape[1]).expand(len(t), 1, -1, -1), 0, 0, 0, 0),
    "24 back": (lambda t: behind(t, 24), 1, 0, 0, 0.01),
    "25 back": (lambda t: behind(t, 25), 0, 0, 1, 0.01),
    "26 back": (lambda t: behind(t, 26), 0, 1, 0, 0.01),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_heads_on_the_default_probe(name):
    tokens = probe().tokens
    make, *expected = KNOWN[name]
    pattern = make(tokens)
    names = ("prefix_matching", "prefix_matching_literal", "duplicate_token", "previous_token")
    scores = [float(attention_to(TARGETS[score](tokens, BOS), pattern).mean()) for score in names]
    assert scores == pytest.approx(expected, abs=5e-5)


def test_a_head_resting_on_the_first_token_is_seen():
    tokens = probe().tokens
    score = TARGETS["first_token"](tokens, BOS)
    assert float(attention_to(score, ideal(attention.after_copy(tokens, BOS))).mean()) == pytest.approx(1)
    harmonic = sum(1 / k for k in range(1, 27))
    assert float(attention_to(score, uniform(tokens)).mean()) == pytest.approx((harmonic - 1) / 25)
    assert int(score.sum()) == 25 * len(tokens)


def test_prefix_matching_reads_exactly_150_entries_of_75_queries():
    target = attention.after_copy(probe(sequences=1).tokens, BOS)
    assert int(target.sum()) == 150
    assert int(target.any(-1).sum()) == 75
    literal = attention.before_copy(probe(sequences=1).tokens, BOS)
    assert int(literal.any(-1).sum()) == 74


def test_chance_rises_with_the_repeat():
    tokens = probe(sequences=1).tokens
    target = attention.after_copy(tokens, BOS)
    for repeat, expected in ((1, 0.0266), (2, 0.0317), (3, 0.0339)):
        rows = torch.zeros_like(target)
        rows[:, 1 + 25 * repeat : 1 + 25 * (repeat + 1)] = True
        assert float(attention_to(target & rows, uniform(tokens))) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("period", "repeats", "bos", "expected"),
    [(50, 2, BOS, 0.0136), (100, 2, None, 0.0069), (50, 4, BOS, 0.0156), (30, 2, BOS, 0.0223)],
)
def test_chance_elsewhere(period, repeats, bos, expected):
    tokens = probe(period, repeats, bos).tokens
    score = attention_to(attention.after_copy(tokens, bos), uniform(tokens))
    assert float(score.mean()) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("choose", "last", "first", "entry_mean"),
    [("last", 1, 1 / 3, 0.5), ("first", 1 / 3, 1, 0.5), (None, 0.611, 0.611, 0.5)],
    ids=["latest", "first", "split"],
)
def test_ideal_head_under_each_reduction(choose, last, first, entry_mean):
    tokens = probe().tokens
    target = attention.after_copy(tokens, BOS)
    pattern = ideal(target, choose)
    expected = {"sum": 1.0, "last": last, "first": first, "entry_mean": entry_mean}
    for reduce, value in expected.items():
        assert float(attention_to(target, pattern, reduce=reduce).mean()) == pytest.approx(value, abs=5e-4)


def test_uniform_head_under_entry_mean():
    tokens = probe().tokens
    score = attention_to(attention.after_copy(tokens, BOS), uniform(tokens), reduce="entry_mean")
    assert float(score.mean()) == pytest.approx(0.0154, abs=5e-5)


def test_ideal_head_on_the_plain_diagonal():
    with_bos, without = probe(50, 2), probe(50, 2, None)
    score = attention_to(
        attention.fixed_distance(with_bos.tokens, 49), ideal(attention.after_copy(with_bos.tokens, BOS))
    )
    assert float(score.mean()) == pytest.approx(51 / 52)  # rests on BOS, one of two entries without a target
    score = attention_to(
        attention.fixed_distance(without.tokens, 49), ideal(attention.after_copy(without.tokens, None))
    )
    assert float(score.mean()) == pytest.approx(1.0)
    target = attention.fixed_distance(with_bos.tokens, 49)
    assert int(target[0].sum()) == 52
    assert int(attention.fixed_distance(without.tokens, 49)[0].sum()) == 51
    assert int(attention.fixed_distance(without.tokens, 50)[0].sum()) == 50


def chance_at(offset, period, repeats):
    """What a uniform head pays to the keys at an offset from each earlier copy, counted query by query."""
    shares = []
    for query in range(1 + period, 1 + period * repeats):
        keys = [copy + offset for copy in range(query - period, 0, -period) if 1 <= copy + offset <= query]
        if keys:
            shares.append(len(keys) / (query + 1))
    return sum(shares) / len(shares)


def test_offset_profile_of_known_heads():
    tokens = probe().tokens

    def profile(pattern):
        return {d: float(attention_to(attention.at_offset(tokens, BOS, d), pattern).mean()) for d in attention.OFFSETS}

    induction = profile(ideal(attention.after_copy(tokens, BOS)))
    assert max(induction, key=induction.get) == 1
    assert induction[1] == pytest.approx(1)
    duplicate = profile(ideal(attention.on_copy(tokens, BOS)))
    assert max(duplicate, key=duplicate.get) == 0
    for offset, found in profile(uniform(tokens)).items():
        assert found == pytest.approx(chance_at(offset, 25, 4), abs=1e-6)
    for name, offset in (("prefix_matching", 1), ("duplicate_token", 0), ("prefix_matching_literal", -1)):
        assert torch.equal(TARGETS[name](tokens, BOS), attention.at_offset(tokens, BOS, offset))


# Laws that every target inherits.
@pytest.fixture(params=TARGETS)
def target_of(request):
    return TARGETS[request.param]


def test_scores_are_fractions_and_repeat_to_the_bit(target_of, ragged, patterns):
    scores = attention_to(target_of(ragged, BOS), patterns)
    assert scores.shape == (5, 3)
    assert ((scores >= 0) & (scores <= 1 + 1e-6)).all()
    assert torch.equal(scores, attention_to(target_of(ragged, BOS), patterns))


def test_renaming_tokens_changes_nothing(target_of, ragged, patterns):
    renamed = torch.tensor([90, 12, 55, 3, 41, 7, 66])[ragged]
    assert torch.equal(target_of(ragged, BOS), target_of(renamed, 90))


def test_permuting_heads_permutes_the_scores(target_of, ragged, patterns):
    target, order = target_of(ragged, BOS), [2, 0, 1]
    assert torch.equal(attention_to(target, patterns[:, order]), attention_to(target, patterns)[:, order])


def test_a_batch_equals_its_rows(target_of, ragged, patterns):
    together = attention_to(target_of(ragged, BOS), patterns)
    for row in range(5):
        alone = attention_to(target_of(ragged[row : row + 1], BOS), patterns[row : row + 1])
        assert torch.allclose(together[row], alone[0], atol=1e-12)


def test_inputs_are_left_alone(target_of, ragged, patterns):
    tokens, pattern = ragged.clone(), patterns.clone()
    attention_to(target_of(tokens, BOS), pattern)
    attention.value_weighted(pattern, torch.ones(5, 14, 3, 2))
    assert torch.equal(tokens, ragged)
    assert torch.equal(pattern, patterns)


def test_half_precision_is_summed_in_full(ragged, patterns):
    half = patterns.bfloat16()
    target = attention.previous(ragged, BOS)
    assert torch.equal(attention_to(target, half), attention_to(target, half.float()))


def test_no_target_is_refused_by_sequence():
    tokens = torch.tensor([[0, 1, 2, 1], [0, 1, 2, 3]])
    with pytest.raises(InputError, match=r"No query in sequence 1 has a target"):
        weigh(attention.after_copy(tokens, BOS))


def test_unknown_reduction_lists_the_options():
    with pytest.raises(InputError, match=re.escape("reduce must be one of sum, last, first, entry_mean; got 'mean'")):
        weigh(torch.ones(1, 2, 2, dtype=torch.bool), "mean")


def test_weights_of_a_row_sum_to_one(ragged):
    entries = weigh(attention.after_copy(ragged, BOS), "last")
    totals = torch.zeros(5, dtype=torch.float64).index_add_(0, entries.batch, entries.weight)
    assert totals.tolist() == pytest.approx([1] * 5)
    assert attend(entries, torch.ones(5, 2, 14, 14)).flatten().tolist() == pytest.approx([1] * 10)
