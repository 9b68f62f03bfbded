import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_runs import INGREDIENTS, LostError, Run, corpus_of, go

from nmt.batching.schedule import Schedule
from nmt.checkpoint.background import Writer
from nmt.checkpoint.bundle import TrainingState
from nmt.checkpoint.loading import load, load_training_state
from nmt.checkpoint.run import best, bundles
from nmt.config.experiment import Experiment, SubwordConfig
from nmt.config.files import load_experiment
from nmt.corpus.subword import Subword
from nmt.errors import TrainingError
from nmt.training.care import Care
from nmt.training.loop import train
from nmt.training.memory import seed_of
from nmt.training.plan import Corpus, check_workers
from nmt.training.pulse import Beat, read
from nmt.training.resuming import check_run
from nmt.training.world import World

OF_THE_CLOCK = {"time", "train_s", "eta_s", "src_tokens_per_s", "tgt_tokens_per_s"} | {
    "data_wait_percent"
}


def end_of(run: Path) -> TrainingState:
    return load_training_state(run)


def tensors_of(run: Path) -> dict[str, Tensor]:
    state = end_of(run)
    assert state.average is not None
    return {
        **{f"weights/{name}": tensor for name, tensor in state.weights.items()},
        **{f"average/{name}": tensor for name, tensor in state.average.items()},
        **{f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()},
    }


