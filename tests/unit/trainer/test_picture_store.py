"""The store of what the tower sees: equal to encoding in memory, filled once, resumed, one row a distinct picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid
from trainer.architecture import Built, build
from trainer.config import FitConfig
from trainer.data import load_corpus
from trainer.digests import DigestIndex
from trainer.pictures import Pixels, load_pictures, pixels_or_none, read_pixels
from trainer.store import LEFT_OUT, PictureStore, encode_pictures


@pytest.fixture
def built(tiny_fit: FitConfig) -> Built:
    """An untrained model of the squares."""
    return build(tiny_fit, texts=load_corpus(tiny_fit.data).texts())


@pytest.fixture
def images(tmp_path: Path) -> list[PoolImage]:
    """150 pictures of noise: two chunks and a half."""
    rng, folder = np.random.default_rng(0), tmp_path / "noise"
    folder.mkdir()
    for number in range(150):
        noise = rng.integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:03d}.png")
    return [PoolImage(image_id=path.stem, path=path) for path in sorted(folder.iterdir())]


class Counted:
    """Decodes, and counts what it decoded; fails at the n-th."""

    def __init__(self, built: Built, *, fails_at: int = -1) -> None:
        self.decoded: list[str] = []
        self._read, self._fails_at = partial(read_pixels, preprocess=built.model.tower.preprocess), fails_at

    def __call__(self, image: PoolImage) -> Pixels:
        if len(self.decoded) == self._fails_at:
            raise DataLineInvalid("enough")
        self.decoded.append(image.image_id)
        return self._read(image)


@pytest.fixture
def open_store(built: Built, tmp_path: Path) -> Callable[[], PictureStore]:
    """A store as each process opens it."""
    return lambda: PictureStore(tmp_path / "cache", model=built.model)


def test_stored_pictures_equal_pictures_encoded_in_memory(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore], tmp_path: Path
) -> None:
    pixels = load_pictures(images, preprocess=built.model.tower.preprocess, cache=tmp_path / "pixels")
    expected = encode_pictures(built.model, pixels)
    stored = open_store().encoded(images, pixels_of=Counted(built))
    assert np.array_equal(stored.vectors_ND[:], expected.vectors_ND)
    assert np.array_equal(stored.tokens_NPW[:], expected.tokens_NPW)
    assert stored.tokens_NPW[:].dtype == np.float16
    assert np.allclose(np.linalg.norm(stored.vectors_ND[:], axis=1), 1.0, atol=1e-5)
    assert stored.row_of_image.tolist() == list(range(150))
    rows_BK = np.array([[3, 149], [0, 3]])
    assert np.array_equal(stored.tokens_NPW[rows_BK], expected.tokens_NPW[rows_BK])


def test_no_picture_is_decoded_twice(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore]
) -> None:
    first, second = Counted(built), Counted(built)
    open_store().encoded(images[:100], pixels_of=first)
    whole = open_store().encoded(images, pixels_of=second)
    assert (len(first.decoded), len(second.decoded)) == (100, 50)
    assert len(whole.vectors_ND) == 150


def test_a_half_written_store_goes_on(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore]
) -> None:
    with pytest.raises(DataLineInvalid, match="enough"):
        open_store().encoded(images, pixels_of=Counted(built, fails_at=100))
    rest = Counted(built)
    resumed = open_store().encoded(images, pixels_of=rest)
    assert len(rest.decoded) == 150 - 64  # One chunk was whole.
    expected = encode_pictures(built.model, np.stack([Counted(built)(image) for image in images]))
    assert np.allclose(resumed.vectors_ND[:], expected.vectors_ND, atol=1e-6)


@pytest.mark.parametrize("name", ["tokens.raw", "vectors.f32", "pixels.sha", "sources.sha"])
def test_a_store_that_was_torn_between_two_files_goes_on(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore], name: str
) -> None:
    expected = open_store().encoded(images, pixels_of=Counted(built)).vectors_ND[:]
    torn = open_store().folder / name
    with torn.open("r+b") as file:
        file.truncate(torn.stat().st_size * 2 // 3 + 1)
    again = open_store().encoded(images, pixels_of=Counted(built))
    assert np.allclose(again.vectors_ND[:], expected, atol=1e-6)
    assert len(np.unique(again.row_of_image)) == 150


@pytest.mark.parametrize("name", ["tokens.raw", "vectors.f32", "pixels.sha"])
def test_rows_that_a_store_lost_are_forgotten_by_its_files_notes(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore], name: str
) -> None:
    expected = open_store().encoded(images, pixels_of=Counted(built)).vectors_ND[:]
    torn = open_store().folder / name
    with torn.open("r+b") as file:
        file.truncate(torn.stat().st_size // 3)
    open_store().encoded(images[::-1], pixels_of=Counted(built))  # the lost numbers go to other pictures
    again = open_store().encoded(images, pixels_of=Counted(built))
    assert np.allclose(again.vectors_ND[:], expected, atol=1e-6)


def test_rows_are_read_while_another_process_writes_the_next(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore]
) -> None:
    pool = open_store().encoded(images[:10], pixels_of=Counted(built))
    expected = pool.vectors_ND[:], pool.tokens_NPW[:]
    for name in ("tokens.raw", "vectors.f32"):
        with (open_store().folder / name).open("ab") as file:
            file.write(b"part of")
    assert np.array_equal(pool.vectors_ND[:], expected[0])
    assert np.array_equal(pool.tokens_NPW[:], expected[1])


def test_a_picture_that_is_left_out_has_no_row(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore]
) -> None:
    images[1].path.write_bytes(b"no picture")
    pixels_of = partial(pixels_or_none, preprocess=built.model.tower.preprocess)
    pool = open_store().encoded(images[:4], pixels_of=pixels_of)
    assert pool.row_of_image.tolist() == [0, LEFT_OUT, 1, 2]
    assert pool.rows_by_id(images[:4]) == {"000": 0, "002": 1, "003": 2}
    assert pool.first_of_rows(images[:4]) == [images[0], images[2], images[3]]
    assert len(pool.vectors_ND) == 3


def test_pictures_with_the_same_pixels_are_one_row(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore], tmp_path: Path
) -> None:
    copies = [
        ("copy.bmp", {}),  # another container
        ("smaller.png", {"compress_level": 9}),  # lossless recompression
        ("named.png", {"dpi": (300, 300)}),  # metadata
    ]
    twins = []
    for name, how in copies:
        Image.open(images[7].path).save(tmp_path / name, **how)
        twins.append(PoolImage(image_id=name, path=tmp_path / name))
    pool = open_store().encoded([images[3], images[7], *twins, images[5]], pixels_of=Counted(built))
    assert pool.row_of_image.tolist() == [0, 1, 1, 1, 1, 2]
    assert len(pool.vectors_ND) == len(pool.tokens_NPW) == 3


def test_a_jpeg_compressed_anew_is_another_picture(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore], tmp_path: Path
) -> None:
    Image.open(images[0].path).save(tmp_path / "lossy.jpg", quality=60)
    pool = [images[0], PoolImage(image_id="lossy", path=tmp_path / "lossy.jpg")]
    assert open_store().encoded(pool, pixels_of=Counted(built)).row_of_image.tolist() == [0, 1]


def test_a_file_that_changed_is_decoded_again(
    built: Built, images: list[PoolImage], open_store: Callable[[], PictureStore]
) -> None:
    before = open_store().encoded(images[:2], pixels_of=Counted(built)).vectors_ND[:]
    Image.new("RGB", (16, 20), "red").save(images[0].path)
    after = open_store().encoded(images[:2], pixels_of=Counted(built)).vectors_ND[:]
    assert not np.array_equal(after[0], before[0])
    assert np.array_equal(after[1], before[1])


def test_another_tower_has_another_store(built: Built, open_store: Callable[[], PictureStore]) -> None:
    before = open_store().folder
    with torch.no_grad():
        next(built.model.tower.parameters()).add_(1.0)
    assert open_store().folder != before


def test_an_empty_pool_has_no_rows(built: Built, open_store: Callable[[], PictureStore]) -> None:
    pool = open_store().encoded([], pixels_of=Counted(built))
    assert pool.vectors_ND[:].shape == (0, 16)


@pytest.mark.parametrize("num", [10, 20_000])  # 20 000 are sorted in once
def test_a_digest_index_answers_as_a_dictionary_does(num: int) -> None:
    rng = np.random.default_rng(0)
    digests = [rng.bytes(14) + bytes(2) for _ in range(num)]  # ends in zeros, which NumPy leaves out
    index = DigestIndex(np.array(digests[: num // 2], dtype="S16"), rows=np.arange(num // 2))
    for row in range(num // 2, num):
        index.add(digests[row], row=row)
    assert [index.row(digest) for digest in digests] == list(range(num))
    assert index.row(bytes(16)) is None
