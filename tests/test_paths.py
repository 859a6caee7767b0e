"""Paths between two heads, and the orders of a model's terms: plain loops, laws, planted answers."""

import circuit_twins as twins
import numpy as np
import pytest
import torch

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.effects import Stimulus
from inductionlens.models.named_weights import named_weights, portable_weights
from inductionlens.models.processing import processed
from inductionlens.models.writing import Writing
from inductionlens.orders import measure_orders
from inductionlens.paths import measure_paths
from inductionlens.probes import Probe, repeated_tokens

PERIOD = 4


def refused(match):
    return pytest.raises(InputError, match=match)


def make(seed, **shape):
    """A processed toy with biases, and its weights as plain arrays."""
    config = il.ToyConfig(
        **{"n_layers": 3, "n_heads": 3, "d_model": 12, "d_head": 4, "d_vocab": 15, "n_ctx": 20, **shape}
    )
    model = il.new_toy(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in named_weights(model).values():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.4)
    model = processed(model)
    weights = {name: weight.double().numpy() for name, weight in portable_weights(model).items()}
    for name in [name for name in list(weights) if ".ln" in name or name.startswith("ln")]:
        weights[name] = np.ones(12) if name.endswith("w") else np.zeros(12)
    if config.normalization_type is not None:
        for name in ("ln_final", *(f"blocks.{layer}.ln1" for layer in range(config.n_layers))):
            weights |= {f"{name}.w": np.ones(12), f"{name}.b": np.zeros(12)}
        if config.d_mlp:
            for layer in range(config.n_layers):
                weights |= {f"blocks.{layer}.ln2.w": np.ones(12), f"blocks.{layer}.ln2.b": np.zeros(12)}
    return model, weights


@pytest.fixture(scope="module", params=[{"d_mlp": 14}, {}, {"normalization_type": None}], ids=["mlp", "norms", "plain"])
def toy(request):
    return make(5, **request.param)


@pytest.fixture(scope="module")
def probe():
    pool = torch.arange(1, 15)
    return repeated_tokens(pool, period=PERIOD, repeats=2, sequences=3, bos=0, seed=1)


HEADS = [Head(layer, head) for layer in range(3) for head in range(3)]


def test_paths_equal_their_twins(toy, probe):
    model, weights = toy
    readers = [Head(1, 0), Head(2, 1), Head(2, 2)]
    found = measure_paths(model, probe, HEADS, readers, batch_size=2)
    for row, tokens in enumerate(probe.tokens.tolist()):
        for column, reader in enumerate(readers):
            for line, writer in enumerate(HEADS):
                if writer.layer >= reader.layer:
                    assert all(np.isnan(found.prefix_without["total", via][line, column, row]) for via in "qkv")
                    continue
                for via in "qkv":
                    pattern, values = twins.without_path(weights, tokens, 3, 3, tuple(writer), tuple(reader), via)
                    prefix = np.mean([pattern[q][q - PERIOD + 1] for q in range(PERIOD + 1, 2 * PERIOD + 1)])
                    logit = twins.induction_logit_of(weights, tokens, 3, 3, PERIOD, tuple(reader), pattern, values)
                    assert found.prefix_without["direct", via][line, column, row] == pytest.approx(prefix, abs=1e-5)
                    assert found.logit_without["direct", via][line, column, row] == pytest.approx(logit, abs=1e-4)


def test_orders_equal_their_twins(toy):
    model, weights = toy
    tokens = torch.randint(0, 15, (3, 9), generator=torch.Generator().manual_seed(3))
    scored = torch.tensor([1, 2, 4, 7])
    given = Stimulus("any", tokens, scored, {"mean": lambda losses, tokens: losses.mean(1)})
    found = measure_orders(model, given, batch_size=2)
    for row, sequence in enumerate(tokens.tolist()):
        slow = [np.mean([losses[at] for at in scored]) for losses in twins.order_losses(weights, sequence, 3, 3, 3)]
        assert found.up_to["mean"][:, row] == pytest.approx(slow, abs=1e-4)
        for layer in range(3):
            for part, layers in (("alone", [layer]), ("without", [other for other in range(3) if other != layer])):
                slow = twins.layer_losses(weights, sequence, 3, 3, layers)
                expected = np.mean([slow[at] for at in scored])
                assert getattr(found, part)["mean"][layer, row] == pytest.approx(expected, abs=1e-4)


