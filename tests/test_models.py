"""Models from every source: the same computation, one processing, and clear refusals."""

import copy
import json
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import inductionlens as il
from inductionlens import InputError
from inductionlens.models.activations import logits_at, run_reduced
from inductionlens.models.lens import has_hooked_transformer, model_class
from inductionlens.models.named_weights import named_weights
from inductionlens.models.origin import origin_of
from inductionlens.models.other_sources import check_class
from inductionlens.models.processing import processing_of, unprocessed
from inductionlens.models.vocabulary import choose_bos, encoder, ordinary_ids


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_gpt2_folder_computes_what_hugging_face_computes(gpt2_folder):
    from transformers import GPT2LMHeadModel

    model = il.load_model(gpt2_folder)
    reference = GPT2LMHeadModel.from_pretrained(gpt2_folder, attn_implementation="eager")
    tokens = torch.randint(0, 270, (2, 40), generator=torch.Generator().manual_seed(0))
    _, cache = model.run_with_cache(tokens)
    with torch.no_grad():
        expected = reference(tokens, output_attentions=True)
    for layer, pattern in enumerate(expected.attentions):
        assert torch.allclose(cache[f"blocks.{layer}.attn.hook_pattern"], pattern, atol=1e-5)
    assert torch.allclose(model(tokens).log_softmax(-1), expected.logits.log_softmax(-1), atol=1e-4)


def test_every_source_is_processed_one_way(gpt2_folder, random_toy, planted):
    for model in (il.load_model(gpt2_folder), random_toy, planted):
        assert unprocessed(model) is None
        assert processing_of(model).startswith("no norms" if model is planted else "norms folded, writing weights")
        assert float(model.W_U.mean(-1).abs().max()) < 1e-5
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters())


def test_ids_come_from_the_tokenizer_not_from_the_padding(gpt2_folder):
    model = il.load_model(gpt2_folder)
    ids = ordinary_ids(model).tolist()
    assert model.cfg.d_vocab == 300
    assert ids == list(range(1, len(model.tokenizer)))
    assert choose_bos(model, True) == 0
    assert choose_bos(model, False) is None
    assert choose_bos(model, 7) == 7
    assert encoder(model)("def f") == model.tokenizer.encode("def f", add_special_tokens=False)
    with pytest.raises(InputError, match="an id below the model's 300 tokens; got 300"):
        choose_bos(model, 300)


def test_ids_reach_the_model_unchanged(gpt2_folder, monkeypatch):
    model = il.load_model(gpt2_folder)
    seen = []
    forward = type(model).forward

    def watched(self, tokens, **settings):
        seen.append(tokens.clone())
        return forward(self, tokens, **settings)

    monkeypatch.setattr(type(model), "forward", watched)
    from inductionlens.studies.options import ScanOptions
    from inductionlens.studies.stimuli import make_probes

    probes = make_probes(model, ScanOptions(sequences=3))
    il.scan(model, sequences=3, batch_size=100)
    expected = [probes.repeated.tokens, probes.text.tokens, probes.once.tokens, probes.logit.tokens]
    expected += [probes.gapped.tokens, probes.fresh, probes.repeated.tokens]
    assert len(seen) == 7
    assert all(torch.equal(found, probe) for found, probe in zip(seen, expected, strict=True))
    assert all(int((tokens == 0).sum()) == len(tokens) for tokens in seen)  # one BOS a row, never two
    assert int(probes.repeated.tokens.max()) < len(model.tokenizer)


def test_a_folder_without_tokenizer_files_is_scored_on_all_ids(gpt2_copy):
    for path in gpt2_copy.glob("*token*"):
        path.unlink()
    model = il.load_model(gpt2_copy)
    assert model.tokenizer is None
    assert len(ordinary_ids(model)) == 299
    assert set(il.scan(model, sequences=2).table["previous_token_source"]) == {"random"}
    with pytest.raises(InputError, match="no tokenizer to read text with; use text='random'"):
        il.scan(model, text="stdlib")


