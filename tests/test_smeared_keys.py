"""Smeared keys: plain loops, limits, training, files, copies, and every question asked of such a model."""

import copy
import io
import json
import math
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.composition import measure_composition, measure_k_term
from inductionlens.models.activations import run_reduced
from inductionlens.models.circuits import ov_circuit, qk_circuit, qk_obstacle
from inductionlens.models.lens import has_hooked_transformer
from inductionlens.models.named_weights import named_weights, portable_weights, write_weights
from inductionlens.models.replay import record, resume, run_until, run_with_gradient
from inductionlens.models.smeared_keys import alphas, is_smeared, smeared
from inductionlens.models.toy import blank_toy
from inductionlens.models.training import train
from inductionlens.models.untrained import untrained_twin
from inductionlens.paths import measure_paths

SHAPE = {"n_layers": 2, "n_heads": 3, "d_model": 12, "d_head": 4, "d_vocab": 15, "n_ctx": 24, "smeared_keys": True}
ALPHAS = torch.tensor([[-1.5, 0.4, 2.0], [0.7, -3.0, -0.2]])
HEADS = 3


def refused(match):
    return pytest.raises(InputError, match=match)


def make(alpha=ALPHAS, **shape):
    """A toy with biases and gains that are not trivial, and an alpha of its own for each head."""
    model = il.new_toy(il.ToyConfig(**SHAPE | shape), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            if name.endswith("alpha"):
                weight.copy_(alpha[int(name.split(".")[1])])
            else:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.5)
    return model


@pytest.fixture(scope="module")
def tokens():
    rows = torch.randint(1, 15, (3, 9), generator=torch.Generator().manual_seed(1))
    rows[:, 0] = 0
    return rows


@pytest.fixture(scope="module")
def plain():
    """No norms, no MLP: what `slow` computes."""
    return il.load_model(make(normalization_type=None))


# The definition, written out.
def slow_keys(keys, alpha):
    """One position, one head and one number at a time."""
    found = np.empty_like(keys)
    for head in range(keys.shape[1]):
        share = 1 / (1 + math.exp(-alpha[head]))
        for pos in range(keys.shape[0]):
            for number in range(keys.shape[2]):
                found[pos, head, number] = keys[pos, head, number]
                if pos > 0:
                    before = keys[pos - 1, head, number]
                    found[pos, head, number] = share * keys[pos, head, number] + (1 - share) * before
    return found


def turned(vector, pos):
    half = len(vector) // 2
    found = vector.copy()
    for i in range(half):
        angle = pos * 10000.0 ** (-i / half)
        a, b = vector[i], vector[i + half]
        found[i] = a * math.cos(angle) - b * math.sin(angle)
        found[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return found


def slow(model, row, rotary=False):
    """One row through an attention-only model without norms: each layer's keys and attention, and the log-odds."""
    weights = {name: weight.double().numpy() for name, weight in portable_weights(model).items()}
    stream = np.array([weights["embed.W_E"][token] for token in row.tolist()])
    if not rotary:
        stream = stream + weights["pos_embed.W_pos"][: len(row)]
    kept = []
    for layer in range(2):
        part = {letter: weights[f"blocks.{layer}.attn.{letter}"] for letter in
                ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "alpha")}  # fmt: skip
        q, k, v = (
            np.stack([stream @ part[f"W_{x}"][head] + part[f"b_{x}"][head] for head in range(HEADS)], 1) for x in "QKV"
        )
        k = slow_keys(k, part["alpha"])
        written = np.zeros_like(stream) + part["b_O"]
        patterns = np.zeros((HEADS, len(row), len(row)))
        for head in range(HEADS):
            for query in range(len(row)):
                sizes = []
                for key in range(query + 1):
                    left, right = q[query, head], k[key, head]
                    if rotary:
                        left, right = turned(left, query), turned(right, key)
                    sizes.append(math.exp(float(left @ right) / 2))
                for key in range(query + 1):
                    patterns[head, query, key] = sizes[key] / sum(sizes)
                    written[query] += patterns[head, query, key] * (v[key, head] @ part["W_O"][head])
        kept.append((k, patterns))
        stream = stream + written
    logits = stream @ weights["unembed.W_U"] + weights["unembed.b_U"]
    return kept, logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("positions", ["standard", "rotary"])
