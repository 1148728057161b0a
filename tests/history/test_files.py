"""What was recorded is read again the same."""

from pathlib import Path

from tests.history.files import HistoryWriter, read_history
from tests.history.synthetic import synthetic_history


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = synthetic_history("files")
    with HistoryWriter(tmp_path / "written", history.sizes) as writer:
        for op in history.ops:
            writer.append(op)
        writer.write_journal(history.journal)

    again = read_history(tmp_path / "written")

    assert again.sizes == history.sizes
    assert list(again.ops) == history.ops
    assert again.ops[-3:] == history.ops[-3:]
    assert again.ops[2:5] == history.ops[2:5]
    assert list(again.journal) == list(again.journal) == history.journal
