import json
from pathlib import Path

from nmt.config.experiment import Experiment
from nmt.config.search_space import Trial
from nmt.jobs.tune import Outcome, ranked, run_name, table, validations_of

TEXT = {"name": "a", "src": "a.en", "tgt": "a.de"}


def outcome(number: int, dropout: float, *scores: tuple[int, float, float], **how: str) -> Outcome:
    experiment = Experiment.model_validate(
        {
            "name": "tiny",
            "corpus": {"train": [TEXT], "dev": TEXT},
            "model": {"dropout": dropout},
            "training": {"updates": 200, "warmup_updates": 0},
        }
    )
    trial = Trial(number, {"model.dropout": dropout}, experiment)
    validations = [
        {"update": update, "dev_bleu": bleu, "dev_loss": nll, "train_s": 1.5 * update}
        for update, bleu, nll in scores
    ]
    return Outcome(trial, Path(f"runs/tiny.tune/run-{number}"), validations, **how)


OUTCOMES = [
    outcome(1, 0.1, (100, 20.5, 2.5), (200, 19.5, 2.75)),
    outcome(2, 0.2, (100, 10.25, 3.5)),
    outcome(3, 0.3, failed="the gradient was not finite"),
    outcome(4, 0.4, (100, 18.0, 2.25), (200, 21.0, 2.375)),
]


def test_the_best_trial_comes_first_and_one_without_a_score_last() -> None:
    assert [each.trial.number for each in ranked(OUTCOMES, "bleu")] == [4, 1, 2, 3]
    assert [each.trial.number for each in ranked(OUTCOMES, "loss")] == [4, 1, 2, 3]
    assert OUTCOMES[3].best("bleu") == OUTCOMES[3].validations[1]
    assert OUTCOMES[3].best("loss") == OUTCOMES[3].validations[0]


def test_the_table_says_what_each_trial_reached_and_how_it_ended() -> None:
    assert table(ranked(OUTCOMES, "bleu"), "bleu").splitlines() == [
        "trial  best dev BLEU  dev loss  at update  minutes  model.dropout  "
        "end                                  run",
        "    4          21.00     2.375        200      5.0            0.4  "
        "finished                             run-4",
        "    1          20.50     2.500        100      5.0            0.1  "
        "finished                             run-1",
        "    2          10.25     3.500        100      2.5            0.2  "
        "stopped after 100 of 200 updates     run-2",
        "    3              -         -          -        -            0.3  "
        "failed: the gradient was not finite  run-3",
    ]
    first = table(ranked(OUTCOMES, "loss"), "loss").splitlines()[1]
    assert first.split()[:4] == ["4", "2.250", "18.00", "100"]


def test_the_same_settings_are_the_same_run() -> None:
    one, other = OUTCOMES[0].trial.experiment, OUTCOMES[1].trial.experiment
    assert run_name(one) == run_name(one.model_copy(update={"name": "another"}))
    assert run_name(one) != run_name(other)


def test_validations_are_read_from_what_a_run_wrote_down(tmp_path: Path) -> None:
    assert validations_of(tmp_path) == []
    kinds = ("train", "validation", "restart", "validation")
    records = [{"kind": kind, "update": n} for n, kind in enumerate(kinds)]
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "valid')
    assert [each["update"] for each in validations_of(tmp_path)] == [1, 3]