def test_a_smeared_model_computes_what_plain_loops_compute(positions, tokens):
    model = il.load_model(make(normalization_type=None, positional_embedding_type=positions))
    layers = {}
    run_reduced(model, tokens, lambda layer: layers.update({layer.layer: layer.pattern.clone()}))
    logits, cache = model.run_with_cache(tokens)
    for row in range(len(tokens)):
        kept, expected = slow(model, tokens[row], positions == "rotary")
        assert np.allclose(logits[row].detach().log_softmax(-1).numpy(), expected, atol=1e-5)
        for layer, (keys, patterns) in enumerate(kept):
            assert np.allclose(layers[layer][row].numpy(), patterns, atol=1e-5)
            assert np.allclose(cache[f"blocks.{layer}.attn.hook_pattern"][row].numpy(), patterns, atol=1e-5)
            if positions == "standard":  # the classes keep a rotary head's own dimensions in other orders
                assert np.allclose(cache[f"blocks.{layer}.attn.hook_k"][row].numpy(), keys, atol=1e-5)


def test_smeared_keys_are_what_plain_loops_make_of_them():
    keys = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    before = keys.clone()
    found = smeared(keys, ALPHAS[0])
    for row in range(2):
        assert np.allclose(found[row].numpy(), slow_keys(keys[row].numpy(), ALPHAS[0].tolist()), atol=1e-6)
    assert torch.equal(found[:, 0], keys[:, 0])
    assert torch.equal(keys, before)
    alone = smeared(keys[:, :1], ALPHAS[0])
    assert torch.equal(alone, keys[:, :1])


def test_the_limits_of_alpha():
    keys = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    found = smeared(keys, torch.tensor([torch.inf, 0.0, -torch.inf]))
    assert torch.equal(found[:, :, 0], keys[:, :, 0])
    assert torch.allclose(found[:, 1:, 1], (keys[:, 1:, 1] + keys[:, :-1, 1]) / 2)
    assert torch.equal(found[:, 1:, 2], keys[:, :-1, 2])
    assert torch.equal(found[:, 0], keys[:, 0])


def test_an_alpha_of_40_is_a_model_without_smeared_keys(tokens):
    with_alpha, without = make(torch.full((2, 3), 40.0)), il.new_toy(il.ToyConfig(**SHAPE | {"smeared_keys": False}))
    own = portable_weights(with_alpha)
    write_weights(without, {name: own[name] for name in portable_weights(without)}.items())
    assert torch.equal(with_alpha(tokens), without(tokens))
    assert not torch.allclose(make()(tokens), without(tokens), atol=1e-2)
    assert is_smeared(with_alpha)
    assert not is_smeared(without)
    with refused("The keys of this model are not smeared; toys with smeared_keys=True have an alpha"):
        alphas(without)


def test_alpha_starts_at_the_plain_average_under_one_name_in_both_classes():
    model = il.new_toy(il.ToyConfig(**SHAPE | {"d_mlp": 8}))
    assert torch.equal(alphas(model), torch.zeros(2, 3))
    assert torch.equal(alphas(blank_toy(model.inductionlens_config)), torch.zeros(2, 3))
    names = [name for name in named_weights(model) if name.startswith("blocks.1.")]
    assert names == [f"blocks.1.{name}" for name in (
        "ln1.w", "ln1.b", "ln2.w", "ln2.b", "attn.W_Q", "attn.W_O", "attn.b_Q", "attn.b_O", "attn.W_K", "attn.W_V",
        "attn.b_K", "attn.b_V", "attn.alpha", "mlp.W_in", "mlp.b_in", "mlp.W_out", "mlp.b_out")]  # fmt: skip
    without = named_weights(il.new_toy(il.ToyConfig(**SHAPE | {"d_mlp": 8, "smeared_keys": False})))
    for name, weight in named_weights(model).items():
        assert name.endswith("attn.alpha") or torch.equal(weight, without[name])
    assert torch.equal(alphas(make()), ALPHAS)


