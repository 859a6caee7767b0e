"""What notebooks set at their top, and what callers have on their weights: the same results, or one sentence."""

import contextlib
import threading

import pytest
import torch

import inductionlens as il
from inductionlens import InputError
from inductionlens.models.named_weights import named_weights

SMALL = {"measures": ("copies",), "sequences": 3, "groups": False}
TRAINING = {
    "layers": 1, "steps": 3, "snapshots": 2, "n_ctx": 32, "d_vocab": 32, "d_model": 16, "d_head": 8, "heads": 2,
    "batch_size": 4,
}  # fmt: skip


def scanned():
    return il.scan("planted", sequences=2).table


def estimated(model="planted"):
    return il.ablation_study(model, method="gradient", **SMALL).table


@pytest.fixture(scope="module")
def usual():
    return scanned(), estimated()


@contextlib.contextmanager
def default(kind, value, usual):
    getattr(torch, f"set_default_{kind}")(value)
    try:
        yield
    finally:
        getattr(torch, f"set_default_{kind}")(usual)


@pytest.mark.parametrize("setting", [torch.inference_mode, torch.no_grad])
def test_results_are_the_same_without_gradients(setting, usual):
    with setting():
        assert scanned().equals(usual[0])
        assert estimated().equals(usual[1])


def test_models_made_in_inference_mode_are_as_good_as_others(usual):
    with torch.inference_mode():
        made, loaded = il.planted(), il.load_model("planted")
        toy = il.new_toy(il.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=80, n_ctx=150))
    for model in (made, loaded):
        assert estimated(model).equals(usual[1])
    assert len(il.scan(toy, sequences=2)) == 2


def test_weights_made_in_inference_mode_by_others_are_refused():
    model = il.planted()
    with torch.inference_mode():
        for owner in model.modules():
            for name, weight in list(owner._parameters.items()):
                if weight is not None:
                    owner._parameters[name] = torch.nn.Parameter(weight.clone(), requires_grad=False)
    with pytest.raises(InputError, match=r"made under torch.inference_mode\(\).*torch.no_grad\(\)"):
        il.scan(model)


@pytest.mark.parametrize("setting", [torch.inference_mode, torch.no_grad])
def test_training_ends_the_same_without_gradients(setting, tmp_path):
    il.train_toy(tmp_path / "plain", **TRAINING)
    with setting():
        il.train_toy(tmp_path / "inside", **TRAINING)
    plain, inside = (named_weights(il.load_model(tmp_path / name / "step-0000003")) for name in ("plain", "inside"))
    assert all(torch.equal(weight, inside[name]) for name, weight in plain.items())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_default_precisions_are_refused_before_anything_is_made(kind):
    with default("dtype", kind, torch.float32):
        for call in (scanned, il.planted, lambda: il.load_model("planted")):
            with pytest.raises(InputError, match=r"default dtype must be float32.*torch.set_default_dtype"):
                call()


def test_another_default_device_is_refused():
    with default("device", "meta", None), pytest.raises(InputError, match=r"default device must be the CPU.*is meta"):
        scanned()


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "exception"])
def test_gradients_leave_the_callers_parameters_alone(broken):
    model = il.planted()
    weights = list(model.parameters())
    for index, weight in enumerate(weights):
        weight.requires_grad_(index % 2 == 0)
        weight.grad = torch.full_like(weight, 3.0) if index % 4 == 0 else None
    bad = {"bad": lambda losses, tokens: losses.mean()} if broken else None
    with pytest.raises(InputError, match="bad") if broken else contextlib.nullcontext():
        il.ablation_study(model, method="gradient", extra=bad, n_windows=2, **SMALL)
    for index, weight in enumerate(weights):
        assert weight.requires_grad == (index % 2 == 0)
        assert weight.grad is None if index % 4 else bool((weight.grad == 3).all())


def test_a_measure_without_gradient_is_named():
    constant = {"constant": lambda losses, tokens: losses.detach().mean(1)}
    with pytest.raises(InputError, match=r"'constant' has no gradient by the losses.*method='exact'"):
        il.ablation_study("planted", method="gradient", extra=constant, n_windows=2, **SMALL)


def test_a_measure_that_ignores_a_gradient_costs_nothing():
    early = {"first": lambda losses, tokens: losses[:, 0]}
    table = il.ablation_study("planted", method="gradient", extra=early, n_windows=2, **SMALL).table
    assert table["effect_first"].abs().max() < 1e-6


def test_other_threads_run_their_own_models_as_they_are():
    """One model for each thread: hooks hang on the model, so threads that share one share what is ablated."""
    model, other, seen = il.planted(), il.planted(), []
    tokens = il.repeated_tokens(torch.arange(1, 64), period=10, repeats=2, sequences=1, bos=0).tokens
    with torch.no_grad():
        plain = other(tokens)
        with il.ablate(model, ["1.2"]):
            thread = threading.Thread(target=lambda: seen.append(other(tokens)))
            thread.start()
            thread.join()
            assert not torch.equal(model(tokens), plain)
    assert torch.equal(seen[0], plain)
