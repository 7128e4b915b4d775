"""`python -m bench.pool`: what a pool costs as it grows: memory and speed of retrieval, of tokens, and of decoding.

Vectors and tokens are drawn at random (512 dimensions, 4x4 tokens of 384), pictures by Pillow. The peak counted is what
a part adds to the process's resident memory, mapped files included: Linux forgets the earlier peak when asked. The
rival is the obvious full matrix product.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.machine import Measured, mib
from sightline.data.pools import PoolImage
from sightline.models.config import FusionConfig, MaskingConfig, TowerConfig, ZrigfConfig
from sightline.models.model import build_model
from trainer.digests import DIGEST, DigestIndex
from trainer.pictures import read_pixels
from trainer.retrieval import nearest_pictures
from trainer.store import PictureStore, StoredArray

OUT = Path(__file__).parent / "results" / "pool.json"
SIZES = (10_000, 50_000, 200_000)
DIMENSION, TOKENS, WIDTH = 512, 16, 384
NUM_QUERIES, K = 1000, 16
NUM_BATCHES, BATCH, SHOWN = 200, 32, 3
NUM_DECODED, SIDE = 2000, 224
_ROWS_A_WRITE = 5000


def main() -> None:
    """Measure every size and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sightline-pool-") as folder:
        pools = [measured_pool(Path(folder), num_pictures=size) for size in asked.sizes]
        decoding = decode_pictures(Path(folder))
    result = {
        "command": "python -m bench.pool",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared; load average {os.getloadavg()[1]:.0f}",
        "sizes": {"dimension": DIMENSION, "tokens": TOKENS, "token_width": WIDTH, "queries": NUM_QUERIES, "k": K},
        "pools": with_ratios(pools),
        "decoding": decoding,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def measured_pool(folder: Path, *, num_pictures: int) -> dict[str, Any]:
    """Everything about one size; its files are removed."""
    write_pool(folder, num_pictures)
    row = {"pictures": num_pictures, "disk_mib": mib(sum(path.stat().st_size for path in folder.glob("pool.*")))}
    row |= search_in_blocks(folder, num_pictures)
    row |= search_whole(folder, num_pictures)
    row |= gather_tokens(folder, num_pictures)
    row |= index_digests(num_pictures)
    row["rows_that_differ"] = int((np.load(folder / "blocks.npy") != np.load(folder / "whole.npy")).any(axis=1).sum())
    return row


def with_ratios(pools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with speed and memory relative to the first."""
    names = ("blocks_pictures_per_s", "blocks_peak_mib", "tokens_batches_per_s", "tokens_peak_mib")
    return [pool | {f"{name}_ratio": round(pool[name] / pools[0][name], 2) for name in names} for pool in pools]


def write_pool(folder: Path, num_pictures: int) -> None:
    """Random unit vectors and tokens on disk, a few thousand rows at a time."""
    rng = np.random.default_rng(0)
    with (folder / "pool.vectors").open("wb") as vectors, (folder / "pool.tokens").open("wb") as tokens:
        for start in range(0, num_pictures, _ROWS_A_WRITE):
            num = min(_ROWS_A_WRITE, num_pictures - start)
            drawn = rng.standard_normal((num, DIMENSION), dtype=np.float32)
            vectors.write((drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).tobytes())
            tokens.write(rng.integers(0, 1 << 14, size=(num, TOKENS * WIDTH), dtype=np.uint16).tobytes())


def search_in_blocks(folder: Path, num_pictures: int) -> dict[str, Any]:
    """The trainer's search."""
    queries, stored = queries_and_vectors(folder, num_pictures)
    with Measured() as cost:
        rows, _ = nearest_pictures(queries, pictures_ND=stored, k=K)
    np.save(folder / "blocks.npy", rows)
    return cost.named("blocks") | {"blocks_pictures_per_s": round(num_pictures / cost.seconds)}


def search_whole(folder: Path, num_pictures: int) -> dict[str, Any]:
    """The same by one matrix product over all vectors in memory."""
    queries, stored = queries_and_vectors(folder, num_pictures)
    with Measured() as cost:
        cosines = queries @ stored[:].T
        top = np.argpartition(-cosines, K - 1, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(cosines, top, axis=1), axis=1, kind="stable")
        rows = np.take_along_axis(top, order, axis=1)
    np.save(folder / "whole.npy", rows)
    return cost.named("whole")


def gather_tokens(folder: Path, num_pictures: int) -> dict[str, Any]:
    """What stage 2 reads: tokens of random pictures, batch after batch."""
    rng = np.random.default_rng(1)
    stored = StoredArray(
        folder / "pool.tokens", dtype="<f2", shape=(TOKENS, WIDTH), rows=np.arange(num_pictures, dtype=np.int64)
    )
    with Measured() as cost:
        for _ in range(NUM_BATCHES):
            stored[rng.integers(0, num_pictures, size=(BATCH, SHOWN))].astype(np.float32)
    return cost.named("tokens") | {"tokens_batches_per_s": round(NUM_BATCHES / cost.seconds)}


def index_digests(num_pictures: int) -> dict[str, Any]:
    """The map from files to rows that a store holds while it is filled: the one part that grows with the pool."""
    rng = np.random.default_rng(2)
    with Measured() as cost:
        index = DigestIndex(np.zeros(0, dtype=DIGEST), rows=np.zeros(0, dtype=np.int64))
        for row in range(num_pictures):
            index.add(rng.bytes(16), row=row)
    return cost.named("index")


def decode_pictures(folder: Path) -> dict[str, Any]:
    """A store filled from JPEGs by a tiny tower, then asked again, when it only looks the files up."""
    images, model = drawn_pictures(folder), tiny_tower()
    pixels_of = partial(read_pixels, preprocess=model.tower.preprocess)
    filled, again = Measured(), Measured()
    with filled:
        PictureStore(folder / "cache", model=model).encoded(images, pixels_of=pixels_of)
    with again:
        PictureStore(folder / "cache", model=model).encoded(images, pixels_of=pixels_of)
    return {
        "pictures": len(images),
        "jpeg_side": SIDE,
        "fill_pictures_per_s": round(len(images) / filled.seconds),
        "look_up_pictures_per_s": round(len(images) / again.seconds),
        "look_up_over_fill": round(filled.seconds / again.seconds, 1),
    }


def drawn_pictures(folder: Path) -> list[PoolImage]:
    """JPEGs of coloured noise blown up, each of its own."""
    rng = np.random.default_rng(3)
    (folder / "jpeg").mkdir()
    images = []
    for number in range(NUM_DECODED):
        path = folder / "jpeg" / f"{number}.jpg"
        small = Image.fromarray(rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE)).save(path, quality=90)
        images.append(PoolImage(image_id=str(number), path=path))
    return images


def tiny_tower() -> Any:
    """A tower small enough that decoding is what is measured."""
    tower = TowerConfig(
        vocab_size=300, embed_dim=64, image_size=32, patch_size=8, vision_width=32, vision_layers=1, text_width=32,
        text_layers=1, text_heads=1, vision_head_width=32, context_length=16,
    )  # fmt: skip
    fusion = FusionConfig(token_grid=4)
    return build_model(ZrigfConfig(tower=tower, decoder=None, fusion=fusion, masking=MaskingConfig()))


def queries_and_vectors(folder: Path, num_pictures: int) -> tuple[np.ndarray[Any, Any], StoredArray]:
    """Random unit queries, and the pool's vectors where they lie."""
    drawn = np.random.default_rng(4).standard_normal((NUM_QUERIES, DIMENSION), dtype=np.float32)
    rows = np.arange(num_pictures, dtype=np.int64)
    stored = StoredArray(folder / "pool.vectors", dtype="<f4", shape=(DIMENSION,), rows=rows)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True), stored


if __name__ == "__main__":
    main()