def test_the_field_is_yes_or_no(tmp_path):
    il.save_toy(make(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"smeared_keys": true', '"smeared_keys": "yes"'))
    with refused("smeared_keys must be one of True, False; got 'yes'|does not describe a toy"):
        il.load_model(tmp_path)
    config = il.ToyConfig(**SHAPE)
    object.__setattr__(config, "smeared_keys", "yes")  # past the tests' own check of types, which comes first
    with refused("smeared_keys must be one of True, False; got 'yes'"):
        config.__post_init__()


# Training.
def loss_of(model):
    return lambda rows: model(rows, return_type="loss")


def alpha_parameters(model):
    storage = {named_weights(model)[f"blocks.{layer}.attn.alpha"].data_ptr(): layer for layer in range(2)}
    found = {storage[weight.data_ptr()]: weight for weight in model.parameters() if weight.data_ptr() in storage}
    return [found[layer] for layer in range(2)]


def test_the_gradient_of_alpha_is_that_of_the_loss(tokens):
    model = make()
    loss_of(model)(tokens).backward()
    for layer, weight in enumerate(alpha_parameters(model)):
        assert weight.requires_grad
        for head in range(HEADS):
            losses = []
            for step in (-1e-2, 1e-2):
                with torch.no_grad():
                    moved = ALPHAS.clone()
                    moved[layer, head] += step
                    losses.append(float(loss_of(make(moved).to(torch.float64))(tokens)))
            slope = (losses[1] - losses[0]) / 2e-2
            assert float(weight.grad[head]) == pytest.approx(slope, abs=1e-4)
            assert abs(slope) > 1e-4


def test_one_step_of_training_moves_every_alpha(tokens):
    model = make()
    before = portable_weights(model)
    train(model, loss_of(model), iter([tokens]), steps=1, warmup=1, weight_decay=0.0)
    assert bool((alphas(model) != ALPHAS).all())
    after = portable_weights(model)
    assert all(before[name].shape == after[name].shape for name in after)
    changed = model(tokens)
    write_weights(model, [(name, before[name]) for name in before if name.endswith("alpha")])
    assert not torch.equal(model(tokens), changed)


def test_training_finds_the_previous_token(tokens):
    """Copying the token after the last copy, in one layer, cannot be had without the previous key."""
    config = il.ToyConfig(1, 1, 32, 32, 12, 24, normalization_type=None, smeared_keys=True)
    model = il.new_toy(config, seed=1)
    generator = torch.Generator().manual_seed(0)

    def batches():
        while True:
            block = torch.rand(32, 11, generator=generator).argsort(-1) + 1
            yield torch.cat([torch.zeros(32, 1, dtype=torch.long), block, block], 1)

    def later(rows):
        return model(rows, return_type="loss", loss_per_token=True)[:, 12:].mean()

    seen = []
    settings = {"steps": 150, "learning_rate": 2e-2, "warmup": 10, "on_step": lambda step, loss: seen.append(loss)}
    train(model, later, batches(), **settings)
    assert float(alphas(model)) < -0.3
    assert seen[-1] < 0.3 < 2 < seen[0]


# Files.
def test_strict_saving_and_loading_returns_alpha(tmp_path, tokens):
    model = make()
    il.save_toy(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["version"], config["model"]["smeared_keys"]) == (1, True)
    stored = load_file(tmp_path / "model.safetensors")
    assert [torch.equal(stored[f"blocks.{layer}.attn.alpha"], ALPHAS[layer]) for layer in range(2)] == [True, True]
    loaded = il.load_model(tmp_path)
    assert torch.equal(alphas(loaded), ALPHAS)
    assert torch.allclose(loaded(tokens).log_softmax(-1), model(tokens).log_softmax(-1), atol=1e-4)
    half = il.load_model(tmp_path, dtype="bfloat16")
    assert torch.allclose(alphas(half), ALPHAS, atol=1e-2)
    assert half(tokens).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("blocks.1.attn.alpha"), "blocks.1.attn.alpha should be 3 and is absent"),
        (lambda weights: weights.update({"blocks.2.attn.alpha": torch.zeros(3)}), "should be absent and is 3"),
        (lambda weights: weights.update({"blocks.0.attn.alpha": torch.zeros(4)}), "should be 3 and is 4"),
        (lambda weights: weights.update({"blocks.0.attn.alpha": torch.full((3,), torch.inf)}), "not all finite"),
    ],
)
def test_missing_extra_and_broken_alphas_are_refused(change, words, tmp_path):
    il.save_toy(make(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with refused(words):
        il.load_model(tmp_path)


def test_alphas_and_config_must_agree(tmp_path):
    il.save_toy(make(), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["model"]["smeared_keys"] = False
    path.write_text(json.dumps(config))
    with refused("blocks.0.attn.alpha should be absent and is 3"):
        il.load_model(tmp_path)
    config["model"].pop("smeared_keys")  # as toys were written before there were smeared keys
    path.write_text(json.dumps(config))
    with refused("blocks.0.attn.alpha should be absent and is 3"):
        il.load_model(tmp_path)


def test_the_classes_own_state_dict_holds_alpha_and_is_strict(tokens):
    model, other = make(), il.new_toy(il.ToyConfig(**SHAPE), seed=9)
    state = model.state_dict()
    kept = [name for name in state if name.endswith("smear.weight")]
    assert len(kept) == 2
    other.load_state_dict(state, strict=True)
    assert torch.equal(alphas(other), ALPHAS)
    assert torch.equal(other(tokens), model(tokens))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=True)[kept[1]], ALPHAS[1])
    with pytest.raises(RuntimeError, match=r"Missing key.*smear\.weight"):
        other.load_state_dict({name: weight for name, weight in state.items() if name != kept[0]}, strict=True)


# Every forward pass.
def test_copies_keep_their_own_alpha(tokens):
    model = make()
    first = model(tokens)
    twin = copy.deepcopy(model)
    write_weights(twin, [("blocks.0.attn.alpha", torch.full((3,), 5.0))])
    assert torch.equal(alphas(model), ALPHAS)
    assert torch.equal(model(tokens), first)
    assert not torch.allclose(twin(tokens), first, atol=1e-3)
    write_weights(twin, [("blocks.0.attn.alpha", ALPHAS[0])])
    assert torch.equal(twin(tokens), first)


@pytest.mark.skipif(not has_hooked_transformer(), reason="a bridge cannot be pickled, whatever its keys")
def test_a_pickled_model_is_smeared(tokens):
    model = make()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(tokens), model(tokens))
    again.reset_hooks(including_permanent=True)
    assert torch.equal(again(tokens), model(tokens))


