"""The command from files to results, and what it keeps, refuses and compares."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.errors import UsageError
from sightline.testing.tiny_releases import DIMENSION, SEES_VECTORS, publish_folder, save_tiny_encoder
from trainer.__main__ import main
from trainer.benchmarks import baselines, features
from trainer.benchmarks.annotations import Files
from trainer.benchmarks.features import FeatureStore, encode_pictures
from trainer.benchmarks.protocol import ComposedEncoder, Picture, Pixels, References
from trainer.benchmarks.run import KINDS, query_vectors, release_folder
from trainer.benchmarks.systems import open_system

Small = Callable[[str], Files]


def command(name: str, files: Files, *, release: Path, out: Path, more: tuple[str, ...] = ()) -> list[str]:
    places = ["--annotations", str(files.annotations), "--images", str(files.images), "--release", str(release)]
    return ["benchmark", name, *places, "--out", str(out), "--cache", str(out / "cache"), *more]


@pytest.mark.parametrize("name", KINDS)
def test_the_command_measures_every_schema(name: str, small: Small, tiny_release: Path, tmp_path: Path) -> None:
    assert main(command(name, small(name), release=tiny_release, out=tmp_path)) == 0
    result = json.loads((tmp_path / f"{name}-val-sum-0.5.json").read_text())
    assert result["system"] == "sum:0.5"
    assert result["missing"] is None
    assert result["is_published_size"] is False
    assert result["num_queries"] == sum(sizes["num_queries"] for sizes in result["tasks"].values())
    assert all(len(digest) == 64 for digest in result["annotations_sha256"].values())
    assert {"template", "wording", "caption_mode", "tie_rule", "ks", "embedding_space_id"} < set(result)
    assert all(0 <= value <= 100 for row in result["metrics"].values() for value in row.values())


def test_files_and_a_release_are_enough(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = small("triplets")
    for name, composer, system in (("plain", None, "sum"), ("composing", SEES_VECTORS, "composed")):
        save_tiny_encoder(tmp_path / name, composer=composer)
        places = ["--annotations", str(files.annotations), "--images", str(files.images), "--release", name]
        assert main(["benchmark", "triplets", *places]) == 0
        assert f"system: {system}, as none was named" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "var/benchmarks/triplets").iterdir()}
    assert written == {"triplets-val-sum-0.5.json", "triplets-val-composed.json"}


def test_hidden_answers_give_a_submission_alone(
    small: Small, tiny_release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, written in (("circo", 1), ("cirr", 2)):
        asked = command(name, small(name), release=tiny_release, out=tmp_path / name, more=("--split", "test"))
        assert main(asked) == 2
        assert "the answers are hidden; give --submission" in capsys.readouterr().err
        assert main([*asked, "--submission", str(tmp_path / name / "sent")]) == 0
        assert len(list((tmp_path / name / "sent").iterdir())) == written
        (result,) = (tmp_path / name).glob("*.json")
        assert json.loads(result.read_text())["metrics"] == {}


def test_missing_pictures_refuse_the_run_unless_allowed_and_are_stamped(
    small: Small, tiny_release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = small("fashioniq")
    for picture in sorted(files.images.glob("B00DRESS*"))[:2]:
        picture.unlink()
    asked = command("fashioniq", files, release=tiny_release, out=tmp_path, more=("--system", "image"))
    assert main(asked) == 2
    told = capsys.readouterr().err
    assert "2 pictures are missing" in told
    assert "--allow-missing" in told
    assert main([*asked, "--allow-missing"]) == 0
    assert "incomplete" in capsys.readouterr().out
    stamp = json.loads((tmp_path / "fashioniq-val-image.json").read_text())["missing"]
    assert stamp["num_pictures"] == 2
    assert stamp["num_queries"] >= 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--system", "sum:2"), "text's weight from 0 to 1, got '2'"),
        (("--system", "magic"), "system: got 'magic', expected one of image, text, sum"),
        (("--wording", "the same"), "expected {text} in it"),
        (("--submission", "x"), "triplets has no server"),
        (("--model.tower", "x"), "unknown arguments --model.tower x"),
    ],
)
def test_wrong_arguments_are_told(
    more: tuple[str, ...],
    message: str,
    small: Small,
    tiny_release: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command("triplets", small("triplets"), release=tiny_release, out=tmp_path, more=more)) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_benchmark_is_told(
    small: Small, tiny_release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("imagenet", small("triplets"), release=tiny_release, out=tmp_path)) == 2
    assert "expected one of circo, cirr, fashioniq, genecis, triplets" in capsys.readouterr().err


def test_a_release_is_a_folder_or_what_a_registry_calls_it(tiny_release: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    architecture = save_tiny_encoder(tmp_path / "made")
    registry = str(tmp_path / "registry")
    release_id = publish_folder(tmp_path / "made", registry_uri=registry, architecture=architecture).release_id
    places: dict[str, Any] = {"registry": registry, "cache": tmp_path / "cache"}
    assert release_folder(str(tiny_release), **places) == (tiny_release, tiny_release.as_posix())
    by_channel, by_id = release_folder("stable", **places), release_folder(release_id, **places)
    assert by_channel == by_id
    assert by_id[1] == release_id
    assert open_system("image", folder=by_id[0], device="cpu", cache=tmp_path).dimension == DIMENSION


class Counting:
    """An encoder that counts what it encodes, and dies when told to."""

    system, template, embedding_space_id, dimension, image_size = "counting", "{text}", "space", 3, 8

    def __init__(self, *, dies_after: int = 10**9) -> None:
        self.num_encoded, self._dies_after = 0, dies_after

    def preprocess(self, image: Image.Image) -> Pixels:
        return np.asarray(image.resize((8, 8))).transpose(2, 0, 1)

    def encode_images(self, pixels_NCHW: Pixels) -> np.ndarray[Any, np.dtype[np.float32]]:
        if self.num_encoded >= self._dies_after:
            raise KeyboardInterrupt
        self.num_encoded += len(pixels_NCHW)
        return baselines.unit(pixels_NCHW.mean(axis=(2, 3)).astype(np.float32))

    def encode_composed(self, references: References, texts: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        assert len(references.pictures) == len(texts)
        return references.vectors_QD


def pictures_of(small: Small) -> list[Picture]:
    return [picture for task in KINDS["genecis"].read(small("genecis")).tasks for picture in task.pictures]


def filled(cache: Path, encoder: ComposedEncoder, pictures: list[Picture]) -> np.ndarray[Any, np.dtype[np.float32]]:
    store = FeatureStore(cache, encoder=encoder)
    assert list(store.vectors(pictures))[-1] == len(pictures)
    return store.stored(pictures)[:]


def test_a_killed_fill_goes_on_and_gives_the_same(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_CHUNK", 7)
    pictures = pictures_of(small)
    distinct = len({picture.digest() for picture in pictures})
    dying, second, third = Counting(dies_after=20), Counting(), Counting()
    with pytest.raises(KeyboardInterrupt):
        list(FeatureStore(tmp_path / "cache", encoder=dying).vectors(pictures))
    (folder,) = (tmp_path / "cache").iterdir()
    with (folder / "vectors.f32").open("ab") as file:
        file.write(b"torn")
    vectors_ND = filled(tmp_path / "cache", second, pictures)
    assert dying.num_encoded >= 20
    assert dying.num_encoded + second.num_encoded == distinct
    assert np.array_equal(vectors_ND, encode_pictures(Counting(), pictures))
    assert np.array_equal(filled(tmp_path / "cache", third, pictures), vectors_ND)
    assert third.num_encoded == 0


def test_a_part_and_its_picture_are_two_rows(small: Small) -> None:
    part = pictures_of(small)[0]
    assert part.box is not None
    assert part.digest() != Picture(image=part.image).digest()


def test_wordings_are_averaged_and_put_into_words(small: Small, tiny_release: Path, tmp_path: Path) -> None:
    task = KINDS["fashioniq"].read(small("fashioniq")).tasks[0]
    encoder = open_system("text", folder=tiny_release, device="cpu", cache=tmp_path)
    pictures_ND = encode_pictures(encoder, task.pictures)
    found_QD = query_vectors(encoder, task, pictures=pictures_ND, wording="{text} dress")
    reference = References(pictures=task.pictures[:1], vectors_QD=pictures_ND[:1])
    first, second = (encoder.encode_composed(reference, [f"{text} dress"])[0] for text in task.queries[0].texts)
    np.testing.assert_allclose(found_QD[0], (first + second) / np.linalg.norm(first + second), atol=1e-5)


def test_baselines_are_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    image, text = (baselines.unit(rng.standard_normal((5, 8)).astype(np.float32)) for _ in range(2))
    assert np.array_equal(baselines.image_only(image, text), image)
    assert np.array_equal(baselines.text_only(image, text), text)
    np.testing.assert_allclose(baselines.weighted_sum(0.25)(image, text), 0.75 * image + 0.25 * text, atol=1e-6)
    halfway = baselines.slerp(0.5)(image, text)
    np.testing.assert_allclose(halfway, baselines.unit(image + text), atol=1e-6)  # half of the arc is half of the sum
    np.testing.assert_allclose(np.linalg.norm(baselines.slerp(0.2)(image, text), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(baselines.slerp(0.3)(image, image), image, atol=1e-6)
    assert np.array_equal(baselines.chance(3)(image, text), baselines.chance(3)(image, text))
    with pytest.raises(UsageError, match="query 2: its vector has length 0"):
        baselines.unit(np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32))


def test_pictures_are_decoded_whole_for_parts(small: Small) -> None:
    part = pictures_of(small)[0]
    buffer = io.BytesIO(part.image.read_bytes())
    assert part.box is not None
    assert part.read(min_side=1).size == part.box.cut(Image.open(buffer)).size
