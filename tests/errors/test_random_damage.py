"""Damaged files and odd options: each ends in a result, or in status 2 with at most 3 lines.

A case is a kind and a seed: `damaged.check("checkpoint", [17])` repeats case 17 of that kind.
`make test` runs a sample; the slow tests run hundreds of each kind.
"""

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import click
import pytest
from damaged_folder import ROOT, DamagedFolder, ReachedError
from mutations import (
    BEST,
    ODD_VALUES,
    ODD_WORDS,
    damage_checkpoint,
    damage_export,
    damage_prepared,
    damage_run,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_yaml,
)

from nmt.bench.figures import BenchReport, Figure
from nmt.checkpoint.convert import export_checkpoint
from nmt.checkpoint.load import load_checkpoint
from nmt.cli.main import COMMANDS, main
from nmt.config.experiment import Experiment
from nmt.config.files import load_cluster, load_experiment
from nmt.config.settings import section_in
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.corpus.task_cache import run_locally
from nmt.decoding.resumable_output import open_resumable
from nmt.jobs.backtranslate import backtranslate
from nmt.training.data import TrainingData, make_schedule
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.resume import check_run


def _reached(*_: object, **__: object) -> NoReturn:
    raise ReachedError


@pytest.fixture(scope="session")
def master(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model with more kinds of files."""
    root = tmp_path_factory.mktemp("master") / "tiny"
    shutil.copytree(tiny, root)
    shutil.copytree(ROOT / "configs", root / "configs")
    (root / "loop").symlink_to("loop")
    with contextlib.chdir(root):
        export_checkpoint(Path("runs/tiny"), Path("int8"), "int8")
        Path("mono.en").write_text("".join(f"{number} a cat runs.\n" for number in range(4)))
        with contextlib.suppress(StopError), open_resumable(Path("out.de"), {"a": "b"}) as output:
            for number in range(3):
                output.add(f"line {number}\n", 1, {"lines": 1})
            raise StopError
        figures = [
            Figure("a", 5.0, "lines/s", "lines", ratio=0.5),
            Figure("b", 1.0, "s", ""),
        ]
        arguments = ["evaluate", "runs/tiny", "--baseline", "int8", "--test", "news"]
        main([*arguments, "--threads", "1"], standalone_mode=False)
        BenchReport({"cores": 2}, figures).save(root / "bench.json")
        arguments = ["export", "runs/tiny", "-o", "onnx", "--format", "onnx"]
        main(arguments, standalone_mode=False)
    return root


@pytest.fixture
def damaged(
    master: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[DamagedFolder]:  # fmt: skip
    """Cases in this process; Ray and measurements are not started."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "home"))
    monkeypatch.setattr("ray.init", _reached)
    monkeypatch.setattr("nmt.bench.suite.run_bench", _reached)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    with contextlib.chdir("/"):
        yield DamagedFolder(
            master, tmp_path / "here", KINDS, lambda: tuple(capfdbinary.readouterr())
        )


class StopError(Exception):
    """A preparation is interrupted."""


def stop_after(number: int) -> Callable[..., Iterator[Any]]:
    """Return a function that runs so many tasks, then stops."""
    left = number

    def run(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        nonlocal left
        for task in tasks:
            if not left:
                raise StopError
            left -= 1
            yield function(*task)
        if not left:
            raise StopError

    return run


def _sharded() -> Experiment:
    return load_experiment("tiny.yaml", ["corpus.shard_pairs=20", "corpus.prepared=parts"])


def _backtranslate(run_tasks: Callable[..., Iterator[Any]] = run_locally) -> None:
    decoding, corpus = load_experiment("tiny.yaml").decoding, load_experiment("tiny.yaml").corpus
    models, mono = [load_checkpoint(BEST)], Path("mono.en")
    backtranslate(models, decoding, mono, corpus, Path("mono"), run_tasks=run_tasks)


# What reads the files.


def read_corpus() -> None:
    """Read everything that training reads."""
    experiment = load_experiment("tiny.yaml")
    shards, subword = open_prepared(experiment)
    shards.verify()
    dev = read_dev(experiment.prepared)
    _, schedule = make_schedule(experiment, TrainingData(shards, subword, dev))
    schedule.update(0)
    for row, (src, tgt) in enumerate(shards.pairs(range(len(shards)))):
        shards.origin(row)
        subword.decode([*src.tolist(), *tgt.tolist()])


def resume_run() -> None:
    """Resume the run for an update."""
    experiment = load_experiment("tiny.yaml", ["training.updates=61"])
    check_run(experiment, Path("runs/tiny"))
    shards, subword = open_prepared(experiment)
    shards.verify()
    data = TrainingData(shards, subword, read_dev(experiment.prepared))
    train(experiment, data, World(), Path("runs/tiny"))


def _check_prepared(random: Random, here: DamagedFolder) -> tuple[str, str]:
    what = damage_prepared(random, Path())
    reader = random.choice([*["prepare", "audit", "read"] * 3, "evaluate", "resume"])
    match reader:
        case "prepare":
            return what, here.command("prepare", "tiny.yaml")
        case "audit":
            return what, here.command("audit", "runs/tiny", "--prepared", "prepared/tiny")
        case "evaluate":
            return what, here.command("evaluate", "runs/tiny", "--test", "news")
        case "read":
            return what, here.call(read_corpus)
    return what, here.call(resume_run)


def _check_checkpoint(random: Random, here: DamagedFolder) -> tuple[str, str]:
    what = damage_checkpoint(random, Path())
    folder = "int8" if what.startswith("int8") else str(BEST)
    if folder == "int8" or random.randrange(3):
        options = [[], ["--precision", "int8"], ["--precision", "bf16"], ["--method", "sample"]]
        commands = [["translate", folder, *each] for each in options]
        commands += [["export", folder, "-o", "out"], ["average", folder, "-o", "out"],
                     ["score", folder, "raw/news.en", "raw/news.de"]]  # fmt: skip
        return what, here.command(*random.choice(commands))
    return what, here.call(resume_run)


def _check_export(random: Random, here: DamagedFolder) -> tuple[str, str]:
    what = damage_export(random, Path())
    commands = [["translate", "onnx"], ["score", "onnx", "raw/news.en", "raw/news.de"]]
    return what, here.command(*random.choice(commands), "--threads", "1")


def _check_run(random: Random, here: DamagedFolder) -> tuple[str, str]:
    what = damage_run(random, Path())
    reader = random.choice(["audit", "audit", "report", "report", "resume"])
    if reader == "resume":
        return what, here.call(resume_run)
    options = ["-o", "report.html"] if reader == "report" else []
    return what, here.command(reader, "runs/tiny", *options)


def _check_yaml(random: Random, here: DamagedFolder) -> tuple[str, str]:
    text = Path("tiny.yaml").read_text(encoding="utf-8")
    if not random.randrange(5):
        cluster = Path("configs/clusters/local.yaml")
        cluster.write_text(mutate_yaml(random, cluster.read_text(encoding="utf-8")))
        return "cluster", here.call(lambda: load_cluster(str(cluster), []))
    Path("tiny.yaml").write_text(mutate_yaml(random, text), encoding="utf-8")
    command = random.choice([["config", "show"], ["prepare"]])
    return "experiment", here.command(*command, "tiny.yaml")


def _check_override(random: Random, here: DamagedFolder) -> tuple[str, str]:
    key = random.choice(list(_keys(Experiment)))
    value = random.choice([*map(json.dumps, ODD_VALUES), *ODD_WORDS, "!!timestamp abc", "&a [*a]"])
    command = random.choice([["config", "show"], ["config", "show"], ["prepare"], ["train"]])
    return key, here.command(*command, "tiny.yaml", f"{key}={value}")


def _keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a section and those of the sections in it."""
    for name, setting in kind.model_fields.items():
        yield prefix + name
        if section := section_in(setting.annotation):
            item = ".0" if str(setting.annotation).startswith("list") else ""
            yield from _keys(section, f"{prefix}{name}{item}.")


def _check_unfinished(random: Random, here: DamagedFolder) -> tuple[str, str]:
    match random.randrange(4):
        case 0:
            name = random.choice(["begun.json", "chunks.jsonl", "text"])
            file = Path("out.de.unfinished", name)
            change = mutate_lines if name == "chunks.jsonl" else _mutate_any
            change(random, file)
            return name, here.call(_resume_output)
        case 1:
            # Unfinished work is of absolute paths: it is made in the folder of the case.
            with contextlib.suppress(StopError):
                _backtranslate(stop_after(random.choice([0, 1])))
            file = random.choice(sorted(Path("mono.work").iterdir()))
            _mutate_any(random, file)
            return file.name, here.call(_backtranslate)
    with contextlib.suppress(StopError):
        prepare(_sharded(), stop_after(random.randrange(2, 20)))
    files = [path for path in Path("parts").rglob("*") if path.is_file()]
    file = random.choice(sorted(files))
    if random.randrange(5):
        _mutate_any(random, file)
    else:
        file.unlink()
    return str(file), here.call(lambda: prepare(_sharded()))


def _mutate_any(random: Random, file: Path) -> str:
    if file.suffix == ".json":
        return mutate_json(random, file)
    file.write_bytes(mutate_bytes(random, file.read_bytes()))
    return file.name


def _resume_output() -> None:
    with open_resumable(Path("out.de"), {"a": "b"}) as output:
        output.add("last\n", 1, {"lines": 1})


def _check_bench(random: Random, here: DamagedFolder) -> tuple[str, str]:
    shutil.copy("bench.json", "other.json")
    mutate_json(random, Path("other.json"))
    return "report", here.command("bench", "compare", "bench.json", "other.json")


# Options of every command.

BASE: dict[str, list[str]] = {
    "demo": [],
    "init": ["mine", "--src", "raw/train.en", "--tgt", "raw/train.de"],
    "doctor": ["tiny.yaml"],
    "prepare": ["tiny.yaml"],
    "train": ["tiny.yaml"],
    "adapt": ["runs/tiny", "--src", "raw/news.en", "--tgt", "raw/news.de", "-o", "runs/adapted"],
    "translate": ["runs/tiny", "-i", "raw/news.en"],
    "serve": ["runs/none", "--port", "0"],  # a server with a model would not end
    "tune": ["runs/tiny", "--beams", "1,2", "--penalties", "1"],
    "backtranslate": ["int8", "mono.en", "mono2"],
    "score": ["runs/tiny", "raw/news.en", "raw/news.de"],
    "evaluate": ["runs/tiny"],
    "compare": ["raw/news.en", "--ref", "raw/news.de"],
    "report": ["runs/tiny"],
    "inspect": ["runs/tiny", "1 a dog runs."],
    "average": ["runs/tiny", "-o", "averaged"],
    "export": ["runs/tiny", "-o", "exported"],
    "audit": ["runs/tiny"],
    "plan": ["tiny.yaml", "configs/clusters/local.yaml"],
    "bench": [],
    "config": ["show", "tiny.yaml"],
}
"""Valid arguments of commands."""


def option_cases() -> list[list[str]]:
    """List each option and argument of each command with each odd value."""
    cases = []
    for verb in COMMANDS:
        base = BASE[verb]  # a new command needs an entry
        command = main.get_command(None, verb)  # type: ignore[attr-defined]
        assert isinstance(command, click.Command)
        for option in command.params:
            if isinstance(option, click.Option) and not (option.is_flag or option.count):
                cases += [[verb, *base, option.opts[-1], word] for word in ODD_WORDS]
        for place in range(len(base)):
            if not base[place].startswith("-"):
                cases += [[verb, *base[:place], word, *base[place + 1 :]] for word in ODD_WORDS]
        cases += [[verb, *base, word] for word in ODD_WORDS]
    return cases


def _check_option(random: Random, here: DamagedFolder) -> tuple[str, str]:
    arguments = random.choice(option_cases())
    return "option", here.command(*arguments)


KINDS: dict[str, Callable[[Random, DamagedFolder], tuple[str, str]]] = {
    "prepared": _check_prepared,
    "checkpoint": _check_checkpoint,
    "export": _check_export,
    "run": _check_run,
    "yaml": _check_yaml,
    "override": _check_override,
    "unfinished": _check_unfinished,
    "bench": _check_bench,
    "option": _check_option,
}
NUM_CASES = {"prepared": 300, "checkpoint": 400, "export": 200, "run": 150, "yaml": 200,
             "override": 400, "unfinished": 200, "bench": 50, "option": 600}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damage_ends_in_a_result_or_one_error(kind: str, damaged: DamagedFolder) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    damaged.check(kind, range(8))


def test_processes_end_the_same_way(damaged: DamagedFolder) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    damaged.has_processes = True
    damaged.check("yaml", range(2))
    damaged.check("checkpoint", [0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prepared", "checkpoint", "export", "run", "yaml", "bench"])
def test_many_processes_end_the_same_way(kind: str, damaged: DamagedFolder) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    damaged.has_processes = True
    damaged.check(kind, range(1000, 1012))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_damages_end_the_same_way(kind: str, damaged: DamagedFolder) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    damaged.check(kind, range(8, NUM_CASES[kind]))