def test_no_hook_of_the_model_can_be_taken_off_to_stop_the_smearing(plain, tokens):
    expected = torch.tensor(slow(plain, tokens[0])[1]).float()

    def same(logits):
        return torch.allclose(logits[:1].log_softmax(-1), expected, atol=1e-5)

    assert same(plain(tokens))
    plain.reset_hooks(including_permanent=True)
    assert same(plain(tokens))
    nothing = [(f"blocks.{layer}.attn.hook_k", lambda keys, hook: None) for layer in range(2)]
    assert same(plain.run_with_hooks(tokens, fwd_hooks=nothing))
    assert same(plain(tokens))
    with plain.hooks(fwd_hooks=nothing):
        assert same(plain(tokens))
        plain.reset_hooks()
        assert same(plain(tokens))
    assert same(plain(tokens))
    for point in plain.hook_dict.values():
        point.remove_hooks("both", including_permanent=True)
    assert same(plain(tokens))


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_folding_leaves_a_smeared_model_as_it_computes(norm, tokens):
    raw = make(normalization_type=norm, d_mlp=14)
    ready = il.load_model(raw)
    assert ready is not raw
    assert torch.equal(alphas(ready), ALPHAS)
    assert not any(weight.requires_grad for weight in ready.parameters())
    assert torch.allclose(raw(tokens).log_softmax(-1), ready(tokens).log_softmax(-1), atol=1e-4)
    write_weights(ready, [("blocks.1.attn.alpha", torch.zeros(3))])
    assert torch.equal(alphas(raw), ALPHAS)


def test_an_untrained_twin_keeps_the_trained_alpha(tokens):
    model = il.load_model(make())
    twin = untrained_twin(model, seed=2)
    assert torch.equal(alphas(twin), ALPHAS)
    assert not torch.equal(twin.W_K, model.W_K)
    plain = untrained_twin(il.load_model(make(torch.full((2, 3), 40.0))), seed=2)
    assert torch.equal(twin.W_K, plain.W_K)
    assert not torch.allclose(twin(tokens), plain(tokens), atol=1e-3)


