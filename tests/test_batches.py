"""Probes in batches: every row once, and in halves where memory is short."""

import numpy as np
import pytest
import torch

import inductionlens as il
from inductionlens import InputError
from inductionlens.models.batches import for_batches

TOKENS = torch.arange(40).view(10, 4)


def test_every_row_is_worked_on_once_and_in_its_place():
    rows_seen, counted = torch.zeros_like(TOKENS), []

    def work(rows, part):
        assert len(rows) <= 3
        rows_seen[part] += rows

    for_batches(TOKENS, work, 3, counted.append)
    assert torch.equal(rows_seen, TOKENS)
    assert counted == [3, 3, 3, 1]


def test_by_default_a_batch_holds_about_2048_tokens():
    sizes = []
    for_batches(torch.zeros(70, 64, dtype=torch.long), lambda rows, part: sizes.append(len(rows)))
    assert sizes == [32, 32, 6]
    sizes.clear()
    for_batches(torch.zeros(2, 5000, dtype=torch.long), lambda rows, part: sizes.append(len(rows)))
    assert sizes == [1, 1]


def test_a_batch_that_does_not_fit_is_halved_and_counted_when_it_is_done():
    parts, counted = [], []

    def work(rows, part):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        parts.append((part.start, part.stop))

    for_batches(TOKENS, work, 8, counted.append)
    assert parts == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert counted == [2] * 5


def test_one_row_that_does_not_fit_and_other_errors_are_raised():
    def too_large(rows, part):
        raise MemoryError

    def broken(rows, part):
        raise RuntimeError("something else")

    with pytest.raises(InputError, match="One sequence of 4 tokens does not fit into memory"):
        for_batches(TOKENS, too_large)
    with pytest.raises(RuntimeError, match="something else"):
        for_batches(TOKENS, broken)


def test_orders_are_those_of_each_row_however_the_rows_are_cut():
    whole, cut = (
        il.path_orders("planted", measures=("copies",), sequences=3, batch_size=size)[["loss", "gain"]]
        for size in (3, 2)
    )
    assert np.allclose(whole, cut, atol=1e-5)
