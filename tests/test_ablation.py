"""Heads switched off: against plain loops, known answers, and a model left to the bit."""

import dataclasses

import ablation_twins as twins
import numpy as np
import pytest
import torch

import inductionlens as il
from inductionlens import Head, InputError
from inductionlens.effects import Change, Stimulus, measure_attribution, measure_effects
from inductionlens.models import ablation
from inductionlens.models.ablation import ablate, clean_run
from inductionlens.models.lens import has_hooked_transformer
from inductionlens.models.named_weights import named_weights, portable_weights
from inductionlens.probes import repeated_tokens

HEADS = [Head(layer, head) for layer in range(2) for head in range(3)]


def refused(match):
    return pytest.raises(InputError, match=match)


def losses_of(model, tokens):
    with torch.no_grad():
        return model(tokens, return_type="loss", loss_per_token=True)


@pytest.fixture(scope="module")
def toy():
    """A random two-layer toy with LayerNorm and MLPs, not processed, and its weights as plain arrays."""
    config = il.ToyConfig(n_layers=2, n_heads=3, d_model=12, d_head=4, d_vocab=15, n_ctx=20, d_mlp=14)
    model = il.new_toy(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in named_weights(model).values():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    model.requires_grad_(False)
    return model, {name: weight.double().numpy() for name, weight in portable_weights(model).items()}


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 15, (3, 9), generator=torch.Generator().manual_seed(3))


# Against plain loops.
CHOSEN = [[(0, 1)], [(1, 2)], [(0, 0), (0, 2), (1, 1)]]


@pytest.mark.parametrize("held", [False, True], ids=["recomputed", "held"])
@pytest.mark.parametrize("heads", CHOSEN, ids=str)
def test_zero_mean_and_resample_equal_their_twins(toy, tokens, heads, held):
    model, weights = toy
    other = torch.randint(0, 15, (3, 9), generator=torch.Generator().manual_seed(4))
    clean = clean_run(model, tokens)
    patterns = clean if held else None
    for output, twin, given in (
        ("zero", twins.zero_ablated, ()),
        ("mean", twins.mean_ablated, (other.tolist(),)),
        (clean_run(model, other), twins.resample_ablated, None),
    ):
        mean_over = other if output == "mean" else None
        with ablate(model, heads, output, mean_over=mean_over, patterns=patterns):
            found = losses_of(model, tokens)
        for row in range(len(tokens)):
            extra = (other[row].tolist(),) if given is None else given
            expected = twin(weights, tokens[row].tolist(), heads, *extra, held)
            assert found[row].tolist() == pytest.approx(expected, abs=2e-5)


def test_head_outputs_times_w_o_and_the_bias_make_the_attention_output(toy, tokens):
    model, _ = toy
    run = clean_run(model, tokens)
    _, cache = model.run_with_cache(tokens)
    for layer in range(2):
        attn = model.blocks[layer].attn
        written = torch.einsum("bphe,hed->bpd", run.outputs[layer], attn.W_O) + attn.b_O
        assert torch.allclose(written, cache[f"blocks.{layer}.hook_attn_out"], atol=1e-5)


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_a_layer_writes_less_by_what_the_head_wrote_and_the_bias_stays(toy, tokens, head):
    model, _ = toy
    run = clean_run(model, tokens)
    name = f"blocks.{head.layer}.hook_attn_out"
    _, before = model.run_with_cache(tokens)
    with ablate(model, [head]):
        _, after = model.run_with_cache(tokens)
    own = torch.einsum("bpe,ed->bpd", run.outputs[head.layer][:, :, head.index], model.W_O[head.layer, head.index])
    assert torch.allclose(before[name] - after[name], own, atol=1e-5)
    assert float(own.abs().max()) > 1e-3


def test_held_patterns_stay_and_free_ones_move(toy, tokens):
    model, _ = toy
    clean = clean_run(model, tokens)
    with ablate(model, ["0.1"], patterns=clean):
        held = clean_run(model, tokens)
    with ablate(model, ["0.1"]):
        free = clean_run(model, tokens)
    assert all(torch.equal(one, other) for one, other in zip(held.patterns, clean.patterns, strict=True))
    assert float((free.patterns[1] - clean.patterns[1]).abs().max()) > 1e-3


