"""How heads compose by their weights: dense twins, known answers, refusals."""

import math

import circuit_twins as twins
import numpy as np
import pytest
import torch
from test_paths import make

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.composition import (
    has_qk,
    measure_composition,
    measure_k_term,
    own_token_shares,
    qk_terms,
    virtual_heads,
)
from inductionlens.measure import measure_weights
from inductionlens.models.circuits import Obstacle, ov_circuit, ov_obstacle, qk_circuit, qk_obstacle
from inductionlens.models.named_weights import named_weights, portable_weights
from inductionlens.models.processing import processed
from inductionlens.models.writing import Writing
from inductionlens.scores.circuits import composition, random_composition, small_left


def refused(match):
    return pytest.raises(InputError, match=match)


@pytest.fixture(scope="module", params=[{}, {"normalization_type": None}], ids=["norms folded", "no norms"])
def toy(request):
    return make(7, **request.param)


PAIRS = [(writer, reader) for writer in range(3) for reader in range(writer + 1, 3)]


def test_composition_equals_dense_matrices(toy):
    model, weights = toy
    found = measure_composition(model).raw
    slow = twins.composition(weights, 3, 3)
    for (writer, reader), expected in slow.items():
        for via, value in zip("qkv", expected, strict=True):
            assert found[via][(*writer, *reader)] == pytest.approx(value, abs=1e-5)
    for via in "qkv":
        for writer in range(3):
            for reader in range(writer + 1):
                assert np.isnan(found[via][writer, :, reader]).all()
        assert len(np.unique(found[via][np.isfinite(found[via])])) == 27


def test_composition_equals_transformer_lens(toy):
    model, _ = toy
    found = measure_composition(model).raw
    for via in "qkv":
        theirs = model.all_composition_scores(via.upper())
        theirs = getattr(theirs, "scores", theirs)
        for writer, reader in PAIRS:
            ours = found[via][writer, :, reader]
            assert np.allclose(ours, theirs[writer, :, reader].detach().numpy(), atol=1e-5)


def test_known_pairs_of_matrices():
    basis = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(0))).Q
    one, other = basis[:, :4][None], basis[:, 4:8][None]

    def score(read):  # what is written is the subspace ``one``, what is read is ``read``
        return float(composition(small_left(one, one.mT), small_left(read, read.mT))[0, 0])

    assert score(other) == pytest.approx(0, abs=1e-6)
    assert score(one) == pytest.approx(1 / 2)  # aligned, isotropic, d_head 4: 1 / sqrt(4)
    line = basis[:, :1][None]
    assert float(composition(small_left(line, line.mT), small_left(line, line.mT))[0, 0]) == pytest.approx(1)
    assert composition(small_left(line, line.mT), torch.zeros(1, 1, 24)).isnan().all()


@pytest.mark.parametrize(("d_model", "d_head"), [(64, 16), (48, 4)])
def test_the_baseline_is_that_of_dense_gaussian_products(d_model, d_head):
    mean, spread = random_composition(d_model, d_head, draws=200)
    slow_mean, slow_spread = twins.random_composition(d_model, d_head, 200, 1)
    error = slow_spread / math.sqrt(200)
    assert mean == pytest.approx(slow_mean, abs=6 * error)
    assert mean == pytest.approx(d_model**-0.5, rel=0.04)
    assert spread == pytest.approx(slow_spread, rel=0.25)
    assert random_composition(d_model, d_head) == random_composition(d_model, d_head)
    assert random_composition(d_model, d_head) != random_composition(d_model, d_head, seed=1)


def test_random_weights_compose_no_more_than_chance():
    config = il.ToyConfig(n_layers=3, n_heads=8, d_model=64, d_head=16, d_vocab=50, n_ctx=32, normalization_type=None)
    raw, (mean, spread) = measure_composition(processed(il.new_toy(config, seed=2)))
    for via in "qkv":
        values = raw[via][np.isfinite(raw[via])]
        assert len(values) == 3 * 64
        # Pairs share their heads: means of 192 pairs wander less than one pair does, but more than 192 alone would.
        assert values.mean() == pytest.approx(mean, abs=spread)
        assert values.std() == pytest.approx(spread, rel=0.4)


