"""Caption, rewrite, search as a system of the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.data.captions import CaptionRecord, write_captions
from tests.unit.trainer.completions import completion, served
from trainer.__main__ import main
from trainer.benchmarks.annotations import Files


def target(text: str) -> str:
    return json.dumps({"target_caption": text})


def test_the_benchmark_measures_it_says_what_fell_back_and_keeps_the_answers(
    small: Callable[[str], Files],
    tiny_release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = small("triplets")
    records = [
        CaptionRecord(image_id=f"p{n}", path=tmp_path / f"triplets/images/{n}.png", caption=f"a car by {n} trees")
        for n in range(14)
    ]
    write_captions(tmp_path / "captions.jsonl", records)
    places = ["--annotations", str(files.annotations), "--images", str(files.images), "--release", str(tiny_release)]
    command = ["benchmark", "triplets", *places, "--out", str(tmp_path), "--cache", str(tmp_path / "cache")]

    def result(rewriter: str) -> dict[str, Any]:
        assert main([*command, "--system", f"rewrite:{rewriter}:{tmp_path / 'captions.jsonl'}"]) == 0
        (path,) = tmp_path.glob("triplets-val-rewrite-*.json")
        found: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return found

    assert result("rules")["notes"] == []
    with served(lambda number, body: completion("no") if number % 2 else completion(target("cars by night"))) as server:
        monkeypatch.setenv("SIGHTLINE_REWRITE_BASE_URL", server.base_url)
        monkeypatch.setenv("SIGHTLINE_REWRITE_MODEL", "org/model")
        monkeypatch.setenv("SIGHTLINE_REWRITE_NUM_PARALLEL", "1")
        first = result("endpoint")
        num_asked = len(server.requests)
        assert result("endpoint") == first
        assert len(server.requests) == num_asked > 6
    assert first["system"] == "rewrite:org_model:captions.jsonl"
    assert first["notes"] == ["1 of 6 sentences are a fallback's: not_json 1"]
    for system, message in (
        ("rewrite", "takes REWRITER:CAPTIONS"),
        ("rewrite:rules:no.jsonl", "captions: got 'no.jsonl'"),
    ):
        assert main([*command, "--system", system]) == 2
        assert message in capsys.readouterr().err
