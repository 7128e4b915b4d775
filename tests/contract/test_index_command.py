"""`sightline index` and `sightline search` against a served retriever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retriever_svc.building import build_servicer
from retriever_svc.settings import RetrieverSettings
from sightline.cli import app, main
from sightline.cli.index import Outcome, index_items, read_items
from sightline.client import AsyncClient
from sightline.errors import DataLineInvalid, SightlineError, UsageError
from sightline.rpc.aio_host import AioHost, ServiceBinding
from sightline.rpc.host_settings import HostSettings
from sightline.testing.encoder import FakeEncoder, colour_picture
from sightline.testing.folders import quick_folder
from tests.unit.trainer.completions import Reply, completion
from tests.unit.trainer.completions import served as completions

COLOURS = ["red", "green", "blue", "white", "black", "orange", "purple", "pink", "gray", "navy", "teal"]


@dataclass
class Served:
    """A retriever and its encoder behind standalone hosts."""

    address: str
    encoder: FakeEncoder
    host: AioHost

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of `sightline` with these arguments, run in a thread beside the services."""
        command = [arguments[0], *arguments[1:], "--address", self.address]
        result = await asyncio.to_thread(CliRunner().invoke, app, command)
        if isinstance(result.exception, SightlineError):
            return 2, result.output + result.exception.message
        return result.exit_code, result.output

    async def stored(self) -> list[str]:
        async with AsyncClient(self.address) as client:
            return sorted(image.image_id for image in (await client.list_images()).images)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    encoder = FakeEncoder()
    quick = HostSettings(grace_s=0.5)
    encoding = AioHost([ServiceBinding(service="EncoderService", servicer=encoder)], quick)
    await encoding.start()
    with quick_folder() as folder:
        servicer = build_servicer(RetrieverSettings(path=folder, encoder_address=encoding.address))
        finding = AioHost([ServiceBinding(service="RetrieverService", servicer=servicer)], quick)
        await finding.start()
        yield Served(finding.address, encoder, finding)
        await finding.drain_and_stop()
    await encoding.drain_and_stop()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with one picture of each colour, some in a subfolder."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        name = f"{colour}.png" if number % 2 else f"deep/{colour}.png"
        (folder / name).write_bytes(colour_picture(colour))
    return folder


def captions_file(pictures: Path) -> Path:
    rows = [
        {"image_id": path.stem, "path": path.relative_to(pictures).as_posix(), "caption": f"a {path.stem} {thing}"}
        for path in sorted(pictures.rglob("*.png"))
        for thing in ("square", "tile")
    ]
    file = pictures / "captions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


async def test_a_folder_is_stored_and_a_second_run_sends_nothing(served: Served, pictures: Path) -> None:
    code, output = await served.run("index", str(pictures), "--batch", "3")
    assert code == 0
    assert f"{len(COLOURS)} stored" in output
    assert await served.stored() == sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    before = served.encoder.num_pictures_encoded
    code, output = await served.run("index", str(pictures))
    assert (code, served.encoder.num_pictures_encoded) == (0, before)
    assert f"0 stored (0.0/s), {len(COLOURS)} unchanged" in output


async def test_captions_become_metadata_of_one_picture_each(served: Served, pictures: Path) -> None:
    code, _ = await served.run("index", str(captions_file(pictures)))
    assert code == 0
    assert await served.stored() == sorted(COLOURS)
    async with AsyncClient(served.address) as client:
        image = await client.get_image("red")
    assert dict(image.metadata) == {"caption": "a red square", "caption_2": "a red tile"}
    code, output = await served.run("search", "anything red", "-k", "2", "--where", "caption=a red square")
    assert code == 0
    assert "red" in output
    assert "1.000" in output
    assert "blue" not in output


async def test_a_changed_picture_is_sent_again(served: Served, pictures: Path) -> None:
    await served.run("index", str(pictures))
    (pictures / "green.png").write_bytes(colour_picture("green", side=9))
    _, output = await served.run("index", str(pictures))
    assert "1 stored" in output


