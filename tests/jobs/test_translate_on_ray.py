"""Big files on Ray: the same bytes as in one process, whoever is lost, whatever is interrupted."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import ray

from nmt.checkpoint.load import load_checkpoint
from nmt.config.cluster import Cluster
from nmt.decoding.resumable_output import open_resumable, work_folder
from nmt.decoding.translator import Translator
from nmt.errors import DataError, NmtError
from nmt.jobs.translate import FormatChunk, Output, translate_on_ray

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def translator(tiny: Path) -> Translator:
    bundle = load_checkpoint(tiny / "runs/tiny")
    return Translator(bundle.model(), bundle.subword, bundle.experiment)


@pytest.fixture(scope="module")
def lines(tiny: Path) -> list[str]:
    return [*(tiny / "raw/train.en").read_text(encoding="utf-8").splitlines(), "", " "]


def plain() -> FormatChunk[str]:
    def render(translator: Translator, lines: Sequence[str], first: int) -> Output:
        found = translator.translate(lines)
        text = "".join(f"{n} {each}\n" for n, each in enumerate(found, start=first))
        return text, {"num_lines": len(lines)}

    return render


def chunks_of(lines: list[str], stop_at: int = 1000) -> Iterator[list[str]]:
    for number, start in enumerate(range(0, len(lines), 7)):
        if number == stop_at:
            raise KeyboardInterrupt
        yield lines[start : start + 7]


def go(
    translator: Translator, chunks: Iterator[list[str]], render: FormatChunk[str], output: Path,
    num_workers: int = 1, max_failures: int = 1,
) -> list[int]:  # fmt: skip
    heard: list[int] = []
    with open_resumable(output, {}) as unfinished:
        cluster = Cluster(workers=num_workers, max_failures=max_failures)
        translate_on_ray(translator, chunks, render, unfinished, cluster, heard.append)
        assert unfinished.counts == {"num_lines": unfinished.num_lines}
    return heard


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_translates_to_the_same_bytes(
    num_workers: int, translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """P7."""
    heard = go(translator, chunks_of(lines), plain(), tmp_path / "out.de", num_workers)
    assert heard[-1] == len(lines) == 102
    assert (tmp_path / "out.de").read_text(encoding="utf-8") == plain()(translator, lines, 0)[0]


@pytest.mark.parametrize("before", [1, 2])
def test_what_was_interrupted_goes_on_to_the_same_bytes(
    before: int, translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """P4, P7."""
    output = tmp_path / "out.de"
    with suppress(KeyboardInterrupt):
        go(translator, chunks_of(lines, stop_at=4 * before + 2), plain(), output, before)
    assert len((work_folder(output) / "chunks.jsonl").read_text().splitlines()) >= 2
    heard = go(translator, chunks_of(lines), plain(), output, num_workers=3 - before)
    assert heard[0] >= 3 * 7
    assert output.read_text(encoding="utf-8") == plain()(translator, lines, 0)[0]


def test_a_worker_that_is_lost_is_replaced(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """P4."""
    marker, render = tmp_path / "marker", plain()

    def die_once(translator: Translator, lines: Sequence[str], first: int) -> Output:
        if first > 30 and not marker.exists():
            marker.touch()
            os._exit(1)
        return render(translator, lines, first)

    go(translator, chunks_of(lines), die_once, tmp_path / "out.de", num_workers=2)
    assert marker.exists()
    assert (tmp_path / "out.de").read_text(encoding="utf-8") == render(translator, lines, 0)[0]


def test_a_worker_that_is_lost_each_time_is_given_up(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """P9."""

    def die(translator: Translator, lines: Sequence[str], first: int) -> Output:
        os._exit(1)

    with pytest.raises(NmtError) as caught:
        go(translator, chunks_of(lines), die, tmp_path / "out.de", max_failures=0)
    assert str(caught.value).startswith("a task failed too often on the cluster (Actor")
    assert str(caught.value).endswith("); run the same command again to resume")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.de").exists()


def test_what_a_worker_finds_wrong_is_said_in_one_line(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """P9."""

    def refuse(translator: Translator, lines: Sequence[str], first: int) -> Output:
        raise DataError(f"in.en, line {first + 1}: no good")

    with pytest.raises(DataError, match=r"^in\.en, line \d+: no good$"):
        go(translator, chunks_of(lines), refuse, tmp_path / "out.de")


def test_more_workers_than_the_cluster_holds_are_refused(
    translator: Translator, lines: list[str], tmp_path: Path
) -> None:
    """P9."""
    with pytest.raises(NmtError) as caught:
        go(translator, chunks_of(lines), plain(), tmp_path / "out.de", num_workers=3)
    assert str(caught.value) == (
        "3 workers with 1 CPU each need 3, but the cluster has 2: lower cluster.workers "
        "(--workers), or add hosts"
    )
