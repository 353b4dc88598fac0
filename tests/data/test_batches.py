"""Batches: order, resume, and the same numbers as image by image."""

import numpy as np
import pytest
import torch

from svertka.augmentation import Augment
from svertka.data.batches import Batches, Normalizer
from svertka.data.dataset import Dataset, content_digest
from svertka.data.store import Pixels, open_pixels
from svertka.errors import DataError, OptionError
from svertka.images.preprocess import Preprocess

COUNT = 37
LABELS = np.arange(COUNT) * 10
FULL = Augment(pad_crop=2, flip=True)


def ragged_pixels(preprocess: Preprocess, count: int = COUNT) -> Pixels:
    """Stored images of several shapes."""
    rng = np.random.default_rng(0)
    shapes = [(9 + i % 3, 12 - i % 4, 3) for i in range(count)]
    stored = [preprocess.shrink(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    counts = np.array([image.size for image in stored])
    shape_table = np.array([image.shape[:2] for image in stored], dtype=np.int32)
    data = np.concatenate([image.ravel() for image in stored])
    return Pixels(data, shape_table, np.cumsum(counts) - counts, preprocess.channels, broken={})


@pytest.fixture(params=["none", "mean_image", "channel_mean", "channel_mean_std"])
def preprocess(request: pytest.FixtureRequest) -> Preprocess:
    blank = Preprocess(size=8, store_size=9, normalization=request.param)
    return blank.fitted(ragged_pixels(blank)[index] for index in range(COUNT))


@pytest.fixture
def plain() -> Preprocess:
    return Preprocess(size=8, store_size=9)


def training(pixels: Pixels, preprocess: Preprocess, **options: object) -> Batches:
    chosen = {"batch_size": 8, "seed": 5, "augment": FULL, "shuffle": True} | options
    return Batches(pixels, LABELS, np.arange(COUNT), preprocess, **chosen)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("uniform", [False, True])
def test_evaluation_batches_are_preprocess_to_the_bit(preprocess, memory_format, uniform, monkeypatch):
    monkeypatch.setattr("svertka.data.batches.PIXELS_A_TASK", 200)  # several tasks a batch
    if uniform:
        images = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 10, 3), dtype=np.uint8)
        digests = np.array([content_digest(image.tobytes()) for image in images], dtype="V16")
        nothing = np.full(COUNT, -1, np.int8)
        dataset = Dataset("x", ("a",), LABELS, images, None, digests, np.arange(COUNT), nothing)
        pixels = open_pixels(dataset, preprocess)
        assert pixels.path is None
    else:
        pixels = ragged_pixels(preprocess)
    indices = np.array([3, 1, 36, 0, 7])
    batches = Batches(pixels, LABELS, indices, preprocess, batch_size=2, memory_format=memory_format)
    made = list(batches.epoch(0))
    assert [len(batch) for batch in made] == [2, 2, 1]
    assert len(batches) == 3
    images = torch.cat([batch.images for batch in made])
    truth = np.stack([preprocess(pixels[int(index)]) for index in indices])
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images.numpy(), truth)
    assert all(batch.images.is_contiguous(memory_format=memory_format) for batch in made)
    assert torch.cat([batch.labels for batch in made]).tolist() == [30, 10, 360, 0, 70]
    assert torch.cat([batch.indices for batch in made]).tolist() == indices.tolist()


def test_other_devices_get_the_same_numbers(preprocess):
    """The way over the bytes, taken by way of torch on the CPU."""
    views = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    truth = preprocess.normalize(views.transpose(0, 3, 1, 2))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        inputs = Normalizer(preprocess, torch.device("cpu"), memory_format).on_device(views)
        np.testing.assert_array_equal(inputs.numpy(), truth)
        assert inputs.is_contiguous(memory_format=memory_format)


def same(first: object, second: object) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "labels", "indices")
    )


@pytest.mark.parametrize("settings", [None, FULL, Augment(resized_crop=0.4, flip=True)])
def test_from_any_step_on_the_batches_are_those_of_the_whole_epoch(plain, settings):
    pixels = ragged_pixels(plain)
    whole = list(training(pixels, plain, augment=settings).epoch(3))
    assert len(whole) == 5
    for start in range(6):
        tail = list(training(pixels, plain, augment=settings).epoch(3, start))
        assert len(tail) == 5 - start
        assert all(same(one, other) for one, other in zip(whole[start:], tail, strict=True))


