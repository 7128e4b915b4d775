"""`python -m bench.composed`: what a composed query costs against one picture and one text encoded by themselves.

One caller asks a served encoder with caches off, in turn for a picture, a text,
and the picture with the text, so that whatever else the machine does weighs on
all three; the ratio of the medians is the result. The release is untrained:
weights change no time. Its composer is the one that `compose` trains, with the
sides that are asked for. One that prompts the picture tower takes no vectors.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.encoder.material import write_captions, write_pictures
from bench.encoder.served import running_service
from bench.machine import machine, write_result
from sightline.client import Client, ComposedQuery
from sightline.models.clip_tokenizer import tower_tokenizer_of_tag
from sightline.models.composer import build_composer
from sightline.models.composer_config import PICTURE_SIDES, TEXT_SIDES, ComposerConfig
from sightline.models.config import ZrigfConfig
from sightline.models.model import build_model
from sightline.models.release import embedding_space_of, save_release
from sightline.models.towers import tower_config_of_tag
from sightline.testing.tiny_releases import publish_folder
from trainer.composing.config import AlignmentSettings, InversionSettings

OUT = Path(__file__).parent / "results" / "composed.json"
BY_VECTOR = "composed_by_vector"
_DISTINCT = 16


def main() -> None:
    """Measure, print and write the results."""
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-composed-") as name:
        folder = Path(name)
        sides = {"text_side": args.text_side, "picture_side": args.picture_side}
        publish_composing(folder, tag=args.tag, composer=composer_of(**sides))
        pictures = write_pictures(folder / "pictures", count=_DISTINCT)
        texts = write_captions(folder / "captions.txt", count=_DISTINCT)
        with running_service(args.host, folder=folder, cores=args.cores) as address, Client(address) as client:
            p50_ms = measured(client, pictures=pictures, texts=texts, seconds=args.seconds)
    apart = p50_ms["picture"] + p50_ms["text"]
    ratios = {"composed_over_picture_plus_text": round(p50_ms["composed"] / apart, 3)}
    if BY_VECTOR in p50_ms:
        ratios["composed_by_vector_over_text"] = round(p50_ms[BY_VECTOR] / p50_ms["text"], 3)
    work = {"tag": args.tag, **sides, "host": args.host, "seconds": args.seconds, "cores": args.cores}
    write_result(args.out, result={"machine": machine(), "work": work, "p50_ms": p50_ms, "ratios": ratios})
    print(f"{p50_ms}\n{ratios}\nwritten to {args.out}")


def composer_of(*, text_side: str, picture_side: str) -> ComposerConfig:
    """The composer that both stages train by default, with these sides."""
    first = ComposerConfig(inversion=InversionSettings().network())
    return AlignmentSettings(text_side=text_side, picture_side=picture_side).composer(first)


def publish_composing(folder: Path, *, tag: str, composer: ComposerConfig) -> None:
    """An untrained release of the open_clip model `tag` with such a composer, in `folder / "registry"`."""
    torch.manual_seed(0)
    config = tower_config_of_tag(tag)
    tokenizer = tower_tokenizer_of_tag(tag, context_length=config.context_length)
    model = build_model(ZrigfConfig(tower=config))
    space_id = embedding_space_of(model, tower_tokenizer=tokenizer)
    made = build_composer(composer, tower=model.tower, tokenizer=tokenizer, embedding_space_id=space_id)
    architecture = save_release(folder / "made", model=model, tower_tokenizer=tokenizer, composer=made.eval())
    publish_folder(folder / "made", registry_uri=str(folder / "registry"), architecture=architecture)


def measured(client: Client, *, pictures: list[bytes], texts: list[str], seconds: float) -> dict[str, float]:
    """Milliseconds at the median of each kind of call that the encoder takes, in turn for `seconds`."""
    encoder = client.describe_encoder()
    space_id = encoder.served.embedding_space_id
    vectors = [np.asarray(client.encode_images([data]).vectors[0]) for data in pictures[:4]]

    def by_vector(number: int) -> None:
        query = ComposedQuery(vector=vectors[number % 4], texts=[texts[number]])
        client.encode_composed([query], embedding_space_id=space_id)

    calls: dict[str, Callable[[int], object]] = {
        "picture": lambda n: client.encode_images([pictures[n]]),
        "text": lambda n: client.encode_texts([texts[n]]),
        "composed": lambda n: client.encode_composed([ComposedQuery(picture=pictures[n], texts=[texts[n]])]),
    }
    if encoder.composes_vectors:
        calls[BY_VECTOR] = by_vector
    took: dict[str, list[float]] = defaultdict(list)
    ends, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < ends or number < 3:
        for name, call in calls.items():
            began = time.perf_counter()
            call(number % _DISTINCT)
            took[name].append(1000 * (time.perf_counter() - began))
        number += 1
    return {name: round(statistics.median(times), 2) for name, times in took.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    usual = AlignmentSettings()
    parser.add_argument("--tag", default="ViT-B-32", help="open_clip model, untrained")
    parser.add_argument("--text-side", choices=TEXT_SIDES, default=usual.text_side, help="what edits are read with")
    text = "what references are seen with"
    parser.add_argument("--picture-side", choices=PICTURE_SIDES, default=usual.picture_side, help=text)
    parser.add_argument("--host", choices=("aio", "serve"), default="aio")
    parser.add_argument("--cores", type=int, default=2, help="cores of the encoder")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
