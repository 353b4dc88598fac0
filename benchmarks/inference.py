"""Images a second of a frozen network: the engine that Svertka chooses, PyTorch eager and its usual rescuers.

    python benchmarks/inference.py [NETWORK …] [--batch 8] [--seconds 6] [--peers onnxruntime openvino …]

All networks have random weights at their published input size. The peers: ONNX Runtime with default settings
over the file of torch's own exporter, OpenVINO (if installed) over the same file, and torch.compile. In each
round all take one turn, so a busy moment hits all alike; a figure is the best round, the spread its median.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import results
from svertka.engine import fastest
from svertka.models.catalog import build, find
from svertka.runs.environment import prepare_cpu

NETWORKS = (
    "alexnet", "vgg16", "googlenet", "inception_v3", "resnet18", "resnet50", "resnext50_32x4d",
    "wide_resnet50_2", "densenet121", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x1_0",
    "mnasnet1_0", "efficientnet_b0", "efficientnet_lite0",
)  # fmt: skip
MOBILE = {"mobilenet_v2", "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0", "efficientnet_lite0"}
PEERS = ("onnxruntime", "openvino", "inductor")
TOLERANCE = 1e-3  # of the largest output, for a peer to count as answering at all

Runner = Callable[[Tensor], Tensor]


def exported(network: nn.Module, images: Tensor) -> bytes:
    """The file of torch's own exporter, its faster one."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"images": {0: "n"}, "outputs": {0: "n"}}
        torch.onnx.export(
            network, (images,), file, dynamo=False, opset_version=18, input_names=["images"],
            output_names=["outputs"], dynamic_axes=axes,
        )  # fmt: skip
    return file.getvalue()


def onnxruntime(network: nn.Module, images: Tensor) -> Runner:
    import onnxruntime as ort

    session = ort.InferenceSession(exported(network, images), providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])


def openvino(network: nn.Module, images: Tensor) -> Runner:
    import openvino as ov

    core = ov.Core()
    model = core.compile_model(core.read_model(exported(network, images)), "CPU")
    return lambda batch: torch.from_numpy(np.array(model(batch.numpy())[0]))


def inductor(network: nn.Module, images: Tensor) -> Runner:
    compiled = torch.compile(network)
    return lambda batch: compiled(batch)


MAKERS = {"onnxruntime": onnxruntime, "openvino": openvino, "inductor": inductor}


def race(runners: dict[str, Runner], images: Tensor, seconds: float) -> dict[str, list[float]]:
    """Images a second of each runner in each round."""
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(speeds["eager"]) < 3:
        for name, runner in runners.items():
            began = time.perf_counter()
            runner(images)
            speeds[name].append(len(images) / (time.perf_counter() - began))
    return speeds


def measure(name: str, batch: int, seconds: float, peers: list[str]) -> tuple[str, dict[str, list[float]]]:
    """The engine chosen for a network, and all speeds."""
    row = find(name)
    network = build(name).eval()
    images = torch.randn(
        batch, row.channels, row.input, row.input, generator=torch.Generator().manual_seed(0)
    )
    ours = fastest(network, tuple(images.shape[1:]), batch_size=batch, remember=False)
    runners: dict[str, Runner] = {"eager": network, "svertka": ours}
    runners |= {peer: MAKERS[peer](network, images) for peer in peers}
    expected = network(images)
    for peer, runner in runners.items():
        share = float((runner(images) - expected).abs().max() / expected.abs().max())
        assert share < TOLERANCE, f"{peer} differs by {share:.1e} on {name}"
    return ours.name, race(runners, images, seconds)


def geometric(ratios: list[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f}×" if ratios else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--seconds", type=float, default=6.0, help="of rounds for each network")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["onnxruntime", "openvino"])
    given = parser.parse_args()
    prepare_cpu()
    missing = [peer for peer in given.peers if peer != "inductor" and not importlib.util.find_spec(peer)]
    peers = [peer for peer in given.peers if peer not in missing]
    rows, gains, shares = [], {}, {}
    for name in given.networks:
        with torch.inference_mode():
            chosen, speeds = measure(name, given.batch, given.seconds, peers)
        best = {runner: max(found) for runner, found in speeds.items()}
        gains[name] = best["svertka"] / best["eager"]
        if peers:
            shares[name] = best["svertka"] / max(best[peer] for peer in peers)
        cells = [f"{best[runner]:.1f} ({statistics.median(speeds[runner]):.1f})" for runner in speeds]
        share = f"{shares[name]:.2f}×" if peers else "–"
        rows.append([name, chosen, *cells, f"{gains[name]:.2f}×", share, len(speeds["eager"])])
        print(*rows[-1], sep=" | ", flush=True)
    columns = [
        "network",
        "engine chosen",
        "eager",
        "Svertka",
        *peers,
        "over eager",
        "of the best peer",
        "rounds",
    ]
    mobile = [gain for name, gain in gains.items() if name in MOBILE]
    summary = (
        f"Over eager: geometric mean {geometric(list(gains.values()))} of {len(gains)} networks, "
        f"least {min(gains.values()):.2f}×; MobileNet-class {geometric(mobile)}."
    )
    if shares:
        worst = min(shares, key=shares.__getitem__)
        summary += (
            f" Of the best peer: geometric mean {geometric(list(shares.values()))}, least "
            f"{shares[worst]:.2f}× ({worst})."
        )
    notes = f"Images a second, best round (median), batches of {given.batch}, random weights."
    if missing:
        notes += f" Not installed, so not compared: {', '.join(missing)}."
    results.write("Inference", notes, results.table(columns, rows), summary)
    print(summary)


if __name__ == "__main__":
    main()