def records_of(run: Path) -> list[dict[str, Any]]:
    """Of metrics.jsonl, without what depends on the clock."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in OF_THE_CLOCK}
        for line in lines
    ]


def counters_of(run: Path) -> dict[str, Any]:
    counters = end_of(run).counters
    since_log = {k: v for k, v in counters["since_log"].items() if not k.endswith("_s")}
    return {k: v for k, v in counters.items() if k != "train_s"} | {"since_log": since_log}


def rows_of(run: Path) -> dict[str, list[tuple[int, list[int]]]]:
    """Number and pairs of the micro-batches of each update, of all workers."""
    found: dict[str, list[Any]] = {}
    for file in sorted(run.glob("seen-*.json")):
        for update, parts in json.loads(file.read_text())["rows"].items():
            found[update] = sorted([*found.get(update, []), *parts])
    return found


def assert_same(run: Path, other: Path) -> None:
    """Bit for bit: what was learnt, what is counted, what was logged; but for losses on the way."""
    ours, theirs = tensors_of(run), tensors_of(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert counters_of(run) == counters_of(other)
    ours_told, theirs_told = (
        [record for record in records_of(folder) if record["kind"] != "restart"]
        for folder in (run, other)
    )
    assert ours_told == theirs_told


def assert_near(run: Path, other: Path) -> None:
    """Up to the order of floating-point sums."""
    ours, theirs = end_of(run), end_of(other)
    assert ours.update == theirs.update
    assert ours.average is not None
    assert theirs.average is not None
    for name, tensor in ours.weights.items():
        assert (tensor - theirs.weights[name]).abs().max() <= 1e-5, name
    for name, tensor in ours.average.items():
        assert (tensor - theirs.average[name]).abs().max() <= 1e-5, name


# Several workers.


@pytest.mark.parametrize("folder", ["two", "three"])
def test_several_workers_train_the_model_of_one(one: Path, gloo: Path, folder: str) -> None:
    """P3."""
    assert end_of(one).update == 20
    assert_near(one, gloo / folder)


@pytest.mark.parametrize("folder", ["two", "three"])
def test_an_update_has_the_same_pairs_for_several_workers(
    one: Path, gloo: Path, folder: str
) -> None:
    """P2, P3."""
    assert len(rows_of(one)) == 20
    assert rows_of(gloo / folder) == rows_of(one)


def test_the_same_number_of_workers_trains_bit_for_bit(gloo: Path) -> None:
    """P3."""
    assert_same(gloo / "two", gloo / "two-again")


def test_several_workers_log_what_one_logs(one: Path, gloo: Path) -> None:
    """P3."""
    for ours, theirs in zip(records_of(one), records_of(gloo / "three"), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert theirs[name] == expected, name


def test_with_all_ingredients_several_workers_train_the_model_of_one(
    one: Path, one_of_all: Path, gloo: Path
) -> None:
    """P3: subwords cut anew, stages, R-Drop, locked and weight dropout, weights of corpora."""
    assert_near(one_of_all, gloo / "two-of-all")
    assert rows_of(gloo / "two-of-all") == rows_of(one_of_all)
    weights, plain = tensors_of(one_of_all), tensors_of(one)
    assert any(not torch.equal(weights[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    "change", ["dropout: 0.5", "word_dropout: 0.5", "subword_dropout: 0.5", "weight_dropout: 0.5"]
)
def test_a_stage_changes_what_is_dropped_from_its_first_update_on(
    toy_file: Path, change: str
) -> None:
    stages = [f"stages=[{{from_update: 4, {change}}}]", "training.log_every=1"]
    name = change.partition(":")[0]
    ends = ["training.updates=6", "training.validate_every=6", "training.checkpoint_every=6"]
    go(toy_file, Run("plain-short", overrides=["training.log_every=1", *ends]))
    go(toy_file, Run(f"stage-{name}", overrides=[*stages, *ends]))
    plain, staged = (
        [each["nll"] for each in records_of(toy_file.parent / run) if each["kind"] == "train"]
        for run in ("plain-short", f"stage-{name}")
    )
    assert plain[:4] == staged[:4]
    assert plain[4] != staged[4]


# Stopped and resumed.


def test_with_all_ingredients_a_run_that_was_stopped_is_one_that_was_not(
    toy_file: Path, one_of_all: Path
) -> None:
    """P4."""
    go(toy_file, Run("of-all-stopped", overrides=INGREDIENTS, stop_after=7))
    go(toy_file, Run("of-all-stopped", overrides=INGREDIENTS, stop_after=15))
    go(toy_file, Run("of-all-stopped", overrides=INGREDIENTS, stop_after=18))
    go(toy_file, Run("of-all-stopped", overrides=INGREDIENTS))
    assert_same(toy_file.parent / "of-all-stopped", one_of_all)


def test_a_run_is_stopped_in_the_middle_of_an_epoch(toy: Experiment, stopped: Path) -> None:
    shards = corpus_of(toy).shards
    schedule = Schedule(shards.src_lengths, shards.tgt_lengths, toy.batching, toy.seed)
    assert end_of(stopped).update == 7
    assert 7 % schedule.updates_per_epoch != 0
    assert schedule.updates_per_epoch < 20


def test_resumed_is_never_interrupted(toy_file: Path, one: Path, stopped: Path) -> None:
    """P4."""
    run = toy_file.parent / "one-resumed"
    shutil.copytree(stopped, run)
    why, progress = go(toy_file, Run(run.name))
    assert (why, progress.update) == ("finished", 20)
    assert_same(one, run)


def test_two_workers_resumed_are_never_interrupted(gloo: Path) -> None:
    """P4."""
    assert_same(gloo / "two", gloo / "two-stopped")


def test_three_workers_resumed_are_never_interrupted(gloo: Path) -> None:
    """P4: gradients are added in the same order before and after."""
    assert_same(gloo / "three", gloo / "three-stopped")


def test_resuming_takes_another_number_of_workers(one: Path, gloo: Path) -> None:
    """P4."""
    assert_near(one, gloo / "one-then-two")


def test_a_stop_is_told_and_leaves_a_checkpoint(toy_file: Path) -> None:
    told: list[int] = []
    lines: list[str] = []
    experiment = load_experiment(toy_file)
    run = toy_file.parent / "told"

    def at_update(done: int) -> bool:
        told.append(done)
        return done == 3

    why, _ = train(experiment, corpus_of(experiment), World(), run, lines.append, at_update)
    assert why == "interrupted"
    assert told == [1, 2, 3]
    assert end_of(run).update == 3
    assert re.fullmatch(
        r"interrupted after 3 of 20 updates, \d+\.\d minutes of training", lines[-1]
    )


def test_the_first_line_says_what_is_trained_on_what(toy: Experiment, tmp_path: Path) -> None:
    """P11."""
    lines: list[str] = []
    short = toy.model_copy(
        update={"batching": toy.batching.model_copy(update={"max_length": 12, "window": 100})}
    )
    train(short, corpus_of(toy), World(), tmp_path, lines.append, lambda update: True)
    assert re.fullmatch(
        r"[\d,]+ parameters, fp32, 1 worker on cpu; \d+ pairs, \d+ longer ones left out; "
        r"\d+ updates an epoch, \d+\.\d epochs in all; from the start",
        lines[0],
    )


def test_a_run_that_is_over_stays_as_it_is(toy_file: Path, one: Path) -> None:
    run = toy_file.parent / "over"
    shutil.copytree(one, run)
    why, progress = go(toy_file, Run(run.name))
    assert (why, progress.update) == ("finished", 20)
    assert_same(one, run)


def test_resuming_falls_back_where_the_newest_checkpoint_is_damaged(
    toy_file: Path, one: Path
) -> None:
    """P5."""
    run = toy_file.parent / "damaged"
    shutil.copytree(one, run)
    newest = bundles(run)[-1]
    assert newest.name == "update-00000020"
    (newest / "weights.safetensors").write_bytes(b"not what was written")
    check_run(load_experiment(toy_file), run)
    go(toy_file, Run(run.name))
    assert rows_of(run).keys() == {str(number) for number in range(10, 20)}
    assert_same(one, run)


def test_more_updates_can_be_asked_for_later(toy_file: Path, one: Path) -> None:
    run = toy_file.parent / "longer"
    shutil.copytree(one, run)
    longer = ["training.updates=22"]
    check_run(load_experiment(toy_file, longer), run)
    _, progress = go(toy_file, Run(run.name, overrides=longer))
    assert progress.update == 22


# Early stopping.


def test_training_stops_after_validations_without_a_gain(toy_file: Path) -> None:
    # The weights hardly move, so that the second validation is the first one again.
    overrides = ["training.learning_rate=1e-12", "training.patience=1", "training.validate_every=2"]
    run = Run("early", overrides=[*overrides, "training.checkpoint_every=4"])
    why, progress = go(toy_file, run)
    assert (why, progress.update) == ("stopped early", 4)
    assert (progress.best_update, progress.validations_without_gain) == (2, 1)
    found = best(toy_file.parent / "early")
    assert found is not None
    assert found.name == "update-00000002"


def test_a_run_that_stopped_early_does_not_go_on(toy_file: Path) -> None:
    """P4."""
    overrides = ["training.learning_rate=1e-12", "training.patience=1", "training.validate_every=2"]
    run = Run("early-twice", overrides=[*overrides, "training.checkpoint_every=4"])
    go(toy_file, run)
    why, progress = go(toy_file, run)
    assert (why, progress.update) == ("stopped early", 4)


# Updates without a finite gradient.


def test_an_update_without_a_finite_gradient_is_skipped_by_all(gloo: Path) -> None:
    run = gloo / "skips"
    skipped = [record for record in records_of(run) if record["kind"] == "skipped"]
    pairs = sorted(row for _, rows in rows_of(run)["2"] for row in rows)
    assert skipped == [{"kind": "skipped", "update": 3, "grad_norm": "inf", "pairs": pairs}]
    assert counters_of(run)["num_skipped"] == 1
    assert counters_of(run)["skipped_in_a_row"] == 0
    steps = {name: t for name, t in end_of(run).optimizer.items() if name.startswith("step/")}
    assert {step.item() for step in steps.values()} == {5}
    assert all(tensor.isfinite().all() for tensor in tensors_of(run).values())


def test_a_skipped_update_is_told(gloo: Path) -> None:
    log = (gloo / "skips" / "train.log").read_text(encoding="utf-8")
    pairs = sorted(row for _, rows in rows_of(gloo / "skips")["2"] for row in rows)
    assert (
        f"update 3 skipped: its gradient is not finite (inf); pairs {pairs[0]} to {pairs[-1]}, "
        f"all {len(pairs)} in metrics.jsonl\n"
    ) in log
    assert "; 1 updates skipped\n" in log


def test_metrics_are_json_though_updates_are_skipped(gloo: Path) -> None:
    """P11."""
    for line in (gloo / "skips" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(constant))


def test_a_run_ends_after_a_few_skipped_updates_in_a_row(gloo: Path) -> None:
    """P9."""
    for rank in (0, 1):
        assert (gloo / "fails" / f"error-{rank}.txt").read_text() == (
            "2 updates in a row had a gradient that is not finite, the last one update 3: lower "
            "training.learning_rate (0.003) or use training.precision=fp32; the same command then "
            "goes on from the last good checkpoint"
        )


def test_a_run_that_failed_does_not_say_that_it_finished(gloo: Path) -> None:
    log = (gloo / "fails" / "train.log").read_text(encoding="utf-8")
    assert "update 3 skipped" in log
    assert "finished" not in log


def test_what_a_failed_run_is_told_to_change_may_change(toy_file: Path, one: Path) -> None:
    advice = ["training.learning_rate=0.001", "training.precision=bf16"]
    check_run(load_experiment(toy_file, advice), one)


# Checkpoints beside training.


def test_checkpoints_in_the_background_are_those_written_in_the_foreground(
    toy_file: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, P5."""
    begin = Writer.write

    def write_and_wait(writer: Writer, *what: Any, **named: Any) -> None:
        begin(writer, *what, **named)
        writer.wait()

    monkeypatch.setattr(Writer, "write", write_and_wait)
    go(toy_file, Run("foreground"))
    run = toy_file.parent / "foreground"
    assert_same(one, run)
    ours, theirs = ([load(folder).weights for folder in bundles(of)] for of in (one, run))
    for mine, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())


