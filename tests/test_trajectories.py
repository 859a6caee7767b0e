"""Per-token losses through training: principal components, and the before-and-after score."""

import math

import numpy as np
import pytest
import torch

import inductionlens as il
from inductionlens.scores import trajectories
from inductionlens.scores.trajectories import before_and_after, before_and_after_score, loss_trajectories


@pytest.fixture
def losses():
    """Two models of unlike lengths, seven tokens, two clear directions and a little noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    places = torch.randn(9, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    return 4 + places @ directions + 0.05 * torch.randn(9, 7, generator=generator, dtype=torch.float64)


def twin(rows):
    """Covariance entry by entry, its two leading eigenvectors, and each row's projection."""
    n, tokens = len(rows), len(rows[0])
    means = [sum(row[t] for row in rows) / n for t in range(tokens)]
    covariance = [[sum((r[s] - means[s]) * (r[t] - means[t]) for r in rows) for t in range(tokens)]
                  for s in range(tokens)]  # fmt: skip
    values, vectors = np.linalg.eigh(np.array(covariance))
    total, loadings = sum(covariance[t][t] for t in range(tokens)), []
    for place in (-1, -2):
        vector = vectors[:, place].tolist()
        largest = max(vector, key=abs)
        loadings.append([entry if largest > 0 else -entry for entry in vector])
    scores = [[sum((r[t] - means[t]) * vector[t] for t in range(tokens)) for vector in loadings] for r in rows]
    return scores, loadings, [values[-1] / total, values[-2] / total]


def near(found, expected, **how):
    return torch.allclose(found, torch.as_tensor(expected, dtype=torch.float64), **how)


@pytest.mark.parametrize("full", [500, 1], ids=["full", "lanczos"])
@pytest.mark.parametrize("transposed", [False, True])
def test_components_are_the_twins(losses, full, transposed, monkeypatch):
    monkeypatch.setattr(trajectories, "FULL", full)
    for rows in (losses, -losses, losses * torch.arange(1, 8)):
        rows = rows.T if transposed else rows
        found, (scores, loadings, explained) = loss_trajectories(rows), twin(rows.tolist())
        assert near(found.scores, scores, atol=1e-6)
        assert near(found.loadings, loadings, atol=1e-6)
        assert near(found.explained, explained)


def test_components_are_orthonormal_and_their_largest_entry_is_positive(losses):
    found = loss_trajectories(losses)
    assert near(found.loadings @ found.loadings.T, torch.eye(2), atol=1e-9)
    assert near(found.scores.mean(0), [0, 0], atol=1e-9)
    for row in found.loadings:
        assert row[row.abs().argmax()] > 0
    assert 0 < found.explained[1] < found.explained[0]
    assert found.explained.sum() < 1


def test_signs_are_ours_whatever_the_library_hands_back(losses, monkeypatch):
    from sklearn.decomposition import PCA

    expected, fit = loss_trajectories(losses), PCA.fit

    def flipped(self, values):
        fit(self, values)
        self.components_ *= np.array([[-1], [1]])
        return self

    monkeypatch.setattr(PCA, "fit", flipped)
    found = loss_trajectories(losses)
    assert near(found.scores, expected.scores)
    assert near(found.loadings, expected.loadings)


