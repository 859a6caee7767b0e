"""Controls and nulls: what chance and position reach, and that verdicts are not owed to them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from benchmarks.false_verdicts import random_scans

import inductionlens as il
from inductionlens import InputError
from inductionlens.controls import measure_fresh, measure_gapped
from inductionlens.measure import attention_targets, measure_attention
from inductionlens.models.named_weights import named_weights
from inductionlens.models.untrained import untrained_twin
from inductionlens.nulls import false_discovery
from inductionlens.probes import fresh_tokens, gap_that_fits, gapped_tokens
from inductionlens.scores import attention
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.stimuli import make_probes

POOL = torch.arange(1, 400)


@pytest.fixture(scope="module")
def gapped():
    return gapped_tokens(POOL, bos=0, seed=3, sequences=40)


def gapped_twin(pattern, starts, period):
    """Plain loops: from all but the last token of repeats 2.., attention to the token after each earlier copy."""
    total, queries = 0.0, 0
    for repeat in range(1, len(starts)):
        for place in range(period - 1):
            query = starts[repeat] + place
            queries += 1
            for earlier in range(repeat):
                total += pattern[query][starts[earlier] + place + 1]
    return total / queries


# The gapped stimulus.
def test_blocks_stand_where_the_starts_say_and_filler_is_not_theirs(gapped):
    assert gapped.tokens.shape == (40, 1 + 100 + 75)
    for row, starts in zip(gapped.tokens.tolist(), gapped.starts.tolist(), strict=True):
        assert row[0] == 0
        assert starts[0] == 1
        block = row[1:26]
        assert len(set(block)) == 25
        for start in starts:
            assert row[start : start + 25] == block
        for start, following in pairwise(starts):
            filler = row[start + 25 : following]
            assert 1 <= len(filler) <= 25
            assert len(set(filler)) == len(filler)
            assert not set(filler) & set(block)


def test_every_gap_length_occurs_and_each_gap_has_its_own():
    starts = gapped_tokens(POOL, bos=None, seed=0, sequences=400).starts
    gaps = starts.diff(dim=1) - 25
    assert set(gaps.flatten().tolist()) == set(range(1, 26))
    assert abs(float(gaps.float().mean()) - 13) < 0.6
    assert len({tuple(row) for row in gaps.tolist()}) > 350


def test_context_and_vocabulary_limit_the_gaps():
    assert gap_that_fits(176, start=1, period=25, repeats=4) == 25
    assert gap_that_fits(175, start=1, period=25, repeats=4) == 24
    assert gap_that_fits(128, start=1, period=25, repeats=4) == 9
    with pytest.raises(InputError, match="gap must be at least 2"):
        gapped_tokens(POOL, bos=0, gap=1)
    with pytest.raises(InputError, match=r"25 \+ 25 different tokens are needed and the pool has 40"):
        gapped_tokens(torch.arange(40), bos=None)


def score(pattern, probe):
    queries, keys, n_queries = attention.layout_entries(probe.starts, probe.period)
    return torch.stack(
        [pattern[i][:, queries[i], keys[i]].double().sum(-1) / n_queries for i in range(len(pattern))]
    )  # fmt: skip


def test_entries_equal_their_twin(gapped):
    pos = gapped.tokens.shape[1]
    g = torch.Generator().manual_seed(0)
    pattern = torch.rand(3, 2, pos, pos, generator=g).tril()
    found = score(pattern, gapped)
    for row in range(3):
        for head in range(2):
            expected = gapped_twin(pattern[row, head].tolist(), gapped.starts[row].tolist(), 25)
            assert float(found[row, head]) == pytest.approx(expected, abs=1e-5)


def test_expected_entries_are_the_mean_over_all_layouts():
    """Blocks of 4, three copies, gaps of 1 to 3: nine layouts, all equally likely."""
    query, key, weight = attention.expected_entries(4, 3, 3, 1)
    pattern = torch.rand(19, 19, generator=torch.Generator().manual_seed(0)).tril()
    layouts = [(1, 1 + 4 + one, 1 + 8 + one + two) for one in (1, 2, 3) for two in (1, 2, 3)]
    expected = sum(gapped_twin(pattern.tolist(), starts, 4) for starts in layouts) / 9
    assert float((pattern[query, key] * weight).sum()) == pytest.approx(expected, abs=1e-6)
    assert (key < query).all()


def test_known_heads_on_gapped_repeats():
    """Metrics, section 19: content 1, uniform about 0.022, 24 back 0, the best fixed distance about 0.05."""
    probe = gapped_tokens(POOL, bos=0, seed=1, sequences=200)
    pos = probe.tokens.shape[1]
    content = attention.after_copy(probe.tokens, 0).float()
    content = content / content.sum(-1, keepdim=True).clamp_min(1)
    assert float(score(content[:, None], probe).mean()) == pytest.approx(1)
    even = torch.ones(pos, pos).tril()
    even = (even / even.sum(-1, keepdim=True)).expand(200, 1, pos, pos)
    assert float(score(even, probe).mean()) == pytest.approx(0.022, abs=0.001)
    back = [
        float(score(torch.eye(pos).roll(-distance, 1).tril().expand(200, 1, pos, pos), probe).mean())
        for distance in range(1, 80)
    ]
    assert back[23] == 0
    assert max(back) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("batch_size", [3, 100])
def test_a_models_gapped_scores_are_those_of_its_patterns(batch_size, random_toy):
    probe = gapped_tokens(torch.arange(1, 48), period=6, gap=5, repeats=3, bos=0, seed=1, sequences=5)
    found = measure_gapped(random_toy, probe, batch_size=batch_size).numerator
    _, cache = random_toy.run_with_cache(probe.tokens)
    for layer in range(2):
        for head in range(3):
            for row in range(5):
                pattern = cache[f"blocks.{layer}.attn.hook_pattern"][row, head].tolist()
                expected = gapped_twin(pattern, probe.starts[row].tolist(), 6)
                assert found[layer, head, row] == pytest.approx(expected, abs=1e-5)


# Tokens that never repeat.
def test_fresh_tokens_do_not_return_at_the_blocks_distance():
    tokens = fresh_tokens(POOL, period=25, length=176, sequences=30, bos=0, seed=0)
    assert tokens.shape == (30, 176)
    assert (tokens[:, 0] == 0).all()
    assert all(len(set(row[1:26].tolist())) == 25 for row in tokens)
    same = (tokens[:, 26:] == tokens[:, 1:-25]).float().mean()
    assert float(same) < 0.01


def test_fresh_scores_are_read_at_the_probes_positions(random_toy):
    period, repeats = 6, 3
    repeated = il.repeated_tokens(torch.arange(1, 48), period=period, repeats=repeats, sequences=4, bos=0)
    probe = gapped_tokens(torch.arange(1, 48), period=period, gap=5, repeats=repeats, bos=0, sequences=4)
    fresh = fresh_tokens(torch.arange(1, 48), period=period, length=probe.tokens.shape[1], sequences=4, bos=0)
    target = attention.after_copy(repeated.tokens[:1], 0)[0]
    even, layouts = measure_fresh(random_toy, fresh, probe, target, batch_size=3)
    _, cache = random_toy.run_with_cache(fresh)
    pattern = cache["blocks.1.attn.hook_pattern"]
    entries = [(q, q - period * back + 1) for q in range(1 + period, 1 + period * repeats)
               for back in range(1, (q - 1) // period + 1)]  # fmt: skip
    expected = sum(float(pattern[2, 1, q, k]) for q, k in entries) / (period * (repeats - 1))
    assert even.numerator[1, 1, 2] == pytest.approx(expected, abs=1e-5)
    for row in (0, 2, 3):  # batches of 3: the last row stands in a batch of its own
        starts = [(1, 7 + one, 13 + one + two) for one in range(1, 6) for two in range(1, 6)]
        expected = sum(gapped_twin(pattern[row, 1].tolist(), layout, period) for layout in starts) / 25
        assert layouts.numerator[1, 1, row] == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(even.numerator).all()


# p and q.
def test_q_controls_the_false_discovery_rate_by_benjamini_and_hochberg():
    p = np.array([0.01, 0.02, np.nan, 0.04, 0.9])
    expected = [0.04, 0.04, np.nan, 0.04 * 4 / 3, 0.9]
    assert false_discovery(p) == pytest.approx(expected, nan_ok=True)
    assert np.isnan(false_discovery(np.array([np.nan]))).all()


# The untrained twin.
def test_an_untrained_twin_has_the_shape_and_nothing_else(random_toy):
    before = {name: weight.clone() for name, weight in named_weights(random_toy).items()}
    twin, again = untrained_twin(random_toy, seed=1), untrained_twin(random_toy, seed=1)
    for name, weight in named_weights(twin).items():
        assert weight.shape == before[name].shape
        assert torch.equal(named_weights(random_toy)[name], before[name])
        assert torch.equal(weight, named_weights(again)[name])
        if "W_" in name:
            assert float(weight.std()) == pytest.approx(0.8 / 24**0.5, rel=0.15)
            assert not torch.equal(weight, before[name])
    assert not torch.equal(untrained_twin(random_toy, seed=2).W_Q, twin.W_Q)


def test_the_untrained_column_is_the_largest_of_the_twins_heads(random_toy):
    scores = il.scan(random_toy, sequences=3, period=8, logit_period=8, seed=4)
    twin = untrained_twin(random_toy, seed=4)
    options = ScanOptions(sequences=3, period=8, logit_period=8, seed=4)
    rows = make_probes(random_toy, options).repeated
    alone, _ = measure_attention(twin, rows, attention_targets(rows))
    largest = alone["prefix_matching"].value().max()
    column = scores.table["prefix_matching_untrained"]
    assert column.nunique() == 1
    assert column[0] == pytest.approx(float(largest), abs=1e-6)


# Verdicts.
def test_the_controls_unmask_the_fixed_offset_impostor_even_at_the_logit_probes_own_distance():
    """Blocks of 25 in both probes: the impostor passes attention and logit effect, and only the controls stop it."""
    settings = {"logit_period": 25}
    fooled = il.scan("planted-fixed-offset", controls=False, **settings)["1.2"]
    assert fooled["kind"] == "induction"
    row = il.scan("planted-fixed-offset", **settings)["1.2"]
    assert row["induction_logit"] > 9
    assert row["prefix_matching_gapped"] == pytest.approx(0, abs=1e-6)
    assert row["prefix_matching_fresh"] == pytest.approx(1)
    assert row["kind"] == "none"
    assert row["q_value"] > 0.4
    assert "but not q_value <= 0.05" in row["why"]


def test_the_planted_head_passes_every_control():
    row = il.scan("planted")["1.2"]
    assert row["prefix_matching_gapped"] == pytest.approx(1)
    assert row["prefix_matching_fresh"] < 0.1
    assert row["q_value"] == pytest.approx(6 / 184756)
    assert row["kind"] == "induction"


@pytest.mark.slow
def test_false_verdicts_on_random_models_are_rare():
    """200 models with random weights: at most 5% may have a head called induction, anti_induction or mixed."""
    tables = list(random_scans())
    found = [bool(table["kind"].isin(["induction", "anti_induction", "mixed"]).any()) for table in tables]
    assert len(found) == 200
    assert sum(found) <= 10
    assert max(table["prefix_matching"].max() for table in tables) > 0.15  # the models are no uniform heads
