"""One architecture, through the package and through Hugging Face."""

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hugging_face import Witness
from reader_paths import lost_without
from tiny_models import save_tiny

import inductionlens as il
from inductionlens.scores.losses import copy_positions
from inductionlens.studies.ablation_options import AblationOptions
from inductionlens.studies.ablation_stimuli import copies_probe
from inductionlens.studies.circuit import _probe
from inductionlens.studies.options import ScanOptions
from inductionlens.studies.stimuli import make_probes

RIGHT, REFUSED, WRONG, TRACEBACK = "right", "refused", "WRONG", "TRACEBACK"
UNCOMPARED, BUILD = "not compared", "not built"
PARTS = ("attention", "losses", "removal", "logit effect", "circuit")
#: Largest difference that is rounding: attention, nats, nats, share of the largest effect.
MOST = {"attention": 1e-4, "losses": 1e-3, "removal": 1e-3, "logit effect": 1e-3, "circuit": 1e-3}
PERIOD = 12
SCAN = ScanOptions(sequences=3, period=PERIOD, logit_period=PERIOD, bos=0, text="random", controls=False)
REMOVED = ("0.1", "1.2")
REMOVAL = AblationOptions(
    measures=("copies",), sequences=2, period=PERIOD, repeats=3, groups=False, bos=0, draws=1, text="random"
)


def judge(name: str, special: dict[str, Any] | None = None) -> dict[str, list[str]]:
    """Part -> [verdict, detail] of one architecture; ``load`` alone where the model is refused at the door."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        try:
            save_tiny(name, folder, special)
        except Exception as error:
            return {"load": [BUILD, told(error)]}
        held: dict[str, Any] = {}
        found = {"load": _attempt("load", lambda: held.update(model=il.load_model(folder, device="cpu")))}
        if "model" not in held:
            return found
        try:
            witness = Witness(folder)
        except Exception as error:
            return {"load": [WRONG, f"taken, and Hugging Face has no causal language model in it: {told(error)}"]}
        for part, work in (
            ("attention", _attention),
            ("losses", _losses),
            ("removal", _removal),
            ("logit effect", _logit_effect),
            ("circuit", _circuit),
        ):
            found[part] = _attempt(part, lambda work=work: work(held, witness))
        return found


def told(error: BaseException) -> str:
    """The kind and the first line of an error, and the last line of code that it passed in this project."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/inductionlens/" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    last = f", raised in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames[-1] not in ours else ""
    line = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {line} ({place}{last})"


def _attempt(part: str, work: Callable[[], Any]) -> list[str]:
    try:
        difference = work()
    except il.InputError as refusal:
        said = str(refusal)
        return [REFUSED, said] if len(said.splitlines()) == 1 else [WRONG, f"not one sentence: {said}"]
    except NotImplementedError as error:
        return [UNCOMPARED, str(error)] if "/families/" in str(_last_file(error)) else [TRACEBACK, told(error)]
    except Exception as error:
        return [TRACEBACK, told(error)]
    if difference is None or part not in MOST:
        return [RIGHT, ""]
    return [RIGHT if difference <= MOST[part] else WRONG, f"{difference:.1g}"]


def _last_file(error: BaseException) -> str:
    return traceback.extract_tb(error.__traceback__)[-1].filename


def _largest(got: dict[int, torch.Tensor], right: dict[int, torch.Tensor], relative: bool = False) -> float:
    """The largest difference; layers without attention have no row, or NaN, and are not compared."""
    difference = max(float((got[layer] - right[layer]).abs().nan_to_num(torch.inf).max()) for layer in right)
    return difference / max(float(values.abs().max()) for values in right.values()) if relative else difference


def _by_layer(table: Any, column: str) -> dict[int, torch.Tensor]:
    ordered = table.sort_values(["layer", "head"])
    return {layer: torch.tensor(part[column].to_numpy()).float() for layer, part in ordered.groupby("layer")}


def _attention(held: dict[str, Any], witness: Witness) -> float:
    held["scores"] = il.scan(held["model"], options=SCAN)
    tokens = make_probes(held["model"], SCAN).repeated.tokens
    return _largest(_by_layer(held["scores"].table, "prefix_matching"), witness.prefix_matching(tokens))


def _losses(held: dict[str, Any], witness: Witness) -> float:
    tokens = torch.randint(1, 120, (3, 70), generator=torch.Generator().manual_seed(1))
    got = torch.tensor(il.in_context_learning(held["model"], tokens, late=60, early=10).losses)
    return float((got - witness.losses(tokens)).abs().max())


def _removal(held: dict[str, Any], witness: Witness) -> float:
    study = il.ablation_study(held["model"], heads=REMOVED, scores=held.get("scores"), options=REMOVAL)
    probe = copies_probe(held["model"], REMOVAL)
    later = copy_positions(probe.tokens.shape[1], start=1, period=PERIOD)[1]
    got = {f"{row.layer}.{row.head}": row.effect_copies for row in study.table.itertuples()}
    worst = 0.0
    for name in REMOVED:
        layer, head = map(int, name.split("."))
        if layer not in witness.writes:
            continue
        with witness.without(layer, head, probe.tokens):
            without = witness.losses(probe.tokens)
        right = (without - witness.losses(probe.tokens))[:, later].mean()
        worst = max(worst, abs(float(right) - got[name]))
    if not set(map(int, (name.split(".")[0] for name in REMOVED))) & witness.writes.keys():
        raise NotImplementedError("no output matrix of attention is known by its name")
    return worst


def _logit_effect(held: dict[str, Any], witness: Witness) -> float:
    if "scores" not in held:
        raise il.InputError("scan was refused, so there is no logit effect.")
    got = _by_layer(held["scores"].table, "induction_logit")
    if all(bool(values.isnan().all()) for values in got.values()):
        raise il.InputError("induction_logit is left out (NaN).")
    tokens = make_probes(held["model"], SCAN).logit.tokens
    query = torch.arange(1 + PERIOD, 2 * PERIOD)
    return _largest(got, witness.logit_effects(tokens, query, query - PERIOD + 1), relative=True)


def _circuit(held: dict[str, Any], witness: Witness) -> float:
    shape = {"period": PERIOD, "sequences": 3, "bos": 0}
    # Random heads match no prefixes, and their shares would be left empty: shares of what attention there is will do.
    with mock.patch("inductionlens.studies.circuit.least_prefix_matching", return_value=0.0):
        study = il.circuit(held["model"], readers=["1.0"], scores=held.get("scores"), **shape)
    paths = study.paths("1.0").query("via == 'k'").sort_values("writer")
    tokens = _probe(held["model"], 3, PERIOD, 0, 0).tokens
    lost = lost_without(witness, tokens, PERIOD)
    worst = 0.0
    for column, right in zip(("ablated_lost", "prefix_lost", "prefix_lost_direct"), lost, strict=True):
        got = torch.tensor(paths[column].to_numpy(dtype=float))
        if right:
            worst = max(worst, float((got - torch.tensor(right)).abs().nan_to_num(torch.inf).max()))
    return worst