def test_a_model_object_is_used_as_it_is_or_processed_in_a_copy(toy_config):
    raw = il.new_toy(toy_config, seed=1)
    before = copy.deepcopy(raw.state_dict())
    ready = il.load_model(raw)
    assert ready is not raw
    assert unprocessed(ready) is None
    assert unprocessed(raw)
    assert all(torch.equal(raw.state_dict()[name], weight) for name, weight in before.items())
    assert il.load_model(ready) is ready
    tokens = torch.arange(20)[None]
    assert torch.allclose(raw(tokens).log_softmax(-1), ready(tokens).log_softmax(-1), atol=1e-4)
    assert origin_of(ready).kind == "toy"


def test_a_scan_of_an_object_equals_the_scan_of_its_folder(gpt2_folder):
    first = il.scan(il.load_model(gpt2_folder), sequences=2)
    second = il.scan(str(gpt2_folder), sequences=2)
    assert first.table.equals(second.table)


def test_a_scan_leaves_the_model_equal_to_the_bit(random_toy):
    before = {name: weight.clone() for name, weight in random_toy.state_dict().items()}
    il.scan(random_toy, sequences=2)
    assert all(torch.equal(random_toy.state_dict()[name], weight) for name, weight in before.items())
    assert not any(point.fwd_hooks for point in random_toy.hook_dict.values())


def test_toys_survive_saving_and_loading(random_toy, toy_config, tmp_path):
    toy = il.new_toy(toy_config, seed=5)
    il.save_toy(toy, tmp_path / "toy")
    tokens = torch.arange(30)[None]
    assert torch.allclose(il.load_model(tmp_path / "toy")(tokens), il.load_model(toy)(tokens), atol=1e-5)
    again = il.new_toy(toy_config, seed=5)
    other = il.new_toy(toy_config, seed=6)
    assert torch.equal(toy.W_Q, again.W_Q)
    assert not torch.equal(toy.W_Q, other.W_Q)