def test_writing_what_keys_alone_read_is_k_composition(toy):
    """The transpose test: swapping W_Q and W_K swaps the two."""
    model, _ = toy
    before = measure_composition(model).raw
    swapped = processed(model)
    weights = named_weights(swapped)
    names = [f"blocks.{layer}.attn.W_" for layer in range(3)]
    try:
        for name in names:
            q, k = weights[name + "Q"].clone(), weights[name + "K"].clone()
            weights[name + "Q"].copy_(k), weights[name + "K"].copy_(q)
        after = measure_composition(swapped).raw
    finally:
        for name in names:
            q, k = weights[name + "Q"].clone(), weights[name + "K"].clone()
            weights[name + "Q"].copy_(k), weights[name + "K"].copy_(q)
    assert np.allclose(before["q"], after["k"], atol=1e-6, equal_nan=True)
    assert np.allclose(before["k"], after["q"], atol=1e-6, equal_nan=True)
    assert np.nanmax(np.abs(before["k"] - before["q"])) > 0.01


def test_the_k_term_and_its_trace_equal_dense_circuits(toy):
    model, weights = toy
    previous = np.random.default_rng(3).random((3, 3))
    found = measure_k_term(model, previous)
    p = {(layer, head): previous[layer, head] for layer in range(3) for head in range(3)}
    slow = twins.qk_eigen_trace(weights, 3, 3, p)
    for (layer, head), expected in slow.items():
        assert found.trace[layer, head] == pytest.approx(expected, rel=1e-3, abs=1e-3, nan_ok=True)
        if layer:
            whole = sum(p[e] * twins.qk_term(weights, (layer, head), key_writer=e) for e in p if e[0] < layer)
            assert found.eigen[layer, head] == pytest.approx(twins.eigen_score(whole), abs=1e-4)
    assert np.isnan(found.trace[0]).all()
    assert np.isnan(found.eigen[0]).all()


def test_qk_terms_and_virtual_heads_equal_dense_circuits(toy):
    model, weights = toy
    for reader in (Head(1, 2), Head(2, 0)):
        terms = qk_terms(model, reader)
        writers = 3 * reader.layer
        assert len(terms) == (1 + writers) ** 2
        assert len(qk_terms(model, reader, both=False)) == 1 + 2 * writers
        for term in terms:
            dense = twins.qk_term(weights, tuple(reader), term.query_writer, term.key_writer)
            assert term.eigen == pytest.approx(twins.eigen_score(dense), abs=1e-4)
            assert term.trace == pytest.approx(np.trace(dense), rel=1e-3, abs=1e-3)
        found = virtual_heads(model, reader)
        assert list(found) == [Head(layer, head) for layer in range(reader.layer) for head in range(3)]
        for writer, score in found.items():
            assert score == pytest.approx(twins.eigen_score(twins.virtual_ov(weights, writer, tuple(reader))), abs=1e-4)


def test_a_terms_size_is_the_norm_between_the_embeddings(toy):
    model, weights = toy
    reader = Head(1, 1)
    ov = {head: twins._ov(weights, (0, head)) for head in range(3)}
    for term in qk_terms(model, reader):
        dense = twins._qk(weights, tuple(reader))
        if term.query_writer:
            dense = ov[term.query_writer.index] @ dense
        if term.key_writer:
            dense = dense @ ov[term.key_writer.index].T
        assert term.size == pytest.approx(np.linalg.norm(dense), rel=1e-4)


def test_own_tokens_equal_the_dense_circuit_whole_and_sampled(toy):
    model, weights = toy
    found = own_token_shares(model, (1, 3))
    names = ("embed.W_E", "unembed.W_U")
    w_e, w_u = (weights[name] for name in names)
    for layer in range(3):
        for head in range(3):
            w_v, w_o = (weights[f"blocks.{layer}.attn.W_{part}"][head] for part in "VO")
            for top in (1, 3):
                assert found[top][layer, head] == pytest.approx(twins.own_token_share(w_e, w_v, w_o, w_u, top))
    some = own_token_shares(model, (3,), rows=6)[3]
    assert set(np.round(some.ravel() * 6, 6)) <= set(range(7))
    assert not np.array_equal(some, found[3])
    assert np.array_equal(some, own_token_shares(model, (3,), rows=6)[3])
    assert not np.array_equal(some, own_token_shares(model, (3,), rows=6, seed=1)[3])


# Models of other kinds.
def rotary(seed=1):
    config = il.ToyConfig(
        n_layers=2, n_heads=3, d_model=12, d_head=8, d_vocab=15, n_ctx=20, positional_embedding_type="rotary"
    )
    model = il.new_toy(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            if "W_" in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.4)
    return processed(model)


