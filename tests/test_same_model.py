"""The model that is scored is the model that was given: log-probabilities, what is refused, what objects are like."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

import inductionlens as il
from inductionlens import InputError
from inductionlens.measure import losses_by_position
from inductionlens.models.activations import as_for_inference, logit_multiplier, logits_at, run_reduced
from inductionlens.models.lens import has_hooked_transformer
from inductionlens.models.named_weights import named_weights
from inductionlens.models.same_model import check_same, given_object, row_of_tokens
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.stimuli import make_probes

bridge_only = pytest.mark.skipif(has_hooked_transformer(), reason="TransformerLens 3.9 does not know the family")
SHAPE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}  # fmt: skip


def refused(match):
    return pytest.raises(InputError, match=match)


def saved(folder, config):
    """A Hugging Face model with weights that all matter, saved."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    model.save_pretrained(folder)
    return model


def tokens(rows=3, length=40, vocabulary=60):
    return torch.randint(4, vocabulary, (rows, length), generator=torch.Generator().manual_seed(1))


def right_losses(model, rows):
    with torch.no_grad():
        logits = model(rows).logits.double()
    return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none").numpy()


def changed(model, name, change):
    """A copy of a model with one weight changed in place."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        change(named_weights(other)[name])
    return other


#: Ways in which a conversion could go wrong, and which part the refusal names.
WRONG = {
    "queries scaled": ("blocks.0.attn.W_Q", lambda weight: weight.mul_(1.5), "attention of layer 0"),
    "keys without bias": ("blocks.1.attn.b_Q", lambda weight: weight.add_(1.0), "attention of layer 1"),
    "positions shifted": ("pos_embed.W_pos", lambda weight: weight.copy_(weight.roll(1, 0)), "attention of layer 0"),
    "embeddings scaled": ("embed.W_E", lambda weight: weight.mul_(1.1), "attention of layer 0"),
    "a bias of an early MLP": ("blocks.0.mlp.b_out", lambda weight: weight.add_(torch.arange(24) / 24), "of layer 1"),
    "values of the last layer": ("blocks.1.attn.W_V", lambda weight: weight.mul_(1.2), "something after the last"),
    "output of the last layer": ("blocks.1.attn.W_O", lambda weight: weight.mul_(0.22), "something after the last"),
    "a bias in the last MLP": ("blocks.1.mlp.b_in", lambda weight: weight.add_(0.5), "something after the last"),
    "the last MLP left out": ("blocks.1.mlp.W_out", lambda weight: weight.zero_(), "something after the last"),
    "one token's logit": ("unembed.b_U", lambda weight: weight[7].add_(0.01), "something after the last"),
    "the unembedding of one direction": ("unembed.W_U", lambda weight: weight[3].zero_(), "something after the last"),
    "positions beyond the middle": ("pos_embed.W_pos", lambda weight: weight[100:].mul_(0.5), "attention of layer 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_copy_that_computes_something_else_is_refused_and_the_part_is_named(name, random_toy):
    weight, change, said = WRONG[name]
    given = given_object(changed(random_toy, weight, change), "the model")
    patterns = []
    run_reduced(changed(random_toy, weight, change), given.tokens, lambda layer: patterns.append(layer.pattern.clone()))
    with refused(f"does not compute the model as .* does: on a row of 128 tokens .*{said}"):
        check_same(copy.deepcopy(random_toy), dataclasses.replace(given, patterns=patterns))


def test_equal_models_are_taken_and_are_not_compared_again(random_toy, monkeypatch):
    model = copy.deepcopy(random_toy)
    check_same(model, given_object(random_toy, "the model"))
    from inductionlens.models import objects

    monkeypatch.setattr(objects, "given_object", None)
    assert il.load_model(model) is model


def test_a_part_that_was_exchanged_is_compared_again(random_toy, monkeypatch):
    from inductionlens.models import objects

    model, seen, usual = il.load_model(copy.deepcopy(random_toy)), [], objects.given_object
    monkeypatch.setattr(objects, "given_object", lambda *given: seen.append(given) or usual(*given))
    il.load_model(model)
    assert not seen
    model.extra = torch.nn.Identity()
    il.load_model(model)
    assert len(seen) == 1


def test_logits_that_differ_by_a_factor_are_multiplied(random_toy):
    given = given_object(random_toy, "the model")
    model = copy.deepcopy(random_toy)
    check_same(model, dataclasses.replace(given, logits=given.logits * 0.25))
    assert logit_multiplier(model) == 0.25
    rows = tokens(vocabulary=48)
    residual = run_reduced(model, rows, lambda layer: None).residual
    at = torch.arange(5)
    assert torch.allclose(logits_at(model, residual, at), 0.25 * logits_at(random_toy, residual, at), atol=1e-5)
    plain, scaled = (il.scan(one, sequences=3, controls=False).table["induction_logit"] for one in (random_toy, model))
    assert scaled.to_numpy() == pytest.approx(0.25 * plain.to_numpy(), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_log_probabilities_are_those_of_hugging_face(seed, gpt2_folder):
    """Slow twin: the log-probability of every token, from transformers' own logits."""
    from transformers import AutoModelForCausalLM

    rows = torch.randint(0, 60, (2, 20), generator=torch.Generator().manual_seed(seed))
    hf = AutoModelForCausalLM.from_pretrained(gpt2_folder).eval()
    assert losses_by_position(il.load_model(gpt2_folder), rows) == pytest.approx(right_losses(hf, rows), abs=1e-4)