def made_toy(folder, **shape):
    """A toy whose gains and biases are not trivial, so that forgetting to fold them shows."""
    config = il.ToyConfig(n_layers=2, n_heads=2, d_model=16, d_head=8, d_vocab=40, n_ctx=64, **shape)
    toy = il.new_toy(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in named_weights(toy).items():
            if "b" in name.split(".")[-1] or name.endswith(".w"):
                weight.add_(0.5 * torch.randn(weight.shape, generator=generator))
    il.save_toy(toy, folder)
    return toy


SHAPES = [(p, n) for p in ("standard", "rotary") for n in ("LN", "RMS", None)] + [("shortformer", None)]


@pytest.mark.parametrize(("positions", "norm"), SHAPES)
def test_toys_of_every_shape_are_scanned_as_they_compute(positions, norm, tmp_path):
    if positions == "shortformer" and not has_hooked_transformer():
        with refused("Shortformer positions are known to HookedTransformer alone: install 'transformer-lens>=3.9,<4'"):
            made_toy(tmp_path / "toy", normalization_type=norm, positional_embedding_type=positions)
        return
    toy = made_toy(tmp_path / "toy", normalization_type=norm, positional_embedding_type=positions)
    scores = il.scan(tmp_path / "toy", sequences=2, period=8, logit_period=8)
    assert scores.table["prefix_matching"].between(0, 1).all()
    assert scores.table["induction_logit"].notna().all()
    model = il.load_model(tmp_path / "toy")
    assert float(model.W_U.mean(-1).abs().max()) < 1e-5
    assert float(model.b_V.abs().max()) == 0
    from inductionlens.studies.options import ScanOptions
    from inductionlens.studies.stimuli import make_probes

    tokens = make_probes(model, ScanOptions(sequences=2, period=8, logit_period=8)).repeated.tokens
    with torch.no_grad():
        losses = toy(tokens, return_type="loss", loss_per_token=True)
    assert scores.provenance["behaviour"]["loss_first_copy"] == pytest.approx(float(losses[:, :8].mean()), abs=1e-4)
    said = scores.provenance["model"]["processing"]
    assert said.startswith("no norms" if norm is None else "norms folded")


@pytest.mark.skipif(not has_hooked_transformer(), reason="only HookedTransformer has Shortformer positions")
@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_norms_that_cannot_be_folded_are_refused(norm, tmp_path):
    toy = made_toy(tmp_path / "toy", normalization_type=norm, positional_embedding_type="shortformer")
    for source in (tmp_path / "toy", toy):
        with refused("only Shortformer models without norms"):
            il.load_model(source)


def test_new_toys_leave_the_global_generator_alone(toy_config):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    il.new_toy(toy_config)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_scored_from_its_own_patterns(dtype, gpt2_folder):
    full = il.scan(il.load_model(gpt2_folder), sequences=2).table
    half = il.scan(il.load_model(gpt2_folder, dtype=dtype), sequences=2)
    assert half.provenance["model"]["dtype"] == dtype
    assert (full["prefix_matching"] - half.table["prefix_matching"]).abs().max() < 0.02
    assert half.table[["prefix_matching", "copying", "induction_logit", "ov_eigen"]].notna().all(axis=None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_toys_are_softmaxed_once(dtype):
    """Some classes show the pattern where others show the scores."""
    table = il.scan(il.load_model("planted", dtype=dtype), sequences=2, controls=False).table.set_index("name")
    assert table.loc["L1H2", "prefix_matching"] > 0.99
    assert table.loc["L0H1", "previous_token"] > 0.99


def test_the_revision_and_the_checkpoint_are_passed_on_and_recorded(monkeypatch, planted):
    asked = {}

    def fetch(name, **options):
        asked.update(name=name, **options)
        return copy.deepcopy(planted)

    loader = "from_pretrained" if has_hooked_transformer() else "boot_transformers"
    monkeypatch.setattr(model_class(), loader, fetch)
    model = il.load_model("pythia-70m", revision="abc", checkpoint=1000, dtype="bfloat16")
    assert (asked["revision"], asked["checkpoint_value"]) == ("abc", 1000)
    assert asked.get("dtype", "float32") == "float32"  # processed first, rounded afterwards
    assert model.cfg.dtype == torch.bfloat16
    table = il.scan(model, sequences=2, bos=0).table
    assert (set(table["model"]), set(table["revision"]), set(table["step"])) == ({"pythia-70m"}, {"abc"}, {1000})


def test_settings_that_do_not_apply_are_refused(gpt2_folder, planted):
    for source in ("planted", str(gpt2_folder)):
        with refused("revision and checkpoint are for hub models"):
            il.load_model(source, revision="abc")
    with refused("A model object is taken as it is"):
        il.load_model(planted, dtype="bfloat16")
    assert il.load_model("planted", dtype="bfloat16").cfg.dtype == torch.bfloat16


def test_bos_is_never_masked_out_as_padding(gpt2_folder):
    """TransformerLens masks what it takes for padding on the left: here BOS is the padding token."""
    usual = il.scan(il.load_model(gpt2_folder), sequences=2, controls=False).table
    model = il.load_model(gpt2_folder)
    model.tokenizer.pad_token = model.tokenizer.bos_token
    model.tokenizer.padding_side = "left"
    model.cfg.default_prepend_bos = False
    table = il.scan(model, sequences=2, controls=False).table
    assert usual["first_token"].min() > 0.01
    assert (usual["first_token"] - table["first_token"]).abs().max() < 1e-6
    assert model.tokenizer.padding_side == "left"


def test_mcdougalls_recipe_puts_the_mean_column_back(gpt2_folder, tmp_path):
    """Centring W_U takes a column away; uncentred effects differ from centred ones by that column's share."""
    from inductionlens.models.weights import unembedding_columns

    model = il.load_model(gpt2_folder)
    tokens = torch.arange(5)[None]
    plain = unembedding_columns(model, tokens, centred=False)
    centred = unembedding_columns(model, tokens)
    assert float((plain - centred).abs().max()) > 1e-3
    assert torch.allclose((plain - centred)[0, 0], model.inductionlens_unembed_mean, atol=1e-6)
    settings = {"logit_recipe": "mcdougall", "sequences": 2, "controls": False}
    assert "put back" in il.scan(model, **settings).provenance["variants"]["induction_logit"]
    stranger = copy.deepcopy(model)
    del stranger.inductionlens_unembed_mean
    with refused("this model object came centred; load it by name or folder"):
        il.scan(stranger, **settings)


def test_value_biases_are_folded_whoever_made_the_object(gpt2_folder):
    model = il.load_model(gpt2_folder)
    unfolded = copy.deepcopy(model)
    with torch.no_grad():
        for block in unfolded.blocks:
            block.attn.b_V.add_(0.3)
            block.attn.b_O.sub_(0.3 * block.attn.W_O.sum((0, 1)))
    tokens = torch.arange(20)[None]
    assert torch.allclose(model(tokens), unfolded(tokens), atol=1e-4)
    assert unprocessed(unfolded)
    if not has_hooked_transformer():
        with refused("processed in part already"):  # a TransformerBridge is processed once
            il.scan(unfolded)
        return
    tables = [il.scan(each, sequences=2, controls=False).table for each in (model, unfolded)]
    for score in ("copying", "copying_bansal", "induction_logit"):
        assert (tables[0][score] - tables[1][score]).abs().max() < 1e-4


def families():
    """Name -> a Hugging Face config, and whether HookedTransformer computes it; TransformerBridge computes them all."""
    from transformers import Gemma2Config, GPTNeoConfig, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config

    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    small = {
        "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 256, **ends,
    }  # fmt: skip
    grouped = {**small, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}
    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
    neo = {
        "vocab_size": 120, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, **ends,
        "max_position_embeddings": 256, "window_size": 16, "attention_types": [[["global", "local"], 1]],
    }  # fmt: skip
    return {
        "neox": (GPTNeoXConfig(**small), True),
        "mistral": (MistralConfig(**grouped), True),
        "qwen2": (Qwen2Config(**grouped), True),
        "qwen2 with a window": (Qwen2Config(**grouped, **window), False),
        "neox with another rotary base": (GPTNeoXConfig(**small, rope_parameters=rope), False),
        "llama": (LlamaConfig(**grouped), True),
        "llama with tied embeddings": (LlamaConfig(**grouped, tie_word_embeddings=True), True),
        "llama with biases": (LlamaConfig(**grouped, attention_bias=True), False),
        "gemma2": (Gemma2Config(**grouped, head_dim=8, sliding_window=16), False),
        "gpt-neo": (GPTNeoConfig(**neo), False),
    }


@pytest.mark.parametrize("name", families())
def test_other_families_compute_what_hugging_face_does_or_are_refused(name, tmp_path):
    from transformers import AutoModelForCausalLM

    config, hooked = families()[name]
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    reference.save_pretrained(tmp_path)
    if has_hooked_transformer() and not hooked:
        refusals = "does not compute the model .* as Hugging Face does|3.9 cannot take the .* model"
        with refused(rf"({refusals}).*'transformer-lens>=4.3'"):
            il.load_model(tmp_path)
        return
    model = il.load_model(tmp_path)
    reference.set_attn_implementation("eager")
    tokens = torch.randint(0, 120, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference(tokens, output_attentions=True)
        logits = model(tokens)
    assert torch.allclose(logits.log_softmax(-1), expected.logits.log_softmax(-1), atol=1e-4)
    patterns = []
    final = run_reduced(model, tokens, lambda layer: patterns.append(layer.pattern.clone()))
    for found, pattern in zip(patterns, expected.attentions, strict=True):
        assert torch.allclose(found, pattern, atol=1e-5)
    assert torch.allclose(logits_at(model, final.residual, torch.arange(50)), logits, atol=1e-4)
    table = il.scan(model, sequences=2, period=10, logit_period=10).table  # inside every window
    assert table["kv_head"].max() == (3 if config.model_type in ("gpt_neox", "gpt_neo") else 1)
    assert table[["copying", "induction_logit", "prefix_matching_untrained"]].notna().all(axis=None)
    assert set(table["prefix_matching_untrained"]) != set(table["prefix_matching"])


# Bad input: one clear sentence each.
def refused(match):
    return pytest.raises(InputError, match=match)


def test_unknown_names_are_answered_with_the_nearest():
    with refused(r"There is no folder gpt-2-smal and no model of that name.*nearest names are .*gpt2-small"):
        il.load_model("gpt-2-smal")
    with refused(r"nearest names are planted"):
        il.load_model("planetd")
    with refused(r"There is no planted model 'indction'; the kinds are induction, anti-copying"):
        il.load_model("planted-indction")


def test_sibling_folders_are_offered(gpt2_folder):
    with refused(rf"nearest names are {gpt2_folder.parent}/gpt2-tiny"):
        from inductionlens.models.hub import load_hub

        load_hub(str(gpt2_folder.parent / "gpt2-tiy"), revision=None, checkpoint=None, device="cpu", dtype="float32")


def test_no_network_names_the_offline_ways():
    with refused(r"gpt2 could not be fetched from the hub .*folder saved by save_pretrained.*cache.*planted"):
        il.load_model("gpt2")


def test_code_from_the_hub_is_refused():
    with refused("would run code from the hub"):
        il.load_model("bigcode/santacoder")


def test_missing_folders_and_files_in_place_of_folders(tmp_path):
    with refused(r"There is no folder \./nowhere"):
        il.load_model("./nowhere")
    (tmp_path / "weights.bin").touch()
    (tmp_path / "tiny-gpt2").mkdir()
    (tmp_path / "tiny-gpt2" / "config.json").touch()
    with refused("There is no folder .*tiny-gtp2; the nearest is .*tiny-gpt2"):
        il.load_model(tmp_path / "tiny-gtp2")
    with refused("is a file; give the folder that holds its"):
        il.load_model(tmp_path / "weights.bin")
    with refused(r"^The folder \S+ has no config.json, so it holds no model\.$"):
        il.load_model(tmp_path)
    for step in ("step-0000008", "step-0000016", "stepping-stone"):
        (tmp_path / step).mkdir()
    with refused(r"holds no model; it holds checkpoints: give one of them, such as \S+/step-0000016\.$"):
        il.load_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"model_type": "nonsense"}', "no weights|cannot be used"),
        ('{"model_type": "gpt2", "architectures": "GPT2LMHeadModel"}', "architectures .* must be a list of names"),
        ('{"model_type": "gpt2", "architectures": [null]}', "architectures .* must be a list of names"),
        ("{not json", "is not readable JSON"),
        ("[1]", "must hold a JSON object"),
        ("{}", "names no model_type"),
    ],
)
def test_broken_configs(text, match, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with refused(match):
        il.load_model(tmp_path)


def test_a_config_without_weights(gpt2_copy):
    (gpt2_copy / "model.safetensors").unlink()
    with refused("has a config.json but no weights"):
        il.load_model(gpt2_copy)


def test_truncated_weights(gpt2_copy):
    path = gpt2_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with refused("truncated, corrupted"):
        il.load_model(gpt2_copy)


def test_corrupted_weights(gpt2_copy):
    (gpt2_copy / "model.safetensors").write_bytes(b"\x00" * 500)
    with refused("truncated, corrupted"):
        il.load_model(gpt2_copy)


@pytest.mark.parametrize("change", [{"n_layer": 1}, {"n_layer": 3}])
def test_layers_that_the_config_has_no_place_for(change, gpt2_copy):
    edit_config(gpt2_copy, **change)
    with refused(r"contradict config.json: it has no place for transformer\.h\.1|incomplete: transformer\.h\.2"):
        il.load_model(gpt2_copy)


def test_missing_weights_are_not_made_up(gpt2_copy):
    edit_weights(gpt2_copy, lambda weights: weights.pop("transformer.h.1.attn.c_proj.weight"))
    with refused(r"incomplete: .*h\.1\.attn\.c_proj\.weight"):
        il.load_model(gpt2_copy)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(value, gpt2_copy):
    edit_weights(gpt2_copy, lambda weights: weights["transformer.h.0.mlp.c_fc.weight"].view(-1)[3:4].fill_(value))
    with refused("not all finite"):
        il.load_model(gpt2_copy)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "..", 3])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_shards_outside_the_folder_are_refused(index, name, gpt2_copy):
    shutil.move(gpt2_copy / "model.safetensors", gpt2_copy.parent / "x.safetensors")
    (gpt2_copy / index).write_text(json.dumps({"metadata": {}, "weight_map": {"transformer.wte.weight": name}}))
    with refused(f"{index} names .*; weights must lie in the folder .* itself"):
        il.load_model(gpt2_copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(text, gpt2_copy):
    (gpt2_copy / "model.safetensors.index.json").write_text(text)
    with refused("model.safetensors.index.json is no index of weights"):
        il.load_model(gpt2_copy)


@pytest.mark.parametrize(("size", "value"), [("vocab_size", 10**7), ("n_embd", 999_999), ("n_inner", 10**7)])
def test_sizes_that_no_file_of_the_folder_could_hold_take_no_memory(size, value, gpt2_copy, monkeypatch):
    import transformers

    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("room was made")
    )
    config = json.loads((gpt2_copy / "config.json").read_text())
    (gpt2_copy / "config.json").write_text(json.dumps({**config, size: value}))
    with refused(r"config.json describes [\d,]+ numbers, and the folder's weights take [\d,]+ bytes"):
        il.load_model(gpt2_copy)


