"""Probes: which ids stand where, and that the seed alone decides."""

import pytest
import torch

from inductionlens import InputError, repeated_tokens
from inductionlens.probes import generator_from, token_pool


def test_gpt2_pool_keeps_the_middle():
    pool = token_pool(torch.arange(50_256))
    assert len(pool) == 46_236
    assert (int(pool[0]), int(pool[-1])) == (2010, 50_256 - 2010 - 1)


def test_pool_is_sorted_whatever_the_order():
    assert token_pool(torch.tensor([5, 1, 3]), 0.0).tolist() == [1, 3, 5]


@pytest.mark.parametrize("bos", [0, None])
def test_blocks_repeat_and_hold_no_token_twice(bos):
    probe = repeated_tokens(torch.arange(10, 60), period=7, repeats=3, sequences=20, bos=bos, seed=1)
    start = probe.start
    assert probe.tokens.shape == (20, start + 21)
    blocks = probe.tokens[:, start:].reshape(20, 3, 7)
    assert (blocks == blocks[:, :1]).all()
    assert all(len(set(row.tolist())) == 7 for row in blocks[:, 0])
    assert len({tuple(row.tolist()) for row in blocks[:, 0]}) == 20
    assert bool((probe.tokens[:, 0] == 0).all()) == (bos == 0)


def test_the_seed_alone_decides_and_nothing_global_moves():
    pool = torch.arange(1, 100)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = repeated_tokens(pool, bos=0, seed=4).tokens
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    assert torch.equal(first, repeated_tokens(pool, bos=0, seed=4).tokens)
    assert not torch.equal(first, repeated_tokens(pool, bos=0, seed=5).tokens)
    assert not torch.equal(first, repeated_tokens(pool, bos=0, seed=4, purpose="logit").tokens)


def test_more_sequences_begin_with_the_same_ones():
    pool = torch.arange(1, 100)
    few, many = (repeated_tokens(pool, bos=0, seed=4, sequences=n).tokens for n in (3, 8))
    assert torch.equal(few, many[:3])


def test_every_id_of_the_pool_is_drawn():
    tokens = repeated_tokens(torch.arange(1, 31), period=5, repeats=2, sequences=300, bos=None, seed=0).tokens
    assert set(tokens.flatten().tolist()) == set(range(1, 31))


def test_generators_differ_by_seed_and_purpose():
    drawn = {
        int(torch.randint(2**40, (1,), generator=generator_from(seed, purpose)))
        for seed in (0, 1)
        for purpose in ("repeated", "once")
    }
    assert len(drawn) == 4


def test_a_probe_says_what_it_is():
    pool = torch.arange(1, 100)
    assert repeated_tokens(pool, bos=0).describe() == "BOS + 25 x 4, n=10"
    assert repeated_tokens(pool, bos=None, repeats=1).describe() == "25, n=10"


@pytest.mark.parametrize("name", ["period", "repeats", "sequences"])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_below_one_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} must be at least 1; got {value}"):
        repeated_tokens(torch.arange(99), bos=None, **{name: value})


def test_a_block_whose_targets_would_collide_is_refused():
    with pytest.raises(InputError, match=r"period must be at least 3.*got 2"):
        repeated_tokens(torch.arange(99), bos=None, period=2)


def test_a_small_vocabulary_is_refused_with_what_fits():
    with pytest.raises(InputError, match="the pool has 20; a period of at most 20 fits"):
        repeated_tokens(torch.arange(20), bos=None)
