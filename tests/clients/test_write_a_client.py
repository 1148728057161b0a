"""The commands of docs/how-to/write-a-client.md, as they stand there: a client of each language, against a server."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.docs.page_runner import ROOT, shows
from tests.docs.snippets import Command, RunByTest, read_snippets
from tests.harness.process import ServerProcess, free_port

PAGE: Final = ROOT / "docs" / "how-to" / "write-a-client.md"
EXAMPLES: Final = Path("examples") / "clients"
DEBIAN_GO: Final = Path("/usr/share/gocode/src")
DEBIAN_JAVA: Final = Path("/usr/share/java")
MADE: Final = ("node_modules", "generated", "build", "gen", "gopath", "first-client")
"""What somebody who follows the page in the project's own folder makes there."""
BOUND_S: Final = 240


@dataclass(frozen=True)
class Language:
    """A section of the page, and what has to be on the machine for it."""

    title: str
    folder: str
    programs: tuple[str, ...]
    libraries: tuple[Path, ...] = ()

    def missing(self) -> list[str]:
        """What is not installed."""
        lacking = [name for name in self.programs if shutil.which(name) is None]
        return lacking + [str(path) for path in self.libraries if not path.exists()]


LANGUAGES: Final = (
    Language("TypeScript", "typescript", ("node", "npm")),
    Language(
        "Go",
        "go",
        ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"),
        tuple(
            DEBIAN_GO / name
            for name in (
                "google.golang.org/grpc",
                "google.golang.org/genproto",
                # Version 1.3 of it cannot encode what protoc-gen-go generates.
                "github.com/golang/protobuf/internal/gengogrpc",
            )
        ),
    ),
    Language(
        "Java",
        "java",
        ("javac", "java", "protoc", "grpc_java_plugin"),
        tuple(
            DEBIAN_JAVA / f"{name}.jar"
            for name in (
                *("grpc-netty", "grpc-protobuf", "grpc-stub", "netty-codec-http2", "guava", "perfmark-api", "protobuf"),
                *("proto-google-common-protos", "geronimo-annotation-1.3-spec"),
            )
        ),
    ),
)

# A compiler takes as long as ten tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * BOUND_S)]


@pytest.fixture(
    scope="module",
    params=LANGUAGES,
    ids=lambda language: language.title,
)
def language(request: pytest.FixtureRequest) -> Language:
    chosen: Language = request.param
    if missing := chosen.missing():
        pytest.skip(f"for a client in {chosen.title} this is not installed: {', '.join(missing)}")
    return chosen


@dataclass(frozen=True)
class Followed:
    """What came of typing a language's commands, one after the other, in one terminal."""

    folder: Path
    """Where it was: with the protos and the program, as in a checkout, and what the commands made of them."""
    status: int
    outputs: Sequence[tuple[Command, str]]
    """The commands that were begun, and what each printed."""


