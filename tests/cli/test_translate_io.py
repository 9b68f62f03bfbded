"""Input and output of `nmt translate`: one line per line, for files, pipes and terminals."""

import contextlib
import gzip
import json
import lzma
import os
import runpy
import select
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cli_calls import TEXT, Nmt, translated

from nmt.checkpoint.load import load_checkpoint
from nmt.cli.main import main
from nmt.cli.translate import resume_key, translate
from nmt.corpus.text import open_output
from nmt.decoding.loading import open_model

ROOT = Path(__file__).resolve().parents[2]


def test_tiny_model_translates(here: Path, nmt: Nmt) -> None:
    lines = translated(nmt, TEXT)
    assert [line.split(" ", 1)[1] for line in lines][1:] == [
        "zwei Katzen schlafen.",
        "mein Hund sieht eine Katze.",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_n_lines_in_are_n_lines_out_and_blank_stays(
    end: str, last: str, here: Path, nmt: Nmt
) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    lines = ["1 a dog\u2028runs.", "", "2 a\u0085cat\u2029sleeps.", " \t\u3000", "3 two\rdogs run."]
    plain = ["1 a dog runs.", "", "2 a cat sleeps.", "", "3 two dogs run."]
    found = translated(nmt, end.join(lines) + (end if last else ""))
    assert found == translated(nmt, "\n".join(plain))
    assert [not line for line in found] == [False, True, False, True, False]


def test_empty_input_gives_empty_output(here: Path, nmt: Nmt) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    answer = nmt("translate runs/tiny", b"")
    assert (answer.status, answer.out) == (0, "")


def test_line_longer_than_in_training_is_translated(here: Path, nmt: Nmt) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    text = "a dog runs. " * 750 + "\n" + TEXT
    found = translated(nmt, text, "--beam 1 --max-length-ratio 0.1")
    assert len(found) == 4
    assert found[0] != ""


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batch_size_does_not_change_the_output(batch: int, here: Path, nmt: Nmt) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    text = Path("raw/train.en").read_text(encoding="utf-8")
    assert translated(nmt, text, f"--batch {batch}") == translated(nmt, text)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_files_are_compressed_by_suffix(suffix: str, here: Path, nmt: Nmt) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
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


def test_pipe_is_written_and_not_replaced(here: Path, nmt: Nmt) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert nmt("translate runs/tiny -o pipe", TEXT.encode()).status == 0
    assert os.read(reader, 4096).decode().splitlines() == translated(nmt, TEXT)
    os.close(reader)
    assert Path("pipe").is_fifo()


def test_target_of_a_symlink_is_written(here: Path, nmt: Nmt) -> None:
    Path("out.de").write_text("before\n")
    Path("link.de").symlink_to("out.de")
    assert nmt("translate runs/tiny -o link.de", TEXT.encode()).status == 0
    assert Path("link.de").is_symlink()
    assert Path("out.de").read_text(encoding="utf-8").splitlines() == translated(nmt, TEXT)


def test_checkpoint_and_dev_bleu_are_printed(here: Path, nmt: Nmt) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    [line] = nmt("translate runs/tiny -o out.de", TEXT.encode()).err.splitlines()[:1]
    info = load_checkpoint(Path("runs/tiny")).info
    assert line == (
        f"runs/tiny/checkpoints/update-00000060: update 60 | dev_bleu {info.bleu:.2f} "
        f"{info.bleu_signature}"
    )


def test_invalid_stream_ends_after_complete_lines(
    here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setattr("nmt.corpus.io.READ_BYTES", 64)
    lines = TEXT.encode() * 20
    answer = nmt("translate runs/tiny --batch 1", lines + b"a caf\xe9\n")
    assert answer.status == 2
    assert answer.err.splitlines()[-1] == (
        "nmt: standard input, line 61: byte 0xE9 at position 6 is not UTF-8; convert the file from "
        "its encoding (`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists "
        "others) or fix the line"
    )
    done = answer.out[:-1].split("\n")
    assert answer.out[-1] == "\n"
    assert done == translated(nmt, lines.decode())


def test_typed_lines_are_answered_one_by_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keyboard, stdin = os.openpty()
    screen, stdout = os.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(stdin))
    monkeypatch.setattr(sys, "stdout", os.fdopen(stdout, "w"))

    def run() -> None:
        with contextlib.suppress(SystemExit):
            main(["translate", "runs/tiny"])

    command = threading.Thread(target=run, daemon=True)
    command.start()
    for line in TEXT.splitlines():
        os.write(keyboard, f"{line}\n".encode())
        assert select.select([screen], [], [], 30)[0], "no answer"
        assert os.read(screen, 4096).decode().endswith(".\r\n")
    os.write(keyboard, b"\x04")
    command.join(30)
    assert not command.is_alive()
    assert "type a line to translate; Ctrl-D ends\n" in capfd.readouterr().err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_controls_reach_files_and_no_terminal(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.openpty() if is_terminal else os.pipe()
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    text = "a\x1b[31mb\r\u202ec\tä\n"
    with open_output("-") as file:
        file.write(text)
    found = os.read(reader, 4096).decode()
    assert found == ("a\\x1b[31mb\\r\\u202ec\tä\r\n" if is_terminal else text)
    with open_output(tmp_path / "out") as file:
        file.write(text)
    assert (tmp_path / "out").read_bytes() == text.encode()


def test_file_name_of_a_full_device_is_named(here: Path, nmt: Nmt) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    answer = nmt("translate runs/tiny -o /dev/full", TEXT.encode())
    assert (answer.status, answer.err.splitlines()[-1]) == (
        2, "nmt: /dev/full: cannot be written: No space left on device; make room and try again",
    )  # fmt: skip


def test_invalid_json_line_keeps_those_before_it(here: Path, nmt: Nmt) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    good = [json.dumps({"text": line}) for line in TEXT.splitlines()]
    for bad, problem in (
        ('{"text": 3}', "text is 3, but it must be a string"),
        (
            '{"text": "a", "avoid": ["x"], "constraints": ["x"]}',
            "'x' is in avoid, and also in target_prefix or constraints: remove it from one of them",
        ),
    ):
        text = "\n".join([*good, bad, good[0]])
        answer = nmt("translate runs/tiny --json-input", text.encode())
        assert answer.out.splitlines() == translated(nmt, TEXT)
        assert answer.status == 2
        assert answer.err.splitlines()[-1] == f"nmt: standard input, line 4: {problem}"


@pytest.mark.parametrize("bad", [b"a \0 b\n", b"a caf\xe9\n", b'{"text": 3}\n'])
@pytest.mark.parametrize("batch", [1, 64])
def test_output_file_has_the_lines_before_an_invalid_one(
    batch: int, bad: bytes, here: Path, nmt: Nmt
) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    lines = [json.dumps({"text": line}) for line in TEXT.splitlines()]
    text = "\n".join(lines).encode() + b"\n"
    answer = nmt(f"translate runs/tiny --json-input -o out.de --batch {batch}", text + bad + text)
    assert answer.status == 2
    assert answer.err.splitlines()[-1].startswith("nmt: standard input, line 4: ")
    assert Path("out.de").read_text(encoding="utf-8").splitlines() == translated(nmt, TEXT)


@pytest.mark.parametrize("output", ["", "-o out.de"])
def test_a_file_as_standard_input_is_checked_first(output: str, here: Path, nmt: Nmt) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    terminal = os.dup(0)

    def translate_file(text: bytes) -> Any:
        Path("in.en").write_bytes(text)
        with open("in.en", "rb") as file:
            os.dup2(file.fileno(), 0)
        return nmt(f"translate runs/tiny {output}", text)

    try:
        answer = translate_file(TEXT.encode() + b"a caf\xe9\n")
        assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert answer.err.startswith("nmt: standard input, line 4: byte 0xE9 at position 6 is not ")
        assert not Path("out.de").exists()
        answer = translate_file(TEXT.encode())
        found = Path("out.de").read_text(encoding="utf-8") if output else answer.out
    finally:
        os.dup2(terminal, 0)
        os.close(terminal)
    assert found.splitlines() == translated(nmt, TEXT)


@pytest.mark.parametrize("options", ["", "--batch 1", "--format jsonl"])
def test_lines_of_a_pipe_are_answered_as_they_arrive(
    options: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    answers, output = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reader))
    monkeypatch.setattr(sys, "stdout", os.fdopen(output, "w"))

    def run() -> None:
        with contextlib.suppress(SystemExit):
            main(["translate", "runs/tiny", *options.split()])

    command = threading.Thread(target=run, daemon=True)
    command.start()
    for lines in (b"1 a dog runs.\n", b"2 two cats sleep.\n3 my dog runs.\n"):
        os.write(writer, lines)
        for _ in lines.splitlines():
            assert select.select([answers], [], [], 30)[0], "no answer"
            assert os.read(answers, 4096).count(b"\n") >= 1
            if lines.count(b"\n") == 2:
                break
    os.close(writer)
    command.join(30)
    assert not command.is_alive()


def test_script_of_a_checkout_gives_equal_output(
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


def test_missing_package_is_an_error(here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    for module in ("nmt.console", "nmt.cli.translate"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    answer = nmt("translate runs/tiny")
    assert (answer.status, answer.err) == (
        2,
        f"nmt: {sys.executable} has no package tqdm: run `. .venv/bin/activate` first; "
        "`make demo` creates the environment\n",
    )


def key_of(model: str, *options: str) -> dict[str, str]:
    """Return what an unfinished output of `nmt translate MODEL --workers 2 ...` depends on."""
    files = ["-i", "raw/dev.en", "-o", "out.de", "--workers", "2"]
    with translate.make_context("nmt translate", [model, *files, *options]):
        return resume_key([open_model(model)], ["raw/dev.en"])


def test_translation_on_other_workers_can_be_resumed(here: Path) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    other = "--workers 3 --cluster c.yaml --device cpu --threads 1 -o ./out.de -i ./raw/dev.en"
    assert key_of("runs/tiny", *other.split()) == key_of("runs/tiny")


@pytest.mark.parametrize(
    "options",
    ["--beam 3", "--format jsonl", "--json-input", "--avoid Hund", "--protect urls",
     "--precision bf16", "--max-source-length 9"],
)  # fmt: skip
def test_translation_with_other_options_is_another_one(options: str, here: Path) -> None:
    assert key_of("runs/tiny", *options.split()) != key_of("runs/tiny")


def test_translation_of_another_text_or_model_is_another_one(here: Path) -> None:
    key = key_of("runs/tiny")
    assert key_of("runs/tiny/checkpoints/update-00000030") != key
    with Path("raw/dev.en").open("a") as file:
        file.write("9 a dog runs.\n")
    assert key_of("runs/tiny") != key
