import gzip
import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from nmt.decoding import resumable_output
from nmt.decoding.resumable_output import open_resumable
from nmt.errors import ConfigError, DataError

SETTINGS = {"the input": "in.en", "--beam": "5"}
CHUNKS = [("eins\nzwei\n", 2), ("\n", 1), ("drei\u2028\rvier\n", 1), ("fünf\n", 1)]


def interrupted(output: Path, num_chunks: int) -> Path:
    """Write the first chunks of an output and interrupt it."""
    with suppress(KeyboardInterrupt), open_resumable(output, SETTINGS) as resumable:
        for text, num_lines in CHUNKS[:num_chunks]:
            resumable.add(text, num_lines, {"num_cut": num_lines})
        raise KeyboardInterrupt
    return resumable_output.work_folder(output)


def resume(output: Path) -> tuple[int, int]:
    """Add the missing chunks; return the number of chunks and lines that were there."""
    with open_resumable(output, SETTINGS) as resumable:
        before = (resumable.num_chunks, resumable.num_lines)
        for text, num_lines in CHUNKS[resumable.num_chunks :]:
            resumable.add(text, num_lines, {"num_cut": num_lines})
        assert resumable.counts == {"num_cut": 5}
    assert not resumable_output.work_folder(output).exists()
    data = output.read_bytes()
    text = gzip.decompress(data) if output.suffix == ".gz" else data
    assert text.decode() == "".join(text for text, _ in CHUNKS)
    return before


@pytest.mark.parametrize("name", ["out.de", "out.de.gz"])
@pytest.mark.parametrize("num_chunks", [0, 1, 3, 4])
def test_an_interrupted_output_resumes(num_chunks: int, name: str, tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    interrupted(tmp_path / name, num_chunks)
    assert not (tmp_path / name).exists()
    num_lines = sum(lines for _, lines in CHUNKS[:num_chunks])
    assert resume(tmp_path / name) == (num_chunks, num_lines)
    complete = (tmp_path / name).read_bytes()
    assert resume(tmp_path / name) == (0, 0)
    assert (tmp_path / name).read_bytes() == complete


@pytest.mark.parametrize(
    ("num_chunks", "rest"),
    [(0, ["abcd", "e"]), (1, ["cd", "e"]), (2, ["d", "e"]), (3, ["e"]), (4, [])],
)
def test_finished_lines_are_left_out_of_chunks_of_any_size(
    num_chunks: int, rest: list[str], tmp_path: Path
) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    interrupted(tmp_path / "out.de", num_chunks)
    with suppress(KeyboardInterrupt), open_resumable(tmp_path / "out.de", SETTINGS) as resumable:
        assert list(resumable.rest(["abcd", "e"])) == rest
        raise KeyboardInterrupt


CORRUPTIONS: dict[str, tuple[str, Callable[[bytes], bytes], int]] = {
    "partial text": ("text", lambda data: data[:-2], 2),
    "text without record": ("chunks.jsonl", lambda data: data[: data.index(b"\n") + 1], 1),
    "partial record": ("chunks.jsonl", lambda data: data[:-5], 2),
    "record without line feed": ("chunks.jsonl", lambda data: data[:-1], 2),
    "another text": ("text", lambda data: data.replace(b"eins", b"ein5"), 0),
    "no text": ("text", lambda data: b"", 0),
    "no records": ("chunks.jsonl", lambda data: b"", 0),
    "invalid record": ("chunks.jsonl", lambda data: b'{"a": 1}\n' + data, 0),
    "negative size": ("chunks.jsonl", lambda data: data.replace(b'bytes": ', b'bytes": -'), 0),
    "huge size": (
        "chunks.jsonl",
        lambda data: data.replace(b'bytes": ', b'bytes": 90000000000'),
        0,
    ),
    "size of another type": (
        "chunks.jsonl",
        lambda data: data.replace(b'lines": ', b'lines": 0.'),
        0,
    ),
    "settings of another type": ("begun.json", lambda data: b"[1]", 0),
    "more text": ("text", lambda data: data + b"more", 3),
    "invalid settings": ("begun.json", lambda data: data[:9], 0),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_only_corrupt_chunks_are_done_again(corruption: str, tmp_path: Path) -> None:
    name, change, num_kept = CORRUPTIONS[corruption]
    file = interrupted(tmp_path / "out.de", 3) / name
    file.write_bytes(change(file.read_bytes()))
    assert resume(tmp_path / "out.de")[0] == num_kept


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    folder = interrupted(tmp_path / "out.de", 3)
    with (
        pytest.raises(ConfigError) as caught,
        open_resumable(tmp_path / "out.de", SETTINGS | {"--beam": "4"}),
    ):
        pass
    assert str(caught.value) == (
        f"{folder}: started with --beam 5, now 4: use the same value to resume, or remove the "
        "folder to start again"
    )
    assert resume(tmp_path / "out.de")[0] == 3


def test_a_locked_output_is_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with open_resumable(tmp_path / "out.de", SETTINGS):
        context = multiprocessing.get_context("fork")
        with context.Pool(1) as pool:
            message = pool.apply(_try_to_open, (tmp_path / "out.de",))
    assert message == (
        f"{tmp_path}/out.de.unfinished: lock file held by another process; wait for it to end, "
        "or choose another output"
    )


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """It would be deleted when the output is complete."""
    folder = tmp_path / "out.de.unfinished"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert _try_to_open(tmp_path / "out.de") == (
        f"{folder}: holds other files (notes.txt); choose another output"
    )
    assert (folder / "notes.txt").read_text() == "mine"


def _try_to_open(output: Path) -> str:
    try:
        with open_resumable(output, SETTINGS):
            return ""
    except DataError as error:
        return str(error)


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    (tmp_path / "out.de.unfinished").touch()
    with pytest.raises(DataError) as caught, open_resumable(tmp_path / "out.de", SETTINGS):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/out.de.unfinished: cannot be written: File exists; choose another output"
    )
