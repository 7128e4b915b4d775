"""Drawings of methods: text fits, committed files are what the code draws, and ZRIGF's says what the model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from PIL import ImageFont

from sightline.models.config import published_config
from trainer.experiments import composed_method
from trainer.experiments import method as zrigf_method
from trainer.experiments.method import Method, first_parts, method_svg, published_method, second_parts

DOCS = Path(__file__).resolve().parents[3] / "docs"
DRAWINGS: dict[str, Callable[[list[str]], None]] = {
    "zrigf.svg": zrigf_method.main,
    "composed-retrieval.svg": composed_method.main,
}
SVG = "{http://www.w3.org/2000/svg}"
NUMBERS_WITHOUT_A_BOX = 3
"""Temperature, gate of the text block, bias of the preservation loss."""


@pytest.fixture(scope="module")
def method() -> Method:
    return published_method()


@pytest.fixture(scope="module", params=DRAWINGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def drawn(name: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("drawn") / name
    DRAWINGS[name](["--out", str(file)])
    return file.read_text(encoding="utf-8")


def test_the_committed_drawing_is_what_the_command_draws_now(name: str, drawn: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == drawn


def test_the_boxes_of_stage_two_add_up_to_its_model(method: Method) -> None:
    boxes = sum(part.num_parameters for part in second_parts(method).values())
    assert boxes + NUMBERS_WITHOUT_A_BOX == sum(parameter.numel() for parameter in method.generator.parameters())


def test_stage_one_freezes_the_text_encoder_alone_and_stage_two_nothing(method: Method) -> None:
    frozen = [name for name, part in first_parts(method).items() if not part.is_trained]
    assert frozen == ["bart"]
    assert all(part.is_trained for part in second_parts(method).values())


def test_the_towers_that_retrieve_are_no_part_of_stage_two(method: Method) -> None:
    held = {id(parameter) for parameter in method.second.parameters()}
    assert held.isdisjoint({id(parameter) for parameter in method.tower.parameters()})


def test_the_drawing_names_the_published_sizes() -> None:
    drawn, tower = method_svg(), published_config().tower
    for words in (
        f"{tower.image_size} x {tower.image_size} px",
        "12 layers, 1024 wide",
        "20 of 49 cells",
        "768 to 1024",
    ):
        assert words in drawn


def test_every_text_fits_the_box_that_it_stands_in(drawn: str) -> None:
    root = ElementTree.fromstring(drawn)
    boxes = [[float(box.get(name, "0")) for name in ("x", "y", "width", "height")] for box in root.iter(f"{SVG}rect")]
    for text in root.iter(f"{SVG}text"):
        left, right = extent(text)
        y = float(text.get("y", "0"))
        around = [x for x in boxes if x[0] <= (left + right) / 2 <= x[0] + x[2] and x[1] <= y <= x[1] + x[3]]
        inner = min(around, key=lambda box: box[2] * box[3])
        assert inner[0] <= left, "".join(text.itertext())
        assert right <= inner[0] + inner[2], "".join(text.itertext())


def extent(text: ElementTree.Element) -> tuple[float, float]:
    """Where a text begins and ends in DejaVu Sans, the widest of the fonts that the drawing names."""
    size, x = float(text.get("font-size", "0")), float(text.get("x", "0"))
    width = words_width(text.text, size=size, text=text)
    for part in text:
        width += words_width(part.text, size=float(part.get("font-size", size)), text=text)
    start = {"start": x, "middle": x - width / 2, "end": x - width}[text.get("text-anchor", "start")]
    return start, start + width


def words_width(words: str | None, *, size: float, text: ElementTree.Element) -> float:
    name = "DejaVuSans-Bold.ttf" if text.get("font-weight") == "bold" else "DejaVuSans.ttf"
    # Measured large: at the size itself each letter is rounded to whole pixels.
    font = ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/{name}", 100)
    return float(font.getlength(words or "")) * size / 100


def test_a_lowered_word_leaves_the_rest_on_the_line(drawn: str) -> None:
    for text in ElementTree.fromstring(drawn).iter(f"{SVG}text"):
        drops = [float(part.get("dy", "0")) for part in text]
        assert all(later == -before for before, later in zip(drops[::2], drops[1::2], strict=False))
