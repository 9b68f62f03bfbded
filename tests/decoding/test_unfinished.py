import gzip
import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from nmt.decoding import resumable_output
from nmt.decoding.resumable_output import open_unfinished
from nmt.errors import ConfigError, DataError

BEGUN = {"the input": "in.en", "--beam": "5"}
CHUNKS = [("eins\nzwei\n", 2), ("\n", 1), ("drei\u2028\rvier\n", 1), ("fünf\n", 1)]


def interrupted(output: Path, num_chunks: int) -> Path:
    """Leaves an output with that many of CHUNKS."""
    with suppress(KeyboardInterrupt), open_unfinished(output, BEGUN) as ours:
        for text, num_lines in CHUNKS[:num_chunks]:
            ours.add(text, num_lines, {"num_cut": num_lines})
        raise KeyboardInterrupt
    return resumable_output.folder_of(output)


def go_on(output: Path) -> tuple[int, int]:
    """Adds what is missing of CHUNKS; chunks and lines that were there."""
    with open_unfinished(output, BEGUN) as ours:
        before = (ours.num_chunks, ours.num_lines)
        for text, num_lines in CHUNKS[ours.num_chunks :]:
            ours.add(text, num_lines, {"num_cut": num_lines})
        assert ours.counts == {"num_cut": 5}
    assert not resumable_output.folder_of(output).exists()
    data = output.read_bytes()
    text = gzip.decompress(data) if output.suffix == ".gz" else data
    assert text.decode() == "".join(text for text, _ in CHUNKS)
    return before


@pytest.mark.parametrize("name", ["out.de", "out.de.gz"])
@pytest.mark.parametrize("num_chunks", [0, 1, 3, 4])
def test_it_goes_on_where_it_was_interrupted(num_chunks: int, name: str, tmp_path: Path) -> None:
    """P4, P6."""
    interrupted(tmp_path / name, num_chunks)
    assert not (tmp_path / name).exists()
    num_lines = sum(lines for _, lines in CHUNKS[:num_chunks])
    assert go_on(tmp_path / name) == (num_chunks, num_lines)
    whole = (tmp_path / name).read_bytes()
    assert go_on(tmp_path / name) == (0, 0)
    assert (tmp_path / name).read_bytes() == whole


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], int]] = {
    "half a text": ("text", lambda data: data[:-2], 2),
    "a text without its record": ("chunks.jsonl", lambda data: data[: data.index(b"\n") + 1], 1),
    "half a record": ("chunks.jsonl", lambda data: data[:-5], 2),
    "a record without its end": ("chunks.jsonl", lambda data: data[:-1], 2),
    "another text": ("text", lambda data: data.replace(b"eins", b"ein5"), 0),
    "no text": ("text", lambda data: b"", 0),
    "no records": ("chunks.jsonl", lambda data: b"", 0),
    "a record that is none": ("chunks.jsonl", lambda data: b'{"a": 1}\n' + data, 0),
    "more text": ("text", lambda data: data + b"more", 3),
    "a beginning that is none": ("begun.json", lambda data: data[:9], 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_done_again(damage: str, tmp_path: Path) -> None:
    """P5: and nothing before it."""
    name, change, num_left = DAMAGES[damage]
    file = interrupted(tmp_path / "out.de", 3) / name
    file.write_bytes(change(file.read_bytes()))
    assert go_on(tmp_path / "out.de")[0] == num_left


def test_what_was_begun_otherwise_is_refused_and_stays(tmp_path: Path) -> None:
    """P9."""
    folder = interrupted(tmp_path / "out.de", 3)
    with (
        pytest.raises(ConfigError) as caught,
        open_unfinished(tmp_path / "out.de", BEGUN | {"--beam": "4"}),
    ):
        pass
    assert str(caught.value) == (
        f"{folder} was begun with --beam 5, but now it is 4: give that again to go on, or remove "
        "the folder to begin anew"
    )
    assert go_on(tmp_path / "out.de")[0] == 3


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """P9."""
    with open_unfinished(tmp_path / "out.de", BEGUN):
        context = multiprocessing.get_context("fork")
        with context.Pool(1) as pool:
            said = pool.apply(_try_to_open, (tmp_path / "out.de",))
    assert said == (
        f"{tmp_path}/out.de.unfinished: another process is at work on it; wait for it, or name "
        "another output"
    )


def _try_to_open(output: Path) -> str:
    try:
        with open_unfinished(output, BEGUN):
            return ""
    except DataError as error:
        return str(error)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """P9."""
    (tmp_path / "out.de.unfinished").touch()
    with pytest.raises(DataError) as caught, open_unfinished(tmp_path / "out.de", BEGUN):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/out.de.unfinished: cannot be written: File exists; name another output"
    )