def test_shapes_that_contradict_the_config(gpt2_copy):
    edit_config(gpt2_copy, n_embd=48)
    with refused("contradict config.json"):
        il.load_model(gpt2_copy)


class Evil:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('ran').touch()",))


@pytest.mark.parametrize("content", [{"transformer.wte.weight": Evil()}, Evil()], ids=["inside", "outright"])
def test_pickled_code_is_refused_and_not_run(content, gpt2_copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (gpt2_copy / "model.safetensors").unlink()
    (gpt2_copy / "pytorch_model.bin").write_bytes(pickle.dumps(content))
    with refused("pickled weights.*no code is run"):
        il.load_model(gpt2_copy)
    assert not (tmp_path / "ran").exists()


def test_pickled_plain_tensors_are_read(gpt2_copy):
    weights = load_file(gpt2_copy / "model.safetensors")
    (gpt2_copy / "model.safetensors").unlink()
    torch.save(weights, gpt2_copy / "pytorch_model.bin")
    assert il.load_model(gpt2_copy).cfg.n_layers == 2


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "bert"},
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
    ],
)
def test_encoders_are_refused(config, gpt2_copy):
    (gpt2_copy / "config.json").write_text(json.dumps(config))
    with refused("does not predict the next token.*causal language models such as GPT-2"):
        il.load_model(gpt2_copy)


