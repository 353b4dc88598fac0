"""TrivialAugment (wide): each image gets one of 14 operators at one of 31 strengths, both uniformly drawn.

Müller & Hutter 2021, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", table of the wide
space. The operators are torchvision's own functions; the draws are ours, so that they depend on the seed
alone and not on torch's global random state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTHS = 31
FILL = 128.0  # mid-grey, for what comes in from outside
RANGES: dict[str, tuple[float, float, bool]] = {
    # from, to, either sign
    "identity": (0, 0, False),
    "shear_x": (0, 0.99, True),
    "shear_y": (0, 0.99, True),
    "translate_x": (0, 32, True),
    "translate_y": (0, 32, True),
    "rotate": (0, 135, True),
    "brightness": (0, 0.99, True),
    "color": (0, 0.99, True),
    "contrast": (0, 0.99, True),
    "sharpness": (0, 0.99, True),
    "posterize": (8, 2, False),
    "solarize": (255, 0, False),
    "auto_contrast": (0, 0, False),
    "equalize": (0, 0, False),
}
NAMES = tuple(RANGES)


def trivial_augment(batch: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """One operator for each image of (n, size, size, c); in place."""
    names = random.integers(0, len(NAMES), len(batch))
    strengths = random.integers(0, STRENGTHS, len(batch))
    signs = random.integers(0, 2, len(batch))
    for image, name, strength, sign in zip(batch, names, strengths, signs, strict=True):
        image[...] = operated(image, NAMES[name], magnitude(NAMES[name], int(strength), bool(sign)))
    return batch


def magnitude(name: str, strength: int, negative: bool) -> float:
    """What strength 0 to 30 means for an operator."""
    first, last, signed = RANGES[name]
    value = first + (last - first) * strength / (STRENGTHS - 1)
    return -value if signed and negative else value


def operated(image: NDArray[np.uint8], name: str, value: float) -> NDArray[np.uint8]:
    """An image (h, w, c) after one operator."""
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    if name == "identity" or (name == "color" and image.shape[2] == 1):
        return image
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (c, h, w)
    moved: dict[str, Any] = {
        "angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0],
        "interpolation": InterpolationMode.BILINEAR, "fill": [FILL] * image.shape[2],
    }  # fmt: skip
    match name:
        case "shear_x" | "shear_y":
            degrees = float(np.degrees(np.arctan(value)))
            shear = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
            made = F.affine(tensor, **{**moved, "shear": shear, "center": [0, 0]})
        case "translate_x":
            made = F.affine(tensor, **{**moved, "translate": [int(value), 0]})
        case "translate_y":
            made = F.affine(tensor, **{**moved, "translate": [0, int(value)]})
        case "rotate":
            made = F.rotate(tensor, value, interpolation=moved["interpolation"], fill=moved["fill"])
        case "brightness":
            made = F.adjust_brightness(tensor, 1 + value)
        case "color":
            made = F.adjust_saturation(tensor, 1 + value)
        case "contrast":
            made = F.adjust_contrast(tensor, 1 + value)
        case "sharpness":
            made = F.adjust_sharpness(tensor, 1 + value)
        case "posterize":
            made = F.posterize(tensor, round(value))
        case "solarize":
            made = F.solarize(tensor, value)
        case "auto_contrast":
            made = F.autocontrast(tensor)
        case _:
            made = F.equalize(tensor)
    answer: NDArray[np.uint8] = made.numpy().transpose(1, 2, 0)
    return answer
