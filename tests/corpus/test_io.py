"""Reading and writing files: errors, compression and atomic replacement."""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.corpus import io as corpus_io
from nmt.corpus.io import atomic_write, compress_to, read_blocks, read_zstd, split_lines, write_zstd
from nmt.errors import DataError

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
}
# No line ends in a carriage return: it would be half of a CRLF.
LINES = st.lists(
    st.text(st.characters(exclude_characters="\n\0", exclude_categories=("Cs",))).filter(
        lambda line: not line.endswith("\r")
    )
)


def read(source: Path | io.BytesIO) -> list[bytes]:
    return [line for _, block in read_blocks(source) for line in split_lines(block)]


def error_of(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_blocks(path))
    return str(caught.value).replace(str(path.parent), "raw")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("suffix", COMPRESS)
@given(lines=LINES)
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_lines_split_at_line_feeds_only(
    tmp_path: Path, suffix: str, end: bytes, lines: list[str]
) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    path = tmp_path / f"text{suffix}"
    raw = [line.encode() for line in lines]
    # A single line with carriage returns inside is refused; a second line makes it valid.
    raw.append(b"last")
    path.write_bytes(COMPRESS[suffix](b"\xef\xbb\xbf" + b"".join(line + end for line in raw)))
    assert read(path) == raw


@given(lines=LINES, sizes=st.lists(st.integers(1, 5), min_size=1))
def test_lines_do_not_depend_on_read_sizes(lines: list[str], sizes: list[int]) -> None:
    data = b"".join(line.encode() + b"\n" for line in [*lines, "last"])

    class Pipe(io.BytesIO):
        reads = 0

        def read1(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            return self.read(sizes[self.reads % len(sizes)])

    bom_and_data = data.removeprefix(b"\xef\xbb\xbf")
    assert read(Pipe(data)) == split_lines(bom_and_data)


def test_the_last_line_needs_no_line_feed() -> None:
    assert read(io.BytesIO(b"one\ntwo")) == [b"one", b"two"]


def test_an_empty_file_has_no_lines() -> None:
    assert read(io.BytesIO(b"")) == []
    assert read(io.BytesIO(b"\n")) == [b""]


def test_blocks_know_the_number_of_their_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_io, "READ_BYTES", 5)
    blocks = list(read_blocks(io.BytesIO(b"a\nb\ncc\ndddddd\ne\n")))
    assert blocks == [(1, b"a\nb\n"), (3, b"cc\n"), (4, b"dddddd\n"), (5, b"e\n")]


def test_a_pipe_is_read_line_by_line() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb", buffering=0) as sink:
        blocks = read_blocks(source)
        sink.write(b"first\n")
        assert next(blocks) == (1, b"first\n")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".bz2"])
def test_concatenated_members_are_decompressed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\ntw") + COMPRESS[suffix](b"o\n"))
    assert read(path) == [b"one", b"two"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".bz2"])
@pytest.mark.parametrize("num_members", [1, 3])
def test_blocks_are_bounded(
    suffix: str, num_members: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    monkeypatch.setattr("nmt.corpus.io.MAX_OUTPUT", 1 << 16)
    monkeypatch.setattr("nmt.corpus.io.ZSTD_INPUT", 8)
    path = tmp_path / f"text{suffix}"
    text = b"A dog runs.\n" * 100_000 + b"The end.\n"
    path.write_bytes(COMPRESS[suffix](text) * num_members)
    blocks = [block for _, block in read_blocks(path)]
    assert b"".join(blocks) == text * num_members
    assert max(map(len, blocks)) < 300_000


def test_zero_padding_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"one\n") + b"\0" * 512)
    assert read(path) == [b"one"]


def test_the_digest_is_of_the_compressed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"one\n"))
    digest = hashlib.sha256()
    list(read_blocks(path, digest))
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(read_blocks(tmp_path / "no.en"))
    assert str(caught.value) == (
        f"{tmp_path}/no.en: there is no such file; check corpus.root and the file's name"
    )


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(read_blocks(tmp_path))
    assert str(caught.value) == f"{tmp_path}: is a folder; name a file in it"


def test_a_nul_byte_is_reported_with_its_line(tmp_path: Path) -> None:
    assert error_of(tmp_path / "a.en", b"one\ntwo\nth\0ree\n") == (
        "raw/a.en, line 3: a NUL byte: the file is damaged or not UTF-8; download it again, or "
        "delete the NUL bytes (`tr -d '\\000'`) if the lines are complete"
    )


def truncated_gzip(data: bytes) -> bytes:
    return gzip.compress(data)[:-9]


