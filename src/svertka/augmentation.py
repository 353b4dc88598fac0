"""Augmentation: the settings of a recipe that say which random transforms training images go through.

They are applied in the order of the fields here; 0 or false turns one off. Labels stay as they are, but for
`mixup` and `cutmix`, which mix two images of a batch and their labels.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from svertka.settings import Settings

COLOURS = ("saturation", "hue", "grey")
"""What does nothing to an image of one channel."""
MIXING = ("mixup", "cutmix")
"""What needs two images."""


class Augment(Settings):
    """Random transforms of training batches."""

    pad_crop: int = Field(0, ge=0, le=256, description="pad by so many reflected pixels, crop back at random")
    resized_crop: float = Field(
        0.0, ge=0, lt=1, description="crop a random area of at least this share, resize it to size; 0: off"
    )
    flip: bool = Field(False, description="mirror left to right with probability 1/2")
    quarter_turns: bool = Field(False, description="rotate by 0, 90, 180 or 270 degrees, each as likely")
    rotation: float = Field(
        0.0, ge=0, le=180, description="rotate by up to so many degrees, either way; corners become mid-grey"
    )
    brightness: float = Field(0.0, ge=0, le=1, description="times 1 - b to 1 + b")
    contrast: float = Field(0.0, ge=0, le=1, description="distance to the mean grey times 1 - c to 1 + c")
    saturation: float = Field(0.0, ge=0, le=1, description="distance to the grey image times 1 - s to 1 + s")
    hue: float = Field(0.0, ge=0, le=0.5, description="hue turned by up to this share of the colour circle")
    grey: float = Field(0.0, ge=0, le=1, description="probability to drop all colour")
    blur: float = Field(
        0.0, ge=0, le=20, description="Gaussian blur with probability 1/2, up to so many pixels wide (sigma)"
    )
    sobel: float = Field(0.0, ge=0, le=1, description="probability to show the strength of edges (Sobel)")
    trivial: bool = Field(False, description="TrivialAugment: one of 14 operators at random strength")
    noise: float = Field(0.0, ge=0, le=255, description="Gaussian noise, standard deviation in grey levels")
    cutout: float = Field(
        0.0, ge=0, le=1, description="a mid-grey square at a random place, side as a share of the image's"
    )
    mixup: float = Field(0.0, ge=0, le=10, description="mix two images; alpha of the Beta distribution")
    cutmix: float = Field(
        0.0, ge=0, le=10, description="paste a box of one image into another; alpha of the Beta distribution"
    )

    @model_validator(mode="after")
    def _one_crop(self) -> Augment:
        if self.pad_crop and self.resized_crop:
            raise ValueError("pad_crop and resized_crop are two ways to crop; set one of them to 0")
        return self

    def of_one_image(self) -> Augment:
        """The transforms that need one image only."""
        return self.model_copy(update=dict.fromkeys(MIXING, 0.0))

    def transforms(self) -> bool:
        """Whether two views of one image can differ."""
        return self.of_one_image() != Augment()

    def colours(self) -> list[str]:
        """What is on and needs images of three channels."""
        return [name for name in COLOURS if getattr(self, name)]
