"""Random operators against torchvision with the same parameters, and against their distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F
from torchvision.transforms import v2

from svertka.augmentation import Augment
from svertka.data import operators as ours
from svertka.data import trivial
from svertka.data.batches import Batch
from svertka.data.mixing import mixed
from svertka.training.losses import batch_loss, num_correct

tv = v2.functional


def photos(count: int = 24, side: int = 20, channels: int = 3) -> np.ndarray:
    """Smooth colours with noise."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 5, 5, channels)).astype(float)
    smooth = ndimage.zoom(coarse, (1, side / 5, side / 5, 1), order=1)
    return np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def array(image: torch.Tensor) -> np.ndarray:
    return image.numpy().transpose(1, 2, 0)


def close(found: np.ndarray, expected: list[np.ndarray], levels: int = 1) -> None:
    difference = np.abs(found.astype(int) - np.stack(expected).astype(int))
    assert difference.max() <= levels, f"{difference.max()} levels, in {(difference > levels).mean():.2%}"


class Fixed:
    """A generator that draws the same uniform numbers again for the reference."""

    @staticmethod
    def uniform(seed: int, low: float, high: float, count: int) -> np.ndarray:
        return np.random.default_rng(seed).uniform(low, high, count)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "reference"),
    [("brightness", tv.adjust_brightness), ("contrast", tv.adjust_contrast)],
)
def test_brightness_and_contrast(channels: int, name: str, reference: Any) -> None:
    batch = photos(channels=channels)
    factors = Fixed.uniform(3, 0.4, 1.6, len(batch))
    found = getattr(ours, name)(batch.copy(), Augment(**{name: 0.6}), np.random.default_rng(3))
    close(found, [array(reference(tensor(i), f)) for i, f in zip(batch, factors.tolist(), strict=True)])
    assert np.abs(found.astype(int) - batch).max() > 50


def test_saturation() -> None:
    batch = photos()
    factors = Fixed.uniform(3, 0.2, 1.8, len(batch))
    found = ours.saturation(batch.copy(), Augment(saturation=0.8), np.random.default_rng(3))
    close(
        found,
        [array(tv.adjust_saturation(tensor(i), f)) for i, f in zip(batch, factors.tolist(), strict=True)],
    )


def test_hue() -> None:
    batch = photos()
    batch[0] = 77  # without colour
    shares = Fixed.uniform(3, -0.4, 0.4, len(batch))
    found = ours.hue(batch.copy(), Augment(hue=0.4), np.random.default_rng(3))
    close(found, [array(tv.adjust_hue(tensor(i), f)) for i, f in zip(batch, shares.tolist(), strict=True)], 2)
    exact = ours.turned_hue(batch, np.zeros(len(batch)))
    close(exact, list(batch))
    assert np.abs(found.astype(int) - batch).max() > 50


def test_dropped_colour() -> None:
    batch = photos()
    found = ours.drop_colour(batch.copy(), Augment(grey=1), np.random.default_rng(0))
    close(found, [array(tv.rgb_to_grayscale(tensor(image), 3)) for image in batch])
    half = ours.drop_colour(photos(400, 4), Augment(grey=0.5), np.random.default_rng(0))
    share = np.mean([np.ptp(image, axis=2).max() == 0 for image in half])
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [20, 21])
def test_rotation(channels: int, side: int) -> None:
    """Inside; on the rim torchvision weighs the fill in another way."""
    batch = photos(channels=channels, side=side)
    degrees = Fixed.uniform(3, -60, 60, len(batch))
    found = ours.rotate(batch.copy(), Augment(rotation=60), np.random.default_rng(3))
    bilinear = v2.InterpolationMode.BILINEAR
    for image, before, angle in zip(found, batch, degrees.tolist(), strict=True):
        fill = [128.0] * channels
        expected = array(tv.rotate(tensor(before), angle, interpolation=bilinear, fill=fill))
        inside = array(tv.rotate(torch.ones(1, side, side), angle, interpolation=bilinear)) > 0.999
        difference = np.abs(image.astype(int) - expected) * inside
        assert difference.max() <= 1
        assert np.abs(image.astype(int) - expected).mean() < 3
    corner = ours.rotated(np.full((1, 20, 20, 3), 255, np.uint8), np.array([np.pi / 4]))
    assert (corner[0, 0, 0] == ours.MID_GREY).all()


