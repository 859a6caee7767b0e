"""Whole models against twins: what the hooks see, layer by layer and head by head."""

import numpy as np
import pytest
import torch
import twins

import inductionlens as il
from inductionlens import InputError
from inductionlens.measure import (
    attention_targets,
    measure_attention,
    measure_copying,
    measure_induction_logit,
    measure_weights,
)
from inductionlens.models.activations import logits_at, run_reduced
from inductionlens.models.lens import has_hooked_transformer
from inductionlens.probes import Probe, repeated_tokens

POOL = torch.arange(1, 48)


def cached(model, tokens):
    """Everything a twin reads, taken by TransformerLens's own cache instead of our hooks."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    layers = range(model.cfg.n_layers)
    return (
        logits,
        [cache[f"blocks.{layer}.attn.hook_pattern"] for layer in layers],
        [cache[f"blocks.{layer}.attn.hook_v"] for layer in layers],
        cache["ln_final.hook_scale"][..., 0],
    )


@pytest.fixture(scope="module", params=[0, None], ids=["bos", "no-bos"])
def probe(request):
    return repeated_tokens(POOL, period=5, repeats=3, sequences=4, bos=request.param, seed=8)


@pytest.mark.parametrize("reduce", ["sum", "last", "first", "entry_mean", "diagonal"])
def test_attention_scores_of_a_model(reduce, probe, random_toy):
    found, losses = measure_attention(
        random_toy, probe, attention_targets(probe, reduce), reduce=reduce, with_losses=True, batch_size=3
    )
    logits, patterns, _, _ = cached(random_toy, probe.tokens)
    for row, tokens in enumerate(probe.tokens.tolist()):
        for layer in range(2):
            pattern = patterns[layer][row].tolist()
            if reduce == "diagonal":
                expected = {
                    "prefix_matching": twins.diagonal(pattern, 4),
                    "duplicate_token": twins.diagonal(pattern, 5),
                    "prefix_matching_literal": twins.diagonal(pattern, 6),
                }
            else:
                expected = {"prefix_matching": twins.prefix_matching(pattern, tokens, probe.bos, reduce)}
            if reduce == "sum":
                expected |= {
                    "prefix_matching_literal": twins.prefix_matching_literal(pattern, tokens, probe.bos),
                    "duplicate_token": twins.duplicate_token(pattern, tokens, probe.bos),
                }
            expected |= {
                "previous_token": twins.previous_token(pattern, tokens, probe.bos),
                "first_token": twins.first_token(pattern, tokens, probe.bos),
                "offset +2": twins.offset(pattern, tokens, probe.bos, 2),
            }
            for name, value in expected.items():
                assert found[name].numerator[layer, :, row].tolist() == pytest.approx(value, abs=1e-5), name
        first, later = twins.losses_by_copy(logits[row].tolist(), tokens, probe.start, probe.period)
        assert losses["loss_first_copy"][row] == pytest.approx(first, abs=1e-4)
        assert losses["loss_later_copies"][row] == pytest.approx(later, abs=1e-4)


def test_offsets_that_a_short_block_has_no_keys_for_are_left_out(probe):
    names = [name for name in attention_targets(probe) if name.startswith("offset ")]
    assert "offset +1" in names
    assert "offset +12" not in names


def test_value_weighted_attention_of_a_model(probe, random_toy):
    targets = attention_targets(probe)
    found, _ = measure_attention(random_toy, probe, targets, value_weighted=True)
    plain, _ = measure_attention(random_toy, probe, targets)
    _, patterns, values, _ = cached(random_toy, probe.tokens)
    for layer in range(2):
        weighted = twins.value_weighted(patterns[layer][2].tolist(), values[layer][2].permute(1, 0, 2).tolist())
        expected = twins.prefix_matching(weighted, probe.tokens[2].tolist(), probe.bos)
        assert found["prefix_matching"].numerator[layer, :, 2].tolist() == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(found["prefix_matching"].value(), plain["prefix_matching"].value(), atol=1e-3)


@pytest.mark.parametrize("source", ["value", "head_output"])
def test_copying_of_a_model(source, random_toy):
    once = repeated_tokens(POOL, period=6, repeats=1, sequences=3, bos=0, seed=8)
    found = measure_copying(random_toy, once, source=source, batch_size=2)
    assert ("bansal" in found) == (source == "value")
    _, patterns, values, _ = cached(random_toy, once.tokens)
    for layer in range(2):
        for name, part in found.items():
            expected = twins.copying(
                patterns[layer].tolist(),
                values[layer].permute(0, 2, 1, 3).tolist(),
                random_toy.W_O[layer].tolist(),
                random_toy.W_U.tolist(),
                once.tokens.tolist(),
                1,
                name,
                source,
            )
            assert part.value()[layer].tolist() == pytest.approx(expected, abs=1e-4), name


@pytest.mark.parametrize("bos", [0, None], ids=["bos", "no-bos"])
@pytest.mark.parametrize("centred", [True, False])
def test_induction_logit_of_a_model(centred, bos, random_toy):
    """W_U is shifted off its mean here, so that forgetting to centre it shows; the final scale is the run's own."""
    logit = repeated_tokens(POOL, period=6, repeats=2, sequences=3, bos=bos, seed=8)
    shift = torch.randn(random_toy.cfg.d_model, 1, generator=torch.Generator().manual_seed(0))
    kept = random_toy.inductionlens_unembed_mean
    random_toy.unembed.W_U.data.add_(shift)
    random_toy.inductionlens_unembed_mean = random_toy.W_U.mean(-1)
    try:
        found = measure_induction_logit(random_toy, logit, centred=centred, batch_size=2).numerator
        _, patterns, values, scale = cached(random_toy, logit.tokens)
        for row in range(3):
            for layer in range(2):
                expected = twins.induction_logit(
                    patterns[layer][row].tolist(),
                    values[layer][row].permute(1, 0, 2).tolist(),
                    random_toy.W_O[layer].tolist(),
                    random_toy.W_U.tolist(),
                    logit.tokens[row].tolist(),
                    scale[row].tolist(),
                    logit.start,
                    centred,
                )
                assert found[layer, :, row].tolist() == pytest.approx(expected, abs=1e-4)
    finally:
        random_toy.unembed.W_U.data.sub_(shift)
        random_toy.inductionlens_unembed_mean = kept


