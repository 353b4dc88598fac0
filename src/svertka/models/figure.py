"""An anatomy as a picture: the network as blocks, and how much of the image a unit of each block sees.

Three rows over one another. Blocks: height by the side of the maps, depth by their number, one stripe for
each convolution or linear layer on the longest way. The image, with the field of a unit at the end of the
block. The growth of the field from layer to layer. Small networks get a block for each layer, others one for
each stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svertka import files
from svertka.errors import OptionError
from svertka.models.anatomy import Anatomy, Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 12
"""Up to so many layers that compute or pool, each is a block of its own."""

TITLES = {
    "Conv2d": "convolution",
    "Linear": "linear",
    "MaxPool2d": "max pool",
    "AvgPool2d": "average pool",
    "AdaptiveAvgPool2d": "average pool",
}
INK, PALE, LINE = "#1f2a37", "#e8edf2", "#9aa7b4"
COLOURS = ("#4c78a8", "#59a14f", "#b6992d", "#e1812c", "#c44e52", "#8a62a8", "#6b7280")


@dataclass(frozen=True)
class Block:
    """Neighbouring layers drawn as one; `before` is the depth reached by those in front of it."""

    title: str
    layers: tuple[Layer, ...]
    before: int

    @property
    def end(self) -> Layer:
        return self.layers[-1]

    @property
    def depth(self) -> int:
        """Convolutions and linear layers on the longest way through it."""
        return self.end.depth - self.before

    @property
    def width(self) -> float:
        return 1 + 0.22 * math.sqrt(self.depth)


def figure(anatomy: Anatomy, path: str | Path, *, title: str = "") -> Path:
    """Draw an anatomy and write it as PNG.

    Raises:
        OptionError: matplotlib is not installed, or the path does not end in .png.
    """
    blocks = _blocks(anatomy)
    width = sum(block.width for block in blocks)
    inches = 1.45 if len(blocks) <= 8 else 1.2
    page = _page(max(8.4, inches * width + 1.1), 7.6)
    rows = page.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (4.2, 2.1, 3.1)})
    edges = np.cumsum([0.0, *(block.width for block in blocks)])
    page.subplots_adjust(left=0.075 if width > 6 else 0.1, right=0.985, top=0.885, bottom=0.075, hspace=0.05)
    for axes in rows:
        axes.set_xlim(0, edges[-1])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
    for index, (block, left, right) in enumerate(zip(blocks, edges, edges[1:], strict=False)):
        colour = COLOURS[index % len(COLOURS)]
        _draw_block(rows[0], block, anatomy, left, right, colour)
        _draw_field(rows[1], block, anatomy, (left + right) / 2, colour)
    rows[0].set(ylim=(-0.62, 1.32), yticks=[])
    rows[1].set(yticks=[])
    rows[1].set_ylabel("what one unit sees\nof the image", color=INK, fontsize=9)
    _draw_growth(rows[2], blocks, anatomy, edges)
    page.text(0.012, 0.965, title or "Anatomy", fontsize=15, weight="bold", color=INK, va="center")
    page.text(0.012, 0.922, _summary(anatomy), fontsize=9.5, color=INK, va="center")
    return _write(page, path)


def field_figure(field: NDArray[np.floating], layer: Layer, path: str | Path) -> Path:
    """Draw the effective receptive field (h, w; largest value 1) of a layer, its window outlined.

    Raises:
        OptionError: matplotlib is not installed, or the path does not end in .png.
    """
    height, width = field.shape
    page = _page(6.2, 5.4)
    page.subplots_adjust(left=0.09, right=0.9, top=0.9, bottom=0.07)
    axes = page.subplots()
    shown = axes.imshow(field, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    page.colorbar(shown, ax=axes, label="mean |gradient|, largest = 1", fraction=0.046, pad=0.03)
    title = f"effective receptive field of the middle unit of {layer.part}"
    if layer.window is not None and layer.stride is not None:
        from matplotlib.patches import Rectangle

        rows, columns = layer.window
        middle = [layer.offset[axis] + layer.stride[axis] * (layer.output[1 + axis] // 2) for axis in (0, 1)]
        corner = (middle[1] - columns / 2, middle[0] - rows / 2)
        axes.add_patch(Rectangle(corner, columns, rows, fill=False, edgecolor="#7fd1ff", linewidth=1.4))
        larger = min(rows, columns) > max(height, width)
        title += f"\nwindow: {_sides(layer.window)} px" + (", more than the image" if larger else " (blue)")
    axes.set_title(title, fontsize=10, color=INK)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return _write(page, path)


def _blocks(anatomy: Anatomy) -> list[Block]:
    single = sum(map(_starts, anatomy.layers)) <= MANY
    groups: list[list[Layer]] = []
    for layer in anatomy.layers:
        if layer.kind == "Flatten":
            continue  # the same values in a row; a block should end with the maps
        fresh = _starts(layer) if single else not groups or groups[-1][-1].part != layer.part
        if fresh or not groups:
            groups.append([])
        groups[-1].append(layer)
    depths = [0, *(group[-1].depth for group in groups)]
    return [
        Block(_name(group[0], single), tuple(group), before)
        for group, before in zip(groups, depths, strict=False)
    ]


def _starts(layer: Layer) -> bool:
    return layer.macs > 0 or "Pool" in layer.kind


def _name(layer: Layer, single: bool) -> str:
    if single:
        return TITLES.get(layer.kind, layer.kind)
    part, _, number = layer.part.partition(".")
    return f"stage {int(number) + 1}" if part == "stages" and number else part


def _draw_block(axes: Axes, block: Block, anatomy: Anatomy, left: float, right: float, colour: str) -> None:
    from matplotlib.patches import Polygon, Rectangle

    shape, middle = block.end.output, (left + right) / 2
    maps = len(shape) == 3
    side = max(shape[1:]) if maps else 1
    tall = 0.12 + 0.72 * math.sqrt(min(1.0, side / max(anatomy.input[1:])))
    wide = 0.56 * (right - left)
    deep = 0.03 + 0.016 * math.log2(shape[0] + 1)
    x, y = middle - wide / 2 - deep / 2, 0.42 - tall / 2
    front = [(x, y), (x + wide, y), (x + wide, y + tall), (x, y + tall)]
    top = [front[3], front[2], (x + wide + deep, y + tall + deep), (x + deep, y + tall + deep)]
    flank = [front[1], front[2], (x + wide + deep, y + tall + deep), (x + wide + deep, y + deep)]
    axes.add_patch(Polygon(top, facecolor=colour, alpha=0.45, linewidth=0))
    axes.add_patch(Polygon(flank, facecolor=colour, alpha=0.7, linewidth=0))
    axes.add_patch(Rectangle((x, y), wide, tall, facecolor=colour, linewidth=0))
    for stripe in range(1, block.depth):
        position = x + wide * stripe / block.depth
        axes.plot([position, position], [y, y + tall], color="white", linewidth=0.7, alpha=0.75)
    axes.text(middle, 1.1, block.title, ha="center", fontsize=10.5, weight="bold", color=colour)
    lines = [" × ".join(f"{number:,}" for number in shape) if maps else f"{math.prod(shape):,} values"]
    if block.depth:
        lines.append(f"{block.depth} layer{'s' * (block.depth != 1)}")
        lines.append(f"{_count(sum(layer.parameters for layer in block.layers))} parameters")
        lines.append(f"{_count(sum(layer.macs for layer in block.layers))} MACs")
    axes.text(
        middle, -0.1, "\n".join(lines), ha="center", va="top", fontsize=8.3, color=INK, linespacing=1.35
    )


def _draw_field(axes: Axes, block: Block, anatomy: Anatomy, middle: float, colour: str) -> None:
    """The image as a square around (middle, 0), in it the field; a gate that sees all is hatched."""
    from matplotlib.patches import Rectangle

    axes.set(ylim=(-0.78, 0.55), aspect="auto")
    page = axes.get_figure()
    assert page is not None
    box = axes.get_position()
    inches = (page.get_figwidth() * box.width, page.get_figheight() * box.height)  # type: ignore[union-attr]
    squeeze = (inches[1] / 1.33) / (inches[0] / axes.get_xlim()[1])  # a square of height 1 is so wide

    def rectangle(height: float, width: float, **look: Any) -> None:
        width *= squeeze
        axes.add_patch(Rectangle((middle - width / 2, -height / 2), width, height, **look))

    rows, columns = anatomy.input[1:]
    longest = max(rows, columns)
    rectangle(rows / longest, columns / longest, facecolor=PALE, edgecolor=LINE, linewidth=0.8)
    layer = block.end
    field = layer.window or layer.receptive_field
    if layer.gated:
        rectangle(rows / longest, columns / longest, fill=False, edgecolor=colour, hatch="////", linewidth=0)
    seen = min(field[0], rows) / longest, min(field[1], columns) / longest
    rectangle(*seen, facecolor=colour, linewidth=0)
    text = f"{_sides(field)} px" if layer.window else "whole image"
    axes.text(middle, -0.56, text + (" + gates" if layer.gated else ""), ha="center", va="top",
              fontsize=9, color=INK)  # fmt: skip


def _draw_growth(axes: Axes, blocks: list[Block], anatomy: Anatomy, edges: NDArray[np.floating]) -> None:
    reached, longest = 1, max(anatomy.input[1:])
    highest = max([longest, *(max(layer.window) for layer in anatomy.layers if layer.window)])
    for index, (block, left, right) in enumerate(zip(blocks, edges, edges[1:], strict=False)):
        steps = [reached]
        for layer in block.layers:
            reached = max(layer.receptive_field) if layer.window is None else max(reached, *layer.window)
            steps.append(reached)
        x = np.linspace(left, right, len(steps))
        colour = COLOURS[index % len(COLOURS)]
        axes.fill_between(x, 1, steps, step="pre", color=colour, alpha=0.22, linewidth=0)
        axes.plot(x, steps, drawstyle="steps-pre", color=colour, linewidth=2)
    axes.axhline(longest, color=INK, linewidth=0.9, linestyle=(0, (5, 4)))
    axes.annotate(
        f"side of the image: {longest} px",
        (0, longest),
        xytext=(5, 4),
        textcoords="offset points",
        fontsize=8.5,
        color=INK,
    )
    axes.set_yscale("log", base=2)
    axes.set_ylim(1, highest * 1.7)
    ticks = [2**power for power in range(0, 14, 1 if highest < 128 else 2) if 2**power < highest * 1.7]
    axes.set_yticks(ticks, [str(tick) for tick in ticks], fontsize=8.5)
    axes.minorticks_off()
    axes.grid(axis="y", color=PALE)
    axes.set_axisbelow(True)
    axes.spines[["left", "bottom"]].set_visible(True)
    axes.set_ylabel("receptive field, px", color=INK, fontsize=9)
    axes.set_xlabel("layers in the order of the run →", color=INK, fontsize=9)


def _summary(anatomy: Anatomy) -> str:
    last = anatomy.last
    field = _sides(last.window) + " px in the last maps" if last.window else "whole image"
    return (
        f"input {' × '.join(map(str, anatomy.input))}  ·  {_count(anatomy.parameters)} parameters  ·  "
        f"{_count(anatomy.macs)} MACs  ·  depth {anatomy.depth}  ·  receptive field: {field}"
    )


def _sides(pair: tuple[int, int]) -> str:
    return f"{pair[0]}" if pair[0] == pair[1] else f"{pair[0]} × {pair[1]}"


def _count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _page(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError(
            "figures need matplotlib, which is not installed: pip install 'svertka[figures]'."
        ) from error
    page = Figure(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(page)  # draws without a display, and without pyplot's global state
    return page


def _write(page: Figure, path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OptionError(f"a figure is written as PNG; got the path {path}, expected one ending in .png.")
    files.write_atomically(path, lambda part: page.savefig(part, format="png"))
    return path
