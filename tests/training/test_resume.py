"""Resumed runs equal uninterrupted ones, or are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_results import assert_near, assert_same, end_of, rows_of
from toy_runs import INGREDIENTS, Run, corpus_of, go

from nmt.batching.schedule import Schedule
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.checkpoint.run_directory import best_checkpoint, list_checkpoints
from nmt.checkpoint.write import save_checkpoint
from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment, ModelConfig
from nmt.config.files import load_experiment
from nmt.config.settings import added_setting
from nmt.corpus.prepare import prepare
from nmt.corpus.subword import Subword
from nmt.errors import TrainingError
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.resume import check_run, describe_rate_change
from nmt.training.run_log import read_records
from nmt.training.state import TrainState


def test_a_run_with_all_settings_resumes_exactly(toy_file: Path, one_of_all: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    go(toy_file, Run("of-all-stopped", overrides=INGREDIENTS, stop_after=7))
    go(toy_file, Run("of-all-stopped", overrides=INGREDIENTS, stop_after=15))
    go(toy_file, Run("of-all-stopped", overrides=INGREDIENTS, stop_after=18))
    go(toy_file, Run("of-all-stopped", overrides=INGREDIENTS))
    assert_same(toy_file.parent / "of-all-stopped", one_of_all)


def test_the_stopped_run_is_within_an_epoch(toy: Experiment, stopped: Path) -> None:
    shards = corpus_of(toy).shards
    schedule = Schedule(shards.src_lengths, shards.tgt_lengths, toy.batching, toy.seed)
    assert end_of(stopped).update == 7
    assert 7 % schedule.updates_per_epoch != 0
    assert schedule.updates_per_epoch < 20


def test_a_resumed_run_equals_one_never_stopped(toy_file: Path, one: Path, stopped: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    run = toy_file.parent / "one-resumed"
    shutil.copytree(stopped, run)
    reason, progress = go(toy_file, Run(run.name))
    assert (reason, progress.update) == ("finished", 20)
    assert_same(one, run)


def test_two_resumed_workers_equal_uninterrupted_ones(gloo: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    assert_same(gloo / "two", gloo / "two-stopped")


def test_three_resumed_workers_equal_uninterrupted_ones(gloo: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    assert_same(gloo / "three", gloo / "three-stopped")


def test_a_run_resumes_with_another_world_size(one: Path, gloo: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    assert_near(one, gloo / "one-then-two")


def test_a_finished_run_is_unchanged(toy_file: Path, one: Path) -> None:
    run = toy_file.parent / "over"
    shutil.copytree(one, run)
    reason, progress = go(toy_file, Run(run.name))
    assert (reason, progress.update) == ("finished", 20)
    assert_same(one, run)


def test_a_finished_run_resumes_with_more_updates(toy_file: Path, one: Path) -> None:
    run = toy_file.parent / "longer"
    shutil.copytree(one, run)
    longer = load_experiment(toy_file, ["training.updates=40"])
    check_run(longer, run)
    lines: list[str] = []
    _, state = train(longer, corpus_of(longer), World(), run, lines.append)
    assert state.update == 40
    # The cosine schedule is stretched: after half of the updates the rate is 57 % of the peak.
    assert lines[0] == ("warning: learning rate 3.0e-05 -> 1.7e-03 | training.updates 20 -> 40")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([], [], ""),
        (["training.schedule=plateau"], ["training.schedule=plateau", "training.updates=40"], ""),
        (
            ["training.schedule=inverse_sqrt"],
            ["training.schedule=inverse_sqrt", "training.learning_rate=0.001"],
            "learning rate 1.5e-03 -> 4.9e-04 | training.learning_rate 0.003 -> 0.001",
        ),
        (
            ["training.updates=40"],
            ["training.updates=30", "training.learning_rate=0.006"],
            "learning rate 1.7e-03 -> 1.8e-03 | training.updates 40 -> 30 | "
            "training.learning_rate 0.003 -> 0.006",
        ),
    ],
)
def test_a_change_of_the_learning_rate_is_described(
    before: list[str], now: list[str], expected: str, toy_file: Path
) -> None:
    settings = load_experiment(toy_file, before), load_experiment(toy_file, now)
    assert describe_rate_change(*settings, TrainState(update=20)) == expected


# Corrupt checkpoints.


def test_resume_skips_a_corrupt_checkpoint(toy_file: Path, one: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    run = toy_file.parent / "corrupt"
    shutil.copytree(one, run)
    newest = list_checkpoints(run)[-1]
    assert newest.name == "update-00000020"
    (newest / "weights.safetensors").write_bytes(b"corrupt")
    check_run(load_experiment(toy_file), run)
    go(toy_file, Run(run.name))
    assert rows_of(run).keys() == {str(number) for number in range(10, 20)}
    assert_same(one, run)


def test_a_run_without_complete_checkpoint_is_refused(toy_file: Path, one: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    run = toy_file.parent / "all-corrupt"
    shutil.copytree(one, run)
    for folder in list_checkpoints(run):
        (folder / "bundle.json").write_text("{}")
    expected = (
        f"no checkpoint of the run in {run} is complete; the newest: {run}/checkpoints/"
        "update-00000020/bundle.json is corrupt: its SHA-256 does not match; use another "
        f"checkpoint, such as {run}/checkpoints/update-00000010; to start over, "
        "give the experiment another name or move the run away"
    )
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file), run)
    assert str(error.value) == expected
    with pytest.raises(TrainingError) as error:
        go(toy_file, Run(run.name))
    assert str(error.value) == expected


# Other settings and data.


def test_another_model_is_refused(toy_file: Path, one: Path) -> None:
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file, ["model.width=12"]), one)
    assert str(error.value) == (
        f"model.width=12, but the run in {one} was started with model.width=8: set it back to "
        "resume, or give the experiment another name"
    )


def test_a_run_resumes_with_the_legacy_value_of_a_new_setting(
    toy_file: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""

    class LaterModel(ModelConfig):
        bias: bool = added_setting(True, before=False)

    class LaterExperiment(Experiment):
        model: LaterModel = LaterModel()

    def later(*overrides: str) -> Experiment:
        with monkeypatch.context() as patch:
            patch.setattr("nmt.config.files.Experiment", LaterExperiment)
            return load_experiment(toy_file, overrides)

    monkeypatch.setattr("nmt.checkpoint.load.Experiment", LaterExperiment)
    check_run(later("model.bias=false"), one)
    with pytest.raises(TrainingError) as error:
        check_run(later(), one)
    assert str(error.value) == (
        f"model.bias=true, but the run in {one} was started with model.bias=false: set it back to "
        "resume, or give the experiment another name"
    )


def test_the_refusal_shows_overrides_to_type(toy_file: Path, one: Path) -> None:
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file, ["training.betas=[0.8,0.9]"]), one)
    assert str(error.value).startswith(
        f"training.betas=[0.8, 0.9], but the run in {one} was started with "
        "training.betas=[0.9, 0.98]: "
    )


def test_the_refusal_shows_what_stages_set(toy_file: Path, one: Path) -> None:
    with pytest.raises(TrainingError) as refused:
        check_run(load_experiment(toy_file, ["stages=[{from_update: 9, dropout: 0.1}]"]), one)
    assert str(refused.value).startswith(
        f'stages=[{{"from_update": 9, "dropout": 0.1}}], but the run in {one} was started with '
    )


def test_learning_rate_and_precision_may_change(toy_file: Path, one: Path) -> None:
    advice = ["training.learning_rate=0.001", "training.precision=bf16"]
    check_run(load_experiment(toy_file, advice), one)


def test_a_longer_name_of_a_setting_that_may_change(toy_file: Path, one: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file, ["training.learning_rate_floor=0.5"]), one)
    assert str(error.value) == (
        f"training.learning_rate_floor=0.5, but the run in {one} was started with "
        "training.learning_rate_floor=0.01: set it back to resume, or give the experiment another "
        "name"
    )


def test_updates_stay_with_init_share(toy_file: Path, one: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    settings = [f"training.init_from={one}", "training.init_share=0.25"]
    go(toy_file, Run("init-share", overrides=settings, stop_after=3))
    run = toy_file.parent / "init-share"
    check_run(load_experiment(toy_file, settings), run)
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file, [*settings, "training.updates=40"]), run)
    assert str(error.value) == (
        f"training.updates=40, but the run in {run} was started with training.updates=20 and "
        "training.init_share: set it back to resume, or give the experiment another name"
    )


def test_path_of_the_vocabulary_may_change(toy_file: Path, one: Path) -> None:
    """A submitted job has absolute paths; the vocabulary itself is compared."""
    experiment = load_experiment(toy_file)
    tokenizer = f"{experiment.prepared}/tokenizer.json"
    check_run(load_experiment(toy_file, [f"corpus.subword.tokenizer={tokenizer}"]), one)


def test_a_new_run_is_not_checked(toy: Experiment, tmp_path: Path) -> None:
    check_run(toy, tmp_path)


def test_another_vocabulary_is_refused(toy_file: Path, one: Path) -> None:
    run = toy_file.parent / "other-words"
    shutil.copytree(one, run)
    corpus = corpus_of(load_experiment(toy_file))
    other = TrainingData(corpus.shards, Subword.train(["other words"], SubwordConfig()), corpus.dev)
    with pytest.raises(TrainingError) as error:
        train(load_experiment(toy_file), other, World(), run)
    assert str(error.value) == (
        f"{corpus.shards.folder} has another vocabulary than the run in {run}: set "
        "corpus.prepared to the corpus of the run, or give the experiment another name"
    )


def other_corpus(toy_file: Path, folder: Path, change: Callable[[list[str]], list[str]],
                 name: str, *overrides: str) -> list[str]:  # fmt: skip
    """Prepare the toy corpus again with one text file changed; return the overrides to use it."""
    for file in toy_file.parent.glob("*.[de][en]"):
        lines = file.read_text(encoding="utf-8").splitlines()
        lines = change(lines) if file.stem == name else lines
        (folder / file.name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = [f"corpus.root={folder}", f"corpus.prepared={folder}/prepared", *overrides]
    prepare(load_experiment(toy_file, settings))
    return settings


def test_shuffled_training_data_is_refused(toy_file: Path, one: Path, tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    settings = other_corpus(toy_file, tmp_path, lambda lines: lines[::-1], "train")
    expected = (
        f"{tmp_path}/prepared is not the training data of the run in {{run}}: train has as many "
        "pairs as before, but others or in another order; set corpus.prepared to the corpus of "
        "the run, or give the experiment another name"
    )
    with pytest.raises(TrainingError) as error:
        check_run(load_experiment(toy_file, settings), one)
    assert str(error.value) == expected.format(run=one)
    run = toy_file.parent / "shuffled"
    shutil.copytree(one, run)
    with pytest.raises(TrainingError) as error:
        go(toy_file, Run(run.name, overrides=[*settings, "training.updates=24"]))
    assert str(error.value) == expected.format(run=run)


def test_a_removed_pair_is_refused(toy_file: Path, one: Path, tmp_path: Path) -> None:
    settings = other_corpus(toy_file, tmp_path, lambda lines: lines[1:], "train")
    with pytest.raises(TrainingError, match=r"train had 40 pairs, now 39; set"):
        check_run(load_experiment(toy_file, settings), one)


def test_smaller_shards_of_the_same_pairs_resume(toy_file: Path, one: Path, tmp_path: Path) -> None:
    shards = "corpus.shard_pairs=10"
    settings = other_corpus(toy_file, tmp_path, list, "train", shards)
    check_run(load_experiment(toy_file, settings), one)


def test_another_dev_set_restarts_model_selection(toy_file: Path, tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    run = toy_file.parent / "other-dev"
    go(toy_file, Run(run.name, stop_after=15))
    before = end_of(run)
    assert before.counters["best_bleu"] is not None
    settings = other_corpus(toy_file, tmp_path, lambda lines: lines[::-1][:3], "dev")
    experiment = load_experiment(toy_file, settings)
    check_run(experiment, run)
    with pytest.raises(TrainingError, match=r"the dev set of .* is not that of the run in"):
        check_run(experiment, run, same_dev=True)
    lines: list[str] = []
    _, state = train(experiment, corpus_of(experiment), World(), run, lines.append)
    assert (
        "warning: another dev set than before update 15 | best dev BLEU, patience and plateau "
        "counters start again"
    ) in lines
    records, _ = read_records(run)
    assert [each["update"] for each in records if each["kind"] == "dev_set"] == [15]
    # The score at update 10 belongs to the other dev set, even if it is higher.
    assert (state.best_update, state.validations_without_gain) == (20, 0)
    assert best_checkpoint(run) == run / "checkpoints" / "update-00000020"


def test_a_checkpoint_without_digests_resumes_with_a_warning(
    toy: Experiment, toy_file: Path, stopped: Path, one: Path
) -> None:
    run = toy_file.parent / "without-digests"
    shutil.copytree(stopped, run)
    [folder] = list_checkpoints(run)
    state = load_training_state(folder)
    del state.counters["data"]
    checkpoint = load_checkpoint(folder)
    save_checkpoint(run, checkpoint.experiment, checkpoint.subword.to_json(), state)
    check_run(toy, run)
    lines: list[str] = []
    train(toy, corpus_of(toy), World(), run, lines.append)
    [warning] = [line for line in lines if line.startswith("warning: the checkpoint")]
    assert warning == (
        "warning: the checkpoint has no digests of its data, as in earlier versions: assuming "
        "the same training data and dev set"
    )
    assert_same(one, run)