# Workers that are lost.


def test_what_a_loss_has_cost_is_recorded(toy_file: Path, one: Path) -> None:
    """P4, P11."""
    run = toy_file.parent / "lost"
    with pytest.raises(LostError):
        go(toy_file, Run(run.name, lost_after=15, max_lost_updates=7))
    assert [path.name for path in bundles(run)] == ["update-00000010", "update-00000012"]
    go(toy_file, Run(run.name, max_lost_updates=7))
    (record,) = [record for record in records_of(run) if record["kind"] == "restart"]
    assert 0 < record.pop("s_lost") < 60
    assert record == {
        "kind": "restart",
        "update": 13,
        "why": "a worker died",
        "from_update": 12,
        "updates_lost": 3,
        "workers_before": 1,
        "workers": 1,
    }
    log = (run / "train.log").read_text(encoding="utf-8")
    assert re.search(
        r"restarted \(a worker died\): went on after update 12; 3 updates and \d+\.\d s lost\n", log
    )
    assert_same(one, run)


def test_a_loss_is_recorded_though_the_lost_host_had_the_file(toy_file: Path) -> None:
    """P11."""
    run = toy_file.parent / "lost-host"
    with pytest.raises(LostError):
        go(toy_file, Run(run.name, lost_after=12))
    (run / "pulse.json").unlink()
    experiment = load_experiment(toy_file)
    care = Care(why="worker 0 died with the host", last=Beat(12, time.time() - 5, 1))
    train(experiment, corpus_of(experiment), World(), run, care=care)
    (record,) = [record for record in records_of(run) if record["kind"] == "restart"]
    assert (record["why"], record["updates_lost"]) == ("worker 0 died with the host", 2)
    assert record["s_lost"] >= 5