def test_a_bias_that_only_the_last_layer_shows_is_scored_right_or_refused(tmp_path):
    from transformers import LlamaConfig

    hf = saved(tmp_path / "llama", LlamaConfig(**{**SHAPE, "num_hidden_layers": 1}, mlp_bias=True))
    if has_hooked_transformer():
        with refused("log-probabilities differ by up to .* nats though attention agrees in every layer"):
            il.load_model(tmp_path / "llama")
    else:
        found = losses_by_position(il.load_model(tmp_path / "llama"), tokens())
        assert found == pytest.approx(right_losses(hf, tokens()), abs=1e-4)


def test_rows_longer_than_those_compared_are_compared_first(tmp_path, monkeypatch):
    from transformers import GPT2Config

    from inductionlens.models import pretrained

    config = GPT2Config(vocab_size=60, n_positions=700, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    saved(tmp_path / "gpt2", config)
    lengths, usual = [], pretrained.given_folder_model
    monkeypatch.setattr(
        pretrained,
        "given_folder_model",
        lambda model, named, length: lengths.append(length) or usual(model, named, length),
    )
    model = il.load_model(tmp_path / "gpt2")
    losses_by_position(model, tokens(1, 512))
    assert lengths == [512]
    losses_by_position(model, tokens(1, 600))
    losses_by_position(model, tokens(1, 550))
    assert lengths == [512, 600]
    monkeypatch.setattr(pretrained, "check_same", lambda *given, **more: (_ for _ in ()).throw(InputError("other")))
    with refused("other"):
        losses_by_position(model, tokens(1, 700))
    (tmp_path / "gpt2").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="is gone, so rows of 700 tokens could not be compared"):
        losses_by_position(model, tokens(1, 700))


def test_the_row_repeats_and_stays_in_the_vocabulary():
    row = row_of_tokens(17, 31)
    assert row.shape == (1, 31)
    assert 0 <= int(row.min()) <= int(row.max()) < 17
    assert torch.equal(row[:, :15], row[:, 16:])


# Families whose heads, or logits, are multiplied or normed on the way.
@bridge_only
def test_granites_multipliers_are_in_losses_and_logit_effects(tmp_path):
    from transformers import GraniteConfig

    factors = {"logits_scaling": 4.0, "residual_multiplier": 0.22, "embedding_multiplier": 6.0}
    hf = saved(tmp_path / "m", GraniteConfig(**SHAPE, num_key_value_heads=2, attention_multiplier=0.1, **factors))
    model = il.load_model(tmp_path / "m")
    assert losses_by_position(model, tokens()) == pytest.approx(right_losses(hf, tokens()), abs=1e-4)
    record = il.scan(model, sequences=2, bos=0, controls=False).provenance["model"]["processing"]
    assert "heads' outputs multiplied by 0.22" in record
    assert "logits multiplied by 0.25" in record
    assert logit_multiplier(model) == 0.25
    _check_logit_effects(hf, model, multiplier=0.22 * 0.25)


