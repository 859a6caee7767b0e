"""How much memory there is, and what would not fit."""

import os
from pathlib import Path

import torch

from inductionlens.checks import in_bytes
from inductionlens.errors import InputError


def memory_of(device: str) -> int | None:
    """Bytes that a device has in all; None where nobody says.

    For the CPU: what is built in, or what a container may use.
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(most, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return most


def check_memory(needed: int, device: str, what: str, way_out: str) -> None:
    """Refuse work whose smallest need, in bytes, is more than a device has.

    Raises:
        InputError: in terms of ``what``, with the estimate and a way out.
    """
    most = memory_of(device)
    if most is not None and needed > most:
        raise InputError(
            f"{what} needs at least {in_bytes(needed)} of memory, and {device} has {in_bytes(most)}; {way_out}."
        )