def test_the_sign_is_that_of_the_largest_magnitude():
    rows = torch.tensor([[0.6, -0.8, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
    assert trajectories.largest_sign(rows).tolist() == [-1, 1, -1]


def test_data_of_rank_one_is_explained_by_one_component():
    places, direction = torch.tensor([-2.0, 0.0, 1.0, 5.0]), torch.tensor([0.6, -0.8, 0.0])
    found = loss_trajectories(places[:, None] * direction + 3)
    assert near(found.explained, [1, 0], atol=1e-6)
    assert near(found.loadings[0], [-0.6, 0.8, 0], atol=1e-6)
    assert near(found.scores[:, 0], [3, 1, 0, -4], atol=1e-5)


def test_rows_and_tokens_may_come_in_any_order(losses):
    found = loss_trajectories(losses)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert near(loss_trajectories(losses[order]).scores, found.scores[order])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    permuted = loss_trajectories(losses[:, order])
    assert near(permuted.loadings, found.loadings[:, order])
    assert near(permuted.scores, found.scores)
    assert near(loss_trajectories(losses + torch.arange(7)).scores, found.scores)
    assert near(loss_trajectories(losses * 2).scores, found.scores * 2)


def test_a_large_stack_is_computed_the_same_twice_and_left_alone():
    generator = torch.Generator().manual_seed(2)
    losses = torch.rand(501, 520, generator=generator)
    kept = losses.clone()
    one, other = loss_trajectories(losses), loss_trajectories(losses)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(losses, kept)
    values = torch.linalg.svdvals(losses.double() - losses.double().mean(0)) ** 2
    assert near(one.explained, values[:2] / values.sum())


def test_halves_and_gradients_are_taken_as_they_are(losses):
    assert near(loss_trajectories(losses.half()).scores, loss_trajectories(losses.half().double()).scores)
    assert not loss_trajectories(losses.clone().requires_grad_()).scores.requires_grad


# Before and after.
def test_the_direction_has_length_one_and_points_from_start_to_end():
    start, end = torch.tensor([5.0, 5.0, 2.0]), torch.tensor([2.0, 1.0, 2.0])
    assert near(before_and_after(start, end), [-0.6, -0.8, 0])
    assert near(before_and_after(end, start), [0.6, 0.8, 0])


def test_the_score_is_the_twins_head_by_head(losses):
    direction, clean = before_and_after(losses[0], losses[1]), losses[2]
    ablated = losses[3:9].reshape(2, 3, 7)
    kept = (clean.clone(), ablated.clone())
    found = before_and_after_score(direction, clean, ablated)
    length = math.sqrt(sum((b - a) ** 2 for a, b in zip(losses[0].tolist(), losses[1].tolist(), strict=True)))
    for layer in range(2):
        for head in range(3):
            expected = 0.0
            for token in range(7):
                moved = (losses[1, token] - losses[0, token]).item() / length
                expected += moved * (ablated[layer, head, token] - clean[token]).item()
            assert found[layer, head].item() == pytest.approx(expected)
    assert torch.equal(clean, kept[0])
    assert torch.equal(ablated, kept[1])
    assert before_and_after_score(direction, clean, ablated[1, 2]).item() == pytest.approx(found[1, 2].item())


def test_a_head_that_carries_the_change_scores_minus_its_length():
    """Ablated, it takes the losses back to the start; an idle head changes none, a hindrance carries on."""
    start, end = torch.tensor([4.0, 4.0, 3.0, 1.0]), torch.tensor([1.0, 0.0, 3.0, 1.0])
    ablated = torch.stack([start, end, end + (end - start), end + torch.tensor([0.0, 0.0, 9.0, -9.0])])
    assert near(before_and_after_score(before_and_after(start, end), end, ablated), [-5, 0, 5, 0], atol=1e-6)


def test_removing_the_planted_induction_head_undoes_the_change(planted):
    """Start: one token's loss is as good as another's (ln 64). End: repeats are certain."""
    block = torch.arange(1, 31)
    tokens = torch.cat([torch.tensor([0]), block, block])[None]

    def loss():
        with torch.no_grad():
            return planted(tokens, return_type="loss", loss_per_token=True)[0]

    clean = loss()
    with il.ablate(planted, [il.Head(1, 2)]):
        induction = loss()
    with il.ablate(planted, [il.Head(0, 0)]):
        idle = loss()
    direction = before_and_after(torch.full_like(clean, math.log(64)), clean)
    scores = before_and_after_score(direction, clean, torch.stack([induction, idle]))
    assert scores[0] < -10
    assert scores[1].item() == pytest.approx(0, abs=1e-3)


bad = torch.zeros(2, 3)
bad[1, 2] = math.nan
UNIT = torch.tensor([1.0, 0.0])
WRONG = [
    (lambda: loss_trajectories(torch.rand(1, 9)), r"at least 2 snapshots of 2 tokens; got \[1, 9\]"),
    (lambda: loss_trajectories(torch.rand(9, 1)), r"at least 2 snapshots of 2 tokens; got \[9, 1\]"),
    (lambda: loss_trajectories(bad), r"losses must be finite; got nan at \[1, 2\]"),
    (lambda: loss_trajectories(torch.full((3, 4), 2.0)), "losses must differ between snapshots; all 3 are equal"),
    (lambda: before_and_after(torch.ones(4), torch.ones(4)), "start and end must differ; all 4 losses are equal"),
    (lambda: before_and_after(bad[1], torch.ones(3)), r"start must be finite; got nan at \[2\]"),
    (lambda: before_and_after(torch.ones(3), bad[1]), "end must be finite"),
    (lambda: before_and_after_score(2 * UNIT, UNIT, UNIT), "direction must have length 1, .* got 2"),
    (lambda: before_and_after_score(UNIT, UNIT / 0, UNIT), r"clean must be finite; got inf at \[0\]"),
    (lambda: before_and_after_score(UNIT, UNIT, UNIT / 0), "ablated must be finite"),
]


@pytest.mark.parametrize(("call", "sentence"), WRONG)
def test_losses_that_cannot_be_used_are_refused(call, sentence):
    with pytest.raises(il.InputError, match=sentence):
        call()