def test_in_the_last_layer_held_and_free_patterns_agree(toy, tokens):
    model, _ = toy
    clean = clean_run(model, tokens)
    with ablate(model, ["1.0", "1.2"]):
        free = losses_of(model, tokens)
    with ablate(model, ["1.0", "1.2"], patterns=clean):
        assert torch.allclose(losses_of(model, tokens), free, atol=1e-6)


# What a `with` leaves behind.
def test_uses_nest_and_the_inner_one_counts(toy, tokens):
    model, _ = toy
    other = clean_run(model, tokens.flip(0))
    with ablate(model, ["0.1", "1.2"]):
        both = losses_of(model, tokens)
    with ablate(model, ["0.1"]), ablate(model, ["1.2"]):
        assert torch.equal(losses_of(model, tokens), both)
    with ablate(model, ["0.1"], other):
        inner = losses_of(model, tokens)
    with ablate(model, ["0.1"]):
        with ablate(model, ["0.1"], other):
            assert torch.equal(losses_of(model, tokens), inner)
        zero = losses_of(model, tokens)
    assert not torch.equal(zero, inner)


def test_a_model_is_equal_to_the_bit_afterwards_also_after_an_exception(toy, tokens):
    model, _ = toy
    before, weights = losses_of(model, tokens), portable_weights(model)

    def fail():
        with ablate(model, ["0.1"]), ablate(model, ["1.1"], patterns=clean_run(model, tokens)):
            losses_of(model, tokens)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert torch.equal(losses_of(model, tokens), before)
    assert all(torch.equal(weight, weights[name]) for name, weight in portable_weights(model).items())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_runs_are_left_alone(toy, tokens):
    model, _ = toy
    clean = clean_run(model, tokens)
    copies = [part.clone() for part in (*clean.patterns, *clean.outputs)]
    with ablate(model, ["0.1"], clean, patterns=clean):
        losses_of(model, tokens)
    assert all(torch.equal(*pair) for pair in zip((*clean.patterns, *clean.outputs), copies, strict=True))


def test_gradients_flow_through_an_ablated_model(toy, tokens):
    model, _ = toy
    model.requires_grad_(True)
    try:
        with ablate(model, ["0.1"]):
            model(tokens, return_type="loss").backward()
        assert any(weight.grad is not None and bool(weight.grad.any()) for weight in model.parameters())
    finally:
        model.zero_grad()
        model.requires_grad_(False)


def test_what_a_hook_before_saw_is_not_written_to(toy, tokens):
    model, _ = toy
    seen = []
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: seen.append(z))]), ablate(model, ["0.1"]):
        losses_of(model, tokens)
    assert torch.allclose(seen[-1], clean_run(model, tokens).outputs[0], atol=1e-6)


# The planted circuit.
def repeats(model, scored="later"):
    probe = repeated_tokens(torch.arange(1, 64), period=25, repeats=4, sequences=4, bos=0, seed=5)
    place = torch.arange(1, probe.tokens.shape[1])
    later = ((place > 25) & ((place - 1) % 25 != 0)).nonzero()[:, 0]
    return probe.tokens, later


@pytest.mark.parametrize("head", ["0.1", "1.2"])
def test_without_either_half_of_the_circuit_copies_cost_what_fresh_tokens_cost(planted, head):
    tokens, later = repeats(planted)
    fresh = losses_of(planted, tokens)[:, :24].mean()
    assert float(losses_of(planted, tokens)[:, later].mean()) < 0.01
    with ablate(planted, [head]):
        assert float(losses_of(planted, tokens)[:, later].mean()) == pytest.approx(float(fresh), abs=1e-3)


def test_idle_heads_change_nothing(planted):
    tokens, _ = repeats(planted)
    clean = losses_of(planted, tokens)
    with ablate(planted, ["0.0", "0.2", "1.0", "1.1"]):
        assert torch.allclose(losses_of(planted, tokens), clean, atol=1e-6)


def test_the_previous_token_head_acts_through_keys_alone(planted):
    """Its removal costs everything where attention may react and nothing where attention is held."""
    tokens, later = repeats(planted)
    clean = losses_of(planted, tokens)[:, later]
    with ablate(planted, ["0.1"], patterns=clean_run(planted, tokens)):
        assert torch.allclose(losses_of(planted, tokens)[:, later], clean, atol=1e-5)
    with ablate(planted, ["1.2"], patterns=clean_run(planted, tokens)):
        assert float(losses_of(planted, tokens)[:, later].mean()) > 4


