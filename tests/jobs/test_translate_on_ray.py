"""Large files on Ray: the same bytes as in one process, with lost workers and interruptions."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from nmt.checkpoint.load import load_checkpoint
from nmt.config.cluster import Cluster
from nmt.decoding.resumable_output import open_resumable, work_folder
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import Translator
from nmt.errors import DataError, NmtError
from nmt.jobs.translate import FormatChunk, Output, translate_on_ray

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def translator(tiny: Path) -> Translator:
    bundle = load_checkpoint(tiny / "runs/tiny")
    return Translator(TorchEngine([bundle.model()]), bundle.subword, bundle.experiment)


@pytest.fixture(scope="module")
def lines(tiny: Path) -> list[str]:
    return [*(tiny / "raw/train.en").read_text(encoding="utf-8").splitlines(), "", " "]


def number_lines() -> FormatChunk[str]:
    def render(translator: Translator, lines: Sequence[str], first: int) -> Output:
        translations = translator.translate(lines)
        numbered = enumerate(translations, start=first)
        text = "".join(f"{number} {each}\n" for number, each in numbered)
        return text, {"num_lines": len(lines)}

    return render


def make_chunks(lines: list[str], stop_at: int = 1000) -> Iterator[list[str]]:
    for number, start in enumerate(range(0, len(lines), 7)):
        if number == stop_at:
            raise KeyboardInterrupt
        yield lines[start : start + 7]


def translate(
    translator: Translator, chunks: Iterator[list[str]], render: FormatChunk[str], output: Path,
    num_workers: int = 1, max_failures: int = 1,
) -> list[int]:  # fmt: skip
    progress: list[int] = []
    with open_resumable(output, {}) as unfinished:
        cluster = Cluster(workers=num_workers, max_failures=max_failures)
        translate_on_ray(translator, chunks, render, unfinished, cluster, progress.append)
        assert unfinished.counts == {"num_lines": unfinished.num_lines}
    return progress


def test_two_workers_write_the_bytes_of_one_process(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    progress = translate(translator, make_chunks(lines), number_lines(), tmp_path / "out.de", 2)
    assert progress[-1] == len(lines) == 102
    expected = number_lines()(translator, lines, 0)[0]
    assert (tmp_path / "out.de").read_text(encoding="utf-8") == expected


def test_interrupted_file_is_resumed_with_other_workers(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """Exact resume, batch-invariant translation (nmt/README.md, Guarantees)."""
    output, num_chunks = tmp_path / "out.de", 0
    # Interrupted twice: first with one worker, then with two.
    for num_workers, stop_at in ((1, 6), (2, 14)):
        with suppress(KeyboardInterrupt):
            translate(translator, make_chunks(lines, stop_at), number_lines(), output, num_workers)
        before = num_chunks
        num_chunks = len((work_folder(output) / "chunks.jsonl").read_text().splitlines())
        assert before + 2 <= num_chunks < stop_at
    progress = translate(translator, make_chunks(lines), number_lines(), output)
    assert progress[0] == (num_chunks + 1) * 7
    assert output.read_text(encoding="utf-8") == number_lines()(translator, lines, 0)[0]


def test_unfinished_file_is_resumed_in_chunks_of_another_size(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """Line in, line out, exact resume (nmt/README.md, Guarantees)."""
    output = tmp_path / "out.de"
    with suppress(KeyboardInterrupt):
        translate(translator, make_chunks(lines, stop_at=6), number_lines(), output)
    translate(translator, iter([lines[:60], lines[60:]]), number_lines(), output)
    expected = number_lines()(translator, lines, 0)[0]
    assert output.read_text(encoding="utf-8") == expected


def test_lost_worker_is_replaced(translator: Translator, lines: list[str], tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    marker, render = tmp_path / "marker", number_lines()

    def die_once(translator: Translator, lines: Sequence[str], first: int) -> Output:
        if first > 30 and not marker.exists():
            marker.touch()
            os._exit(1)
        return render(translator, lines, first)

    translate(translator, make_chunks(lines), die_once, tmp_path / "out.de")
    assert marker.exists()
    assert (tmp_path / "out.de").read_text(encoding="utf-8") == render(translator, lines, 0)[0]


def test_worker_that_is_lost_too_often_is_an_error(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def die(translator: Translator, lines: Sequence[str], first: int) -> Output:
        os._exit(1)

    with pytest.raises(NmtError) as caught:
        translate(translator, make_chunks(lines), die, tmp_path / "out.de", max_failures=0)
    assert str(caught.value).startswith("Ray gave up on a task after retries (Actor")
    assert str(caught.value).endswith("); run the same command again to resume")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.de").exists()


def test_error_in_a_chunk_is_raised_in_the_driver(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def refuse(translator: Translator, lines: Sequence[str], first: int) -> Output:
        raise DataError(f"in.en, line {first + 1}: no good")

    with pytest.raises(DataError, match=r"^in\.en, line \d+: no good$"):
        translate(translator, make_chunks(lines), refuse, tmp_path / "out.de")


def test_workers_that_do_not_fit_on_the_cluster_are_refused(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(NmtError) as caught:
        translate(
            translator, make_chunks(lines), number_lines(), tmp_path / "out.de", num_workers=3
        )
    assert str(caught.value) == (
        "3 workers with 1 CPU each need 3, but the cluster has 2: lower cluster.workers "
        "(--workers), or add hosts"
    )
