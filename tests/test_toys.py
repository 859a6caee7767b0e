"""Toy folders: their words, and what they should say."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import inductionlens as il
from inductionlens.measure import losses_by_position
from inductionlens.models.named_weights import named_weights
from inductionlens.models.vocabulary import encoder, ordinary_ids


@pytest.fixture
def worded(gpt2_folder, tmp_path):
    """A toy's folder with the files of a tokenizer of 268 tokens, for 300 rows of embeddings."""
    model = il.new_toy(il.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=300, n_ctx=128), seed=1)
    il.save_toy(model, tmp_path / "toy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(gpt2_folder / name, tmp_path / "toy" / name)
    return tmp_path / "toy"


def test_a_toy_reads_and_writes_the_words_of_its_tokenizer(worded, gpt2_folder):
    model, other = il.load_model(worded), il.load_model(gpt2_folder)
    text = "def f(x): return x"
    assert encoder(model)(text) == encoder(other)(text)
    assert model.to_str_tokens(torch.tensor(encoder(model)(text))) == other.to_str_tokens(
        torch.tensor(encoder(other)(text))
    )
    assert len(ordinary_ids(model)) == len(ordinary_ids(other)) == 267
    table = il.skip_trigrams(model, top=3)
    assert table["out_id"].max() < 268
    assert not table["out"].str.startswith("#").any()
    assert il.scan(model, sequences=2, controls=False).provenance["probes"]["previous_token"].startswith("stdlib")
    assert model.inductionlens_origin.bos == 0


def test_a_toy_is_saved_with_its_tokenizer(worded, gpt2_folder, tmp_path):
    model = il.new_toy(il.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=300, n_ctx=128), seed=1)
    model.tokenizer = il.load_model(gpt2_folder).tokenizer
    il.save_toy(model, tmp_path / "other")
    assert encoder(il.load_model(tmp_path / "other"))("return") == encoder(il.load_model(worded))("return")


def test_a_tokenizer_of_more_tokens_than_the_toy_has_is_refused(worded):
    il.save_toy(il.new_toy(il.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=200, n_ctx=128)), worded)
    with pytest.raises(il.InputError, match="names id 267, and the ids of d_vocab 200 end at 199"):
        il.load_model(worded)


EXPECTING = [
    {},
    {"normalization_type": "RMS", "d_mlp": None},
    {"positional_embedding_type": "rotary", "smeared_keys": True},
    {"normalization_type": None, "d_mlp": None, "bos": None},
]


@pytest.mark.parametrize("change", EXPECTING)
def test_a_toy_is_held_to_what_it_should_say(change, toy_config, tmp_path):
    toy = il.new_toy(dataclasses.replace(toy_config, **change), seed=2)
    with torch.no_grad():
        for name, weight in named_weights(toy).items():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    tokens = torch.randint(0, 48, (19, 30), generator=torch.Generator().manual_seed(0))
    il.save_toy(toy, tmp_path / "toy", expected=tokens)
    kept = load_file(tmp_path / "toy" / "expected.safetensors")
    with torch.no_grad():
        losses = toy(tokens, return_type="loss", loss_per_token=True)[:, :29]
    assert torch.equal(kept["tokens"], tokens)
    assert torch.allclose(kept["log_probs"], -losses, atol=2e-5)
    assert np.allclose(losses_by_position(il.load_model(tmp_path / "toy"), tokens), losses, atol=1e-3)
    il.load_model(tmp_path / "toy", dtype="bfloat16")  # held to it before it is rounded

    kept["log_probs"][4, 7] += 0.002
    save_file(kept, tmp_path / "toy" / "expected.safetensors")
    with pytest.raises(
        il.InputError, match=r"log-probability of token 8 of sequence 4 is .*, off by 0\.0020 .* 1 of 551 are"
    ):
        il.load_model(tmp_path / "toy")
    kept["log_probs"][4, 7] = float("nan")
    save_file(kept, tmp_path / "toy" / "expected.safetensors")
    with pytest.raises(il.InputError, match=r"token 8 of sequence 4 is .* and should be nan"):
        il.load_model(tmp_path / "toy")
    il.save_toy(toy, tmp_path / "toy")  # of other weights nothing may stay
    assert not (tmp_path / "toy" / "expected.safetensors").exists()


def test_weights_of_another_convention_are_found_out(toy_config, tmp_path):
    """Rotary columns as neighbours instead of halves: the shapes are right and the model is another."""
    toy = il.new_toy(dataclasses.replace(toy_config, positional_embedding_type="rotary"), seed=2)
    il.save_toy(toy, tmp_path, expected=torch.arange(40)[None])
    weights = load_file(tmp_path / "model.safetensors")
    order = torch.arange(8).view(2, 4).T.flatten()
    weights |= {name: weight[..., order] for name, weight in weights.items() if name.endswith(("W_Q", "W_K"))}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(il.InputError, match=r"is not the one that expected\.safetensors describes"):
        il.load_model(tmp_path)


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ({"tokens": torch.zeros(2, 5).long()}, "must hold tokens and log_probs; it holds tokens"),
        (
            {"tokens": torch.zeros(2, 5), "log_probs": torch.zeros(2, 4)},
            r"token ids, \[sequence, pos\]; got \[2, 5\] of torch.f",
        ),
        ({"tokens": torch.zeros(2, 5).long(), "log_probs": torch.zeros(2, 5)}, r"must be \[2, 4\]; they are \[2, 5\]"),
        ({"tokens": torch.full((2, 5), 48), "log_probs": torch.zeros(2, 4)}, "must hold ids between 0 and 47"),
        ({"tokens": torch.zeros(1, 129).long(), "log_probs": torch.zeros(1, 128)}, "2 to 128 tokens.*got 1 of 129"),
        (None, "is truncated or corrupted"),
    ],
)
def test_expectations_that_cannot_be_read_are_one_sentence(kept, sentence, toy_config, tmp_path):
    il.save_toy(il.new_toy(toy_config), tmp_path)
    if kept is None:
        (tmp_path / "expected.safetensors").write_bytes(b"no tensors")
    else:
        save_file(kept, tmp_path / "expected.safetensors")
    with pytest.raises(il.InputError, match=sentence):
        il.load_model(tmp_path)


def test_expected_tokens_are_checked_before_anything_is_written(toy_config, tmp_path):
    with pytest.raises(il.InputError, match="expected must hold ids between 0 and 47"):
        il.save_toy(il.new_toy(toy_config), tmp_path / "toy", expected=torch.full((1, 5), 48))
    assert not (tmp_path / "toy").exists()


def test_a_missing_bias_says_what_to_write(toy_config, tmp_path):
    il.save_toy(il.new_toy(toy_config), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["unembed.b_U"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(il.InputError, match=r"b_U should be 48 and is absent: write zeros where there is no bias"):
        il.load_model(tmp_path)
