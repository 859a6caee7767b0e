"""Settings of torch under which models are made."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from inductionlens.errors import InputError

Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_usual_torch(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a function that makes models make the same ones whatever a notebook has set at its top.

    Under ``torch.inference_mode()`` weights would be such that nothing can take gradients later, so it is left while
    the function runs. Other defaults of torch reach every number that is made afterwards, and are refused.
    """

    @functools.wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        check_defaults()
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return run


def check_defaults() -> None:
    """Refuse defaults of torch under which scores would be rounded, or tokens made in the wrong place.

    Raises:
        InputError: a default dtype other than float32, or a default device other than the CPU.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype != torch.float32:
        raise InputError(
            f"torch's default dtype must be float32, in which scores are computed, and is {str(dtype)[6:]}: call "
            "torch.set_default_dtype(torch.float32), and give dtype= for a model of another precision."
        )
    if device.type != "cpu":
        raise InputError(
            f"torch's default device must be the CPU, where tokens are drawn, and is {device}: call "
            "torch.set_default_device('cpu'), and give device= for a model elsewhere."
        )