def test_weight_scores_have_one_number_per_head(random_toy):
    scores = measure_weights(random_toy)
    assert scores["ov_eigen"].shape == scores["ov_eigen_fraction"].shape == (2, 3)
    assert len(np.unique(scores["ov_eigen"])) == 6


def test_one_forward_pass_per_batch_and_no_vocabulary_where_no_loss_is_reported(monkeypatch, planted):
    runs, unembedded, scored = [], [], []
    model, last = type(planted), type(planted.unembed)
    forward, unembed = model.forward, last.forward
    monkeypatch.setattr(model, "forward", lambda s, x, *a, **k: runs.append(x.shape) or forward(s, x, *a, **k))
    monkeypatch.setattr(last, "forward", lambda s, x: unembedded.append(x.shape[1]) or unembed(s, x))
    counted = lambda m, r, at: scored.append(len(at)) or logits_at(m, r, at)  # noqa: E731
    monkeypatch.setattr("inductionlens.measure.logits_at", counted)
    il.scan(planted, batch_size=5, controls=False)
    assert len(runs) == 2 + 2 + 20  # repeated, once, logit: 10 + 10 + 100 sequences
    assert scored == [25 + 3 * 24] * 2
    # A TransformerBridge unembeds something in each run: one position.
    assert unembedded == ([] if has_hooked_transformer() else [1] * len(runs))


def test_hooks_leave_patterns_alone_and_are_gone_afterwards(random_toy, probe):
    seen = []

    def keep(pattern, hook):
        seen.append((pattern, pattern.clone()))

    for name, point in random_toy.hook_dict.items():
        if name.endswith("hook_pattern"):
            point.add_hook(keep)
    try:
        measure_attention(random_toy, probe, attention_targets(probe), value_weighted=True)
    finally:
        random_toy.reset_hooks()
    assert len(seen) == 2
    assert all(torch.equal(now, then) for now, then in seen)
    before = random_toy(probe.tokens)
    run_reduced(random_toy, probe.tokens, lambda layer: None, values=True)
    assert torch.equal(before, random_toy(probe.tokens))


def test_a_layer_is_reduced_with_its_own_activations(random_toy, probe):
    """Each layer's pattern, values and mixed outputs belong together: mixed = pattern @ values."""
    layers = []

    def check(layer):
        layers.append(layer.layer)
        mixed = torch.einsum("bhqk,bkhe->bqhe", layer.pattern, layer.values)
        assert torch.allclose(mixed, layer.mixed, atol=1e-5)

    run_reduced(random_toy, probe.tokens, check, values=True, mixed=True)
    assert layers == [0, 1]


