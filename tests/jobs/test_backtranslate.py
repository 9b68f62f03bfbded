"""Back-translation; the tasks run in this process, except in the last test."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray_clusters import RayCluster

from nmt.checkpoint.load import load_checkpoint
from nmt.cli.backtranslate import _entry
from nmt.config.decoding import DecodingConfig
from nmt.config.files import build_text
from nmt.config.settings import added_setting
from nmt.corpus.clean import held_out_digests, select_lines
from nmt.corpus.task_cache import run_locally
from nmt.errors import DataError
from nmt.jobs import backtranslate as backtranslate_module
from nmt.jobs.backtranslate import _fingerprint, backtranslate
from nmt.jobs.tasks import run_on_ray

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


@pytest.fixture
def tasks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the tasks of the command in this process."""
    monkeypatch.setattr("nmt.jobs.ray_session.connect", lambda *_: contextlib.nullcontext())

    def run_without_gpus(function: Any, tasks: Sequence[Any], num_gpus: int) -> Iterator[Any]:
        assert num_gpus == 0
        return run_locally(function, tasks)

    monkeypatch.setattr("nmt.jobs.tasks.run_on_ray", run_without_gpus)


def make_pairs(mono: Path, out: Path, **options: Any) -> tuple[Counter[str], Counter[str]]:
    bundle = load_checkpoint(Path("runs/tiny"))
    experiment = bundle.experiment
    models = [bundle] * options.pop("num_models", 1)
    return backtranslate(models, experiment.decoding, mono, experiment.corpus, out, **options)


def read_text_lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def test_pairs_are_kept_lines_and_their_translations(mono: Path, nmt: Callable[..., Any]) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    lines, pairs = make_pairs(mono, Path("bt"))
    assert lines == {
        "kept": 3, "empty": 1, "no_letters": 1, "duplicates": 1, "in the dev or a test set": 1,
    }  # fmt: skip
    assert pairs == {"kept": 3}
    src = read_text_lines("bt.en")
    assert src == ["15 a dog runs.", "16 two cats sleep.", "17 my dog sees a cat."]
    translated = nmt("translate runs/tiny", "".join(f"{line}\n" for line in src).encode()).out
    assert read_text_lines("bt.de") == translated.splitlines()
    assert not Path("bt.work").exists()


def test_text_like_that_of_a_set_is_held_out(mono: Path) -> None:
    held_out = read_text_lines("raw/dev.en")[1]
    copies = [held_out.upper(), f"&quot;{held_out}&quot;", held_out.rstrip(".") + " !"]
    mono.write_text("".join(f"{line}\n" for line in [*MONO, *copies]), encoding="utf-8")
    assert make_pairs(mono, Path("bt"))[0]["in the dev or a test set"] == 3


def test_every_reference_is_held_out(mono: Path) -> None:
    corpus = load_checkpoint(Path("runs/tiny")).experiment.corpus
    Path("raw/other.de").write_text(
        "Noch ein Satz.\n" * len(read_text_lines("raw/dev.de")), encoding="utf-8"
    )
    text = corpus.dev.model_copy(update={"name": "t", "refs": ["other.de"]})
    held_out = held_out_digests(corpus.model_copy(update={"tests": [text]}), "de")
    counts: Counter[str] = Counter()
    assert list(select_lines(["noch ein Satz"], corpus.cleaning, held_out, counts)) == []