def test_a_run_that_was_stopped_has_lost_nothing(toy_file: Path, stopped: Path) -> None:
    assert read(stopped) is None


def test_a_run_does_not_begin_anew_where_all_checkpoints_are_damaged(
    toy_file: Path, one: Path
) -> None:
    """P5, P9."""
    run = toy_file.parent / "all-damaged"
    shutil.copytree(one, run)
    for folder in bundles(run):
        (folder / "bundle.json").write_text("{}")
    expected = (
        f"no checkpoint of the run in {run} is whole; the newest: {run}/checkpoints/"
        "update-00000020/bundle.json is damaged: it is not what was written; use another "
        f"checkpoint, such as {run}/checkpoints/update-00000010; to train from the start instead, "
        "give the experiment another name or move that folder away"
    )
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file), run)
    assert str(error.value) == expected
    with pytest.raises(TrainingError) as error:
        go(toy_file, Run(run.name))
    assert str(error.value) == expected


# A disk that is full.


def told_of(run: Path, update: int) -> str:
    """How the words about a full disk begin."""
    return f"{run}/checkpoints/update-{update:08d} was not written: the disk filled up before its "


def test_training_goes_on_without_a_checkpoint_that_could_not_be_written(gloo: Path) -> None:
    """P4."""
    assert_near(gloo / "full", gloo / "two")
    unwritten = [r["update"] for r in records_of(gloo / "full") if r["kind"] == "unwritten"]
    assert unwritten == [4, 7, 13]
    why = told_of(gloo / "full", 6)
    assert (
        f"update 7: training goes on without a checkpoint (2 of 3 in a row that end the run): {why}"
    ) in (gloo / "full" / "train.log").read_text(encoding="utf-8")