def test_a_tokenizer_without_tokens(gpt2_copy):
    (gpt2_copy / "tokenizer.json").unlink()
    with refused("tokenizer in .* (has no tokens|could not be read)"):
        il.load_model(gpt2_copy)


def test_a_tokenizer_without_bos(gpt2_copy):
    path = gpt2_copy / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "bos_token": None}
    path.write_text(json.dumps(settings))
    with refused("names no BOS token"):
        il.scan(il.load_model(gpt2_copy))


def test_a_model_without_bos(gpt2_copy):
    for path in gpt2_copy.glob("*token*"):
        path.unlink()
    edit_config(gpt2_copy, bos_token_id=50256)
    model = il.load_model(gpt2_copy)
    with refused(r"names no BOS token.*bos=ID, --bos ID.*bos=False, --no-bos"):
        il.scan(model)
    assert il.scan(model, bos=False, sequences=2).table["probe"][0] == "25 x 4, n=2"
    assert il.scan(model, bos=5, sequences=2).provenance["probes"]["bos"] == 5


def test_a_context_too_short_says_what_fits(tmp_path):
    config = il.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=60, n_ctx=64)
    il.save_toy(il.new_toy(config), tmp_path / "toy")
    model = il.load_model(tmp_path / "toy")
    with refused(r"context is 64 tokens, BOS counted, .*; period=15 \(or repeats=2\) fits"):
        il.scan(model)
    with refused(r"period=15 and logit_period=31 fit\."):
        il.scan(model, period=40, logit_period=40)
    assert len(il.scan(model, period=15, logit_period=31, sequences=2)) == 2
    assert len(il.scan(model, repeats=2, sequences=2)) == 2
    with refused(r"logit_period=31 fits\."):
        il.scan(model, period=10, logit_period=40)
    with refused(
        r"a gap of 2 is for the controls, .*; period=30 \(or no controls: controls=False, --no-controls\) fits"
    ):
        il.scan(model, period=31, repeats=2)
    assert len(il.scan(model, period=31, repeats=2, sequences=2, controls=False)) == 2


