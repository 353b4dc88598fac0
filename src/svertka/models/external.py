"""Networks of the package timm under our contract: `timm:NAME`, an extra.

A model of timm is taken if it is a chain of modules with named features (`chain.take_apart`); its own modules
then stand in our stem, stages and head. Activation and norm stay those that timm builds in. `init="timm"` is
its own start; another name refills the convolutions and linear layers. Dropout stands before the last layer.
Its table says where weights lie; they are read by `weights.py` alone, never by timm.

Source: R. Wightman, https://github.com/huggingface/pytorch-image-models
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from svertka.errors import ModelError, nearest
from svertka.models.activations import ACTIVATIONS, gain
from svertka.models.chain import Parts, take_apart
from svertka.models.initialization import initialize_layer, scheme
from svertka.models.layers import Options
from svertka.models.network import Network, last_layer
from svertka.models.published import WeightSet, file_hash
from svertka.models.rows import Family, Row
from svertka.randomness import torch_generator

PREFIX = "timm:"
OWN = "timm"
"""As activation, norm or init: what timm builds in."""

_BUILT_IN = "timm builds it in. Take a model of `svertka models` to vary it."


@dataclass(frozen=True)
class TimmPlan:
    """A name of timm's, with its pretrained tag if one was given."""

    name: str


@lru_cache(maxsize=64)
def row(model: str) -> Row:
    """The row of `timm:NAME` or `timm:NAME.TAG`; its figures are counted, none is published here.

    Raises:
        ModelError: timm is not installed, has no such model, or it cannot be taken apart.
    """
    plan = TimmPlan(model.removeprefix(PREFIX))
    facts = _facts(plan.name)
    channels, side = facts.input_size[:2]
    family = Family(
        _family(plan.name),
        None,
        network,
        f"timm {_timm().__version__}",
        channels=channels,
        classes=facts.num_classes or 1000,
        activation=OWN,
        norm=OWN,
        init=OWN,
        refuses={"activation": _BUILT_IN, "norm": _BUILT_IN},
    )
    from torch.utils.flop_counter import FlopCounterMode  # brings half of torch's compiler

    with torch.device("meta"):
        whole = network(plan, Options(family.classes, channels)).eval()
        with FlopCounterMode(display=False) as counter:
            whole(torch.empty(1, channels, side, side))
    return Row(
        model,
        family,
        plan,
        input=side,
        smallest=_smallest(whole, channels, side),
        parameters=sum(parameter.numel() for parameter in whole.parameters()),
        macs=counter.get_total_flops() / 2,
        depth=None,
    )


def network(plan: TimmPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes), with the values that timm starts from."""
    parts = _parts(plan.name)
    model = _create(plan.name, options.classes, options.in_channels)
    stem, *stages, head = (
        [module for name in names if type(module := model.get_submodule(name)) is not nn.Identity]
        for names in (parts.stem, *parts.stages, parts.head)
    )
    if options.dropout:
        last = last_layer(Network(nn.Identity(), [], nn.Sequential(*head)))[2]
        place = next(index for index, module in enumerate(head) if last in module.modules())
        head.insert(place, nn.Dropout(options.dropout))
    return Network(nn.Sequential(*stem), [nn.Sequential(*stage) for stage in stages], nn.Sequential(*head))


def start(row: Row, chosen: Options, seed: int) -> Network:
    """The network with the values it starts from; the global random state is as before.

    With `init` other than timm's own, convolutions and linear layers start as that scheme says (with the
    gain of the network's first activation), all other parameters as timm's.
    """
    generator = torch_generator(seed, "init")
    before = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(generator.initial_seed())
        made = network(row.plan, chosen)
    finally:
        torch.random.set_rng_state(before)
    if chosen.init != OWN:
        rules, factor, last = scheme(chosen.init), gain(_activation(made)), last_layer(made)[2]
        with torch.no_grad():
            for module in made.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    initialize_layer(module, rules, generator, factor, last=module is last)
    return made


def parameter_names(model: str) -> list[str]:
    """timm's names of the parameters and buffers of `timm:NAME`, in the order of our network."""
    name = model.removeprefix(PREFIX)
    with torch.device("meta"):
        theirs = _create(name, 2, 3)
    parts = _parts(name)
    return [
        f"{step}.{entry}"
        for step in parts
        for entry in theirs.get_submodule(step).state_dict()
        if not entry.endswith("num_batches_tracked")
    ]


def listed(pattern: str) -> list[str]:
    """The models `timm:NAME` that fit a shell pattern, or whose name holds it.

    Families without a network that can be taken apart are left out; of the others a single network may still
    be refused, which shows when it is built.
    """
    names = [PREFIX + name for name in _tags() if _family(name) not in REFUSED.split()]
    if pattern in names:
        return [pattern]
    part = pattern.removeprefix(PREFIX)
    return [name for name in names if fnmatchcase(name, pattern) or part in name]


def outline(model: str) -> tuple[str, int, int]:
    """What timm says of `timm:NAME` before it is built: family (its module there), input side, channels."""
    name = model.removeprefix(PREFIX)
    channels, side = _facts(name).input_size[:2]
    return _family(name), side, channels