def test_every_epoch_is_another_order_of_all_items_and_the_seed_decides_it(plain):
    pixels = ragged_pixels(plain)

    def order(seed: int, epoch: int) -> list[int]:
        made = list(training(pixels, plain, seed=seed).epoch(epoch))
        assert all(torch.equal(batch.labels, batch.indices * 10) for batch in made)
        return torch.cat([batch.indices for batch in made]).tolist()

    orders = [order(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(one) == list(range(COUNT)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert order(1, 0) == orders[0]


def test_the_same_image_is_transformed_anew_in_every_epoch_and_step(plain):
    pixels = ragged_pixels(plain, 2)
    batches = Batches(
        pixels, LABELS, np.zeros(20, int), plain, batch_size=2, augment=Augment(pad_crop=4), shuffle=True
    )
    first, second = (torch.cat([batch.images for batch in batches.epoch(number)]) for number in (0, 1))
    assert len(torch.unique(first, dim=0)) > 5
    assert not torch.equal(first, second)


def test_nothing_depends_on_global_random_state_or_changes_it(plain):
    pixels = ragged_pixels(plain)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        state = torch.get_rng_state()
        first = list(training(pixels, plain, augment=Augment(resized_crop=0.4, flip=True)).epoch(0))
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        np.random.seed(2)  # noqa: NPY002
        second = list(training(pixels, plain, augment=Augment(resized_crop=0.4, flip=True)).epoch(0))
    assert all(same(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("count", "batch_size", "shuffle", "sizes"),
    [
        (17, 8, True, [8, 9]),
        (17, 8, False, [8, 8, 1]),
        (18, 8, True, [8, 8, 2]),
        (16, 8, True, [8, 8]),
        (1, 8, True, [1]),
        (3, 1, True, [1, 1, 1]),
        (3, 100, True, [3]),
    ],
)
def test_in_training_a_last_single_image_joins_the_batch_before(plain, count, batch_size, shuffle, sizes):
    pixels = ragged_pixels(plain)
    batches = Batches(pixels, LABELS, np.arange(count), plain, batch_size=batch_size, shuffle=shuffle)
    assert [len(batch) for batch in batches.epoch(0)] == sizes
    assert len(batches) == len(sizes)
    last = list(batches.epoch(0, start=len(sizes) - 1))
    assert [len(batch) for batch in last] == sizes[-1:]


def test_stopping_in_the_middle_ends_the_background_work(plain):
    import threading

    before = threading.active_count()
    steps = training(ragged_pixels(plain), plain).epoch(0)
    next(steps)
    assert threading.active_count() > before
    steps.close()
    assert threading.active_count() == before


def test_an_error_in_the_background_reaches_the_caller(plain, monkeypatch):
    def broken(*args: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("svertka.data.batches.augment", broken)
    with pytest.raises(MemoryError, match="no more"):
        next(training(ragged_pixels(plain), plain).epoch(0))


def test_what_cannot_be_batched_is_refused(plain):
    pixels = ragged_pixels(plain)
    with pytest.raises(OptionError, match="a batch has at least 1 image, got 0"):
        training(pixels, plain, batch_size=0)
    with pytest.raises(DataError, match="there are no images to make batches of"):
        Batches(pixels, LABELS, np.array([], int), plain, batch_size=4)
    with pytest.raises(OptionError, match=r"pad_crop reflects at most 8 pixels of these images, got 9"):
        training(pixels, plain, augment=Augment(pad_crop=9))
    training(pixels, plain, augment=Augment(pad_crop=8))
    pixels.shapes[4] = 0
    pixels.broken[4] = "x.png could not be decoded: it is empty."
    with pytest.raises(DataError, match=r"1 of these images could not be decoded, such as: x\.png"):
        training(pixels, plain)
    with pytest.raises(OptionError, match="channel_mean needs the mean"):
        Batches(
            pixels,
            LABELS,
            np.arange(3),
            Preprocess(size=8, store_size=9, normalization="channel_mean"),
            batch_size=2,
        )


def test_memory_is_used_again_but_never_while_a_tensor_shares_it(plain):
    batches = training(ragged_pixels(plain), plain)
    kept, copies, places = [], [], set()
    for number in range(6):
        for batch in batches.epoch(number):
            places.add(batch.images.data_ptr())
            if number == 0:
                kept.append(batch.images[1:, :1])  # a view is all that is kept
                copies.append(batch.images[1:, :1].clone())
    assert len(places) < 20  # of 30 batches
    assert all(torch.equal(view, copy) for view, copy in zip(kept, copies, strict=True))