async def test_bad_pictures_are_named_with_their_reasons(served: Served, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n then nothing")
    (pictures / "huge.png").write_bytes(b"x" * (8 * 1024 * 1024 + 1))
    code, output = await served.run("index", str(pictures))
    assert code == 1
    assert f"{len(COLOURS)} stored" in output
    assert "refused broken.png: " in output
    assert "refused huge.png: got 8388609 bytes, limit 8388608" in output
    code, output = await served.run("index", str(pictures), "--skip-bad")
    assert code == 0
    assert "2 refused" in output


async def test_a_bad_line_stops_before_anything_is_sent_unless_it_may_be_skipped(
    served: Served, pictures: Path
) -> None:
    file = captions_file(pictures)
    file.write_text(file.read_text() + '{"image_id": "absent", "path": "absent.png", "caption": "x"}\n')
    code, output = await served.run("index", str(file))
    assert code == 2
    assert f"captions.jsonl:{2 * len(COLOURS) + 1}" in output
    assert await served.stored() == []
    code, output = await served.run("index", str(file), "--skip-bad")
    assert code == 0
    assert "1 bad lines" in output


async def test_a_run_that_is_stopped_halfway_is_finished_by_the_next(served: Served, pictures: Path) -> None:
    items, outcome = read_items(pictures), Outcome()
    enough = asyncio.Event()
    async with AsyncClient(served.address) as client:
        work = index_items(
            client,
            items,
            outcome=outcome,
            concurrency=1,
            batch=2,
            on_progress=lambda: enough.set() if outcome.num_seen >= 4 else None,
        )
        running = asyncio.create_task(work)
        await enough.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        stored = len(await served.stored())
        assert 4 <= stored < len(items)
        again = Outcome()
        await index_items(client, items, outcome=again)
    assert (again.num_unchanged, again.num_stored) == (stored, len(items) - stored)


async def test_search_starts_from_a_picture_sent_or_stored(served: Served, pictures: Path) -> None:
    await served.run("index", str(pictures))
    red = next(path for path in pictures.rglob("red.png"))
    code, output = await served.run("search", "--image", str(red), "but blue", "-k", "1")
    assert (code, "blue.png" in output) == (0, True), output
    image_id = next(name for name in await served.stored() if name.endswith("red.png"))
    code, output = await served.run(
        "search", "--image-id", image_id, "blue", "in snow blue", "--text-weight", "1", "-k", "1"
    )
    assert (code, "blue.png" in output) == (0, True), output
    code, output = await served.run(
        "search", "--image-id", image_id, "--without", "blue", "--keep-reference", "-k", "1"
    )
    assert (code, "red.png" in output) == (0, True), output
    code, output = await served.run("search", "--image-id", "absent", "blue")
    assert (code, "absent" in output) == (2, True)


async def test_a_language_model_says_what_is_looked_for(
    served: Served, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        (field,) = body["response_format"]["json_schema"]["schema"]["required"]
        return completion(json.dumps({field: "a green square" if field == "caption" else "blue"}))

    await served.run("index", str(captions_file(pictures)))
    with completions(behaviour) as server:
        monkeypatch.setenv("SIGHTLINE_REWRITE_BASE_URL", server.base_url)
        monkeypatch.setenv("SIGHTLINE_REWRITE_MODEL", "stand-in")
        code, output = await served.run("search", "--image-id", "red", "but blue", "--rewrite", "-k", "1")
        assert (code, "looking for: blue" in output, "blue square" in output) == (0, True, True), output
        assert "a red square" in server.requests[0]["messages"][-1]["content"]
        code, output = await served.run("search", "--image-id", "blue", "bluer", "--rewrite", "-k", "100")
        assert (code, "a blue square" in output) == (0, False), output
        image = str(next(pictures.rglob("green.png")))
        code, output = await served.run("search", "--image", image, "but blue", "--rewrite")
        assert (code, len(server.requests)) == (0, 4), output
        assert "a green square" in server.requests[3]["messages"][-1]["content"]
        for words, told in (
            (["blue"], "needs a picture to start from"),
            (["blue", "--image-id", "red", "--text-weight", "1"], "--text-weight weighs"),
            (["blue", "--image", "nowhere.png"], "--image: got 'nowhere.png'"),
        ):
            code, output = await served.run("search", "--rewrite", *words)
            assert (code, told in output) == (2, True), output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "query: got nothing"),
        (["blue", "--image", "nowhere.png"], "--image: got 'nowhere.png'"),
        (["blue", "--image", __file__, "--image-id", "a"], "got picture and image_id"),
    ],
)
async def test_a_search_that_means_nothing_is_refused(served: Served, words: list[str], told: str) -> None:
    code, output = await served.run("search", *words)
    assert (code, told in output) == (2, True), output


async def test_a_service_that_goes_away_is_said_and_what_is_left(served: Served, pictures: Path) -> None:
    await served.host.drain_and_stop()
    code, output = await served.run("index", str(pictures))
    assert code == 2
    assert f"stopped with {len(COLOURS)} to go" in output


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_items(tmp_path / "absent")
    with pytest.raises(UsageError, match="no picture"):
        read_items(tmp_path)
    (tmp_path / "bad.jsonl").write_text("not json\n")
    with pytest.raises(DataLineInvalid, match=r"bad\.jsonl:1"):
        read_items(tmp_path / "bad.jsonl")


def test_the_command_reports_a_wrong_filter_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sightline", "search", "red", "--where", "colour"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "KEY=VALUE" in capsys.readouterr().err
