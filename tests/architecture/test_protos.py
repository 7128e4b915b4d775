"""The contract: linted, unbroken, commented, and true to the stubs, the errors and the limits.

`protos/baseline.binpb` is the contract as it was last released. A change that no old client
notices leaves it alone; a release renews it: `cd protos && buf build --exclude-source-info -o baseline.binpb`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from sightline import errors, limits
from sightline.composition import NEGATIVE_SHARE
from sightline.rpc.services import SERVICE_NAMES, service_methods
from sightline.rpc.status import error_classes
from sightline.v1 import errors_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
STUBS = ROOT / "sightline" / "v1"
BIN = Path(sys.executable).parent
OUR_FILES = sorted(PROTOS.glob("sightline/v1/*.proto"))

# Field numbers inside descriptor.proto: the path of a comment is made of them.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 2, 3, 4, 8
ENUM_VALUE = SERVICE_METHOD = 2

LIMIT_PHRASES = {
    "EncoderService.EncodeTexts": [f"1 to {limits.MAX_TEXTS_PER_CALL} texts"],
    "EncodeTextsRequest.texts": [
        f"1 to {limits.MAX_TEXTS_PER_CALL} texts",
        f"1 to {limits.MAX_TEXT_CHARS} characters",
    ],
    "EncoderService.EncodeImages": [f"1 to {limits.MAX_PICTURES_PER_CALL} pictures"],
    "EncodeImagesRequest.pictures": [f"1 to {limits.MAX_PICTURES_PER_CALL} pictures"],
    "EncoderService.EncodeComposed": [f"1 to {limits.MAX_COMPOSED_PER_CALL} references"],
    "EncodeComposedRequest.queries": [f"1 to {limits.MAX_COMPOSED_PER_CALL} composed queries"],
    "Edit.texts": [f"up to {limits.MAX_EDIT_TEXTS} sentences", f"up to {limits.MAX_TEXT_CHARS} characters"],
    "Edit.negative_texts": [
        f"up to {limits.MAX_EDIT_TEXTS} sentences",
        f"up to {limits.MAX_TEXT_CHARS} characters",
        f"{NEGATIVE_SHARE} times",
    ],
    "Picture": [f"({limits.MAX_PICTURE_BYTES} bytes)", f"({limits.MAX_PICTURE_PIXELS})"],
    "SearchImagesRequest.text": [f"1 to {limits.MAX_TEXT_CHARS} characters"],
    "SearchImagesRequest.k": [f"1 to {limits.MAX_SEARCH_K}"],
    "Filter.must": [f"up to {limits.MAX_CONDITIONS} conditions"],
    "Filter.must_not": [f"up to {limits.MAX_CONDITIONS} conditions"],
    "Condition.any_of": [f"1 to {limits.MAX_CONDITION_VALUES} values"],
    "ImageRecord.image_id": [f"1 to {limits.MAX_IMAGE_ID_CHARS} characters"],
    "ImageRecord.metadata": [
        f"up to {limits.MAX_METADATA_PAIRS} pairs",
        f"up to {limits.MAX_METADATA_CHARS} characters",
    ],
    "UpsertImagesRequest.images": [f"1 to {limits.MAX_PICTURES_PER_CALL} pictures"],
    "DeleteImagesRequest.image_ids": [f"1 to {limits.MAX_DELETES_PER_CALL} ids"],
    "ListImagesRequest.page_size": [f"1 to {limits.MAX_PAGE_SIZE}", f"zero means {limits.DEFAULT_PAGE_SIZE}"],
    "Turn.text": [f"1 to {limits.MAX_TEXT_CHARS} characters"],
    "GenerationOptions.max_new_tokens": [f"1 to {limits.MAX_NEW_TOKENS}", f"zero means {limits.DEFAULT_NEW_TOKENS}"],
    "GenerationOptions.num_beams": [f"to {limits.MAX_BEAMS}"],
    "ReplyRequest.dialogue": [f"1 to {limits.MAX_DIALOGUE_TURNS} turns"],
    "StreamReplyRequest.dialogue": [f"1 to {limits.MAX_DIALOGUE_TURNS} turns"],
    "ReplyRequest.k": [f"1 to {limits.MAX_REPLY_IMAGES}", f"zero means {limits.DEFAULT_REPLY_IMAGES}"],
    "StreamReplyRequest.k": [f"1 to {limits.MAX_REPLY_IMAGES}", f"zero means {limits.DEFAULT_REPLY_IMAGES}"],
    "ReplyRequest.image_ids": [f"1 to {limits.MAX_REPLY_IMAGES} ids"],
    "StreamReplyRequest.image_ids": [f"1 to {limits.MAX_REPLY_IMAGES} ids"],
}


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "buf", *arguments], cwd=PROTOS, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[descriptor_pb2.FileDescriptorProto]:
    """Our files as buf reads them, comments included. A buf image is a FileDescriptorSet."""
    out = tmp_path_factory.mktemp("image") / "image.binpb"
    done = buf("build", "-o", str(out))
    assert done.returncode == 0, done.stderr
    image = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    return [file for file in image.file if file.package == "sightline.v1"]


def elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and comment path of every element of a file, `Message.field` for one inside another."""
    for index, message in enumerate(file.message_type):
        yield from message_elements(message, path=(FILE_MESSAGE, index), name=message.name)
    for index, enum in enumerate(file.enum_type):
        yield from parts(enum.name, enum.value, path=(FILE_ENUM, index), number=ENUM_VALUE)
    for index, service in enumerate(file.service):
        yield from parts(service.name, service.method, path=(FILE_SERVICE, index), number=SERVICE_METHOD)