@pytest.fixture(scope="module")
def followed(language: Language, server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Followed:
    folder = tmp_path_factory.mktemp(language.folder)
    shutil.copytree(ROOT / "protos", folder / "protos")
    ignored = shutil.ignore_patterns(*MADE)
    shutil.copytree(ROOT / EXAMPLES / language.folder, folder / EXAMPLES / language.folder, ignore=ignored)
    return follow(commands(language), folder, server.address)


def commands(language: Language) -> list[Command]:
    """Those of the language's section that this test runs."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(f"{language.title}\n")]
    return [snippet.command for snippet in read_snippets(section) if isinstance(snippet, RunByTest)]


def follow(commands: Sequence[Command], folder: Path, address: str) -> Followed:
    """Types the commands. They share a shell, so that `cd` and `export` last; it stops at the first that fails."""
    files = [folder / f"{number}.txt" for number in range(len(commands))]
    written = [f"{{ {command.text}\n}} > {file} 2>&1" for command, file in zip(commands, files, strict=True)]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(written)],
        cwd=folder,
        env={**environ, "BLOCKYARD_ADDRESS": address},
        stdin=subprocess.DEVNULL,
        timeout=BOUND_S,
        check=False,
    )
    begun = [(command, file) for command, file in zip(commands, files, strict=True) if file.exists()]
    return Followed(folder, done.returncode, [(command, file.read_text(encoding="utf-8")) for command, file in begun])


def test_a_stranger_who_types_what_the_page_shows_has_a_client(language: Language, followed: Followed) -> None:
    *_, (last, printed_last) = followed.outputs

    assert followed.status == 0, f"{last.text}\n{printed_last}"
    for command, printed in followed.outputs:
        assert not command.expected or shows(command.expected, printed), f"{command.text}\n{printed}"
    assert last == commands(language)[-1]
    assert all(told in last.expected for told in ("replayed true", "NO_CAPACITY", "RELEASED"))


class Forgetful(grpc.GenericRpcHandler):
    """Carries each call to a server. Once, the answer to an Acquire is lost on its way back."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.lost: list[bytes] = []

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(details.method)

        def carry(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                answer = call(request, timeout=BOUND_S)
            except grpc.RpcError as error:
                context.set_trailing_metadata(tuple((entry.key, entry.value) for entry in error.trailing_metadata()))
                context.abort(error.code(), error.details() or "")
            if details.method.endswith("/Acquire") and not self.lost:
                self.lost.append(answer)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            return answer

        return grpc.unary_unary_rpc_method_handler(carry)


@contextmanager
def client_of(followed: Followed, language: Language, address: str) -> Iterator["subprocess.Popen[str]"]:
    """The program that the page's commands have built."""
    *before, last = commands(language)
    lasting = [command.text for command in before if command.text.startswith(("cd ", "export "))]
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", "\n".join([*lasting, f"exec {last.text}"])],
        cwd=followed.folder,
        env={**environ, "BLOCKYARD_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as client:
        try:
            yield client
        finally:
            client.kill()


def check_that_it_prints_what_the_page_shows(language: Language, client: "subprocess.Popen[str]") -> None:
    printed, _ = client.communicate(timeout=BOUND_S)
    assert client.returncode == 0, printed
    assert shows(commands(language)[-1].expected, printed), printed


def test_the_client_asks_again_until_a_server_answers(language: Language, followed: Followed, tmp_path: Path) -> None:
    port = free_port()
    impostor = socket.create_server(("127.0.0.1", port))
    with impostor, client_of(followed, language, f"127.0.0.1:{port}") as client:
        impostor.settimeout(BOUND_S)
        connection, _ = impostor.accept()
        connection.close()  # somebody listened, and is gone: the first call gets no answer
        impostor.close()
        with ServerProcess(tmp_path, port=port) as server:
            server.start()
            check_that_it_prints_what_the_page_shows(language, client)


def test_a_grant_whose_answer_is_lost_is_not_made_twice(language: Language, followed: Followed, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(tmp_path))
        server.start()
        forgetful = Forgetful(stack.enter_context(grpc.insecure_channel(server.address)))
        between = grpc.server(ThreadPoolExecutor(max_workers=4), handlers=[forgetful])
        port = between.add_insecure_port("127.0.0.1:0")
        between.start()
        stack.callback(lambda: between.stop(None).wait())
        # With a second grant it would hold other blocks, and two fewer would be idle.
        check_that_it_prints_what_the_page_shows(
            language, stack.enter_context(client_of(followed, language, f"127.0.0.1:{port}"))
        )

    assert len(forgetful.lost) == 1


def test_the_lock_file_of_the_typescript_client_names_no_host_that_packages_come_from() -> None:
    lock_file = (ROOT / EXAMPLES / "typescript" / "package-lock.json").read_text(encoding="utf-8")

    assert '"integrity"' in lock_file
    assert not re.findall(r'"resolved"|registry', lock_file)