# Exact effects of many heads.
def stimulus(tokens):
    values = {"mean": lambda losses, rows: losses.mean(1), "last": lambda losses, rows: losses[:, -1]}
    return Stimulus("toy", tokens, torch.tensor([1, 2, 4, 7]), values, tokens.flip(1))


GROUPS = [[head] for head in HEADS] + [[Head(0, 1), Head(1, 2)], [Head(1, 0), Head(1, 1)]]


@pytest.mark.parametrize("held", [False, True], ids=["recomputed", "held"])
@pytest.mark.parametrize("output", ["zero", "mean"])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_effects_equal_one_full_run_per_group(toy, tokens, held, output, batch_size, monkeypatch):
    model, _ = toy
    given = stimulus(tokens)
    means = clean_run(model, given.mean_over).means()
    change = Change("zero" if output == "zero" else means, held)
    monkeypatch.setattr("inductionlens.effects.STACK_TOKENS", 40)  # some stacks hold several heads, some one
    found = measure_effects(model, given, GROUPS, change, batch_size=batch_size)
    clean = clean_run(model, tokens)
    assert np.allclose(found.clean["mean"], losses_of(model, tokens)[:, given.scored].mean(1), atol=1e-5)
    for index, group in enumerate(GROUPS):
        over = given.mean_over if output == "mean" else None
        with ablate(model, group, output, mean_over=over, patterns=clean if held else None):
            expected = losses_of(model, tokens)[:, given.scored]
        assert np.allclose(found.ablated["mean"][index], expected.mean(1), atol=1e-5)
        assert np.allclose(found.ablated["last"][index], expected[:, -1], atol=1e-5)


def test_attribution_is_the_gradient_times_what_is_taken_away(toy, tokens):
    model, weights = toy
    given = stimulus(tokens[:1])
    found = measure_attribution(model, given)
    for head in (Head(0, 1), Head(1, 2)):
        slow = twins.gradient_attribution(
            weights, tokens[0].tolist(), tuple(head), lambda losses: np.mean([losses[at] for at in (1, 2, 4, 7)])
        )
        assert found["mean"][head.layer, head.index, 0] == pytest.approx(slow, abs=1e-4)
    both = measure_attribution(model, stimulus(tokens), batch_size=2)
    assert np.allclose(both["mean"][:, :, :1], found["mean"], atol=1e-6)
    assert both["last"].shape == (2, 3, 3)


def test_attribution_with_held_patterns_leaves_their_share_out(toy, tokens):
    model, _ = toy
    free, held = (measure_attribution(model, stimulus(tokens), Change("zero", hold))["mean"] for hold in (False, True))
    assert np.allclose(free[1], held[1], atol=1e-6)
    assert np.abs(free[0] - held[0]).max() > 1e-4


def test_attribution_of_small_changes_is_their_effect(toy, tokens):
    """Replacing an output by one that is almost the same: first order is all there is."""
    model, _ = toy
    given = stimulus(tokens)
    size = 1e-2
    run = clean_run(model, tokens)
    found = measure_attribution(model, given)["mean"].sum((0, 1))
    near = [value.clone() for value in run.outputs]

    def shrink(layer):
        return (f"blocks.{layer}.attn.hook_z", lambda z, hook: z - size * near[layer])

    effects = []
    for layer in range(2):
        with model.hooks(fwd_hooks=[shrink(layer)]):
            effects.append(losses_of(model, tokens)[:, given.scored].mean(1))
    change = sum(effect - losses_of(model, tokens)[:, given.scored].mean(1) for effect in effects) / size
    assert np.allclose(change, found, rtol=0.1, atol=5e-3)


def test_attribution_of_a_mean_output_is_the_first_step_towards_it(toy, tokens):
    model, _ = toy
    given, run, step = stimulus(tokens), clean_run(model, tokens), 1e-3
    means = clean_run(model, torch.flip(tokens, (1,))).means()
    found = measure_attribution(model, given, Change(means))["mean"]
    clean = losses_of(model, tokens)[:, given.scored].mean(1)
    for head in (Head(0, 1), Head(1, 2)):
        outputs = [output.clone() for output in run.outputs]
        own = outputs[head.layer][:, :, head.index]
        own += step * (means[head.layer][head.index] - own)
        with ablate(model, [head], output=dataclasses.replace(run, outputs=tuple(outputs))):
            change = (losses_of(model, tokens)[:, given.scored].mean(1) - clean) / step
        assert np.allclose(change, found[head.layer, head.index], rtol=0.02, atol=2e-3)
        assert np.abs(found[head.layer, head.index]).max() > 0.01


