"""The machine and the libraries of a run: the device, threads and versions that its bits depend on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from svertka.errors import OptionError, nearest

if TYPE_CHECKING:
    from svertka.models.network import Network

DEVICES = ("auto", "cpu", "cuda", "mps")


def prepare_cpu() -> None:
    """Let denormal numbers be zero: on CPUs they slow convolutions down by an order of magnitude.

    To be called before the first parallel work: threads inherit the setting from the one that starts them.
    """
    import torch

    torch.set_flush_denormal(True)


@contextmanager
def threads_for(network: Network) -> Iterator[None]:
    """One thread for the enclosed work if the network is for one input size (LeNet-5 and smaller).

    Waking a second thread takes longer there than what it would do.
    """
    import torch

    former = torch.get_num_threads()
    if network.sides[1] is not None:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def pick_device(name: str) -> str:
    """`cuda`, `mps` or `cpu`: the one asked for, or the best one that is there.

    Raises:
        OptionError: unknown, or not on this machine.
    """
    import torch

    if name not in DEVICES:
        raise OptionError(f"no device {name!r}; {nearest(name, DEVICES)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, present in there.items() if present)
    if not there[name]:
        raise OptionError(f"this machine (or this build of torch) has no {name}; use --device cpu or auto.")
    return name


def versions() -> dict[str, str]:
    """Versions of what computes: a resumed run must meet the same ones."""
    names = ("svertka", "torch", "torchvision", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def environment() -> dict[str, Any]:
    """Facts for the record: nothing is decided by them."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "executable": sys.executable,
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "versions": versions(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