def test_quarter_turns_are_exact_and_each_as_likely() -> None:
    batch = photos(400, 6)
    found = ours.quarter_turns(batch.copy(), Augment(quarter_turns=True), np.random.default_rng(0))
    counts = np.zeros(4, int)
    for image, before in zip(found, batch, strict=True):
        turns = [k for k in range(4) if np.array_equal(image, array(torch.rot90(tensor(before), k, (1, 2))))]
        counts[turns[0]] += 1
    assert counts.min() > 70


@pytest.mark.parametrize("channels", [1, 3])
def test_blur(channels: int) -> None:
    batch = photos(channels=channels)
    random = np.random.default_rng(3)
    chosen, sigmas = random.random(len(batch)) < 0.5, random.uniform(0.1, 2.0, len(batch))
    found = ours.blur(batch.copy(), Augment(blur=2.0), np.random.default_rng(3))
    expected = [
        array(tv.gaussian_blur(tensor(image), [13, 13], [sigma, sigma])) if on else image
        for image, on, sigma in zip(batch, chosen, sigmas.tolist(), strict=True)
    ]
    close(found, expected)
    assert ours.kernel_size(20, 8) == 15  # reflection reaches no further


def test_edges_are_those_of_scipy() -> None:
    batch = photos()
    for image, before in zip(ours.edges(batch), batch.astype(float), strict=True):
        planes = before.transpose(2, 0, 1)
        across, along = (
            np.stack([ndimage.sobel(plane, axis=axis, mode="nearest") for plane in planes], axis=-1)
            for axis in (0, 1)
        )
        expected = np.clip(np.rint(np.hypot(across, along) / 4), 0, 255)
        assert np.abs(image - expected).max() <= 1
    step = np.zeros((1, 8, 8, 1), np.uint8)
    step[:, :, 4:] = 255
    assert ours.edges(step).max() == 255


def test_noise() -> None:
    batch = np.full((50, 16, 16, 3), 120, dtype=np.uint8)
    found = ours.noise(batch, Augment(noise=10), np.random.default_rng(0)).astype(float)
    assert found.mean() == pytest.approx(120, abs=0.2)
    assert found.std() == pytest.approx(np.sqrt(100 + 1 / 12), abs=0.2)
    clipped = ours.noise(np.full((2, 8, 8, 1), 255, np.uint8), Augment(noise=50), np.random.default_rng(0))
    assert clipped.max() == 255
    assert clipped.min() > 50


def test_cutout_erases_a_square_anywhere() -> None:
    batch = np.zeros((600, 10, 10, 1), dtype=np.uint8)
    found = ours.cutout(batch.copy(), Augment(cutout=0.4), np.random.default_rng(0))
    erased = (found == ours.MID_GREY)[..., 0]
    assert erased.any(axis=0).all()
    assert set(erased.sum((1, 2)).tolist()) == {a * b for a in (2, 3, 4) for b in (2, 3, 4)}
    begins = np.random.default_rng(0).integers(0, 10, (600, 2)) - 2
    top, left = begins[0].tolist()
    expected = tv.erase(torch.zeros(1, 10, 10), max(top, 0), max(left, 0), 4 + min(top, 0), 4 + min(left, 0),
                        torch.tensor(128.0))  # fmt: skip
    np.testing.assert_array_equal(found[0], array(expected))


@pytest.mark.parametrize("name", trivial.NAMES)
@pytest.mark.parametrize("negative", [False, True])
def test_trivial_augment_is_torchvisions(name: str, negative: bool) -> None:
    """The strengths are its table's, and the operator is what its own dispatcher does with them."""
    theirs = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR, fill=128)
    spelled = "".join(part.title() for part in name.split("_"))
    table, signed = theirs._AUGMENTATION_SPACE[spelled]
    values = table(31, 20, 20)
    for strength in (0, 7, 30):
        unit = 255 if name == "solarize" else 1  # theirs is a share of the largest level
        theirs_value = 0.0 if values is None else unit * float(values[strength])
        value = trivial.magnitude(name, strength, negative)
        assert value == pytest.approx(-theirs_value if signed and negative else theirs_value, abs=1e-5) or (
            name == "posterize" and round(value) == round(theirs_value)
        )
        fill = theirs._fill
        for image in (*photos(2), *photos(2, channels=1)):
            expected = theirs._apply_image_or_video_transform(
                tensor(image), spelled, round(value) if name == "posterize" else value / unit,
                interpolation=theirs.interpolation, fill=fill,
            )  # fmt: skip
            np.testing.assert_array_equal(trivial.operated(image, name, value), array(expected))


