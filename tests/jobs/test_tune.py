import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray_clusters import RayCluster

from nmt.cli.tune import _best_lines
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.config.search_space import Trial
from nmt.errors import NmtError, TrainingError
from nmt.jobs import tune as jobs_tune
from nmt.jobs.tune import Metric, Outcome, format_table, make_run_name, read_validations
from nmt.training.memory import UpdateOutOfMemoryError
from nmt.training.run_manifest import Origin
from nmt.training.stop_control import RunHooks

TEXT = {"name": "a", "src": "a.en", "tgt": "a.de"}


def make_outcome(
    number: int, dropout: float, *scores: tuple[int, float, float], failure: str = ""
) -> Outcome:
    experiment = Experiment.model_validate(
        {
            "name": "tiny",
            "corpus": {"src": "en", "tgt": "de", "train": [TEXT], "dev": TEXT},
            "model": {"dropout": dropout},
            "training": {"updates": 200, "warmup_updates": 0},
        }
    )
    trial = Trial(number, {"model.dropout": dropout}, experiment)
    validations = [
        {"update": update, "dev_bleu": bleu, "dev_loss": loss, "train_s": 1.5 * update}
        for update, bleu, loss in scores
    ]
    return Outcome(trial, Path(f"runs/tiny.tune/run-{number}"), validations, failure)


OUTCOMES = [
    make_outcome(1, 0.1, (100, 20.5, 2.5), (200, 19.5, 2.75)),
    make_outcome(2, 0.2, (100, 10.25, 3.5)),
    make_outcome(3, 0.3, failure="non-finite gradients"),
    make_outcome(4, 0.4, (100, 18.0, 2.25), (200, 21.0, 2.375)),
]


def rank(metric: Metric) -> list[Outcome]:
    return sorted(OUTCOMES, key=lambda outcome: outcome.rank(metric))


def test_best_trial_is_first_and_one_without_validation_last() -> None:
    assert [each.trial.number for each in rank("bleu")] == [4, 1, 2, 3]
    assert [each.trial.number for each in rank("loss")] == [4, 1, 2, 3]
    assert OUTCOMES[3].best("bleu") == OUTCOMES[3].validations[1]
    assert OUTCOMES[3].best("loss") == OUTCOMES[3].validations[0]


def test_a_failed_trial_is_last_and_never_the_best(tmp_path: Path) -> None:
    failed = make_outcome(5, 0.5, (100, 40.0, 1.0), failure="non-finite gradients")
    ranked = sorted([failed, *OUTCOMES], key=lambda outcome: outcome.rank("bleu"))
    assert [each.trial.number for each in ranked] == [4, 1, 2, 5, 3]
    [line] = _best_lines(failed, "bleu", tmp_path, "tiny")
    assert "every trial failed" in line
    assert not list(tmp_path.iterdir())


def test_best_settings_of_a_long_name_can_be_loaded(tmp_path: Path) -> None:
    validations = [each | {"signature": ""} for each in OUTCOMES[0].validations]
    outcome = replace(OUTCOMES[0], validations=validations)
    _best_lines(outcome, "bleu", tmp_path, "x" * 100)
    assert load_experiment(tmp_path / "best.yaml").name == f"{'x' * 94}.tuned"


def test_best_settings_name_the_text_by_an_absolute_path(tmp_path: Path) -> None:
    """The file is in the folder of the search."""
    validations = [each | {"signature": ""} for each in OUTCOMES[0].validations]
    _best_lines(replace(OUTCOMES[0], validations=validations), "bleu", tmp_path, "tiny")
    text = (tmp_path / "best.yaml").read_text()
    assert f"  root: {os.path.abspath(OUTCOMES[0].trial.experiment.corpus.root)}\n" in text


@pytest.mark.parametrize(
    ("metric", "first", "worse", "better"), [("bleu", 20, 10, 30), ("loss", 2, 3, 1)]
)
def test_the_worse_trials_are_stopped_at_a_rung(
    metric: Metric, first: float, worse: float, better: float
) -> None:
    scheduler = jobs_tune._make_scheduler([each.trial for each in OUTCOMES], metric, least=100)

    def decide(name: str, *scores: tuple[int, float]) -> list[str]:
        trial = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, trial)
        key = "dev_bleu" if metric == "bleu" else "dev_loss"
        reports = [{"update": update, key: score} for update, score in scores]
        return [scheduler.on_trial_result(None, trial, each) for each in reports]

    # Neither before `least` updates nor at the last one, whose checkpoint is not yet written.
    assert decide("a", (50, first), (100, first), (200, worse)) == ["CONTINUE"] * 3
    assert decide("b", (50, worse), (100, worse)) == ["CONTINUE", "STOP"]
    assert decide("c", (50, worse), (100, better)) == ["CONTINUE"] * 2


def test_each_validation_of_a_trial_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(jobs_tune.tune, "report", reports.append)
    reporter = jobs_tune._Reporter(tmp_path, validate_every=10)
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for update in (10, 20):
            scores = {"dev_bleu": 1.0 * update, "dev_loss": 2.0}
            file.write(f"{json.dumps({'kind': 'validation', 'update': update, **scores})}\n")
            file.flush()
            # Reading the records after each update would take quadratic time.
            assert not reporter.after_update(update + 5)
            assert len(reports) == update // 10 - 1
            assert not reporter.after_update(update)
    reporter.report()
    assert [(each["update"], each["dev_bleu"]) for each in reports] == [(10, 10.0), (20, 20.0)]


