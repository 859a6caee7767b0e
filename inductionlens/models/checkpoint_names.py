"""How series name their checkpoints, and in which order they were made."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from inductionlens.errors import InputError

#: ``step1000`` (Pythia), ``step_360``, ``checkpoint-500`` (Trainer, stanford-crfm), ``iter_0001000`` (Megatron),
#: ``global_step1000`` (DeepSpeed, GPT-NeoX); with thousand millions of tokens, ``step1000-tokens4B`` (OLMo) and
#: ``step-001000-2BT`` (FineWeb); in stages, ``stage1-step-40000`` (SmolLM3) and
#: ``stage2-ingredient1-step1000-tokens5B`` (OLMo 2). Tokens are rounded there, and not used.
STEP = re.compile(
    r"(?:stage[-_]?(?P<stage>\d+)-)?(?:ingredient[-_]?(?P<ingredient>\d+)-)?"
    r"(?:global[-_]?step|step|checkpoint|ckpt|iter)[-_]?(?P<step>\d+)(?:-tokens\d+B|-\d+BT)?"
)
#: Tables hold whole numbers of 64 bits.
MOST_STEPS = 2**63 - 1
EXAMPLES = "step1000, checkpoint-1000, stage1-step1000-tokens3B or alike"


class Stage(NamedTuple):
    """A part of a training with a learning rate and data of its own."""

    number: int | None
    ingredient: int | None
    """Which of several trainings of this stage that start from the same weights and are averaged in the end."""

    def __str__(self) -> str:
        parts = (("stage", self.number), ("ingredient", self.ingredient))
        return "-".join(f"{name}{number}" for name, number in parts if number is not None)


def by_step(names: Iterable[str], place: str, way_out: str) -> dict[int, str]:
    """The names of checkpoints among ``names``, by step, ascending; others are left out.

    A training in stages is one series, stage after stage. Where a stage counts its steps from the start again, they are
    counted on from the last step of the stage before: after ``stage1-step5000``, ``stage2-step100`` is step 5100.

    Raises:
        InputError: two names of one step, or stages that do not follow one another; ``place`` says where, ``way_out``
            what to do with such stages, ``{stage}`` in it standing for one of them.
    """
    stages: dict[Stage, dict[int, str]] = {}
    for name in names:
        match = STEP.fullmatch(name)
        if match is None:
            continue
        number, ingredient, step = (None if part is None else int(part) for part in match.group(1, 2, 3))
        check_step(step, f"{place}: {name}")
        steps = stages.setdefault(Stage(number, ingredient), {})
        if step in steps:
            raise InputError(f"{place} holds step {step} twice: {steps[step]} and {name}.")
        steps[step] = name
    numbers = [stage.number for stage in stages]
    if len(set(numbers)) < len(numbers) or (None in numbers and len(numbers) > 1):
        named = sorted(map(str, stages))
        told = ", ".join(name or "names without a stage" for name in named)
        raise InputError(
            f"{place} holds trainings that do not follow one another ({told}); {way_out.format(stage=named[-1])}."
        )
    series: dict[int, str] = {}
    for stage in sorted(stages):
        steps, last = stages[stage], max(series, default=-1)
        # A step 0 holds the weights that the stage starts from, written down again.
        before = 0 if min(steps) > last else last + (0 in steps)
        series |= {before + step: steps[step] for step in sorted(steps)}
    return series


def check_step(step: int, name: str) -> None:
    """Refuse the checkpoint ``name`` by a step that no table can hold.

    Raises:
        InputError: it is 2^63 or more.
    """
    if step > MOST_STEPS:
        raise InputError(f"{name} names a step of 2^63 or more, which no training takes; rename it or move it away.")