def test_pairs_do_not_depend_on_the_tasks(mono: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    make_pairs(mono, Path("one_task"))
    monkeypatch.setattr(backtranslate_module, "CHUNK_LINES", 1)

    def backwards(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        return run_locally(function, tasks[::-1])

    make_pairs(mono, Path("four_tasks"), run_tasks=backwards)
    assert read_text_lines("four_tasks.de") == read_text_lines("one_task.de")
    assert read_text_lines("four_tasks.en") == read_text_lines("one_task.en")


def test_interrupted_job_skips_finished_chunks(mono: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(backtranslate_module, "CHUNK_LINES", 1)
    done: list[Path] = []

    def interrupt_after_one(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        for arguments in tasks:
            if len(done) == 1:
                raise KeyboardInterrupt
            done.append(arguments[-1])
            yield function(*arguments)

    with pytest.raises(KeyboardInterrupt):
        make_pairs(mono, Path("bt"), run_tasks=interrupt_after_one)
    assert not Path("bt.en").exists()

    def run_the_rest(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        assert done[0] not in [arguments[-1] for arguments in tasks]
        return run_locally(function, tasks)

    lines, pairs = make_pairs(mono, Path("bt"), run_tasks=run_the_rest)
    assert lines["kept"] == pairs["kept"] == len(read_text_lines("bt.de")) == 3


def test_other_folders_are_not_used(mono: Path, tmp_path: Path) -> None:
    """Unfinished work of other settings is deleted."""
    (tmp_path / "bt.work").mkdir()
    (tmp_path / "bt.work/notes.txt").write_text("mine")
    with pytest.raises(DataError) as error:
        make_pairs(mono, tmp_path / "bt")
    assert str(error.value) == (
        f"{tmp_path}/bt.work: holds other files (notes.txt); name another OUT"
    )
    assert (tmp_path / "bt.work/notes.txt").read_text() == "mine"


def test_unfinished_work_of_other_settings_is_replaced(mono: Path, tmp_path: Path) -> None:
    (tmp_path / "bt.work").mkdir()
    for name in ("state.json", "000007.src", "000007.hyp"):
        (tmp_path / "bt.work" / name).write_text("{}\n")
    assert make_pairs(mono, tmp_path / "bt")[1] == {"kept": 3}
    assert not (tmp_path / "bt.work").exists()


@pytest.mark.parametrize("at", ["end", "no pair left", "other settings"])
def test_a_kill_during_a_deletion_loses_no_pairs(
    at: str, mono: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(backtranslate_module, "CHUNK_LINES", 1)

    def interrupt(*_: object) -> Iterator[Any]:
        raise KeyboardInterrupt

    def delete_a_chunk_and_interrupt(folder: Path) -> None:
        (folder / "000001.src").unlink()
        raise KeyboardInterrupt

    unlink = Path.unlink

    def unlink_and_interrupt(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.suffix == ".src":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "other settings":
            with pytest.raises(KeyboardInterrupt):
                make_pairs(mono, Path("bt"), run_tasks=interrupt)
            patch.setattr(Path, "unlink", unlink_and_interrupt)
        if at == "no pair left":
            patch.setattr(backtranslate_module, "drop_reason", lambda *_: "too_short")
        remove = SimpleNamespace(rmtree=delete_a_chunk_and_interrupt)
        patch.setattr(backtranslate_module, "shutil", remove)
        with pytest.raises(KeyboardInterrupt):
            make_pairs(mono, Path("bt"), num_models=1 + (at == "other settings"))
    assert len(list(Path("bt.work").glob("*.src"))) == 2
    assert make_pairs(mono, Path("bt"))[1] == {"kept": 3}
    assert len(read_text_lines("bt.en")) == len(read_text_lines("bt.de")) == 3


def test_work_of_another_process_is_not_touched(mono: Path, tmp_path: Path) -> None:
    def start_again(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        with pytest.raises(DataError) as error:
            make_pairs(mono, tmp_path / "bt")
        assert str(error.value) == (
            f"{tmp_path}/bt.work: lock file held by another process; wait for it to end, or name "
            "another OUT"
        )
        return run_locally(function, tasks)

    assert make_pairs(mono, tmp_path / "bt", run_tasks=start_again)[1] == {"kept": 3}


def test_text_is_checked_before_ray_starts(
    here: Path, nmt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.jobs.ray_session.connect", lambda *_: pytest.fail("Ray started"))
    Path("empty.en").write_text("", encoding="utf-8")
    answer = nmt("backtranslate runs/tiny empty.en bt")
    assert answer.status == 2
    assert answer.err.splitlines()[-1] == (
        "nmt: empty.en: nothing to translate, 0 read = 0 kept + 0 dropped; name a file of text in "
        "the source language of the model"
    )
    assert not list(Path().glob("bt*"))


def test_a_new_setting_keeps_finished_chunks(here: Path, mono: Path) -> None:
    class LaterDecoding(DecodingConfig):
        later: int = added_setting(1, before=1)

    checkpoint = load_checkpoint(Path("runs/tiny"))
    corpus, settings = checkpoint.experiment.corpus, checkpoint.experiment.decoding
    later = LaterDecoding(**settings.model_dump())
    found = [_fingerprint([checkpoint], each, mono, corpus, set()) for each in (settings, later)]
    assert found[0] == found[1]
    beam = settings.model_copy(update={"beam": 3})
    assert _fingerprint([checkpoint], beam, mono, corpus, set()) != found[0]


def test_ensemble_of_a_model_with_itself_equals_the_model(mono: Path) -> None:
    make_pairs(mono, Path("one"))
    make_pairs(mono, Path("two"), num_models=2)
    assert read_text_lines("two.de") == read_text_lines("one.de")


def test_the_candidate_nearest_to_the_reference_is_kept(
    mono: Path, nmt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequence-level interpolation (Kim & Rush 2016, section 3.3)."""
    monkeypatch.setattr(backtranslate_module, "CHUNK_LINES", 2)
    kept = "15 a dog runs.\n16 two cats sleep.\n17 my dog sees a cat.\n"
    answer = nmt("translate runs/tiny --n-best 4 --format moses --beam 4", kept.encode())
    candidates: list[list[str]] = [[], [], []]
    for line in answer.out.splitlines():
        number, text = line.split(" ||| ")[:2]
        candidates[int(number)].append(text)
    # The reference of each line is its last candidate; other lines of MONO have another one.
    lines = mono.read_text(encoding="utf-8").splitlines()
    refs = {lines[0]: candidates[0], lines[3]: candidates[1], lines[5]: candidates[2]}
    text = "".join(f"{refs[line][-1] if line in refs else 'x'}\n" for line in lines)
    Path("mono.de").write_text(text, encoding="utf-8")
    experiment = load_checkpoint(Path("runs/tiny")).experiment
    decoding = experiment.decoding.model_copy(update={"beam": 4})
    models = [load_checkpoint(Path("runs/tiny"))]
    backtranslate(models, decoding, mono, experiment.corpus, Path("bt"), ref=Path("mono.de"))
    assert read_text_lines("bt.de") == [each[-1] for each in candidates]
    assert read_text_lines("bt.de") != [each[0] for each in candidates]


def test_wrong_references_are_an_error(mono: Path, nmt: Callable[..., Any]) -> None:
    Path("mono.de").write_text("one\n", encoding="utf-8")
    assert nmt("backtranslate runs/tiny mono.en bt --ref mono.de decoding.beam=2").err == (
        "nmt: mono.en has 7 lines, mono.de has 1: the two files must be line-parallel\n"
    )
    assert nmt("backtranslate runs/tiny mono.en bt --ref mono.de decoding.beam=1").err == (
        "nmt: decoding is beam with beam 1, but a reference chooses from a beam: set "
        "decoding.method=beam and a beam of 2 or more\n"
    )
    assert not list(Path().glob("bt*"))


def test_command_prints_the_counts_of_lines_and_pairs(
    mono: Path, nmt: Callable[..., Any], tasks_here: None
) -> None:
    answer = nmt("backtranslate runs/tiny mono.en bt decoding.beam=1")
    assert answer.status == 0, answer.err
    assert (
        "mono.en: 7 read = 3 kept + 4 dropped (1 empty, 1 no_letters, 1 duplicates, "
        "1 in the dev or a test set)\npairs: 3 read = 3 kept + 0 dropped\ntranslated 3 lines | "
    ) in answer.err
    names = {code: f"{Path.cwd()}/bt.{code}" for code in ("en", "de")}
    same = f"  - {{name: bt, src: {names['en']}, tgt: {names['de']}}}\n"
    reverse = f"  - {{name: bt, src: {names['de']}, tgt: {names['en']}, tag: 1}}\n"
    start = "entry for corpus.train of a model from"
    assert answer.err.endswith(f"{start} en to de:\n{same}{start} de to en:\n{reverse}")
    answer = nmt("backtranslate runs/tiny mono.en bt decoding.method=sample --experiment tiny.yaml")
    assert answer.err.endswith(f"{start} en to de:\n{same}")


def test_a_run_is_used_from_another_working_directory(
    mono: Path, nmt: Callable[..., Any], tasks_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other/raw").mkdir(parents=True)
    monkeypatch.chdir("other")
    answer = nmt("backtranslate ../runs/tiny ../mono.en raw/bt")
    assert answer.status == 0, answer.err
    assert "1 in the dev or a test set" in answer.err
    # The experiment is in another folder, so that a path below its corpus.root is absolute.
    names = [f"{Path.cwd()}/raw/bt.{code}" for code in ("en", "de")]
    assert f"  - {{name: bt, src: {names[0]}, tgt: {names[1]}}}\n" in answer.err


def test_no_pair_left_is_an_error_that_keeps_earlier_output(
    mono: Path, nmt: Callable[..., Any], tasks_here: None
) -> None:
    Path("bt.de").write_text("earlier\n")
    answer = nmt("backtranslate runs/tiny mono.en bt decoding.max_length=1")
    assert answer.status == 2
    assert answer.err.splitlines()[-1] == (
        f"nmt: no pair of {Path.cwd()}/bt is left, 3 read = 0 kept + 3 dropped (3 no_letters); "
        "use a model that was trained longer, or other cleaning rules"
    )
    assert read_text_lines("bt.de") == ["earlier"]
    assert {path.name for path in Path().glob("bt*")} == {"bt.de"}


def test_two_sides_of_one_language_are_refused(mono: Path) -> None:
    model = load_checkpoint(Path("runs/tiny"))
    corpus = model.experiment.corpus.model_copy(update={"tgt": "en"})
    model = replace(model, experiment=model.experiment.model_copy(update={"corpus": corpus}))
    with pytest.raises(DataError) as error:
        backtranslate([model], model.experiment.decoding, mono, corpus, Path("bt"))
    assert str(error.value) == (
        f"{model.path} translates en to en: both sides would be bt.en; use `nmt translate`"
    )
    assert not list(Path().glob("bt*"))


@pytest.mark.parametrize(
    ("out", "name"),
    [("bt-1", "bt-1"), ("back translated (1)", "back_translated_1_"), ("2024", "2024"),
     ("no", "no"), ("日本", "corpus")],
)  # fmt: skip
def test_the_entry_can_be_added_to_an_experiment(out: str, name: str) -> None:
    text = _entry(Path("/data/my text", out), Path("/data"), "de", "en", "de")
    [entry] = yaml.safe_load(f"- {text}")
    made = build_text(entry)
    assert (made.name, made.tag) == (name, 1)
    assert (made.src, made.tgt) == (f"my text/{out}.de", f"my text/{out}.en")


@pytest.mark.ray
def test_tasks_on_ray_make_the_same_pairs(
    mono: Path, ray_session: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    make_pairs(mono, Path("local"))
    monkeypatch.setattr(backtranslate_module, "CHUNK_LINES", 2)
    make_pairs(mono, Path("on_ray").resolve(), run_tasks=run_on_ray)
    assert read_text_lines("on_ray.de") == read_text_lines("local.de")