def test_blocks_as_long_as_the_context_are_controlled_with_fewer_copies(tmp_path):
    config = il.ToyConfig(n_layers=2, n_heads=2, d_model=16, d_head=8, d_vocab=64, n_ctx=32)
    il.save_toy(il.new_toy(config), tmp_path / "toy")
    scores = il.scan(tmp_path / "toy", bos=False, period=8, repeats=4, logit_period=16, sequences=2)
    assert scores.table["prefix_matching_gapped"].notna().all()
    assert scores.table["prefix_matching_fresh"].notna().all()
    shape = {"bos": False, "period": 8, "sequences": 2}
    assert len(il.circuit(tmp_path / "toy", readers=["1.0"], **shape).pairs)
    effects = il.ablation_study(tmp_path / "toy", heads=["1.0"], measures=("copies",), repeats=4, **shape)
    assert len(effects.table)
    assert len(il.circuit(tmp_path / "toy", readers=["1.0"], controls=False, **shape | {"period": 16}).pairs)
    with refused(r"period=15 \(or no controls: controls=False, --no-controls\) fits"):
        il.circuit(tmp_path / "toy", readers=["1.0"], **shape | {"period": 16})


def test_a_small_vocabulary_is_refused(tmp_path):
    config = il.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=20, n_ctx=128)
    il.save_toy(il.new_toy(config), tmp_path / "toy")
    with refused("ids may be drawn"):
        il.scan(tmp_path / "toy")