# Bad input.
def test_bad_heads_and_outputs_are_refused(toy, tokens):
    model, _ = toy

    def enter(*args, **kwargs):
        with ablate(model, *args, **kwargs):
            losses_of(model, tokens)

    with refused(r"There is no head 7\.0: the model has 2 layers of 3 heads"):
        enter(["7.0"])
    with refused("heads must name at least one head"):
        enter([])
    with refused("All 6 heads of the model are to be ablated"):
        enter(HEADS)
    with refused("output must be one of zero, mean, or a clean_run of other tokens; got 'median'"):
        enter(["0.1"], "median")
    with refused("output='mean' needs to know what the mean is over"):
        enter(["0.1"], "mean")
    with refused("patterns must hold one pattern for each of the model's 2 layers; got 3"):
        enter(["0.1"], patterns=[clean_run(model, tokens).patterns[0]] * 3)
    with refused("patterns are of 2 sequences of 9 tokens and the model runs on 3 of 9: hold those of the same tokens"):
        enter(["0.1"], patterns=clean_run(model, tokens[:2]))
    with refused("patterns are of 3 sequences of 8 tokens"):
        enter(["0.1"], patterns=clean_run(model, tokens[:, :8]))
    with refused("output is a run on 3 sequences of 8 tokens and the model runs on 3 sequences of 9 tokens"):
        enter(["0.1"], clean_run(model, tokens[:, :8]))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_with_in_which_no_ablated_head_ran_is_refused(toy, tokens):
    model, _ = toy
    with refused(r"No ablated head \(1\.1\) ran inside the with"), ablate(model, ["1.1"]):
        pass


@pytest.mark.parametrize("bad", [3, torch.zeros(2), torch.zeros(3, 1)], ids=["number", "short", "square"])
def test_a_measure_of_the_wrong_shape_is_refused(toy, tokens, bad):
    given = Stimulus("toy", tokens, torch.tensor([1]), {"mine": lambda losses, rows: bad})
    with refused(r"The measure 'mine' must give one number for each of the 3 sequences, a tensor of shape \(3,\)"):
        measure_effects(toy[0], given, [[Head(0, 1)]])


# The manipulation check.
def test_classes_that_drop_edits_are_found_out(toy, monkeypatch):
    import copy

    model = copy.deepcopy(toy[0])
    run = ablation._run_hooked
    for dropped, said in (("z", "drops edits of head outputs"), ("pattern", "drops edits of attention")):
        model.inductionlens_edits = frozenset()

        def deaf(model, tokens, hooks, dropped=dropped):
            return run(model, tokens, [(name, quiet(act) if name.endswith(dropped) else act) for name, act in hooks])

        monkeypatch.setattr(ablation, "_run_hooked", deaf)
        with refused(said), ablate(model, ["0.1"], patterns=clean_run(model, torch.arange(5)[None])):
            pass


def quiet(act):
    """A hook whose edit goes nowhere."""

    def hook(tensor, hook):
        act(tensor, hook)

    return hook


@pytest.mark.skipif(has_hooked_transformer(), reason="HookedTransformer does not read GPT-Neo folders")
def test_gpt_neo_keeps_its_own_attention_and_is_told_so(tmp_path):
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 60, "hidden_size": 24, "num_layers": 2, "num_heads": 3, "max_position_embeddings": 64}
    config = GPTNeoConfig(**shape, attention_types=[[["global", "local"], 1]], bos_token_id=0, eos_token_id=0)
    GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    model = il.load_model(tmp_path)
    tokens = torch.randint(0, 60, (2, 10))
    before = losses_of(model, tokens)
    with ablate(model, ["0.1"]):
        assert not torch.equal(losses_of(model, tokens), before)
    with refused("drops edits of attention"), ablate(model, ["0.1"], patterns=clean_run(model, tokens)):
        pass