def test_trivial_augment_draws_all_operators_alike() -> None:
    batch = photos(64, 8)
    first = trivial.trivial_augment(batch.copy(), np.random.default_rng(1))
    state = torch.get_rng_state()
    second = trivial.trivial_augment(batch.copy(), np.random.default_rng(1))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.mean([np.array_equal(a, b) for a, b in zip(first, batch, strict=True)]) < 0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operator", ours.OPERATORS, ids=lambda operator: operator.setting)
def test_every_operator_keeps_the_shape_and_changes_something(operator: Any, channels: int) -> None:
    settings = Augment(**{operator.setting: True if operator.setting in BOOLS else 0.5})
    if channels == 1 and operator.setting in settings.colours():
        pytest.skip("refused for one channel")
    batch = photos(channels=channels)
    found = operator.apply(batch.copy(), settings, np.random.default_rng(0))
    assert found.dtype == np.uint8
    assert found.shape == batch.shape
    assert found.flags.c_contiguous
    if operator.setting != "noise":
        assert not np.array_equal(found, batch)


BOOLS = ("flip", "quarter_turns", "trivial")


def inputs(count: int = 8) -> Batch:
    images = torch.randn(count, 3, 10, 12, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count) % 4, torch.arange(count))


def test_mixup_is_torchvisions() -> None:
    batch = inputs()
    made = mixed(batch, Augment(mixup=0.4), 5, 1, 2)
    assert 0 < made.share < 1
    theirs = v2.MixUp(num_classes=4)
    images, labels = (
        theirs.transform(value, {"labels": batch.labels, "lam": made.share, "batch_size": 8})
        for value in (v2_image(batch.images), batch.labels)
    )
    torch.testing.assert_close(made.images, images.as_subclass(torch.Tensor))
    both = made.share * F.one_hot(made.labels, 4) + (1 - made.share) * F.one_hot(made.partners, 4)
    torch.testing.assert_close(both, labels)


def v2_image(images: torch.Tensor) -> Any:
    from torchvision import tv_tensors

    return tv_tensors.Image(images)


def test_cutmix_is_torchvisions() -> None:
    """The same box pasted from the same partner; λ is the share of pixels that stayed."""
    batch = inputs()
    for step in range(20):
        made = mixed(batch, Augment(cutmix=1.0), 5, 1, step)
        others = batch.images.roll(1, 0)
        pasted = (made.images == others).all(dim=1)[0]
        assert torch.equal(made.images[:, :, pasted], others[:, :, pasted])
        assert torch.equal(made.images[:, :, ~pasted], batch.images[:, :, ~pasted])
        assert made.share == pytest.approx(1 - pasted.float().mean().item())
        rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
        if len(rows):
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            facts = {"labels": batch.labels, "box": box, "lam_adjusted": made.share, "batch_size": 8}
            theirs = v2.CutMix(num_classes=4).transform(v2_image(batch.images), facts)
            torch.testing.assert_close(made.images, theirs.as_subclass(torch.Tensor))


def test_shares_follow_the_beta_distribution() -> None:
    from scipy import stats

    batch = inputs(2)
    shares = [mixed(batch, Augment(mixup=0.5), 3, 0, step).share for step in range(400)]
    assert stats.kstest(shares, stats.beta(0.5, 0.5).cdf).pvalue > 0.01
    names = [mixed(batch, Augment(mixup=1, cutmix=1), 3, 0, step).images for step in range(100)]
    pasted = sum(bool((images == batch.images).any()) for images in names)
    assert 30 < pasted < 75  # cutmix leaves pixels as they were


def test_mixing_leaves_its_batch_alone() -> None:
    batch = inputs()
    before = batch.images.clone()
    for settings in (Augment(mixup=1), Augment(cutmix=1)):
        mixed(batch, settings, 0, 0, 0)
        assert torch.equal(batch.images, before)
    assert mixed(batch, Augment(), 0, 0, 0) is batch
    assert mixed(inputs(1), Augment(mixup=1), 0, 0, 0).partners is None


def test_the_loss_of_a_mixed_batch_is_that_of_its_soft_labels() -> None:
    made = mixed(inputs(), Augment(mixup=1.0), 5, 1, 2)
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    soft = made.share * F.one_hot(made.labels, 4) + (1 - made.share) * F.one_hot(made.partners, 4)
    value, _ = batch_loss(logits, made, 0.1)
    torch.testing.assert_close(value, F.cross_entropy(logits, soft, label_smoothing=0.1))
    hard = F.one_hot(logits.argmax(1), 4)
    assert num_correct(logits, made) == pytest.approx((soft * hard).sum().item())
    pieces = made.pieces(3)
    assert [len(piece) for piece in pieces] == [3, 3, 2]
    assert torch.equal(torch.cat([piece.partners for piece in pieces]), made.partners)
