"""Networks: images in, logits out. `build` makes one by its name in the catalogue."""

from svertka.models.catalog import build, find, rows

__all__ = ["build", "find", "rows"]