def test_the_clean_values_are_those_of_the_scan(toy, probe):
    from inductionlens.measure import attention_targets, measure_attention, measure_induction_logit

    model, _ = toy
    readers = [Head(2, 1), Head(1, 0)]
    found = measure_paths(model, probe, HEADS, readers)
    targets = {"prefix_matching": attention_targets(probe)["prefix_matching"]}
    attention, logit = measure_attention(model, probe, targets)[0], measure_induction_logit(model, probe)
    for column, reader in enumerate(readers):
        assert np.allclose(found.prefix_matching[column], attention["prefix_matching"].numerator[reader], atol=1e-6)
        assert np.allclose(found.induction_logit[column], logit.numerator[reader], atol=1e-5)


def resid_of(model, tokens, layer, writer):
    """The residual stream that enters a layer with the writer's z set to zero: one whole run."""
    kept = []

    def remove(z, hook):
        z = z.clone()
        z[:, :, writer.index] = 0
        return z

    hooks = [(f"blocks.{writer.layer}.attn.hook_z", remove)]
    hooks.append((f"blocks.{layer}.hook_resid_pre", lambda resid, hook: kept.append(resid.double())))
    with torch.no_grad():
        model.run_with_hooks(tokens, return_type=None, fwd_hooks=hooks)
    return kept[0]


def attention_by_hand(model, weights, layer, head, resid):
    """Queries, keys and values of one head from what enters its layer, in float64."""
    read = resid
    if f"blocks.{layer}.ln1.w" in weights:
        centred = read - read.mean(-1, keepdim=True)
        read = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    take = lambda name: torch.tensor(weights[f"blocks.{layer}.attn.{name}"][head])  # noqa: E731
    return {via: read @ take(f"W_{via.upper()}") + take(f"b_{via.upper()}") for via in "qkv"}


def test_total_paths_read_the_residual_stream_of_a_run_without_the_writer(toy, probe):
    model, weights = toy
    reader, scored = Head(2, 1), range(PERIOD + 1, 2 * PERIOD + 1)
    found = measure_paths(model, probe, HEADS, [reader], batch_size=2)
    for line, writer in enumerate(HEADS):
        if writer.layer >= 2:
            assert np.isnan(found.prefix_ablated[line]).all()
            continue
        clean = attention_by_hand(model, weights, 2, 1, resid_of(model, probe.tokens, 2, Head(2, 0)))
        less = attention_by_hand(model, weights, 2, 1, resid_of(model, probe.tokens, 2, writer))
        for via in ("q", "k", "v", "all"):
            mixed = less if via == "all" else {**clean, via: less[via]}
            scores = mixed["q"] @ mixed["k"].mT / 2  # sqrt(d_head 4)
            mask = torch.ones_like(scores[0], dtype=torch.bool).tril()
            pattern = scores.masked_fill(~mask, -torch.inf).softmax(-1)
            prefix = torch.stack([pattern[:, q, q - PERIOD + 1] for q in scored]).mean(0)
            if via == "all":
                assert found.prefix_ablated[line, 0] == pytest.approx(prefix.numpy(), abs=1e-5)
                continue
            assert found.prefix_without["total", via][line, 0] == pytest.approx(prefix.numpy(), abs=1e-5)
            for row, tokens in enumerate(probe.tokens.tolist()):
                logit = twins.induction_logit_of(
                    weights, tokens, 3, 3, PERIOD, (2, 1), pattern[row].tolist(), list(mixed["v"][row].numpy())
                )
                assert found.logit_without["total", via][line, 0, row] == pytest.approx(logit, abs=1e-4)