def test_a_run_ends_after_a_few_checkpoints_that_could_not_be_written(gloo: Path) -> None:
    """P5, P9: with a word at all workers; nobody waits for the first."""
    run = gloo / "full-for-good"
    for rank in (0, 1):
        said = (run / f"error-{rank}.txt").read_text()
        assert said.startswith(f"3 checkpoints in a row could not be written: {told_of(run, 8)}")
        assert said.endswith(
            " MB were on it; make room, or keep fewer checkpoints (training.keep_last); the same "
            "command then goes on from the last good one"
        )
    assert end_of(run).update == 2


def test_a_run_has_not_finished_without_its_last_checkpoint(toy_file: Path) -> None:
    """P9."""
    with pytest.raises(TrainingError) as error:
        go(toy_file, Run("full-at-the-end", full=[20]))
    run = toy_file.parent / "full-at-the-end"
    assert str(error.value).startswith(
        f"the last checkpoint could not be written: {told_of(run, 20)}"
    )
    assert [folder.name for folder in bundles(run)] == ["update-00000010"]


# Memory that runs out.


def test_an_update_that_did_not_fit_is_made_again_in_halves(gloo: Path) -> None:
    """P3: the same gradient up to the order of sums, at all workers."""
    assert_near(gloo / "roomy", gloo / "short")
    splits = [record for record in records_of(gloo / "short") if record["kind"] == "split"]
    assert {(split["update"], split["worker"]) for split in splits} == {(3, 1), (6, 1)}
    # Workers take every second of three micro-batches: the last one has the middle one alone.
    rows = next(len(rows) for index, rows in rows_of(gloo / "short")["2"] if index == 1)
    assert rows == 3
    first = [(split["micro_batch"], split["num_pairs"]) for split in splits[:2]]
    assert first == [(1, 3), (1, 2)]
    assert counters_of(gloo / "short")["num_split"] == len(splits)
    log = (gloo / "short" / "train.log").read_text(encoding="utf-8")
    assert re.search(
        r"update 3: worker 1 ran out of memory over micro-batch 1, 3 pairs in \d+ positions; "
        "the update is made again with it in two halves\n",
        log,
    )
    assert f", {len(splits)} micro-batches split\n" in log


def test_what_did_not_fit_is_counted_once(gloo: Path) -> None:
    """P11."""
    last = {}
    for run in ("roomy", "short"):
        last[run] = [r for r in records_of(gloo / run) if r["kind"] == "train"][-1]
    assert last["short"]["nll"] == pytest.approx(last["roomy"]["nll"], rel=1e-4)


def test_a_pair_that_does_not_fit_ends_the_run(gloo: Path) -> None:
    """P9."""
    for rank in (0, 1):
        assert re.fullmatch(
            r"update 2: worker 1 ran out of memory over one pair \(\d+ tokens of both sides\); "
            "lower batching.max_length or the size of the model, or give each worker more memory",
            (gloo / "too-short" / f"error-{rank}.txt").read_text(),
        )


# What is refused before the start.


