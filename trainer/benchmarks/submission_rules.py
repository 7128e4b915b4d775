"""The published rules of the submission servers, checked on the files alone: the writer shares no line with this.

CIRCO: circo.micc.unifi.it. CIRR: cirr.cecs.anu.edu.au/test_process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.data.lines import read_json
from sightline.errors import UsageError

CIRCO_LENGTH = 50
CIRR_LENGTHS = {"recall": 50, "recall_subset": 3}
CIRR_VERSION, CIRR_MAX_BYTES = "rc2", 5_000_000


def check_circo(path: Path, *, annotations: Path, gallery: Collection[int]) -> None:
    """Refuse a CIRCO submission that its server would: raises UsageError naming file, query and rule.

    One object; the queries' numbers as keys, all and no other; 50 different
    whole numbers of pictures of the gallery each.
    """
    answers = _object(path)
    _check_keys(path, answers, expected={str(row["id"]) for row in read_json(annotations)})
    for key, images in answers.items():
        _check_list(path, key, images, length=CIRCO_LENGTH)
        if strange := [image for image in images if type(image) is not int or image not in gallery]:
            raise UsageError(f"{path}: query {key}: {strange[0]!r} is no picture of the gallery")


def check_cirr(path: Path, *, captions: Path, image_split: Path) -> None:
    """Refuse one of CIRR's two files if its server would: raises UsageError naming file, query and rule.

    `version` rc2; `metric` recall with 50 names a query, or recall_subset with
    3 members of its set; names differ, are those of the split, and are not the
    reference; at most 5 MB.
    """
    if (size := path.stat().st_size) > CIRR_MAX_BYTES:
        raise UsageError(f"{path}: got {size} bytes, limit {CIRR_MAX_BYTES}")
    answers = dict(_object(path))
    version, metric = answers.pop("version", None), answers.pop("metric", None)
    if version != CIRR_VERSION:
        raise UsageError(f"{path}: version: got {version!r}, expected {CIRR_VERSION!r}")
    if metric not in CIRR_LENGTHS:
        raise UsageError(f"{path}: metric: got {metric!r}, expected one of {', '.join(CIRR_LENGTHS)}")
    queries = {str(row["pairid"]): row for row in read_json(captions)}
    _check_keys(path, answers, expected=set(queries))
    everything = set(read_json(image_split))
    for key, images in answers.items():
        members = set(queries[key]["img_set"]["members"]) if metric == "recall_subset" else everything
        _check_list(path, key, images, length=CIRR_LENGTHS[metric])
        if strange := [image for image in images if image not in members]:
            raise UsageError(f"{path}: query {key}: {strange[0]!r} is none of the {len(members)} pictures allowed")
        if (reference := queries[key]["reference"]) in images:
            raise UsageError(f"{path}: query {key}: holds its reference {reference!r}")


def _object(path: Path) -> Mapping[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UsageError(f"{path}: got {type(value).__name__}, expected one object")
    return value


def _check_keys(path: Path, answers: Mapping[str, Any], *, expected: set[str]) -> None:
    if lost := sorted(expected - set(answers)):
        raise UsageError(f"{path}: {len(lost)} queries have no answer, such as {lost[0]}")
    if strange := sorted(set(answers) - expected):
        raise UsageError(f"{path}: {len(strange)} keys are no query, such as {strange[0]!r}")


def _check_list(path: Path, key: str, images: Sequence[Any], *, length: int) -> None:
    if not isinstance(images, list) or len(images) != length:
        got = len(images) if isinstance(images, list) else type(images).__name__
        raise UsageError(f"{path}: query {key}: got {got}, expected a list of {length}")
    if len(set(map(repr, images))) < length:
        raise UsageError(f"{path}: query {key}: names a picture twice")
