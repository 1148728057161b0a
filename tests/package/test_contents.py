"""What a release consists of: the files, the metadata, and links that also work on PyPI."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest
from markdown_it import MarkdownIt
from packaging.metadata import RawMetadata, parse_email

from tests.package.conftest import Built
from tests.package.environments import PROJECT, ROOT, UV, run

pytestmark = pytest.mark.package

PACKAGES: Final = {"blockyard": "client", "blockyard_server": "server"}
"""Each package's folder."""
BLOB: Final = "https://github.com/blockyard/blockyard/blob/main/"


def project_files(*folders: str) -> set[str]:
    """What git has or would have below these folders."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    paths = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return {path for path in paths if (ROOT / path).is_file()}


def wheel_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata_of(wheel: Path) -> RawMetadata:
    [text] = [data for name, data in wheel_files(wheel).items() if name.endswith(".dist-info/METADATA")]
    known, unknown = parse_email(text)
    assert not unknown
    return known


def links_of(page: str) -> list[str]:
    tokens = [child for token in MarkdownIt("commonmark").enable("table").parse(page) for child in token.children or ()]
    names = {"link_open": "href", "image": "src"}
    return [str(token.attrGet(names[token.type])) for token in tokens if token.type in names]


def test_pypi_would_take_both_files(built: Built) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", str(built.wheel), str(built.sdist))


def test_the_wheel_has_both_packages_whole_and_nothing_else(built: Built) -> None:
    sources = {path.removeprefix(f"{folder}/") for folder in PACKAGES.values() for path in project_files(f"{folder}/")}
    info = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}

    found = set(wheel_files(built.wheel))

    assert {name for name in found if name.partition("/")[0] in PACKAGES} == sources
    assert {name.partition("/")[2] for name in found if name.partition("/")[0] not in PACKAGES} == info
    assert "blockyard/py.typed" in found


def test_the_sdist_has_what_the_wheel_is_made_of_and_no_rubbish(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]

    made = {"PKG-INFO"}
    assert set(names) - made <= project_files(".")
    assert project_files("client", "server", "protos", "LICENSE", "pyproject.toml", "README.md") <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", ".ci/"))]


def test_the_wheel_out_of_the_sdist_is_the_one_out_of_the_tree(built: Built, tmp_path: Path) -> None:
    run(UV, "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT))
    [direct] = tmp_path.glob("*.whl")

    assert wheel_files(direct) == wheel_files(built.wheel)


def test_the_metadata_says_who_where_what_and_for_whom(built: Built) -> None:
    metadata = metadata_of(built.wheel)

    assert metadata["author"] == "The Blockyard developers"
    assert metadata["license_expression"] == "Apache-2.0"
    assert metadata["license_files"] == ["LICENSE"]
    assert set(metadata["project_urls"]) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert metadata["requires_python"] == PROJECT["requires-python"]
    assert {"Typing :: Typed", "Framework :: AsyncIO"} <= set(metadata["classifiers"])


def test_every_link_of_the_page_on_pypi_leads_somewhere(built: Built) -> None:
    metadata = metadata_of(built.wheel)
    links = [*links_of(metadata["description"]), *metadata["project_urls"].values()]
    inside = [link.removeprefix(BLOB).partition("#")[0] for link in links if link.startswith(BLOB)]

    assert len(inside) >= len([link for link in links_of((ROOT / "README.md").read_text()) if "://" not in link])
    assert [path for path in inside if not (ROOT / path).exists()] == []
    assert [link for link in links if not re.match(r"https://|#", link)] == []