@bridge_only
@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_a_norm_after_the_heads_is_in_their_logit_effect_and_no_circuit_is_read(family, tmp_path):
    from transformers import Gemma2Config, Olmo2Config

    shape = {**SHAPE, "num_key_value_heads": 4}
    config = (
        Gemma2Config(**shape, head_dim=8, sliding_window=128, query_pre_attn_scalar=8)
        if family == "gemma2"
        else Olmo2Config(**shape)
    )
    hf = saved(tmp_path / "m", config)
    model = il.load_model(tmp_path / "m")
    assert losses_by_position(model, tokens()) == pytest.approx(right_losses(hf, tokens()), abs=1e-4)
    table = il.scan(model, sequences=2, bos=0, controls=False)
    assert table.table["ov_eigen"].isna().all()
    assert "a norm follows each attention layer" in table.provenance["model"]["left_empty"]["ov_eigen"]
    with refused("a norm follows each attention layer"):
        il.circuit(model, readers=["1.0"], bos=0, sequences=2, period=8)
    _check_logit_effects(hf, model, multiplier=1.0)


def _check_logit_effects(hf, model, multiplier):
    """Slow twin: source by source, from the modules of transformers alone."""
    options = ScanOptions(sequences=2, period=8, logit_period=8, bos=0, controls=False)
    rows = make_probes(model, options).logit.tokens
    found = il.scan(model, options=options).table["induction_logit"].to_numpy().reshape(2, 4)
    hf.set_attn_implementation("eager")
    kept = {}
    layers = hf.model.layers
    for number, layer in enumerate(layers):
        layer.self_attn.v_proj.register_forward_hook(lambda m, a, o, n=number: kept.update({("v", n): o}))
        layer.self_attn.o_proj.register_forward_hook(lambda m, a, o, n=number: kept.update({("attn", n): o}))
    hf.model.norm.register_forward_pre_hook(lambda m, a: kept.update(final=a[0]))
    with torch.no_grad():
        run = hf(rows, output_attentions=True, use_cache=False)
    eps, gemma = hf.config.rms_norm_eps, hf.config.model_type == "gemma2"
    gain = hf.model.norm.weight.detach() + gemma
    unembed = hf.lm_head.weight.detach()
    columns = (unembed - unembed.mean(0)) * gain
    right = np.zeros((2, 4))
    for number, layer in enumerate(layers):
        post = getattr(layer, "post_attention_layernorm", None) if multiplier == 1.0 else None
        heads_kv = hf.config.num_key_value_heads
        values = kept["v", number].view(*rows.shape, heads_kv, 8).repeat_interleave(4 // heads_kv, dim=2)
        w_o = layer.self_attn.o_proj.weight.detach().T.view(4, 8, 32)
        for head in range(4):
            effects = []
            for row in range(len(rows)):
                for query in range(9, 16):
                    key = query - 7
                    written = values[row, key, head] @ w_o[head]
                    if post is not None:
                        scale = (kept["attn", number][row, query].square().mean() + eps).sqrt()
                        written = written * (post.weight.detach() + gemma) / scale
                    final = (kept["final"][row, query].square().mean() + eps).sqrt()
                    effect = float(written @ columns[rows[row, query + 1]] / final)
                    effects.append(multiplier * effect * float(run.attentions[number][row, head, query, key]))
            right[number, head] = np.mean(effects)
    assert found == pytest.approx(right, abs=1e-5 + 1e-4 * np.abs(right).max())


@bridge_only
def test_layers_without_attention_are_left_out(tmp_path):
    from transformers import Lfm2Config

    config = Lfm2Config(**SHAPE, num_key_value_heads=2, layer_types=["conv", "full_attention"])
    hf = saved(tmp_path / "m", config)
    model = il.load_model(tmp_path / "m")
    assert losses_by_position(model, tokens()) == pytest.approx(right_losses(hf, tokens()), abs=1e-4)
    scores = il.scan(model, sequences=3, bos=0)
    assert scores.table["layer"].tolist() == [1, 1, 1, 1]
    assert scores.table[["prefix_matching", "induction_logit", "copying", "q_value"]].notna().all(axis=None)
    assert scores.provenance["model"]["left_empty"] == {"layer 0": "it has no attention heads"}
    with il.ablate(model, ["1.0"]):
        model(tokens())
    with refused("There is no head 0.0: layer 0 of the model has no attention heads"), il.ablate(model, ["0.0"]):
        pass
    with refused("Layers 0 of this model have no attention heads, and a circuit goes through all"):
        il.circuit(model, readers=["1.0"], bos=0)


@bridge_only
def test_values_that_are_changed_after_they_are_shown_leave_what_needs_them_empty(tmp_path):
    from transformers import OlmoConfig

    saved(tmp_path / "m", OlmoConfig(**SHAPE, clip_qkv=0.3))
    scores = il.scan(il.load_model(tmp_path / "m"), sequences=2, bos=0, controls=False)
    assert scores.table[["induction_logit", "copying", "ov_eigen"]].isna().all(axis=None)
    assert scores.table["prefix_matching"].notna().all()
    assert set(scores.provenance["model"]["left_empty"]) >= {"induction_logit", "copying", "ov_eigen"}


@bridge_only
def test_norms_that_are_not_folded_are_named_on_loading(tmp_path):
    from transformers import NemotronConfig

    saved(tmp_path / "m", NemotronConfig(**SHAPE, num_key_value_heads=2, head_dim=8))
    with refused(r"does not process this model to the end: the gain of its norm blocks\.0\.ln1 is not folded"):
        il.load_model(tmp_path / "m")


def test_a_context_by_any_name_is_kept_to(tmp_path):
    from types import SimpleNamespace

    from inductionlens.models.same_model import given_folder_model

    seen = []

    def model(rows, **more):
        seen.append(rows.shape[1])
        return SimpleNamespace(logits=torch.zeros(*rows.shape, 9))

    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"):
        config = SimpleNamespace(vocab_size=9, **{name: 24})
        model.config = SimpleNamespace(get_text_config=lambda config=config: config)
        assert given_folder_model(model, "the model").patterns == []
    assert seen == [24] * 4


# Objects.
def test_objects_run_as_for_inference_and_are_left_as_they_were(gpt2_folder):
    model = il.load_model(gpt2_folder)
    still = il.scan(model, sequences=2, text="random", controls=False).table
    model.train()
    part = model.blocks[0].attn
    part.eval()
    assert il.scan(model, sequences=2, text="random", controls=False).table.equals(still)
    assert model.training
    assert not part.training


def test_dropout_is_off_while_a_model_is_run_and_padding_goes_to_the_right(gpt2_folder):
    model = il.load_model(gpt2_folder)
    model.train()
    model.tokenizer.padding_side = "left"
    with as_for_inference(model):
        assert not any(module.training for module in model.modules())
        assert model.tokenizer.padding_side == "right"
    assert all(module.training for module in model.modules())
    assert model.tokenizer.padding_side == "left"


def test_hooks_that_were_left_on_a_model_are_refused_and_ours_are_not(random_toy):
    model = copy.deepcopy(random_toy)
    model.add_hook("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern * 0)
    with refused(r"has hooks left on it \(blocks.1.attn.hook_pattern\).*model.reset_hooks"):
        il.scan(model, sequences=2)
    model.reset_hooks()
    plain = il.scan(model, sequences=2, controls=False).table
    with il.ablate(model, ["0.1"]):
        without = il.scan(model, sequences=2, controls=False).table
    assert not without["prefix_matching"].equals(plain["prefix_matching"])
    assert il.scan(model, sequences=2, controls=False).table.equals(plain)


def test_an_ablation_in_a_model_that_would_be_copied_is_refused(toy_config):
    raw = il.new_toy(toy_config, seed=1)
    with refused(r"process it first, `model = il.load_model\(model\)`"), il.ablate(raw, ["0.1"]):
        il.scan(raw, sequences=2)


def test_hooks_reset_inside_an_ablation_are_noticed(random_toy):
    model, rows = copy.deepcopy(random_toy), tokens(vocabulary=48)
    model(rows)
    with refused("The ablation was taken away inside its `with`"), il.ablate(model, ["1.0", "0.2"]):
        model(rows)
        model.reset_hooks()
        model(rows)
    with il.ablate(model, ["0.2"]):
        model(rows)
        model.reset_hooks()  # nothing runs after it
    model(rows)


def test_models_that_look_ahead_or_write_other_tokens_are_refused(toy_config, monkeypatch):
    model = il.new_toy(toy_config)
    monkeypatch.setattr(model.cfg, "attention_dir", "bidirectional", raising=False)
    with refused("attends to later tokens"):
        il.load_model(model)
    monkeypatch.setattr(model.cfg, "attention_dir", "causal", raising=False)
    monkeypatch.setattr(model.cfg, "d_vocab_out", 7)
    with refused("reads 48 tokens and writes 7, so its outputs are no next tokens"):
        il.load_model(model)


@pytest.mark.skipif(not has_hooked_transformer(), reason="a HookedTransformer's own modules")
def test_a_final_norm_that_is_left_out_is_refused(toy_config):
    model = il.new_toy(toy_config, seed=2)
    model.ln_final = torch.nn.Identity()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    with refused("log-probabilities differ by up to .* nats"):
        il.load_model(model)


def test_a_model_that_has_run_with_gradients_is_copied(toy_config):
    model = il.new_toy(toy_config, seed=3)
    for module in model.modules():
        module.left_behind = None
    out = model(tokens(vocabulary=48), return_type="loss")
    model.blocks[0].left_behind = out
    assert len(il.scan(model, sequences=2, controls=False)) == 6


def test_an_object_without_a_bos_of_its_own_is_answered_as_a_folder(gpt2_copy):
    from transformers import AutoTokenizer

    from inductionlens.models.origin import _own_bos

    tokenizer = AutoTokenizer.from_pretrained(gpt2_copy)
    assert _own_bos(tokenizer) == tokenizer.bos_token_id is not None
    settings = gpt2_copy / "tokenizer_config.json"
    config = json.loads(settings.read_text())
    settings.write_text(json.dumps({**config, "bos_token": None}))
    tokenizer = AutoTokenizer.from_pretrained(gpt2_copy)
    tokenizer.bos_token = tokenizer.eos_token  # as TransformerLens does
    assert _own_bos(tokenizer) is None


@bridge_only
def test_a_square_mlp_that_a_bridge_folds_the_wrong_way_round_is_refused(tmp_path):
    """TransformerLens 4.3 tells W_in from its transpose by shape; the toy itself computes what it should."""
    toy = il.new_toy(il.ToyConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, d_vocab=40, n_ctx=64, d_mlp=8))
    with refused("does not compute the model toy as the model that was given does"):
        il.load_model(toy)
    il.save_toy(toy, tmp_path / "toy")
    with refused("does not compute the toy in .* as the model that was given does"):
        il.load_model(tmp_path / "toy")


def test_a_copy_lives_on_without_its_original(toy_config):
    import gc

    from inductionlens.models.copies import copied

    model = il.load_model(il.new_toy(toy_config, seed=3))
    rows = tokens(vocabulary=48)
    expected = model(rows)
    duplicate = copied(model)
    del model
    gc.collect()
    assert torch.equal(duplicate(rows), expected)


@bridge_only
def test_a_family_that_does_not_run_in_half_precision_is_refused(tmp_path):
    from transformers import OlmoConfig

    saved(tmp_path / "m", OlmoConfig(**SHAPE))
    with refused("does not run in bfloat16 under TransformerLens .*; use float32"):
        il.load_model(tmp_path / "m", dtype="bfloat16")


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_as_many_tokens_as_dimensions_are_folded_along_the_right_one(norm, tmp_path):
    """TransformerLens tells W_U from its transpose by shape; a square one, as `train_toy` has by default, it folds
    along the wrong dimension."""
    toy = il.new_toy(
        il.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=16, n_ctx=64, normalization_type=norm)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in named_weights(toy).values():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    rows = tokens(vocabulary=16)
    right = toy(rows, return_type="loss", loss_per_token=True).detach().numpy()
    assert losses_by_position(il.load_model(toy), rows) == pytest.approx(right, abs=1e-4)
    il.save_toy(toy, tmp_path / "toy")
    assert losses_by_position(il.load_model(tmp_path / "toy"), rows) == pytest.approx(right, abs=1e-4)


def test_position_biases_are_stacked_as_their_families_lay_them_out():
    from inductionlens.models.replay import _repeated

    alibi = torch.arange(6.0).view(6, 1, 1)  # BLOOM: batch 2 x head 3
    assert torch.equal(_repeated(alibi, 2, 2, "alibi"), torch.cat([alibi, alibi]))
    bias = torch.arange(2.0).view(2, 1, 1)  # MPT: one for each head, of as many heads as rows
    assert _repeated(bias, 2, 3, "position_bias") is bias