def test_toy_folders_that_do_not_add_up(random_toy, toy_config, tmp_path):
    folder = tmp_path / "toy"
    il.save_toy(il.new_toy(toy_config), folder)
    whole = (folder / "config.json").read_text()
    for change, match in (
        ({"version": 2}, "version 2 of the toy format"),
        ({"model": {"n_layers": 1}}, "does not describe a toy"),
        (
            {"model": {**json.loads(whole)["model"], "n_heads": 0}},
            "n_heads must be a whole number of at least 1; got 0",
        ),
        (
            {"model": {**json.loads(whole)["model"], "positional_embedding_type": "rope"}},
            "must be one of standard",
        ),
        ({"model": {**json.loads(whole)["model"], "normalization_type": "x"}}, "must be one of LN, RMS, null; got 'x'"),
        ({"model": {**json.loads(whole)["model"], "act_fn": "x"}}, "act_fn must be one of"),
        ({"model": {**json.loads(whole)["model"], "d_mlp": -1}}, "d_mlp must be a whole number"),
        ({"model": {**json.loads(whole)["model"], "bos": 99}}, "bos must be an id below d_vocab"),
        ({"model": {**json.loads(whole)["model"], "d_model": 32}}, r"contradict config.json: .* should be .* and is"),
    ):
        (folder / "config.json").write_text(json.dumps({**json.loads(whole), **change}))
        with refused(match):
            il.load_model(folder)
    (folder / "config.json").write_text(whole)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-8])
    with refused("truncated or corrupted"):
        il.load_model(folder)
    (folder / "model.safetensors").unlink()
    with refused("no model.safetensors"):
        il.load_model(folder)


def test_only_raw_toys_are_saved_as_toys(random_toy, gpt2_folder, tmp_path):
    for model in (random_toy, il.load_model(gpt2_folder)):
        with refused("Only toys made by new_toy"):
            il.save_toy(model, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_a_weight_too_large_for_half_precision_is_said_to_be(gpt2_copy):
    edit_weights(gpt2_copy, lambda weights: weights["transformer.h.0.mlp.c_fc.weight"].view(-1)[3:4].fill_(1e5))
    with refused("does not fit into float16: .* overflows"):
        il.load_model(gpt2_copy, dtype="float16")


def test_a_folder_of_temporary_files_named_after_a_family_does_no_harm(gpt2_folder, tmp_path, monkeypatch):
    import tempfile

    (tmp_path / "llama").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "llama"))
    assert il.load_model(gpt2_folder).cfg.n_layers == 2


def test_other_objects_devices_and_types_are_refused():
    stranger = SimpleNamespace(cfg=None, run_with_hooks=print, parameters=print)
    with refused(r"A model is a hub name, a folder or a TransformerLens model \(.*\); got types.SimpleNamespace"):
        il.load_model(stranger)
    with refused("The device 'gpu9' cannot be used here"):
        il.load_model("planted", device="gpu9")
    with refused("dtype must be one of float32, bfloat16, float16; got 'int8'"):
        il.load_model("planted", dtype="int8")


def test_a_model_of_transformers_in_memory_is_told_the_way(gpt2_folder):
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(gpt2_folder)
    kind = "HookedTransformer" if has_hooked_transformer() else "TransformerBridge"
    with refused(rf"a TransformerLens model \({kind}\); got .*GPT2LMHeadModel; save it, save_pretrained\(FOLDER\)"):
        check_class(model)
    model.peft_config = {"default": "LORA"}
    with refused(r"GPT2LMHeadModel\) has an adapter beside its weights: merge .*merge_and_unload\(\).*save_pretrained"):
        check_class(model)


