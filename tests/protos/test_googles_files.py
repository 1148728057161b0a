"""protos/google says what Google's published files say, so that clients need no download and get the same types."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from tests.protos.annotations import FOLDER

KEPT = sorted(path.relative_to(FOLDER).as_posix() for path in (FOLDER / "google").rglob("*.proto"))
PROTOC = shutil.which("protoc")


@pytest.mark.parametrize("name", KEPT)
def test_a_file_says_what_the_published_one_says(name: str, tmp_path: Path) -> None:
    """Whatever is in ours is in theirs, the same. A later release may add to it, and has another year in its header."""
    published = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    theirs = descriptor_pb2.FileDescriptorProto()
    published.DESCRIPTOR.CopyToProto(theirs)

    ours = facts_of(compiled(name, tmp_path))

    assert len(ours) > 3
    assert ours <= facts_of(theirs)


def compiled(name: str, folder: Path) -> descriptor_pb2.FileDescriptorProto:
    out = folder / "set"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", name]
    subprocess.run(protoc, check=True)
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return file


def facts_of(file: descriptor_pb2.FileDescriptorProto) -> set[str]:
    """Each declaration on a line of its own: fields, extensions, values, and the options of the file."""
    facts = {f"{file.package} {file.syntax} {option.name}={value}" for option, value in file.options.ListFields()}
    facts |= {f"extension {facts_of_field(field)}" for field in file.extension}
    facts |= {f"{enum.name}.{value.name} = {value.number}" for enum in file.enum_type for value in enum.value}
    messages = [(message.name, message) for message in file.message_type]
    for name, message in messages:
        messages += [(f"{name}.{inner.name}", inner) for inner in message.nested_type]
        facts |= {f"{name}: {facts_of_field(field)}" for field in message.field}
        facts |= {f"{name}.{enum.name}.{v.name} = {v.number}" for enum in message.enum_type for v in enum.value}
    return facts


def facts_of_field(field: descriptor_pb2.FieldDescriptorProto) -> str:
    return f"{field.name} = {field.number} {field.label} {field.type} {field.type_name} {field.extendee}"


def test_every_file_that_is_imported_is_here_or_comes_with_protoc() -> None:
    imported = {
        line.split('"')[1]
        for path in FOLDER.rglob("*.proto")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("import ")
    }
    here = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.proto")}

    assert {name for name in imported if not name.startswith("google/protobuf/")} <= here


@pytest.mark.skipif(PROTOC is None, reason="protoc is not installed; the one of grpcio-tools has only some languages")
@pytest.mark.parametrize(
    ("language", "made"),
    [
        ("java", "dev/blockyard/v1/AcquireRequest.java"),
        ("csharp", "Allocator.cs"),
        ("go", "github.com/blockyard/blockyard/gen/go/blockyard/v1/allocator.pb.go"),
    ],
)
def test_other_languages_are_generated_by_the_plain_command(language: str, made: str, tmp_path: Path) -> None:
    if language == "go" and shutil.which("protoc-gen-go") is None:
        pytest.skip("protoc-gen-go is not installed")
    files = [str(path) for path in (FOLDER / "blockyard/v1").glob("*.proto")]
    done = subprocess.run(
        [str(PROTOC), f"-I{FOLDER}", f"--{language}_out={tmp_path}", *files],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / made).is_file()