def test_hooks_see_and_replace_the_keys_that_are_compared(plain, tokens):
    kept, _ = slow(plain, tokens[0])
    name, seen = "blocks.1.attn.hook_", {}

    def keep(part):
        def hook(tensor, hook):
            seen[part] = tensor.clone()

        return hook

    plain.run_with_hooks(tokens, fwd_hooks=[(name + "k", keep("k"))])
    assert np.allclose(seen["k"][0].numpy(), kept[1][0], atol=1e-5)
    # Other keys are compared as they were put there, and not smeared once more.
    put = torch.randn(3, 9, 3, 4, generator=torch.Generator().manual_seed(5))
    hooks = [(name + "k", lambda keys, hook: put), (name + "q", keep("q")), (name + "pattern", keep("pattern"))]
    plain.run_with_hooks(tokens, fwd_hooks=hooks)
    scores = torch.einsum("bqhd,bkhd->bhqk", seen["q"], put) / 2
    expected = scores.masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    assert torch.allclose(seen["pattern"], expected, atol=1e-5)


def test_a_run_taken_up_in_the_middle_is_smeared(plain, tokens):
    run = record(plain, tokens)
    final = plain(tokens)
    for layer in range(2):
        residual = resume(run, layer, run.residuals[layer].repeat(2, 1, 1), [])
        logits = residual @ plain.W_U + plain.b_U
        assert torch.allclose(logits, final.repeat(2, 1, 1), atol=1e-4)
    found = run_until(run, 1, run.residuals[1], ["blocks.1.attn.hook_k", "blocks.1.attn.hook_pattern"])
    keys, patterns = slow(plain, tokens[0])[0][1]
    assert np.allclose(found["blocks.1.attn.hook_k"][0].numpy(), keys, atol=1e-5)
    assert np.allclose(found["blocks.1.attn.hook_pattern"][0].numpy(), patterns, atol=1e-5)
    logits = run_with_gradient(plain, tokens, []) @ plain.W_U + plain.b_U
    assert torch.allclose(logits, final, atol=1e-4)