def test_rotary_circuits_are_refused_or_given_per_distance(monkeypatch):
    model = rotary()
    with refused("no QK circuits of one matrix: positions are rotary.*; give a distance"):
        qk_circuit(model, 0)
    with refused("distance must lie between 0 and 18, inside the context; got 20"):
        qk_circuit(model, 0, 20)
    assert not has_qk(model, None)
    assert has_qk(model, 3)
    raw = measure_composition(model).raw
    assert np.isnan(raw["q"]).all()
    assert np.isnan(raw["k"]).all()
    assert np.isfinite(raw["v"][0, :, 1]).all()
    ov, at = ov_circuit(model, 0).AB, measure_composition(model, distance=2).raw
    for via, qk in (("q", qk_circuit(model, 1, 2).AB), ("k", qk_circuit(model, 1, 2).AB.mT)):
        for writer in range(3):
            for reader in range(3):
                dense = (ov[writer] @ qk[reader]).norm() / (ov[writer].norm() * qk[reader].norm())
                assert at[via][0, writer, 1, reader] == pytest.approx(float(dense), abs=1e-5)
    nearer = measure_composition(model, distance=0).raw
    assert np.nanmax(np.abs(nearer["k"] - at["k"])) > 1e-3
    assert np.nanmax(np.abs(measure_k_term(model, np.ones((2, 3)), distance=2).trace
                            - measure_k_term(model, np.ones((2, 3)), distance=0).trace)) > 1e-3  # fmt: skip
    assert np.isnan(measure_k_term(model, np.ones((2, 3))).trace).all()
    monkeypatch.setattr(model.cfg, "use_qk_norm", True, raising=False)
    with refused("queries and keys are normed"):
        qk_circuit(model, 0, 2)


def test_the_obstacle_is_named_and_its_words_decide_nothing(monkeypatch):
    model = rotary()
    assert qk_obstacle(model) is Obstacle.ROTARY
    assert qk_obstacle(model, 0) is None
    assert (has_qk(model, None), has_qk(model, 0), has_qk(model, 2)) == (False, True, True)
    assert ov_obstacle(model) is None
    monkeypatch.setattr(model.cfg, "use_qk_norm", True, raising=False)
    assert qk_obstacle(model, 2) is Obstacle.NORMED
    assert not has_qk(model, 2)
    with refused(r"queries and keys are normed before they are compared\."):
        qk_circuit(model, 0, 2)
    writing = (Writing(gain=torch.ones(model.cfg.d_model)),) * model.cfg.n_layers
    monkeypatch.setattr(model, "inductionlens_writing", writing, raising=False)
    assert ov_obstacle(model) is Obstacle.NORM_AFTER


def test_a_rotary_circuit_at_a_distance_is_what_attention_computes_there():
    """Scores of the model itself, from what its layer reads, against x QK(distance) y / sqrt(d_head)."""
    model = rotary()
    tokens = torch.randint(0, 15, (2, 12), generator=torch.Generator().manual_seed(2))
    kept = {}

    def keep(name):
        return (name, lambda tensor, hook: kept.__setitem__(name, tensor.detach()))

    for layer in range(2):
        read, attended = f"blocks.{layer}.ln1.hook_normalized", f"blocks.{layer}.attn.hook_pattern"
        with torch.no_grad():
            model.run_with_hooks(tokens, return_type=None, fwd_hooks=[keep(read), keep(attended)])
        for distance in (0, 1, 4, 9):
            circuit = qk_circuit(model, layer, distance).AB
            for query in (distance, distance + 1, 11):
                key = query - distance
                # Two keys of one query: their log attention differs as their scores do.
                nearest = qk_circuit(model, layer, 0).AB
                x, y, own = (kept[read][:, at] for at in (query, key, query))
                expected = torch.einsum("bd,hde,be->bh", x, circuit, y) - torch.einsum("bd,hde,be->bh", x, nearest, own)
                found = kept[attended][:, :, query, key].log() - kept[attended][:, :, query, query].log()
                assert torch.allclose(found, expected / 8**0.5, atol=1e-4)