def weight_sets(model: str) -> list[WeightSet]:
    """The weights that timm's table has for `timm:NAME`: `imagenet` the usual ones, others by their tags."""
    name = model.removeprefix(PREFIX)
    usual = _facts(name)
    architecture, _, tag = name.partition(".")
    others = [] if tag else [_facts(f"{architecture}.{other}") for other in _tags()[architecture]]
    facts = [usual, *(other for other in others if other.tag != usual.tag)]
    return [_weights(model, one, first=one is usual) for one in facts if one.hf_hub_id or one.url]


def _weights(model: str, facts: Any, *, first: bool) -> WeightSet:
    size = facts.input_size[-1]
    imagenet = facts.num_classes == 1000 and "in1k" in (facts.tag or "")
    hub = f"{facts.hf_hub_id}/{facts.hf_hub_filename or 'model.safetensors'}"
    return WeightSet(
        "imagenet" if first and imagenet else facts.tag or "usual",
        model,
        "hub" if facts.hf_hub_id else "url",
        hub if facts.hf_hub_id else facts.url,
        size,
        max(size, int(size / facts.crop_pct)),
        interpolation="bicubic" if facts.interpolation == "bicubic" else "bilinear",
        fit="squash" if facts.crop_mode == "squash" else "crop",
        mean=tuple(facts.mean),
        std=tuple(facts.std),
        sha256="" if facts.hf_hub_id else file_hash(facts.url),
        labels="imagenet" if imagenet else "unknown",
        licence=facts.license or "not stated",
        origin=facts.origin_url or f"timm, {facts.architecture}.{facts.tag}",
    )


REFUSED = """
    beit cait coat convit cpubone crossvit csatv2 davit deepseek_vit deit edgenext efficientformer
    efficientformer_v2 efficientvim efficientvit_mit efficientvit_msra eva gcvit gemma4_vit hiera
    hieradet_sam2 hrnet iformer levit lowformer mambaout maxxvit mlp_mixer mobilenetv5 mobilevit mvitv2
    naflexvit nasnet nest nextvit pit pnasnet pvt_v2 qwen3_vit repvit selecsls sequencer shvit
    swiftformer swin_transformer swin_transformer_v2 swin_transformer_v2_cr tiny_vit tnt twins visformer
    vision_transformer vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam
    vitamin volo xcit
"""
"""Modules of timm of whose networks none was taken; only the list looks at it."""


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ModelError(
            "models named timm:… need the package timm: `pip install 'svertka[timm]'`."
        ) from error
    return timm


def _family(name: str) -> str:
    """The module of timm that has it: `resnet`, `convnext`, …"""
    entry = _timm().models.model_entrypoint(name.partition(".")[0])
    return str(entry.__module__).rpartition(".")[2]


def _facts(name: str) -> Any:
    """timm's PretrainedCfg of a model: input, preprocessing, classes, licence, source."""
    architecture, _, tag = name.partition(".")
    tags = _tags()
    if architecture not in tags:
        raise ModelError(
            f"timm has no model {architecture!r}: {nearest(architecture, tags)} "
            "`svertka models 'timm:*'` lists them."
        )
    if tag and tag not in tags[architecture]:
        raise ModelError(
            f"timm has no weights {tag!r} of {architecture}: "
            + (nearest(tag, tags[architecture]) if tags[architecture] else "none are published for it.")
        )
    return _timm().get_pretrained_cfg(name) or _timm().models.PretrainedCfg()


@lru_cache(maxsize=1)
def _tags() -> dict[str, list[str]]:
    """All models of timm, each with the tags of its weights."""
    tags: dict[str, list[str]] = {name: [] for name in _timm().list_models()}
    for name in _timm().list_pretrained():
        architecture, _, tag = name.partition(".")
        tags.setdefault(architecture, []).append(tag)
    return tags


def _create(name: str, classes: int, channels: int) -> nn.Module:
    options = {"num_classes": classes, "in_chans": channels, "drop_rate": 0.0}
    try:
        return _timm().create_model(name, pretrained=False, **options)  # type: ignore[no-any-return]
    except TypeError as error:
        raise ModelError(f"{PREFIX}{name} is no classifier of images: {error}.") from error


@lru_cache(maxsize=64)
def _parts(name: str) -> Parts:
    channels, *sides = _facts(name).input_size
    with torch.device("meta"):
        model = _create(name, 2, channels)
        named = [(info["module"], info["num_chs"]) for info in getattr(model, "feature_info", None) or []]
        return take_apart(model, named, torch.empty(2, channels, *sides), PREFIX + name)


def _smallest(whole: Network, channels: int, side: int) -> int:
    """The smallest side of a square input that gets through to the head: doubled, then bisected."""
    working = next(trial for trial in [1, 2, 4, 8, 16, 32, 64, 128, side] if _works(whole, channels, trial))
    failing = working // 2 if working < side else min(128, side - 1)
    while working - failing > 1:
        trial = (failing + working) // 2
        failing, working = (failing, trial) if _works(whole, channels, trial) else (trial, working)
    return working


def _works(whole: Network, channels: int, side: int) -> bool:
    try:
        maps = whole.features(torch.empty(1, channels, side, side, device="meta"))
        return maps.numel() > 0 and whole.head(maps).numel() > 0
    except (RuntimeError, ValueError, AssertionError):
        return False


def _activation(network: nn.Module) -> str:
    """The name of the first activation; `relu` if it is none of ours."""
    kinds = {type(make(1)): name for name, make in ACTIVATIONS.items()}
    found = (kinds.get(type(module)) for module in network.modules() if type(module) is not nn.Identity)
    return next((name for name in found if name), "relu")