def test_a_cache_of_keys_is_refused_or_not_used(tokens):
    model = make()
    settings = {"max_new_tokens": 3, "do_sample": False, "verbose": False, "return_type": "tokens"}
    settings |= {"prepend_bos": False} | ({"stop_at_eos": False})
    expected = tokens[:1]
    for _ in range(3):
        expected = torch.cat([expected, model(expected)[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(tokens[:1], use_past_kv_cache=False, **settings), expected)
    if has_hooked_transformer():
        with refused("Smeared keys look one position back, where a cache of keys ends; run without one"):
            model.generate(tokens[:1], **settings)
    else:  # toys of this class keep none
        assert torch.equal(model.generate(tokens[:1], **settings), expected)


# Every question.
@pytest.fixture(scope="module")
def planted():
    return il.planted("smeared-induction")


def test_one_layer_is_an_induction_head_or_matches_itself(planted):
    model = copy.deepcopy(planted)
    assert alphas(model)[0].tolist() == [40, -40, 40]
    write_weights(model, [("blocks.0.attn.alpha", torch.full((3,), 40.0))])
    head = il.scan(model, sequences=3, controls=False)["0.1"]
    assert head["prefix_matching"] == pytest.approx(0, abs=1e-6)
    assert head["duplicate_token"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3, abs=1e-6)


def test_a_folder_of_a_smeared_toy_is_scanned_like_the_toy(tmp_path):
    toy = make(n_ctx=128, d_vocab=48, d_mlp=14)
    il.save_toy(toy, tmp_path)
    settings = {"sequences": 3, "period": 10, "logit_period": 8, "text": "random"}
    scores = il.scan(tmp_path, **settings)
    assert scores.table.drop(columns="model").equals(il.scan(toy, **settings).table.drop(columns="model"))
    assert scores.table["prefix_matching"].between(0, 1).all()
    other = il.scan(make(torch.full((2, 3), 40.0), n_ctx=128, d_vocab=48, d_mlp=14), **settings)
    assert not np.allclose(other.table["prefix_matching"], scores.table["prefix_matching"], atol=1e-4)


def test_ablating_the_planted_head_stops_the_copying(planted):
    probe = il.repeated_tokens(il.token_pool(range(1, 64)), period=10, repeats=3, sequences=3, bos=0, seed=1)

    def later():
        with torch.no_grad():
            return float(planted(probe.tokens, return_type="loss", loss_per_token=True)[:, 10:].mean())

    clean = later()
    with il.ablate(planted, [Head(0, 1)]):
        assert later() == pytest.approx(math.log(64), abs=1e-4)
    run = il.clean_run(planted, probe.tokens)
    with il.ablate(planted, [Head(0, 0), Head(1, 2)], patterns=run):
        assert later() == pytest.approx(clean, abs=1e-6)
    assert later() == clean
    quick = {"sequences": 3, "groups": False, "measures": ("copies",)}
    scores = il.scan(planted, sequences=2, controls=False)
    effects = il.ablation_study(planted, heads=["0.1", "0.0"], scores=scores, **quick).table.set_index("name")
    assert effects.loc["L0H1", "effect_copies"] == pytest.approx(math.log(64), abs=0.02)
    assert effects.loc["L0H0", "effect_copies"] == pytest.approx(0, abs=1e-6)


def test_weights_alone_do_not_say_what_smeared_keys_match():
    for shape in ({}, {"positional_embedding_type": "rotary"}):
        model = il.load_model(make(**shape))
        assert qk_obstacle(model) == "keys are smeared over two positions"
        for distance in (None, 0, 3):
            with refused("^This model has no QK circuits of one matrix: keys are smeared over two positions.$"):
                qk_circuit(model, 1, distance)
            raw = measure_composition(model, distance=distance).raw
            assert np.isnan(raw["q"]).all()
            assert np.isnan(raw["k"]).all()
            assert np.isfinite(raw["v"][0, :, 1]).all()
            assert np.isnan(measure_k_term(model, np.ones((2, 3)), distance=distance).trace).all()
        assert ov_circuit(model, 1).shape == (3, 12, 12)


def test_a_circuit_leaves_out_the_weights_and_measures_the_paths():
    model = make(n_ctx=64, d_vocab=48)
    for distance in (None, 5):
        found = il.circuit(model, readers="all", sequences=3, period=8, distance=distance)
        said = found.provenance["composition"]["queries_and_keys"]
        assert said == "left out: keys are smeared over two positions"
        pairs = found.pairs
        assert pairs[pairs["via"] != "v"]["composition"].isna().all()
        assert pairs[pairs["via"] == "v"]["composition"].notna().all()
        assert pairs["prefix_lost"].notna().any()  # of readers that have something to lose
    with refused("no QK circuits of one matrix: keys are smeared over two positions"):
        il.skip_trigrams(model)


def test_paths_through_smeared_keys_are_exact(plain):
    """Keys read off the stream without a writer: smeared by hand, put into plain attention."""
    probe = il.repeated_tokens(torch.arange(1, 15), period=4, repeats=2, sequences=2, bos=0, seed=1)
    writers, readers = [Head(0, 1)], [Head(1, head) for head in range(3)]
    found = measure_paths(plain, probe, writers, readers)
    _, cache = plain.run_with_cache(probe.tokens)
    weights = {name: weight.double().numpy() for name, weight in portable_weights(plain).items()}
    part = {name.rpartition(".")[2]: weight for name, weight in weights.items() if name.startswith("blocks.1.attn.")}
    for row in range(2):
        stream = cache["blocks.1.hook_resid_pre"][row].detach().double().numpy()
        z = cache["blocks.0.attn.hook_z"][row, :, 1].detach().double().numpy()
        less = stream - z @ weights["blocks.0.attn.W_O"][1]
        k = np.stack([less @ part["W_K"][head] + part["b_K"][head] for head in range(HEADS)], 1)
        k = slow_keys(k, part["alpha"])
        for head in range(HEADS):
            q = stream @ part["W_Q"][head] + part["b_Q"][head]
            attended = []
            for query in range(5, 9):
                sizes = [math.exp(float(q[query] @ k[key, head]) / 2) for key in range(query + 1)]
                attended.append(sizes[query - 3] / sum(sizes))
            assert found.prefix_without["direct", "k"][0, head, row] == pytest.approx(np.mean(attended), abs=1e-5)
            assert found.prefix_matching[head, row] == pytest.approx(
                np.mean([slow(plain, probe.tokens[row])[0][1][1][head, query, query - 3] for query in range(5, 9)]),
                abs=1e-5,
            )
    # Nothing stands between the two layers: in total and direct are the same.
    assert np.allclose(found.prefix_without["direct", "k"], found.prefix_without["total", "k"], atol=1e-5)