def test_a_folder_with_an_adapter_alone_is_told_the_way(gpt2_copy):
    (gpt2_copy / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (gpt2_copy / "adapter_model.safetensors").write_bytes(b"")
    il.load_model(gpt2_copy)  # merged: the adapter's files lie beside the whole model
    (gpt2_copy / "model.safetensors").unlink()
    for present in (True, False):
        if not present:
            (gpt2_copy / "config.json").unlink()
        with refused(r"holds an adapter, no model: merge .*merge_and_unload\(\).*save_pretrained\(FOLDER\)"):
            il.load_model(gpt2_copy)


@pytest.mark.download
def test_gpt2_from_the_hub():
    assert il.scan(il.load_model("gpt2")).table["prefix_matching"].max() > 0.8


@pytest.mark.skipif(has_hooked_transformer(), reason="HookedTransformer keeps no pattern")
def test_a_bridge_is_left_without_patterns_and_unembeds_one_position(gpt2_folder, monkeypatch):
    model = il.load_model(gpt2_folder)
    tokens = torch.arange(20)[None]
    model(tokens)
    shapes = []
    last = type(model.unembed)
    unembed = last.forward
    monkeypatch.setattr(last, "forward", lambda self, x: shapes.append(tuple(x.shape)) or unembed(self, x))
    run_reduced(model, tokens, lambda layer: None)
    assert shapes == [(1, 1, 24)]
    assert [block.attn._pattern for block in model.blocks] == [None, None]


@pytest.mark.skipif(has_hooked_transformer(), reason="only a TransformerBridge comes as Hugging Face's weights are")
def test_a_bridge_object_is_scored_as_its_folder(gpt2_folder):
    """Raw, processed by the library's defaults, or processed only in part: the same scores, or a refusal."""
    boot = model_class().boot_transformers
    raw, usual, partly = (boot(str(gpt2_folder), device="cpu") for _ in range(3))
    usual.enable_compatibility_mode()
    partly.enable_compatibility_mode(fold_ln=False)
    expected = il.scan(gpt2_folder, sequences=2).table
    for model in (raw, usual):
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        found = il.scan(model, sequences=2, bos=0).table
        assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())
        for score in ("prefix_matching", "copying", "induction_logit", "ov_eigen", "prefix_matching_untrained"):
            assert (found[score] - expected[score]).abs().max() < 1e-5, score
    with refused("processed in part already"):
        il.scan(partly, sequences=2)


def test_packed_weights_are_refused(gpt2_copy):
    edit_config(gpt2_copy, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with refused(r"is quantised \(bitsandbytes\), and packed weights cannot be folded or read; save the model deq"):
        il.load_model(gpt2_copy)
    edit_config(gpt2_copy, quantization_config="4bit")
    with refused(r"is quantised \(4bit\)"):
        il.load_model(gpt2_copy)


def test_objects_with_packed_weights_or_several_devices_are_refused(planted):
    packed, spread = copy.deepcopy(planted), copy.deepcopy(planted)
    for model, change in ((packed, lambda weight: weight.to(torch.int8)), (spread, lambda weight: weight.to("meta"))):
        owner = model.blocks[1].attn if has_hooked_transformer() else model.blocks[1].attn.o.original_component
        name = "W_O" if has_hooked_transformer() else "weight"
        setattr(owner, name, torch.nn.Parameter(change(getattr(owner, name).data), requires_grad=False))
    with refused(r"planted is quantised \(.* is torch.int8\), and packed weights cannot be folded or read"):
        il.scan(packed)
    with refused(r"planted lies on several devices \(cpu, meta\); move it to one"):
        il.scan(spread)


@pytest.mark.skipif(has_hooked_transformer(), reason="HookedTransformer knows a list of names")
def test_any_hub_name_may_be_asked_for_where_the_architecture_decides(tmp_path, monkeypatch):
    with refused("some-org/some-model could not be fetched from the hub"):
        il.load_model("some-org/some-model")
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with refused("There is no folder models/tiny and no model of that name"):
        il.load_model("models/tiny")
