"""What public series call their checkpoints, and the order of stages."""

import pytest

from inductionlens import InputError
from inductionlens.models.checkpoint_names import by_step
from inductionlens.models.checkpoints import checkpoints, local_checkpoints
from inductionlens.models.hub_series import hub_checkpoints

SERIES = {
    "Pythia": ("step{}", 0, 1000),
    "instruction-tuned OLMo 2": ("step_{}", 300, 360),
    "OLMo": ("step{}-tokens4B", 1000, 2000),
    "OLMo 2": ("stage1-step{}-tokens1B", 150, 600),
    "OLMo 2, later": ("stage2-ingredient1-step{}-tokens5B", 1000, 2000),
    "SmolLM3": ("stage1-step-{}", 40000, 80000),
    "FineWeb": ("step-00{}-2BT", 1000, 2000),
    "Megatron": ("iter_000{}", 1000, 2000),
    "DeepSpeed, GPT-NeoX": ("global_step{}", 1000, 2000),
    "Trainer, stanford-crfm": ("checkpoint-{}", 500, 1000),
    "others": ("ckpt{}", 1, 2),
}


def named(*names):
    return hub_checkpoints("a/b", branches=lambda repository: ["main", *names])


@pytest.mark.parametrize(("pattern", "first", "second"), SERIES.values(), ids=SERIES)
def test_steps_of_public_series_are_read(pattern, first, second, tmp_path):
    names = [pattern.format(step) for step in (second, first)]
    found = named(*names)
    assert [(one.step, one.name) for one in found] == [(first, f"a/b@{names[1]}"), (second, f"a/b@{names[0]}")]
    for name in (*names, "logs", "step", "step1000-old"):
        (tmp_path / name).mkdir()
    (tmp_path / pattern.format(77)).touch()  # a file is no checkpoint
    assert [(one.step, one.name) for one in local_checkpoints(tmp_path)] == [
        (first, str(tmp_path / names[1])), (second, str(tmp_path / names[0])),
    ]  # fmt: skip


def test_a_stage_that_counts_from_the_start_is_counted_on():
    names = ["stage2-step100", "stage1-step5000", "stage10-step50", "stage1-step0", "stage2-step200"]
    assert by_step(names, "a/b", "") == {
        0: "stage1-step0", 5000: "stage1-step5000", 5100: "stage2-step100", 5200: "stage2-step200",
        5250: "stage10-step50",
    }  # fmt: skip


def test_the_weights_that_a_stage_starts_from_have_a_step_of_their_own():
    names = ["stage1-step10", "stage2-step0", "stage2-step5"]
    assert by_step(names, "a/b", "") == {10: "stage1-step10", 11: "stage2-step0", 16: "stage2-step5"}
    assert by_step(["stage1-step0", "stage2-step0"], "a/b", "") == {0: "stage1-step0", 1: "stage2-step0"}


def test_a_stage_that_counts_on_by_itself_is_left_as_it_is():
    names = ["stage1-step-40000", "stage1-step-80000", "stage2-step-120000"]
    assert list(by_step(names, "a/b", "")) == [40000, 80000, 120000]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["stage1-step5", "stage2-ingredient1-step5", "stage2-ingredient2-step5"],
            r"a/b holds trainings that do not follow one another \(stage1, stage2-ingredient1, stage2-ingredient2\); "
            "name one, such as a/b@stage2-ingredient2",
        ),
        (["step5", "stage1-step9"], r"one another \(names without a stage, stage1\); name one, such as a/b@stage1"),
        (["stage1-step5-tokens1B", "stage1-step5-tokens2B"], "a/b holds step 5 twice: stage1-step5-tokens1B and"),
        (["global_step5", "step05"], "a/b holds step 5 twice: global_step5 and step05"),
    ],
)
def test_no_two_checkpoints_share_a_step(names, sentence):
    with pytest.raises(InputError, match=sentence):
        named(*names)


def test_ingredients_in_a_folder_are_told_apart(tmp_path):
    for name in ("stage2-ingredient1-step5", "stage2-ingredient2-step5"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"ingredient1, stage2-ingredient2\); put each into a folder of its own"):
        checkpoints(tmp_path)


def test_one_stage_of_a_repository_can_be_named():
    names = ["main", "stage1-step5", "stage10-step7", "stage2-ingredient1-step3", "stage2-ingredient2-step4"]

    def steps(repository):
        return [one.step for one in hub_checkpoints(repository, branches=lambda name: names if name == "a/b" else [])]

    assert steps("a/b@stage1") == [5]
    assert steps("a/b@stage2-ingredient2") == [4]
    with pytest.raises(InputError, match="a/b has no branches that start with stage3 named step1000"):
        steps("a/b@stage3")


def test_files_have_no_stages():
    with pytest.raises(InputError, match=r"NeelNanda/Attn.* keeps its checkpoints as files.*leave @stage1 out"):
        hub_checkpoints("attn-only-2l@stage1")
