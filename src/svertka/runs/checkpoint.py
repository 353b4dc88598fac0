"""Tensors of a run: the weights that answer, and the whole state that a stopped training goes on from.

Both are safetensors files (no pickled code); what is no tensor stands as JSON in the file's metadata, so a
state is one file that is whole or not there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from svertka import files
from svertka.errors import RunError
from svertka.models.catalog import build
from svertka.models.network import Network
from svertka.runs.run import WEIGHTS, Run


def arrange(network: Network) -> Network:
    """Lay the weights of a convolutional network out as its convolutions are fastest, channels last.

    Networks for one input size (LeNet-5 and smaller) are too small to gain. The last bits of answers depend
    on the layout, so it follows from the network and is not measured.
    """
    for_any_size = network.sides[1] is None
    return network.to(memory_format=torch.channels_last) if for_any_size else network


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts into one file, atomically.

    Raises:
        StoreError: the disk is full, or the folder may not be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(facts, allow_nan=False)}

    def write(part: Path) -> None:
        try:
            save_file(whole, part, metadata)
        except SafetensorError as error:  # hides what the system said, such as a full disk
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else error from error

    files.write_atomically(path, write)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    if not path.exists():
        raise RunError(f"{path} is missing; the run cannot be used without it.")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, json.loads((file.metadata() or {}).get("facts", "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}). Restore it from a copy, or train again.") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Load weights into a module of the same make.

    Raises:
        RunError: names or shapes differ.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise RunError(f"{origin} does not fit the model of the run: {error}") from error


def blank_network(run: Run) -> Network:
    """The network of a run's recipe, freshly initialised."""
    recipe = run.recipe
    choices = recipe.model.choices()
    return build(
        recipe.model.name,
        classes=len(run.classes),
        in_channels=int(recipe.data.channels),
        size=int(recipe.data.size),
        seed=run.plan["seed"],
        **choices,
    )


def load_network(run: Run, device: str = "cpu", weights: Path | None = None) -> Network:
    """The trained network of a run, in eval mode, with the weights that answer, or those of a file.

    Raises:
        RunError: weights missing or damaged.
    """
    network = blank_network(run)
    place = weights or run.file(WEIGHTS)
    tensors, _ = load_tensors(place)
    fill(network, tensors, place)
    return arrange(network.to(device)).eval()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The state of an optimizer as named tensors, and its groups (without parameters) as JSON values."""
    state = optimizer.state_dict()
    tensors, plain = {}, []
    for index, values in state["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"{index}.{name}"] = torch.as_tensor(value)
    for group in state["param_groups"]:
        plain.append({name: value for name, value in group.items() if name != "params"})
    return tensors, plain


def fill_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Put the state of `optimizer_tensors` back into an optimizer of the same make.

    Each tensor gets the memory layout of its parameter: torch's fused steps go through both as they lie.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        index, _, name = full_name.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    blank = optimizer.state_dict()["param_groups"]
    merged = [{**old, **new} for old, new in zip(blank, groups, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
