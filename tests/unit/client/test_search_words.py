"""What the words of `sightline search` ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.cli.search import query_of
from sightline.composition import Edit
from sightline.errors import UsageError


def test_one_word_is_a_picture_if_it_names_a_file_else_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")
    assert query_of(Edit(texts=[str(tmp_path / "a.png")])) == b"pixels"
    assert query_of(Edit(texts=["gone.png"])) == "gone.png"


@pytest.mark.parametrize("sentence", ["a red boat. " * 30, "a red boat.\0png"])
def test_a_sentence_that_no_file_could_be_called_is_a_sentence(sentence: str) -> None:
    assert query_of(Edit(texts=[sentence])) == sentence


def test_nothing_and_a_path_that_is_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="query: got nothing"):
        query_of(Edit())
    with pytest.raises(UsageError, match=r"--image: got '.*gone\.png', expected the path of a picture"):
        query_of(Edit(texts=["but red"]), image=tmp_path / "gone.png")
