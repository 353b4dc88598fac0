"""Random transforms against torchvision with the same parameters, and against its distributions."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop, v2

from svertka.augmentation import Augment
from svertka.data import augment as augment_module
from svertka.data.augment import augment, draw_boxes, evaluation_views, resized_crops
from svertka.data.operators import flip
from svertka.data.store import Pixels
from svertka.images.preprocess import Preprocess


def pixels_of(images: list[np.ndarray]) -> Pixels:
    shapes = np.array([image.shape[:2] for image in images], dtype=np.int32)
    counts = np.array([image.size for image in images])
    data = np.concatenate([image.ravel() for image in images])
    return Pixels(data, shapes, np.cumsum(counts) - counts, images[0].shape[2], broken={})


def images(count: int, *, ragged: bool = True, channels: int = 3, side: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(side + 3 * (i % 4), side + i % 3) if ragged else (side, side + 4) for i in range(count)]
    return [rng.integers(0, 256, (*shape, channels), dtype=np.uint8) for shape in shapes]


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def pixels_last(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "letterbox"])
@pytest.mark.parametrize("small", [0, 64])
def test_pad_crop_is_a_crop_of_the_reflected_image(ragged, channels, fit, small, monkeypatch):
    monkeypatch.setattr(augment_module, "SMALL", small)  # one gather, or image by image
    stored = images(40, ragged=ragged, channels=channels)
    preprocess = Preprocess(channels=channels, fit=fit, size=16, store_size=20)
    indices = np.random.default_rng(1).permutation(40)
    settings = Augment(pad_crop=5)
    batch = augment(pixels_of(stored), indices, preprocess, settings, np.random.default_rng(2))
    assert batch.shape == (40, 16, 16, channels)
    draws = np.random.default_rng(2).spawn(2)[0].random((40, 2))
    begins = []
    for place, index in enumerate(indices):
        image = stored[index] if fit == "crop" else preprocess.fit_image(stored[index])
        padded = v2.functional.pad(tensor(image), [5, 5], padding_mode="reflect")
        room = np.array(padded.shape[1:]) - 16
        top, left = np.floor(draws[place] * (room + 1)).astype(int).tolist()
        truth = v2.functional.crop(padded, top, left, 16, 16)
        np.testing.assert_array_equal(batch[place], pixels_last(truth))
        begins.append((top == 0, top == room[0]))
    assert np.any(begins, axis=0).all()  # the first and the last place both occur


def test_resized_crop_is_torchvisions_of_the_same_box():
    stored = images(12, side=40)
    pixels = pixels_of(stored)
    preprocess = Preprocess(size=24, store_size=40)
    indices = np.arange(12)
    settings = Augment(resized_crop=0.3)
    batch = augment(pixels, indices, preprocess, settings, np.random.default_rng(3))
    boxes = draw_boxes(pixels.shapes, 0.3, np.random.default_rng(3).spawn(2)[0])
    for place, (top, left, height, width) in enumerate(boxes.tolist()):
        truth = v2.functional.resized_crop(
            tensor(stored[place]), top, left, height, width, [24, 24], antialias=True
        )
        assert np.abs(batch[place].astype(int) - pixels_last(truth)).max() <= 1
    grey = resized_crops(pixels_of(images(3, channels=1)), np.arange(3), boxes[:3] // 2, 24)
    assert grey.shape == (3, 24, 24, 1)


@pytest.mark.parametrize(
    ("height", "width", "least"), [(60, 80, 0.08), (40, 40, 0.5), (20, 200, 0.6), (200, 20, 0.9)]
)
def test_boxes_are_distributed_as_torchvisions(height, width, least):
    count = 2000
    ours = draw_boxes(
        np.tile([[height, width]], (count, 1)).astype(np.int32), least, np.random.default_rng(0)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(3, height, width)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, [least, 1], [3 / 4, 4 / 3]) for _ in range(count)]
        )
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    assert ours.min() >= 0
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3


def test_flip_mirrors_half_of_the_images():
    batch = np.stack(images(400, ragged=False, side=6))
    flipped = flip(batch.copy(), Augment(flip=True), np.random.default_rng(0))
    mirrored = np.array([np.array_equal(new, old[:, ::-1]) for new, old in zip(flipped, batch, strict=True)])
    same = np.array([np.array_equal(new, old) for new, old in zip(flipped, batch, strict=True)])
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250


def test_an_image_depends_on_its_place_and_not_on_the_others():
    preprocess = Preprocess(size=16, store_size=20)
    pixels = pixels_of(images(20))
    for settings in (
        Augment(pad_crop=3, flip=True),
        Augment(resized_crop=0.5, flip=True),
        Augment(flip=True),
    ):
        whole, part, other = (
            augment(pixels, np.array(indices), preprocess, settings, np.random.default_rng(4))
            for indices in (range(20), range(7), [*range(7), *range(19, 6, -1)])
        )
        np.testing.assert_array_equal(whole[:7], part)
        np.testing.assert_array_equal(whole[:7], other[:7])


def test_switching_flip_on_leaves_the_crops_as_they_are():
    preprocess = Preprocess(size=16, store_size=20)
    pixels = pixels_of(images(20))
    plain, flipped = (
        augment(pixels, np.arange(20), preprocess, Augment(pad_crop=3, flip=on), np.random.default_rng(4))
        for on in (False, True)
    )
    for one, other in zip(plain, flipped, strict=True):
        assert np.array_equal(one, other) or np.array_equal(one, other[:, ::-1])


@pytest.mark.parametrize("fit", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("ragged", [False, True])
def test_without_a_crop_the_evaluation_view_is_taken(fit, ragged):
    preprocess = Preprocess(fit=fit, size=16, store_size=20)
    stored = images(9, ragged=ragged)
    pixels = pixels_of(stored)
    views = evaluation_views(pixels, np.arange(9), preprocess)
    np.testing.assert_array_equal(views, np.stack([preprocess.fit_image(image) for image in stored]))
    nothing = augment(pixels, np.arange(9), preprocess, Augment(), np.random.default_rng(0))
    np.testing.assert_array_equal(nothing, views)


def test_stored_pixels_are_never_changed():
    square = [image[:16, :16].copy() for image in images(9, ragged=False)]
    pixels = pixels_of(square)
    before = pixels.data.copy()
    preprocess = Preprocess(size=16, store_size=16)
    augment(pixels, np.arange(9), preprocess, Augment(flip=True), np.random.default_rng(0))
    np.testing.assert_array_equal(pixels.data, before)