def test_grouped_heads_use_the_keys_and_values_of_their_own_group(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, head_dim=4,
                         bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    model = il.load_model(tmp_path / "llama")
    weights = {}
    for layer in range(2):
        for name in "QKVO":
            weight = named_weights(model)[f"blocks.{layer}.attn.W_{name}"]
            grouped = weight if len(weight) == 4 else weight[[0, 0, 1, 1]]
            weights[f"blocks.{layer}.attn.W_{name}"] = grouped.double().numpy()
    slow = twins.composition(weights, 2, 4)
    raw = measure_composition(model, distance=0).raw
    for (writer, reader), expected in slow.items():
        for via, value in zip("qkv", expected, strict=True):
            assert raw[via][(*writer, *reader)] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("field", "said"),
    [("use_qk_norm", "queries and keys are normed"), ("norm after", "a norm follows each"), ("else", "is not known")],
)
def test_norms_that_cannot_be_folded_are_refused_with_the_reason(toy, monkeypatch, field, said):
    model, _ = toy
    if field == "use_qk_norm":
        monkeypatch.setattr(model.cfg, field, True, raising=False)
    else:
        writing = Writing(gain=torch.ones(model.cfg.d_model)) if field == "norm after" else Writing(known=False)
        monkeypatch.setattr(model, "inductionlens_writing", (writing,) * model.cfg.n_layers, raising=False)
    with refused(said):
        (qk_circuit if field == "use_qk_norm" else ov_circuit)(model, 0)
    raw = measure_composition(model).raw
    assert np.isnan(raw["k"]).all()
    assert np.isnan(raw["v"]).all() == (field != "use_qk_norm")
    assert np.isnan(measure_k_term(model, np.ones((3, 3))).trace).all()
    if field != "use_qk_norm":
        assert np.isnan(own_token_shares(model)[1]).all()
        assert np.isnan(list(virtual_heads(model, Head(1, 0)).values())).all()
        assert np.isnan(measure_weights(model)["ov_eigen"]).all()


# The planted models: every number known.
V, CTX = 64, 192


def test_the_planted_pair_composes_by_its_analytic_value():
    """W_OV of 0.1 is 63 ones; 1.2's W_QK is a 64-row match of 240 beside a rest of 40 in 64 rows."""
    raw = measure_composition(il.planted()).raw
    k = 240 / math.sqrt(64 * (240**2 + 40**2))
    assert raw["k"][0, 1, 1, 2] == pytest.approx(k, rel=1e-5)
    assert raw["q"][0, 1, 1, 2] == raw["v"][0, 1, 1, 2] == 0
    assert k - random_composition(V + CTX + CTX + V, V + CTX + 1).mean > 0.07
    for via in "qkv":
        others = raw[via].copy()
        others[0, 1, 1, 2] = np.nan
        assert np.isnan(others).all()  # idle heads write and read nothing


def test_the_pointer_composes_by_queries_and_the_carried_token_by_values():
    raw = measure_composition(il.planted("pointer")).raw
    # 0.1 writes positions 1..191, of which the last has no successor; 1.2 reads 191 of them, and rests for 64 tokens.
    q = 240 * math.sqrt(190) / (math.sqrt(191) * math.sqrt(191 * 240**2 + 64 * 40**2))
    assert raw["q"][0, 1, 1, 2] == pytest.approx(q, rel=1e-5)
    assert raw["k"][0, 1, 1, 2] == raw["v"][0, 1, 1, 2] == 0
    raw = measure_composition(il.planted("v-composition")).raw
    assert raw["v"][0, 1, 1, 2] == pytest.approx(1 / math.sqrt(63), rel=1e-5)
    assert raw["k"][0, 1, 1, 2] == raw["q"][0, 1, 1, 2] == 0


def test_the_planted_k_term_counts_the_tokens_that_match():
    """Trace = tokens in the matched subspace, times the match."""
    model = il.planted()
    previous = np.zeros((2, 3))
    previous[0, 1] = 1.0
    found = measure_k_term(model, previous)
    assert found.trace[1, 2] == pytest.approx(63 * 240, rel=1e-6)
    assert found.eigen[1, 2] == pytest.approx(1)
    assert own_token_shares(model)[1][1, 2] == 1
    assert np.isnan(own_token_shares(model)[1][0, 0])
    assert virtual_heads(il.planted("v-composition"), Head(1, 2))[Head(0, 1)] == pytest.approx(1)
    assert math.isnan(virtual_heads(model, Head(1, 2))[Head(0, 1)])
    weights = named_weights(model)["blocks.1.attn.W_Q"]
    weights.neg_()
    assert measure_k_term(model, previous).trace[1, 2] == pytest.approx(-63 * 240, rel=1e-6)


def test_weights_are_left_alone(toy):
    model, _ = toy
    before = portable_weights(model)
    measure_composition(model), measure_k_term(model, np.ones((3, 3))), own_token_shares(model)
    qk_terms(model, Head(2, 0)), virtual_heads(model, Head(2, 0))
    assert all(torch.equal(weight, before[name]) for name, weight in portable_weights(model).items())
