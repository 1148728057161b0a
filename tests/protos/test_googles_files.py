"""protos/google is what Google publishes, so that clients need no download and get the very same types."""

import importlib.resources
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.protos.annotations import FOLDER

KEPT = sorted((FOLDER / "google").rglob("*.proto"))
PROTOC = shutil.which("protoc")


@pytest.mark.parametrize("path", KEPT, ids=[path.relative_to(FOLDER).as_posix() for path in KEPT])
def test_a_file_is_that_of_googleapis_common_protos(path: Path) -> None:
    package = ".".join(path.relative_to(FOLDER).parent.parts)
    published = importlib.resources.files(package) / path.name

    assert path.read_text(encoding="utf-8") == published.read_text(encoding="utf-8")


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