def test_direct_and_total_paths_agree_where_nothing_lies_between(probe):
    model, _ = make(5)
    found = measure_paths(model, probe, HEADS, [Head(1, 0), Head(1, 2)])
    for via in "qkv":
        direct, total = (found.prefix_without[how, via][:3] for how in ("direct", "total"))
        assert np.allclose(direct, total, atol=1e-6)
    deep = measure_paths(model, probe, HEADS, [Head(2, 0)])
    assert np.abs(deep.prefix_without["direct", "k"][:3] - deep.prefix_without["total", "k"][:3]).max() > 1e-4


def test_batches_and_stacks_change_nothing(toy, probe, monkeypatch):
    model, _ = toy
    whole = measure_paths(model, probe, HEADS, [Head(2, 2), Head(1, 1)])
    monkeypatch.setattr("inductionlens.paths.STACK_TOKENS", 1)
    single = measure_paths(model, probe, HEADS, [Head(2, 2), Head(1, 1)], batch_size=1)
    for one, other in ((whole.prefix_without, single.prefix_without), (whole.logit_without, single.logit_without)):
        for kind in one:
            assert np.allclose(one[kind], other[kind], atol=1e-6, equal_nan=True)
    assert np.allclose(whole.prefix_ablated, single.prefix_ablated, atol=1e-6, equal_nan=True)