def test_too_many_workers_are_refused(toy: Experiment, tmp_path: Path) -> None:
    """P9."""
    expected = (
        "4 workers cannot share updates of 3 micro-batches: ask for at most 3 workers, or set "
        "batching.micro_batches=4 or more (a larger update)"
    )
    with pytest.raises(TrainingError) as error:
        check_workers(toy, 4)
    assert str(error.value) == expected
    with pytest.raises(TrainingError) as error:
        train(toy, corpus_of(toy), World(rank=3, size=4), tmp_path)
    assert str(error.value) == expected


def test_as_many_workers_as_micro_batches_are_fine(toy: Experiment) -> None:
    check_workers(toy, 3)


def test_a_run_does_not_go_on_with_another_model(toy_file: Path, one: Path) -> None:
    """P9."""
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file, ["model.width=12"]), one)
    assert str(error.value) == (
        f"model.width is 12, but the run in {one} was begun with 8: give the experiment another "
        "name, or set model.width=8 to go on with it"
    )


def test_the_way_back_is_what_a_person_can_type(toy_file: Path, one: Path) -> None:
    """P9."""
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file, ["training.betas=[0.8,0.9]"]), one)
    assert str(error.value).endswith("or set training.betas=[0.9, 0.98] to go on with it")


def test_a_new_run_has_nothing_to_agree_with(toy: Experiment, tmp_path: Path) -> None:
    check_run(toy, tmp_path)


def test_a_run_does_not_go_on_with_another_vocabulary(toy_file: Path, one: Path) -> None:
    run = toy_file.parent / "other-words"
    shutil.copytree(one, run)
    corpus = corpus_of(load_experiment(toy_file))
    other = Corpus(corpus.shards, Subword.train(["other words"], SubwordConfig()), corpus.dev)
    with pytest.raises(TrainingError) as error:
        train(load_experiment(toy_file), other, World(), run)
    assert str(error.value) == (
        f"the vocabulary of {corpus.shards.folder} is not the one that the run in {run} was begun "
        "with: give the experiment another name, or set corpus.prepared to the folder that it was "
        "begun with"
    )


# Seeds.


def test_each_micro_batch_has_a_seed_of_its_own(one: Path) -> None:
    """P3."""
    seeds = json.loads((one / "seen-0.json").read_text())["seeds"]
    assert seeds == [seed_of(3, update, index) for update in range(20) for index in range(3)]


def test_seeds_depend_on_all_three_numbers_and_on_nothing_else() -> None:
    """P3, P4: an old run goes on with the dropout it began with."""
    assert seed_of(1, 2, 3) == 1540937338477698060
    numbers = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (12, 3, 3), (1, 23, 3)]
    assert len({seed_of(*of) for of in numbers}) == 5
    assert all(0 <= seed_of(*of) < 2**63 for of in numbers)


PLATEAU = [
    "training.schedule=plateau",
    "training.plateau_patience=1",
    "training.validate_every=2",
    "training.checkpoint_every=4",
    "training.warmup_updates=1",
    "training.learning_rate=1.0e-9",
]


def test_a_plateau_halves_the_learning_rate_and_survives_a_stop(toy_file: Path) -> None:
    """P4. At such a rate no validation after the first is better."""
    go(toy_file, Run("plateau", overrides=PLATEAU))
    rates = [
        r["learning_rate"] for r in records_of(toy_file.parent / "plateau") if r["kind"] == "train"
    ]
    assert rates == pytest.approx([1e-9, 2.5e-10, 6.25e-11, 1.5625e-11, 1e-11])
    log = (toy_file.parent / "plateau/train.log").read_text()
    assert "dev BLEU has not risen: learning rate halved (training.plateau_patience is 1)\n" in log
    for stop in (3, 10, None):
        go(toy_file, Run("plateau-stopped", overrides=PLATEAU, stop_after=stop))
    assert_same(toy_file.parent / "plateau-stopped", toy_file.parent / "plateau")


def test_a_run_that_stopped_early_says_why(toy_file: Path) -> None:
    overrides = [*PLATEAU, "training.patience=2", "training.schedule=cosine"]
    go(toy_file, Run("says-why", overrides=overrides))
    last = (toy_file.parent / "says-why/train.log").read_text().splitlines()[-1]
    assert last.endswith(
        "; why: 2 validations in a row brought no better dev BLEU (training.patience is 2)"
    )