@pytest.mark.parametrize(
    ("name", "damage"), [("a.en", lambda data: data + b"th\0ree\nfour\n"), ("a.gz", truncated_gzip)]
)
@pytest.mark.parametrize("read_bytes", [1, 5, 1 << 17])
def test_lines_before_damage_are_read(
    name: str, damage: Callable[[bytes], bytes], read_bytes: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(corpus_io, "READ_BYTES", read_bytes)
    (tmp_path / name).write_bytes(damage(b"one\r\ntwo\r\n"))
    blocks = read_blocks(tmp_path / name)
    found: list[bytes] = []
    with pytest.raises(DataError, match=", line 3: "):
        found.extend(block for _, block in blocks)
    assert b"".join(found) == b"one\ntwo\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_refused(tmp_path: Path, encoding: str) -> None:
    bom = b"\xfe\xff" if encoding == "utf-16-be" else b""
    assert error_of(tmp_path / "a.en", bom + "one\ntwo\n".encode(encoding)) == (
        "raw/a.en, line 1: the file is UTF-16, but UTF-8 is expected; "
        "convert it (`iconv -f UTF-16 -t UTF-8`)"
    )


def test_carriage_returns_as_line_ends_are_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path / "a.en", b"one\rtwo\rthree\r") == (
        "raw/a.en, line 1: carriage returns but no line feed; expected line feeds at the ends of "
        "lines: convert the file (`tr '\\r' '\\n'`)"
    )


def test_an_overlong_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_io, "MAX_LINE_BYTES", 1 << 20)
    assert error_of(tmp_path / "a.en", b"one\n" + b"x" * (1 << 21)) == (
        "raw/a.en, line 2: no line feed in 1 MiB; expected one segment per line: this is not a "
        "text file, or its line ends are missing"
    )


@pytest.mark.parametrize(
    ("suffix", "what"),
    [
        (".gz", "the gzip data is damaged (it ends too early)"),
        (".xz", "the xz data is damaged (it ends too early)"),
        (".zst", "the zstd data is damaged (it ends too early)"),
    ],
)
def test_truncated_data_is_reported(tmp_path: Path, suffix: str, what: str) -> None:
    lines = b"".join(os.urandom(30).hex().encode() + b"\n" for _ in range(9000))
    message = error_of(tmp_path / f"a.en{suffix}", COMPRESS[suffix](lines)[:-20])
    place, _, rest = message.partition(": ")
    assert place.startswith(f"raw/a.en{suffix}, line ")
    assert int(place.rsplit(" ", 1)[1]) > 1000
    assert rest == (
        f"{what}; copy or download the file again, and check that its format is that of its name"
    )


def test_uncompressed_data_with_a_suffix_is_reported(tmp_path: Path) -> None:
    assert error_of(tmp_path / "a.en.gz", b"plain text\n") == (
        "raw/a.en.gz, line 1: the gzip data is damaged (Error -3 while decompressing data: "
        "incorrect header check); copy or download the file again, and check that its format is "
        "that of its name"
    )


@pytest.mark.parametrize(("suffix", "kind"), [(".gz", "gzip"), (".xz", "xz"), (".zst", "zstd")])
def test_compressed_data_without_suffix_is_reported(tmp_path: Path, suffix: str, kind: str) -> None:
    assert error_of(tmp_path / "a.en", COMPRESS[suffix](b"one\n")) == (
        f"raw/a.en, line 1: {kind} data where plain text was expected; rename the file to end in "
        f"{suffix}, or decompress it"
    )


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_output_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    with path.open("wb") as file, compress_to(file, suffix) as stream:
        stream.write(b"one\ntwo\n")
    assert read(path) == [b"one", b"two"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as temporary:
        temporary.write_text("half\ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught, atomic_write(tmp_path / "no" / "file"):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/no/file: cannot be written: No such file or directory; check the folder and "
        "its permissions"
    )


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def fill(path: Path) -> None:
        with atomic_write(path):
            raise OSError(errno.ENOSPC, "Error writing bytes to file")

    with pytest.raises(DataError) as caught:
        fill(tmp_path / "file")
    assert str(caught.value) == (
        f"{tmp_path}/file: cannot be written: No space left on device; make room and try again"
    )
    assert list(tmp_path.iterdir()) == []


def test_zstd_files_with_a_large_window_are_read(tmp_path: Path) -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    (tmp_path / "x.zst").write_bytes(compressor.compress(b"a\nb\n") + compressor.flush())
    assert list(read_blocks(tmp_path / "x.zst")) == [(1, b"a\nb\n")]


def test_zstd_files_keep_every_byte(tmp_path: Path) -> None:
    data = [b"a\r\n", b"", b"\0\xff\n"]
    write_zstd(tmp_path / "x.zst", data)
    assert read_zstd(tmp_path / "x.zst") == b"".join(data)


@pytest.mark.parametrize("cut", [0, 1, 10, 20, -1])
def test_a_truncated_zstd_file_is_an_error(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "x.zst"
    write_zstd(path, [b"one line\n" * 20_000])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="it ends too early"):
        read_zstd(path)
    write_zstd(path, [])
    assert read_zstd(path) == b""


@pytest.mark.parametrize("path", ["/", "", ".", ".."])
def test_a_folder_is_not_written_to(path: str) -> None:
    with (
        pytest.raises(DataError, match="is a folder; name a file in it"),
        atomic_write(Path(path)),
    ):
        pass


def test_standard_input_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\0b\n")))
    with pytest.raises(DataError, match=r"^standard input, line 1: a NUL byte"):
        list(read_blocks(sys.stdin.buffer))
