"""Curves of a training as PNG: the learning rate over the steps, and the loss over the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svertka import files
from svertka.errors import OptionError
from svertka.training.rate_finder import RateCurve

SIZE = (8.0, 4.5)  # inches, at DPI
DPI = 120
BLUE, GREY, GREEN = "#2563a8", "#b0b7c0", "#3b8f5a"


def draw_schedule(path: Path, parts: Sequence[tuple[str, Sequence[float]]], steps_per_epoch: int) -> None:
    """The learning rate at every step, part after part: (name, rates)."""
    figure, axes = _figure()
    start, largest = 0, max(max(rates) for _, rates in parts)
    for name, rates in parts:
        epochs = [(start + step) / steps_per_epoch for step in range(len(rates))]
        axes.plot(epochs, rates, color=BLUE, linewidth=1.8)
        if len(parts) > 1:
            axes.axvline(epochs[0], color=GREY, linewidth=0.8)
            axes.text(epochs[0], 1.06 * largest, f" {name}", va="top", color="#444444")
        start += len(rates)
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, start / steps_per_epoch))
    axes.set_ylim(0, 1.08 * largest)
    axes.set_title(f"Learning rate: {start:,} steps, {start / steps_per_epoch:.1f} epochs", loc="left")
    _write(figure, path)


def draw_rates(path: Path, curve: RateCurve, wanted: float) -> None:
    """The loss over the rate, the range worth trying, and the rate of the recipe."""
    figure, axes = _figure()
    low, high = curve.range
    axes.plot(curve.rates, curve.losses, color=GREY, linewidth=0.9, label="loss of one batch")
    axes.plot(curve.rates, curve.smoothed, color=BLUE, linewidth=2, label="running mean")
    axes.axvspan(low, high, color=GREEN, alpha=0.18, label=f"worth trying: {low:.2g} to {high:.2g}")
    axes.axvline(wanted, color="#c2571a", linestyle="--", linewidth=1.2, label=f"of the recipe: {wanted:g}")
    axes.set_xscale("log")
    top = max(curve.smoothed[0], min(curve.smoothed) * 2) * 1.3
    axes.set(xlabel="learning rate", ylabel="training loss (nats)", ylim=(0, top))
    axes.set_title("Loss while the learning rate rises", loc="left")
    axes.legend(loc="lower left", frameon=False)
    _write(figure, path)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # takes half a second to import

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e9ed", linewidth=0.7)
    return figure, axes


def _write(figure: Any, path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise OptionError(f"a picture is written as PNG; got the path {path}, expected one ending in .png.")
    files.write_atomically(path, lambda part: figure.savefig(part, format="png"))