def test_scan_of_irregular_rows_keeps_each_rows_own_targets(random_toy, ragged):
    rows = Probe(ragged, 0, 13, 1, 0)
    targets = {"prefix_matching": attention_targets(rows)["prefix_matching"]}
    found, _ = measure_attention(random_toy, rows, targets)
    _, patterns, _, _ = cached(random_toy, ragged)
    for row in range(len(ragged)):
        expected = twins.prefix_matching(patterns[1][row].tolist(), ragged[row].tolist(), 0)
        assert found["prefix_matching"].numerator[1, :, row].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """Four query heads that share two key-value heads, in groups of two."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            num_hidden_layers=2, hidden_size=16, num_attention_heads=4, num_key_value_heads=2, vocab_size=48,
            max_position_embeddings=64, intermediate_size=20, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    folder = tmp_path_factory.mktemp("grouped") / "qwen2"
    model.save_pretrained(folder)
    return il.load_model(folder)


def test_grouped_heads_read_the_values_of_their_own_group(grouped):
    once = repeated_tokens(POOL, period=6, repeats=1, sequences=2, bos=0, seed=8)
    logit = repeated_tokens(POOL, period=6, repeats=2, sequences=2, bos=0, seed=8)
    _, patterns, values, _ = cached(grouped, once.tokens)
    assert values[0].shape[2] == 2
    own = [value[:, :, [0, 0, 1, 1]].permute(0, 2, 1, 3) for value in values]
    found = measure_copying(grouped, once)
    for layer in range(2):
        expected = twins.copying(
            patterns[layer].tolist(), own[layer].tolist(), grouped.W_O[layer].tolist(), grouped.W_U.tolist(),
            once.tokens.tolist(), 1, "contrast", "value",
        )  # fmt: skip
        assert found["contrast"].value()[layer].tolist() == pytest.approx(expected, abs=1e-4)
    effect = measure_induction_logit(grouped, logit).numerator
    _, patterns, values, scale = cached(grouped, logit.tokens)
    own = [value[:, :, [0, 0, 1, 1]].permute(0, 2, 1, 3) for value in values]
    expected = twins.induction_logit(
        patterns[1][0].tolist(), own[1][0].tolist(), grouped.W_O[1].tolist(), grouped.W_U.tolist(),
        logit.tokens[0].tolist(), scale[0].tolist(), 1,
    )  # fmt: skip
    assert effect[1, :, 0].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_key_value_head_is_written_beside_the_query_head(grouped):
    table = il.scan(grouped, bos=0, sequences=2, period=10, logit_period=10).table
    assert table["head"].tolist() == [0, 1, 2, 3] * 2
    assert table["kv_head"].tolist() == [0, 0, 1, 1] * 2
    assert table["ov_eigen"].notna().all()


# Memory.
def test_a_batch_that_does_not_fit_is_halved(monkeypatch, random_toy, probe):
    """The same numbers to the bit, whatever the batches had to be cut to, with every row counted once."""
    from inductionlens import measure
    from inductionlens.models import activations

    targets, sizes, rows, failure = attention_targets(probe), [], [], []

    def short_of_memory(model, tokens, reduce, **asked):
        sizes.append(len(tokens))
        final = activations.run_reduced(model, tokens, reduce, **asked)
        if len(tokens) > 2:
            raise failure[-1]
        return final

    def everything():
        found, losses = measure_attention(random_toy, probe, targets, with_losses=True, progress=rows.append)
        copied, logit = measure_copying(random_toy, probe), measure_induction_logit(random_toy, probe)
        return [*found.values(), *copied.values(), logit], losses

    expected, expected_losses = everything()
    assert sum(rows) == len(probe.tokens) > 2
    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ):
        sizes.clear(), rows.clear(), failure.append(error)
        monkeypatch.setattr(measure, "run_reduced", short_of_memory)
        found, losses = everything()
        assert sizes[0] == len(probe.tokens)
        assert max(sizes[-2:]) <= 2
        assert sum(rows) == len(probe.tokens)
        for one, other in zip(found, expected, strict=True):
            assert np.allclose(one.value(), other.value(), atol=1e-6, equal_nan=True)
        assert all(np.allclose(losses[name], expected_losses[name], atol=1e-5) for name in losses)
    failure.append(RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        everything()


def test_one_sequence_that_does_not_fit_is_refused(monkeypatch, random_toy, probe):
    from inductionlens import measure

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(measure, "run_reduced", no_memory)
    with pytest.raises(InputError, match=r"One sequence of \d+ tokens does not fit into memory; use shorter ones"):
        measure_copying(random_toy, probe)


@pytest.mark.parametrize("block", [1, 3000])
def test_long_rows_are_reduced_some_heads_at_a_time(monkeypatch, random_toy, probe, block):
    from inductionlens import measure

    def everything():
        targets = attention_targets(probe)
        found, losses = measure_attention(random_toy, probe, targets, value_weighted=True, with_losses=True)
        return [*found.values(), *measure_copying(random_toy, probe).values()], losses

    expected, expected_losses = everything()
    monkeypatch.setattr(measure, "BLOCK", block)
    found, losses = everything()
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one.value(), other.value(), atol=1e-6, equal_nan=True)
    assert all(np.allclose(losses[name], expected_losses[name], atol=1e-6) for name in losses)
