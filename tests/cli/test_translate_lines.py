"""`nmt translate`: a line for each line, wherever they come from and go to."""

import gzip
import io
import lzma
import os
import runpy
import sys
from pathlib import Path

import pytest
import zstandard
from tiny_calls import TEXT, Nmt, translated

from nmt.checkpoint.load import load_checkpoint
from nmt.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_tiny_model_translates(here: Path, nmt: Nmt) -> None:
    lines = translated(nmt, TEXT)
    assert [line.split(" ", 1)[1] for line in lines][1:] == [
        "zwei Katzen schlafen.",
        "mein Hund sieht eine Katze.",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_n_lines_in_are_n_lines_out_and_blank_stays_blank(
    end: str, last: str, here: Path, nmt: Nmt
) -> None:
    """P6."""
    lines = ["1 a dog\u2028runs.", "", "2 a\u0085cat\u2029sleeps.", " \t\u3000", "3 two\rdogs run."]
    plain = ["1 a dog runs.", "", "2 a cat sleeps.", "", "3 two dogs run."]
    found = translated(nmt, end.join(lines) + (end if last else ""))
    assert found == translated(nmt, "\n".join(plain))
    assert [not line for line in found] == [False, True, False, True, False]


def test_nothing_in_is_nothing_out(here: Path, nmt: Nmt) -> None:
    """P6."""
    answer = nmt("translate runs/tiny", b"")
    assert (answer.status, answer.out) == (0, "")


def test_a_line_longer_than_any_seen_in_training_is_translated(here: Path, nmt: Nmt) -> None:
    """P6."""
    text = "a dog runs. " * 750 + "\n" + TEXT
    found = translated(nmt, text, "--beam 1 --max-length-ratio 0.1")
    assert len(found) == 4
    assert found[0] != ""


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_changes_no_byte(batch: int, here: Path, nmt: Nmt) -> None:
    """P7."""
    text = Path("raw/train.en").read_text(encoding="utf-8")
    assert translated(nmt, text, f"--batch {batch}") == translated(nmt, text)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_files_are_packed_and_unpacked_by_their_names(suffix: str, here: Path, nmt: Nmt) -> None:
    """P6."""
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    unpack = {
        "": bytes,
        ".gz": gzip.decompress,
        ".xz": lzma.decompress,
        ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    Path(f"in{suffix}").write_bytes(pack[suffix](TEXT.encode()))
    answer = nmt(f"translate runs/tiny -i in{suffix} -o out{suffix}")
    assert (answer.status, answer.out) == (0, "")
    written = unpack[suffix](Path(f"out{suffix}").read_bytes()).decode()
    assert written.split("\n") == [*translated(nmt, TEXT), ""]


def test_a_pipe_is_written_to_and_not_replaced(here: Path, nmt: Nmt) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert nmt("translate runs/tiny -o pipe", TEXT.encode()).status == 0
    assert os.read(reader, 4096).decode().splitlines() == translated(nmt, TEXT)
    os.close(reader)
    assert Path("pipe").is_fifo()


def test_the_file_that_a_link_leads_to_is_written(here: Path, nmt: Nmt) -> None:
    Path("out.de").write_text("before\n")
    Path("link.de").symlink_to("out.de")
    assert nmt("translate runs/tiny -o link.de", TEXT.encode()).status == 0
    assert Path("link.de").is_symlink()
    assert Path("out.de").read_text(encoding="utf-8").splitlines() == translated(nmt, TEXT)


def test_the_checkpoint_and_its_dev_bleu_are_told_in_a_line(here: Path, nmt: Nmt) -> None:
    """P11."""
    [line] = nmt("translate runs/tiny -o out.de", TEXT.encode()).err.splitlines()[:1]
    info = load_checkpoint(Path("runs/tiny")).info
    assert line == (
        f"runs/tiny/checkpoints/update-00000060: update 60, dev BLEU {info.bleu:.2f}, "
        f"{info.bleu_signature}"
    )


def test_a_stream_that_goes_bad_ends_after_whole_lines(
    here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9."""
    monkeypatch.setattr("nmt.corpus.io.READ_BYTES", 64)
    lines = TEXT.encode() * 20
    answer = nmt("translate runs/tiny --batch 1", lines + b"a caf\xe9\n")
    assert answer.status == 2
    assert answer.err.splitlines()[-1] == (
        "nmt: standard input, line 61: byte 0xE9 at position 6 is not UTF-8; convert the file "
        "(`iconv -f ISO-8859-1 -t UTF-8`) or fix the line"
    )
    done = answer.out[:-1].split("\n")
    assert answer.out[-1] == "\n"
    assert 0 < len(done) < 60
    assert done == translated(nmt, lines.decode())[: len(done)]


class Typist(io.RawIOBase):
    """A terminal at which each line waits for the answer to the one before."""

    def __init__(self, lines: list[str], answers: io.BytesIO) -> None:
        self._lines, self._answers = lines, answers
        self.waited: list[int] = []

    @property
    def buffer(self) -> "Typist":
        return self

    def isatty(self) -> bool:
        return True

    def read1(self, size: int) -> bytes:
        self.waited.append(self._answers.getvalue().count(b"\n"))
        return self._lines.pop(0).encode() if self._lines else b""


def test_what_is_typed_is_answered_line_by_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = io.BytesIO()
    typist = Typist(TEXT.splitlines(keepends=True), answers)
    monkeypatch.setattr(sys, "stdin", typist)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(answers))
    with pytest.raises(SystemExit) as ended:
        main(["translate", "runs/tiny"])
    assert not ended.value.code
    assert typist.waited == [0, 1, 2, 3]
    assert "type a line to have it translated; Ctrl-D ends\n" in capfd.readouterr().err


def test_the_script_of_a_checkout_gives_the_same_bytes(
    here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.en").write_text(TEXT)
    script = str(ROOT / "tools/translate.py")
    monkeypatch.setattr(sys, "argv", [script, "runs/tiny", "-i", "in.en", "-o", "out.de"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert not ended.value.code
    assert Path("out.de").read_text(encoding="utf-8").split("\n") == [*translated(nmt, TEXT), ""]


def test_a_python_without_the_packages_is_told_what_to_do(
    here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9."""
    monkeypatch.delitem(sys.modules, "nmt.console")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    answer = nmt("translate runs/tiny")
    assert (answer.status, answer.err) == (
        2,
        f"nmt: {sys.executable} has no package tqdm: type `. .venv/bin/activate` before, "
        "which `make demo` has made\n",
    )
