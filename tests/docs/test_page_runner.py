"""The runner of the pages itself: what it executes, and that it notices when a page is wrong."""

from pathlib import Path

import pytest

from tests.docs.page_runner import DEFAULT_ADDRESS, BrokenPromise, run_page
from tests.docs.snippets import Command, MalformedPage, Program, RunByTest, Server, read_snippets

PAGE_OF_THE_RUNNER = Path(__file__).with_name("page_of_the_runner.md")


def run_text(text: str, folder: Path) -> int:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    (folder / "reader").mkdir()
    return run_page(page, folder / "reader")


def console(*lines: str, above: str = "") -> str:
    return "\n".join([above, "```console", *lines, "```"])


def python(program: str, prints: str) -> str:
    return f"```python\n{program}\n```\n\n```text\n{prints}\n```"


def test_a_page_that_keeps_its_promises_is_executed_wholly(tmp_path: Path) -> None:
    assert run_page(PAGE_OF_THE_RUNNER, tmp_path) == 8
    assert (tmp_path / "fleet").read_text(encoding="utf-8") == "six busy, two idle\n"


@pytest.mark.parametrize(
    ("text", "what_the_reader_would_see"),
    [
        (console("$ echo 3", "2"), r"\+ 3"),
        (console("$ echo 3", "3", "4"), r"- 4"),
        (console("$ echo broken; exit 3"), "exit status 3\nbroken"),
        (console("$ false | true"), "exit status 1"),
        (console("$ echo $UNSET"), "unbound"),
        (console("$ no-such-program"), "not found"),
        (python("print(1)", "True"), r"\+ 1"),
        (python("print('a'); print('b')", "a\n...\nc"), r"\+ b"),
        (console("$ make nothing", above="<!-- run by .ci/run -->"), "does not run `make nothing`"),
        (console("$ true", above="<!-- run by tests/gone.py -->"), "tests/gone.py does not run page.md"),
        (console("$ true", above="<!-- run by tests/conftest.py -->"), "tests/conftest.py does not run page.md"),
        (console("$ echo no server", above="<!-- server -->"), "no server"),
    ],
)
def test_a_page_that_breaks_a_promise_is_told_so(text: str, what_the_reader_would_see: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenPromise, match=what_the_reader_would_see):
        run_text(text, tmp_path)


def test_a_broken_promise_names_the_line_of_its_page(tmp_path: Path) -> None:
    with pytest.raises(BrokenPromise, match=r"page\.md:4:"):
        run_text(console("$ true", "$ false"), tmp_path)


def test_an_error_in_a_program_goes_up_with_the_line_of_its_page(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as error:
        run_text("\n\n```python\n1 / 0\n```", tmp_path)

    assert error.traceback[-1].lineno + 1 == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```bash\nls\n```", "line 2: write ```console"),
        ("```pycon\n>>> 1\n```", "line 2: write ```python"),
        (console("echo no prompt"), "line 3: a console block begins with"),
        (console("$ true", above="<!-- not run -->"), "needs a reason"),
        ("<!-- run by .ci/run -->\n\nSome prose.\n", "line 1: .* must stand directly above a block"),
    ],
)
def test_a_page_that_leaves_the_convention_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(MalformedPage, match=complaint):
        read_snippets(text)


def test_a_server_may_be_started_without_being_shown() -> None:
    assert read_snippets("<!-- server: blockyard serve --demo -->\n\nProse.") == [
        Server(Command(1, "blockyard serve --demo", ""))
    ]


def test_a_server_block_may_show_what_the_server_says() -> None:
    text = console("$ make serve", "listening", above="<!-- server -->")

    assert read_snippets(text) == [Server(Command(3, "make serve", "listening\n"))]


def test_a_block_may_be_left_to_a_test_of_its_own() -> None:
    text = console("$ go build", above="<!-- run by tests/clients/test_go.py -->")

    assert read_snippets(text) == [RunByTest(Command(3, "go build", ""), "tests/clients/test_go.py")]


def test_text_below_a_program_is_its_output_only_when_nothing_stands_between() -> None:
    text = "```python\nx = 1\n```\n\nProse.\n\n```text\nfree text\n```"

    assert read_snippets(text) == [Program(2, "x = 1\n", "")]


def test_clients_find_the_server_of_their_page(tmp_path: Path) -> None:
    run_text(console("$ echo $BLOCKYARD_ADDRESS", DEFAULT_ADDRESS), tmp_path)
