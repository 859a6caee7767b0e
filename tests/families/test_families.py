"""Every architecture that TransformerLens lists is scored as Hugging Face computes it, or refused in one sentence."""

import pytest
from hugging_face import Witness
from sweep import failures, sweep
from tiny_models import families, save_tiny
from verdicts import BUILD, PARTS, RIGHT, judge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


def test_no_family_is_wrong_and_none_ends_in_an_error():
    found = sweep(list(families()))
    assert not failures(found), "\n".join(failures(found))
    assert not [name for name, parts in found.items() if parts["load"][0] == BUILD]
    # A sweep in which nothing is compared proves nothing.
    compared = [name for name, parts in found.items() if all(parts.get(part, [""])[0] == RIGHT for part in PARTS)]
    assert {"GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM"} <= set(compared)


def test_the_sweep_sees_a_model_that_is_not_the_one_in_its_folder(monkeypatch):
    """Hugging Face's logits and attention of other weights: every part that is compared must turn WRONG."""

    def other(self, folder):
        save_tiny("GPT2LMHeadModel", folder, seed=1)
        return honest(self, folder)

    honest = Witness.__init__
    monkeypatch.setattr(Witness, "__init__", other)
    found = judge("GPT2LMHeadModel", {})
    assert {part: found[part][0] for part in PARTS} == dict.fromkeys(PARTS, "WRONG")