def test_the_other_metric_decides_between_equal_scores() -> None:
    """Both decide as early stopping does."""
    outcomes = [
        make_outcome(1, 0.1, (100, 0.0, 3.0), (200, 0.0, 2.5)),
        make_outcome(2, 0.2, (100, 0.0, 2.0), (200, 0.0, 2.25)),
        make_outcome(3, 0.3, (100, 0.0, 2.0), (200, 1.0, 2.0)),
    ]
    for metric, updates in (("bleu", [200, 100, 200]), ("loss", [200, 100, 200])):
        best = [each.best(metric) for each in outcomes]
        assert [each and each["update"] for each in best] == updates
        ranked = sorted(outcomes, key=lambda outcome: outcome.rank(metric))
        assert [each.trial.number for each in ranked] == [3, 2, 1]


def test_table_shows_the_best_validation_and_the_end() -> None:
    assert format_table(rank("bleu"), "bleu").splitlines() == [
        "trial  dev_bleu  dev_loss  update  minutes  model.dropout  "
        "end                               run",
        "    4     21.00     2.375     200      5.0            0.4  "
        "finished                          run-4",
        "    1     20.50     2.500     100      5.0            0.1  "
        "finished                          run-1",
        "    2     10.25     3.500     100      2.5            0.2  "
        "stopped after 100 of 200 updates  run-2",
        "    3         -         -       -        -            0.3  "
        "failed: non-finite gradients      run-3",
    ]
    first = format_table(rank("loss"), "loss").splitlines()[1]
    assert first.split()[:4] == ["4", "18.00", "2.250", "100"]


def test_equal_settings_share_a_run() -> None:
    one, other = OUTCOMES[0].trial.experiment, OUTCOMES[1].trial.experiment
    assert make_run_name(one) == make_run_name(one.model_copy(update={"name": "another"}))
    assert make_run_name(one) != make_run_name(other)


def test_validations_are_read_from_an_incomplete_file(tmp_path: Path) -> None:
    assert read_validations(tmp_path) == []
    kinds = ("train", "validation", "restart", "validation")
    scores = {"dev_bleu": 1.0, "dev_loss": 2.0}
    records = [{"kind": kind, "update": n, **scores} for n, kind in enumerate(kinds)]
    records.append({"kind": "validation", "update": 4, "dev_bleu": 0.0, "dev_loss": None})
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "valid')
    assert [each["update"] for each in read_validations(tmp_path)] == [1, 3]


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([], [1]),
        ([UpdateOutOfMemoryError(7, 0, 1)], [1, 2]),
        # The memory trial can find a larger split factor than was requested.
        ([UpdateOutOfMemoryError(7, 0, 1), UpdateOutOfMemoryError(9, 0, 4)], [1, 2, 8]),
        ([UpdateOutOfMemoryError(7, 0, 1), TrainingError("no pair fits")], [1, 2]),
    ],
)
def test_a_trial_out_of_memory_resumes_with_a_larger_split(
    failures: list[Exception], expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, reports, left = list[int](), list[dict[str, Any]](), iter(failures)

    def train(*_: object, hooks: RunHooks, **__: object) -> None:
        splits.append(hooks.min_split)
        if (error := next(left, None)) is not None:
            raise error

    for name, value in (
        ("train", train),
        ("load_training_data", lambda *_: None),
        ("worker_environment", lambda _: {}),
        ("configure_memory", lambda: None),
    ):
        monkeypatch.setattr(jobs_tune, name, value)
    monkeypatch.setattr(jobs_tune.tune, "report", reports.append)
    jobs = [(OUTCOMES[0].trial.experiment, tmp_path, tmp_path)]
    jobs_tune._run_trial({"job": 0}, jobs, Cluster(), Origin.here())
    assert splits == expected
    errors = [str(each) for each in failures if isinstance(each, NmtError)]
    assert [each["failure"] for each in reports] == errors


COMMAND = (
    "tune tiny.yaml training.updates=20 training.warmup_updates=2 training.validate_every=10 "
    "training.checkpoint_every=10 --search training.learning_rate=choice(0.00001,0.02) "
    "--search corpus.subword.vocab_size=choice(310,320) --trials 3 --least 10 cluster.workers=1"
)


@pytest.mark.ray
def test_search_ranks_trials_and_resumes_without_training(
    here: Path, nmt: Callable[..., Any], ray_session: RayCluster
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    answer = nmt(COMMAND)
    assert answer.status == 0, answer.err
    header, *rows = [line.split() for line in answer.out.splitlines()]
    assert len(rows) == 3
    assert rows[0][header.index("training.learning_rate")] == "0.02"
    bleus = [float(row[1]) for row in rows]
    assert bleus == sorted(bleus, reverse=True)
    assert any("stopped after 10 of 20 updates" in line for line in answer.out.splitlines())
    best = load_experiment("runs/tiny.tune/best.yaml")
    assert best.name == "tiny.tuned"
    assert best.training.learning_rate == 0.02
    assert (Path(best.prepared) / "manifest.json").exists()
    run = Path("runs/tiny.tune", rows[0][-1])
    best_bleu = max(each["dev_bleu"] for each in read_validations(run))
    assert best_bleu == pytest.approx(bleus[0], abs=0.005)
    assert nmt(f"evaluate {run} --metrics bleu").status == 0
    written = {path: os.stat(path).st_mtime_ns for path in run.rglob("*.safetensors")}
    again = nmt(COMMAND)
    assert again.status == 0, again.err
    assert again.out == answer.out
    assert written == {path: os.stat(path).st_mtime_ns for path in run.rglob("*.safetensors")}
