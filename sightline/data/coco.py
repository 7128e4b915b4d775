"""COCO captions JSON: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.data.captions import CaptionRecord
from sightline.data.lines import SkipReport, collect, read_json, text_field
from sightline.data.pools import PoolImage
from sightline.errors import DataLineInvalid


def read_coco_captions(
    path: Path, *, images: Path, skip_bad: bool = False, report: SkipReport | None = None
) -> list[CaptionRecord]:
    """Every caption whose picture is named in the file, in file order; pictures lie in the folder `images`.

    Ids are COCO's numbers as text. Raises DataLineInvalid naming the file, the
    position of the annotation or of the image from 1, the field and the missing
    picture; with `skip_bad` such entries are counted in `report`, else logged.
    """
    listing = _sections(path)
    # Images are no records: what is bad among them is told, what is good is not counted.
    told = None if report is None else SkipReport(skipped=report.skipped)
    names = dict(collect(_placed(listing, "image", path=path), parse=_file_name, skip_bad=skip_bad, report=told))

    def parse(item: Any) -> CaptionRecord:
        image_id = _coco_id(item, "image_id")
        if image_id not in names:
            raise ValueError(f"image_id: {image_id} is not among the images of the file")
        picture = _existing(images / names[image_id])
        return CaptionRecord(image_id=image_id, path=picture, caption=text_field(item, "caption").strip())

    return collect(_placed(listing, "annotation", path=path), parse=parse, skip_bad=skip_bad, report=report)


def read_coco_pool(
    path: Path, *, images: Path, skip_bad: bool = False, report: SkipReport | None = None
) -> list[PoolImage]:
    """Every picture of a COCO file once, captioned or not, in file order; COCO has about five captions a picture.

    Raises DataLineInvalid for an ill-formed file, a missing picture or an id
    seen before; with `skip_bad` those are counted in `report`, else logged.
    """
    seen = set[str]()

    def parse(item: Any) -> PoolImage:
        image_id = _coco_id(item, "id")
        if image_id in seen:
            raise ValueError(f"id: {image_id} occurs twice among the images")
        image = PoolImage(image_id=image_id, path=_existing(images / text_field(item, "file_name")))
        seen.add(image_id)
        return image

    return collect(_placed(_sections(path), "image", path=path), parse=parse, skip_bad=skip_bad, report=report)


def _sections(path: Path) -> Mapping[str, list[Any]]:
    listing = read_json(path)
    for section in ("images", "annotations"):
        if not isinstance(listing, dict) or not isinstance(listing.get(section), list):
            raise DataLineInvalid(f"{path}: not a COCO captions file: it has no list {section!r}")
    return dict(listing)


def _placed(listing: Mapping[str, list[Any]], kind: str, *, path: Path) -> list[tuple[str, Any]]:
    """(where, entry) of each entry of a section, which is called by what it lists."""
    return [(f"{path}: {kind} {number}", entry) for number, entry in enumerate(listing[f"{kind}s"], start=1)]


def _file_name(entry: Any) -> tuple[str, str]:
    return _coco_id(entry, "id"), text_field(entry, "file_name")


def _coco_id(item: Any, name: str) -> str:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, expected a whole number")
    return str(value)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"picture {path} does not exist")
    return path