def message_elements(message, *, path: tuple[int, ...], name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from parts(name, message.field, path=path, number=MESSAGE_FIELD)
    real = [oneof for index, oneof in enumerate(message.oneof_decl) if not is_synthetic(message, index)]
    yield from list(parts(name, real, path=path, number=MESSAGE_ONEOF))[1:]
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from message_elements(nested, path=(*path, MESSAGE_NESTED, index), name=f"{name}.{nested.name}")


def is_synthetic(message, oneof_index: int) -> bool:
    return any(field.proto3_optional and field.oneof_index == oneof_index for field in message.field)


def parts(name: str, children, *, path: tuple[int, ...], number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name, path
    for index, child in enumerate(children):
        yield f"{name}.{child.name}", (*path, number, index)


def comments(files: list[descriptor_pb2.FileDescriptorProto]) -> dict[str, str]:
    """Element name -> its comment on one line, "" if it has none."""
    found = {}
    for file in files:
        told = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for name, path in elements(file):
            found[name] = " ".join(told.get(path, "").split())
    return found


def test_the_protos_pass_buf_lint() -> None:
    done = buf("lint")
    assert done.returncode == 0, done.stdout


def test_no_change_breaks_clients_of_the_baseline() -> None:
    done = buf("breaking", "--against", "baseline.binpb")
    assert done.returncode == 0, done.stdout


def test_the_guard_sees_a_break(tmp_path: Path) -> None:
    for path in OUR_FILES:
        copy = tmp_path / path.relative_to(PROTOS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        copy.write_text(text.replace("uint32 k = 4;", "uint32 k = 40;"), encoding="utf-8")
    (tmp_path / "buf.yaml").write_bytes((PROTOS / "buf.yaml").read_bytes())
    done = buf("breaking", str(tmp_path), "--against", "baseline.binpb")
    assert 'field "4" with name "k"' in done.stdout, done.stdout + done.stderr


def test_every_element_has_a_comment(files) -> None:
    found = comments(files)
    assert len(found) > 150
    assert [name for name, comment in found.items() if not comment] == []


def test_a_comment_begins_with_the_name(files) -> None:
    bare = {name: name.rpartition(".")[2] for name in comments(files)}
    off = [
        name
        for name, comment in comments(files).items()
        if not comment.startswith(bare[name]) and not name.startswith("ErrorReason.")
    ]
    assert off == []


def test_a_reasons_comment_begins_with_its_code(files) -> None:
    told = comments(files)
    for reason, kind in error_classes().items():
        assert told[f"ErrorReason.ERROR_REASON_{reason}"].startswith(f"{kind.code}: ")


def test_every_enum_begins_unspecified(files) -> None:
    zeros = [enum.value[0] for file in files for enum in file.enum_type]
    assert [value.name for value in zeros if value.number or not value.name.endswith("_UNSPECIFIED")] == []


def test_method_names_are_unique_across_services() -> None:
    names = [method.name for service in SERVICE_NAMES for method in service_methods(service)]
    assert sorted(set(names)) == sorted(names)


def test_every_service_of_the_protos_is_known_to_the_hosts(files) -> None:
    assert {service.name for file in files for service in file.service} == set(SERVICE_NAMES)


def test_every_reason_has_one_class_and_every_class_with_a_reason_is_listed() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    declared = [kind.reason for kind in vars(errors).values() if isinstance(kind, type) and vars(kind).get("reason")]
    assert sorted(declared) == sorted(reasons)
    assert set(error_classes()) == reasons


def test_an_errors_metadata_is_what_the_protos_promise(files) -> None:
    told = comments(files)
    for reason, kind in error_classes().items():
        promised = re.search(r"\{([^}]*)\}$", told[f"ErrorReason.ERROR_REASON_{reason}"])
        assert promised is not None, reason
        documented = re.search(r"metadata: ([\w, ]+)\.", kind.__doc__ or "")
        assert (documented.group(1) if documented else "") == promised.group(1), reason


def promised_metadata() -> dict[str, set[str]]:
    """Class name -> the metadata keys that always travel with it."""
    told = {kind.__name__: re.search(r"metadata: ([\w, ]+)\.", kind.__doc__ or "") for kind in error_classes().values()}
    return {name: set(match.group(1).split(", ")) for name, match in told.items() if match}


def raised_without(path: Path) -> list[str]:
    """The errors that a file makes without metadata that is promised."""
    promised = promised_metadata()
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in promised:
            given = {keyword.arg for keyword in node.keywords}
            missing = set() if None in given else promised[node.func.id] - given
            found += (
                [f"{path.relative_to(ROOT)}:{node.lineno} {node.func.id} without {sorted(missing)}"] if missing else []
            )
    return found


def test_no_error_is_made_without_the_metadata_that_it_promises() -> None:
    folders = ("sightline", "encoder_svc", "retriever_svc", "generator_svc")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert [line for path in files for line in raised_without(path)] == []


@pytest.mark.parametrize("element", sorted(LIMIT_PHRASES))
def test_a_limit_in_the_protos_is_the_limit_in_the_code(files, element: str) -> None:
    comment = comments(files)[element]
    missing = [phrase for phrase in LIMIT_PHRASES[element] if not re.search(re.escape(phrase) + r"(?!\d)", comment)]
    assert missing == [], comment


def test_every_number_of_a_request_comment_is_held_by_a_limit(files) -> None:
    """A new "1 to N" in a request must be added above."""
    ranged = {
        name
        for name, comment in comments(files).items()
        if re.search(r"(?<![-\d])(?:1 to|up to) \d+", comment) and not name.endswith((".shape", "Service"))
    }
    said_at_the_fields = {"RetrieverService.UpsertImages", "RetrieverService.DeleteImages"}
    answers = {"UsedImage.weight"}
    assert ranged - said_at_the_fields - answers <= set(LIMIT_PHRASES)


@pytest.mark.slow
def test_the_stubs_are_what_the_protos_generate(tmp_path: Path) -> None:
    plugins = [f"--plugin=protoc-gen-{name}={BIN / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    outs = [
        f"--{kind}_out={flag}{tmp_path}"
        for kind, flag in (("python", ""), ("mypy", "quiet:"), ("grpc_python", ""), ("mypy_grpc", "quiet:"))
    ]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        "protos",
        *plugins,
        *outs,
        *(str(path.relative_to(ROOT)) for path in OUR_FILES),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fresh = {path.name: path.read_text() for path in (tmp_path / "sightline" / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in STUBS.glob("*.py*") if path.name != "__init__.py"}
    assert sorted(fresh) == sorted(committed)
    assert [name for name, text in fresh.items() if text != committed[name]] == []
