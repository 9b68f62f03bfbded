"""Pairs made by a model; the tasks run in this process, as they would on Ray."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nmt.checkpoint.load import load_checkpoint
from nmt.corpus.task_cache import run_locally
from nmt.jobs import backtranslate as room
from nmt.jobs.backtranslate import backtranslate

MONO = [
    "15 a dog runs.",
    "",
    "12 34",
    "16 two cats sleep.",
    "15 a dog runs.",
    "17  my\u00a0dog sees a cat.",
]


@pytest.fixture
def mono(here: Path) -> Path:
    held_out = Path("raw/dev.en").read_text(encoding="utf-8").splitlines()[1]
    Path("mono.en").write_text("\n".join([*MONO, held_out]) + "\n", encoding="utf-8")
    return Path("mono.en")


def make(mono: Path, out: Path, **options: Any) -> tuple[Counter[str], Counter[str]]:
    bundle = load_checkpoint(Path("runs/tiny"))
    experiment = bundle.experiment
    models = [bundle] * options.pop("num_models", 1)
    return backtranslate(models, experiment.decoding, mono, experiment.corpus, out, **options)


def lines_of(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def test_pairs_are_lines_and_what_the_model_makes_of_them(
    mono: Path, nmt: Callable[..., Any]
) -> None:
    """P6: read = kept + dropped."""
    lines, pairs = make(mono, Path("bt"))
    assert lines == {
        "kept": 3, "empty": 1, "no_letters": 1, "duplicates": 1, "in the dev or a test set": 1,
    }  # fmt: skip
    assert pairs == {"kept": 3}
    src = lines_of("bt.en")
    assert src == ["15 a dog runs.", "16 two cats sleep.", "17 my dog sees a cat."]
    translated = nmt("translate runs/tiny", "".join(f"{line}\n" for line in src).encode()).out
    assert lines_of("bt.de") == translated.splitlines()
    assert not Path("bt.work").exists()


def test_the_pairs_do_not_depend_on_the_tasks(mono: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P7."""
    make(mono, Path("whole"))
    monkeypatch.setattr(room, "CHUNK_LINES", 1)

    def backwards(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        return run_locally(function, tasks[::-1])

    make(mono, Path("parts"), run_tasks=backwards)
    assert lines_of("parts.de") == lines_of("whole.de")
    assert lines_of("parts.en") == lines_of("whole.en")


def test_what_was_translated_is_not_translated_again(
    mono: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, and other settings begin anew."""
    monkeypatch.setattr(room, "CHUNK_LINES", 1)
    done: list[Path] = []

    def until_it_is_stopped(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        for arguments in tasks:
            if len(done) == 1:
                raise KeyboardInterrupt
            done.append(arguments[-1])
            yield function(*arguments)

    with pytest.raises(KeyboardInterrupt):
        make(mono, Path("bt"), run_tasks=until_it_is_stopped)
    assert not Path("bt.en").exists()

    def the_others(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        assert done[0] not in [arguments[-1] for arguments in tasks]
        return run_locally(function, tasks)

    lines, pairs = make(mono, Path("bt"), run_tasks=the_others)
    assert lines["kept"] == pairs["kept"] == len(lines_of("bt.de")) == 3


def test_a_model_with_itself_makes_the_pairs_of_one(mono: Path) -> None:
    """Distillation from an ensemble."""
    make(mono, Path("one"))
    make(mono, Path("two"), num_models=2)
    assert lines_of("two.de") == lines_of("one.de")


def test_the_verb_tells_what_became_of_the_lines(
    mono: Path, nmt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.jobs.ray_session.connect", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("nmt.jobs.tasks.run_on_ray", run_locally)
    answer = nmt("backtranslate runs/tiny mono.en bt decoding.beam=1")
    assert answer.status == 0, answer.err
    assert (
        "mono.en: 7 read = 3 kept + 4 dropped (1 empty, 1 no_letters, 1 duplicates, "
        "1 in the dev or a test set)\npairs: 3 read = 3 kept + 0 dropped\n3 lines | "
    ) in answer.err
    assert answer.err.endswith("  - {name: bt, src: bt.en, tgt: bt.de}\n")
    assert nmt("backtranslate runs/tiny mono.en bt decoding.method=sample").status == 0


@pytest.mark.ray
def test_tasks_on_ray_make_the_pairs_of_one_process(
    mono: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P7."""
    import ray

    from nmt.jobs.tasks import run_on_ray

    make(mono, Path("here"))
    monkeypatch.setattr(room, "CHUNK_LINES", 2)
    ray.init(address="local", include_dashboard=False, num_cpus=1, log_to_driver=False)
    try:
        make(mono, Path("there"), run_tasks=run_on_ray)
    finally:
        ray.shutdown()
    assert lines_of("there.de") == lines_of("here.de")
