"""The record says which code computes attention: read off the model."""

import pytest

import inductionlens as il
from inductionlens.models.attention_code import attention_code
from inductionlens.models.lens import has_hooked_transformer
from inductionlens.studies import provenance


@pytest.fixture(scope="module")
def gpt2(gpt2_folder):
    return il.load_model(gpt2_folder)


def test_toys_have_the_attention_of_their_own_class(planted):
    name = "Attention" if has_hooked_transformer() else "AttentionBridge"
    assert attention_code(planted) == f"TransformerLens's own ({name})"


def test_a_hugging_face_model_has_that_of_its_config_unless_it_was_converted(gpt2, monkeypatch):
    if has_hooked_transformer():
        assert attention_code(gpt2) == "TransformerLens's own (Attention)"
        return
    config = gpt2.original_model.config
    assert attention_code(gpt2) == config._attn_implementation == "eager"
    monkeypatch.setattr(config, "_attn_implementation_internal", "sdpa")
    assert attention_code(gpt2) == config._attn_implementation == "sdpa"


def test_another_class_of_attention_is_recorded_as_what_it_is(planted, monkeypatch):
    class Flash:
        pass

    monkeypatch.setitem(planted.blocks[0]._modules, "attn", Flash())
    assert attention_code(planted) == "TransformerLens's own (Flash)"


def test_records_say_what_the_model_has(planted, gpt2):
    for model in (planted, gpt2):
        assert provenance.model_record(model)["attention"] == attention_code(model)
    scores = il.scan(planted, sequences=2, controls=False)
    assert scores.provenance["model"]["attention"] == attention_code(planted)