def test_grouped_values_are_those_of_the_readers_own_group(tmp_path, probe):
    """A rotary, grouped-query model: nothing here is computed outside of it but the logit effect."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from inductionlens.measure import measure_induction_logit

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, head_dim=4,
                         bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)  # fmt: skip
    llama = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in llama.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    llama.save_pretrained(tmp_path / "llama")
    model = il.load_model(tmp_path / "llama")
    readers = [Head(1, head) for head in range(4)]
    found = measure_paths(model, probe, [Head(0, head) for head in range(4)], readers)
    expected = measure_induction_logit(model, probe).numerator[1]
    assert np.allclose(found.induction_logit, expected, atol=1e-5)
    for via in "qkv":
        lost = found.logit_without["total", via] - expected
        assert np.abs(lost).max() > 1e-4


def test_the_models_hooks_are_gone_and_its_weights_untouched(toy, probe):
    model, _ = toy
    before, clean = portable_weights(model), model(probe.tokens)
    measure_paths(model, probe, HEADS, [Head(2, 0)])
    assert torch.equal(model(probe.tokens), clean)
    assert all(torch.equal(weight, before[name]) for name, weight in portable_weights(model).items())


# Planted answers.
@pytest.mark.parametrize(
    ("kind", "via", "lost"), [("induction", "k", "prefix"), ("pointer", "q", "prefix"), ("v-composition", "v", "logit")]
)
def test_planted_paths_are_all_or_nothing(kind, via, lost):
    model = il.planted(kind)
    probe = repeated_tokens(torch.arange(1, 64), period=25, repeats=2, sequences=4, bos=0)
    writers = [Head(0, head) for head in range(3)]
    found = measure_paths(model, probe, writers, [Head(1, 2)])
    assert found.prefix_matching == pytest.approx(1)
    # On two blocks W_U is centred: the right logit alone.
    assert found.induction_logit == pytest.approx(10 * (1 - 1 / 64), abs=1e-4)
    for how in ("direct", "total"):
        for writer in range(3):
            for through in "qkv":
                here = (writer, through) == (1, via)
                prefix = 0 if here and lost == "prefix" else 1
                logit = 0 if here else 10 * (1 - 1 / 64)
                assert found.prefix_without[how, through][writer] == pytest.approx(prefix, abs=1e-5)
                assert found.logit_without[how, through][writer] == pytest.approx(logit, abs=1e-4)
    assert found.prefix_ablated[1] == pytest.approx(0 if lost == "prefix" else 1, abs=1e-5)
    assert found.prefix_ablated[0] == pytest.approx(1)


# Orders.
def text_like(tokens, scored):
    return Stimulus("any", tokens, scored, {"mean": lambda losses, tokens: losses.mean(1)})


def test_paths_of_any_order_are_sums_of_paths_without_norms():
    model, weights = make(6, normalization_type=None)
    tokens = torch.randint(0, 15, (2, 8), generator=torch.Generator().manual_seed(3))
    scored = torch.arange(7)
    found = measure_orders(model, text_like(tokens, scored))
    for row, sequence in enumerate(tokens.tolist()):
        slow = [np.mean(losses) for losses in twins.path_losses(weights, sequence, 3, 3, 3)]
        assert found.up_to["mean"][:, row] == pytest.approx(slow, abs=1e-4)


def test_the_last_order_is_the_model_and_the_first_has_no_heads(toy):
    model, _ = toy
    tokens = torch.randint(0, 15, (3, 9), generator=torch.Generator().manual_seed(4))
    found = measure_orders(model, text_like(tokens, torch.arange(8)))
    with torch.no_grad():
        clean = model(tokens, return_type="loss", loss_per_token=True).mean(1)
        empty = [(f"blocks.{layer}.attn.hook_z", lambda z, hook: torch.zeros_like(z)) for layer in range(3)]
        with model.hooks(fwd_hooks=empty):
            none = model(tokens, return_type="loss", loss_per_token=True).mean(1)
    assert found.up_to["mean"][-1] == pytest.approx(clean.numpy(), abs=1e-5)
    assert found.up_to["mean"][0] == pytest.approx(none.numpy(), abs=1e-5)
    assert torch.equal(model(tokens), model(tokens))


def test_the_planted_circuit_has_no_virtual_heads_and_the_carried_token_is_one():
    scored = torch.arange(27, 50)
    tokens = repeated_tokens(torch.arange(1, 64), period=25, repeats=2, sequences=3, bos=0).tokens
    uniform = np.log(64)
    for kind, first, second in (("induction", 0.0, 0.0), ("v-composition", uniform, 0.0)):
        found = measure_orders(il.planted(kind), text_like(tokens, scored)).up_to["mean"].mean(1)
        assert found[0] == pytest.approx(uniform, abs=1e-4)
        assert found[1] == pytest.approx(first, abs=5e-3)
        assert found[2] == pytest.approx(second, abs=5e-3)


# Refusals.
def test_probes_and_models_that_cannot_be_used_are_refused(toy, probe, monkeypatch):
    model, _ = toy
    with refused(r"blocks repeated once \(repeats 2\); got 4"):
        measure_paths(model, Probe(probe.tokens, 0, 2, 4, 0), HEADS, [Head(2, 0)])
    writing = (Writing(gain=torch.ones(model.cfg.d_model)),) * model.cfg.n_layers
    monkeypatch.setattr(model, "inductionlens_writing", writing, raising=False)
    with refused("No head's output can be taken out of another's input here: a norm follows"):
        measure_paths(model, probe, HEADS, [Head(2, 0)])


@pytest.mark.parametrize(("via", "name"), [("q", "queries"), ("k", "keys")])
def test_classes_that_drop_edits_are_found_out(toy, probe, monkeypatch, via, name):
    from inductionlens import paths

    kept = paths.run_until

    def deaf(run, layer, residual, wanted, edits=()):
        return kept(run, layer, residual, wanted, [edit for edit in edits if not edit[0].endswith(f"hook_{via}")])

    monkeypatch.setattr(paths, "run_until", deaf)
    with refused(f"drops edits of {name}, so no path through them can be measured"):
        measure_paths(toy[0], probe, HEADS, [Head(2, 0)])
