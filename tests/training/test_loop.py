"""Runs from their first line to their last."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from toy_results import assert_same, end_of, records_of
from toy_runs import Run, corpus_of, go

import nmt
from nmt.batching.schedule import Update
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.training.distributed import World
from nmt.training.loop import make_update, train
from nmt.training.stop_control import RunHooks

# Shape of the code.


class Profile:
    """Files of nmt/ outside model/ entered in one update of `train`, and its deepest stack."""

    def __init__(self, update: int) -> None:
        self.files: set[str] = set()
        self.depth = 0
        self._update = update
        self._is_on = False

    def on_update(self, update: Update) -> None:
        self._is_on = update.number == self._update

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if not self._is_on or event != "call" or self._file(frame) is None:
            return
        self.files.add(self._file(frame) or "")
        depth, at = 0, frame
        while at is not None:
            depth += self._file(at) is not None
            if at.f_code is train.__code__:
                break
            at = at.f_back  # type: ignore[assignment]
        self.depth = max(self.depth, depth)

    def _file(self, frame: FrameType) -> str | None:
        root = str(Path(nmt.__file__).parent) + "/"
        name = frame.f_code.co_filename
        is_ours = name.startswith(root) and not name.startswith(f"{root}model/")
        return name.removeprefix(root) if is_ours else None


def test_one_update_enters_eight_files_and_seven_frames(toy: Experiment, tmp_path: Path) -> None:
    """In the main thread, with no log line, validation or checkpoint due."""
    profile = Profile(update=5)
    assert toy.training.log_every == 4
    sys.setprofile(profile)
    try:
        train(
            toy, corpus_of(toy), World(), tmp_path, should_stop=lambda done: done == 7,
            hooks=RunHooks(on_update=profile.on_update),
        )  # fmt: skip
    finally:
        sys.setprofile(None)
    assert {"training/loop.py", "training/loss.py", "batching/loader.py"} <= profile.files
    assert len(profile.files) <= 8, sorted(profile.files)
    assert profile.depth <= 7


def test_make_update_fits_on_a_screen() -> None:
    lines = Path(make_update.__code__.co_filename).read_text(encoding="utf-8").splitlines()
    first = make_update.__code__.co_firstlineno - 1
    rest = lines[first + 1 :]
    length = next(n for n, line in enumerate(rest) if line and line[0] not in " )") + 1
    assert length <= 62  # 60 and two blank lines


# Runs.


def test_the_first_line_describes_the_run(toy: Experiment, tmp_path: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    lines: list[str] = []
    short = toy.model_copy(
        update={"batching": toy.batching.model_copy(update={"max_length": 12, "window": 100})}
    )
    for _ in range(2):
        train(short, corpus_of(toy), World(), tmp_path, lines.append, lambda update: True)
    start = (
        r"[\d,]+ parameters \| fp32 \| 1 worker on cpu \| \d+ pairs \(\d+ longer ones left out\) "
        r"\| \d+ updates per epoch \| \d+\.\d epochs \| "
    )
    assert re.fullmatch(rf"{start}new run", lines[0])
    assert re.fullmatch(rf"{start}resumed from update 1", lines[2])


def test_a_stage_after_the_last_update_is_reported(toy_file: Path, tmp_path: Path) -> None:
    stages = "stages=[{from_update: 1, rdrop: 1}, {from_update: 5, rdrop: 0}]"
    short = ["training.updates=5", "training.warmup_updates=1"]
    experiment = load_experiment(toy_file, [stages, *short])
    lines: list[str] = []
    train(experiment, corpus_of(experiment), World(), tmp_path, lines.append, lambda update: True)
    assert lines[1] == "warning: training.updates=5 ends before the stages from update 5"


@pytest.mark.parametrize(
    "change", ["dropout: 0.5", "word_dropout: 0.5", "subword_dropout: 0.5", "weight_dropout: 0.5"]
)
def test_a_stage_changes_dropout_from_its_first_update(toy_file: Path, change: str) -> None:
    ends = ["training.updates=6", "training.validate_every=6", "training.checkpoint_every=6"]
    often = ["training.log_every=1", *ends]
    name = f"stage-{change.partition(':')[0]}"
    if not (toy_file.parent / "plain-short").exists():
        go(toy_file, Run("plain-short", overrides=often))
    go(toy_file, Run(name, overrides=[f"stages=[{{from_update: 4, {change}}}]", *often]))
    plain, staged = (
        [each["loss"] for each in records_of(toy_file.parent / run) if each["kind"] == "train"]
        for run in ("plain-short", name)
    )
    assert plain[:4] == staged[:4]
    assert plain[4] != staged[4]


def test_a_requested_stop_saves_a_checkpoint(toy_file: Path) -> None:
    updates: list[int] = []
    lines: list[str] = []
    experiment = load_experiment(toy_file)
    run = toy_file.parent / "requested-stop"

    def should_stop(done: int) -> bool:
        updates.append(done)
        return done == 3

    reason, _ = train(experiment, corpus_of(experiment), World(), run, lines.append, should_stop)
    assert reason == "interrupted"
    assert updates == [1, 2, 3]
    assert end_of(run).update == 3
    assert re.fullmatch(
        r"interrupted after 3 of 20 updates \| \d+\.\d minutes of training", lines[-1]
    )


def test_background_checkpoints_equal_foreground_ones(
    toy_file: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    write: Callable[..., None] = AsyncCheckpointWriter.write

    def write_and_wait(writer: AsyncCheckpointWriter, *what: Any, **named: Any) -> None:
        write(writer, *what, **named)
        writer.wait()

    monkeypatch.setattr(AsyncCheckpointWriter, "write", write_and_wait)
    go(toy_file, Run("foreground"))
    run = toy_file.parent / "foreground"
    assert_same(one, run)
    ours, theirs = (
        [load_checkpoint(folder).weights for folder in list_checkpoints(of)] for of in (one, run)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
