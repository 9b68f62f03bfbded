"""What a search tries: parsing, drawing, and what is refused before anything starts."""

from pathlib import Path

import pytest

from nmt.config.experiment import Experiment
from nmt.config.search_space import Range, draw_trials, read_space
from nmt.errors import ConfigError

KINDS = "choice(a, b, ...), uniform(low, high), loguniform(low, high) or integers(low, high)"


def experiment(**sections: object) -> Experiment:
    text = {"name": "a", "src": "a.en", "tgt": "a.de"}
    corpus = {"train": [text], "dev": text}
    return Experiment.model_validate({"name": "tiny", "corpus": corpus, **sections})


@pytest.mark.parametrize(
    ("expression", "kind", "values"),
    [
        ("choice(0.1, 0.2,0.3)", "choice", (0.1, 0.2, 0.3)),
        ("choice(cosine, plateau)", "choice", ("cosine", "plateau")),
        ("choice([0.9, 0.98], [0.9, 0.999])", "choice", ([0.9, 0.98], [0.9, 0.999])),
        ("loguniform(1e-3,1e-2)", "loguniform", (1e-3, 1e-2)),
        (" uniform(0, 0.5) ", "uniform", (0.0, 0.5)),
        ("integers(1, 4)", "integers", (1, 4)),
    ],
)
def test_what_a_range_says(expression: str, kind: str, values: tuple[object, ...]) -> None:
    assert read_space([f"some.key={expression}"]) == {"some.key": Range(kind, values)}


def test_of_a_narrow_range_all_values_are_tried_and_that_is_the_end() -> None:
    space = read_space(["training.learning_rate=uniform(0.001, 0.001002)"])
    drawn = [t.settings["training.learning_rate"] for t in draw_trials(experiment(), space, 8, 1)]
    assert sorted(drawn) == [0.001, 0.001001, 0.001002]


def test_a_space_stands_in_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("model.dropout: uniform(0.1, 0.4)\ntraining.rdrop: choice(0, 1)\n")
    space = read_space([str(file), "seed=integers(1, 3)"])
    assert list(space) == ["model.dropout", "training.rdrop", "seed"]


def test_what_is_drawn_lies_within_the_ends_and_is_short() -> None:
    space = read_space(["training.learning_rate=loguniform(1e-3,1e-2)"])
    drawn = [t.settings["training.learning_rate"] for t in draw_trials(experiment(), space, 50, 1)]
    assert len(set(drawn)) == 50
    assert all(1e-3 <= value <= 1e-2 and value == float(f"{value:.4g}") for value in drawn)
    assert 15 < sum(value < 10**-2.5 for value in drawn) < 35


def test_a_seed_decides_what_is_tried_and_more_trials_begin_with_the_same() -> None:
    space = read_space(["training.learning_rate=loguniform(1e-3,1e-2)", "seed=integers(1,9)"])
    few, many = (draw_trials(experiment(), space, most, seed=7) for most in (3, 6))
    assert [trial.settings for trial in many[:3]] == [trial.settings for trial in few]
    assert few[0].settings == {"training.learning_rate": 0.001306, "seed": 4}
    assert draw_trials(experiment(), space, 3, seed=8)[0].settings != few[0].settings


def test_no_two_trials_are_alike_and_what_can_be_counted_is_tried_once() -> None:
    space = read_space(["model.dropout=choice(0.1,0.2)", "seed=integers(1,2)"])
    trials = draw_trials(experiment(), space, 8, seed=1)
    assert [trial.settings for trial in trials] == [
        {"model.dropout": 0.1, "seed": 1},
        {"model.dropout": 0.1, "seed": 2},
        {"model.dropout": 0.2, "seed": 1},
        {"model.dropout": 0.2, "seed": 2},
    ]
    some = [trial.settings for trial in draw_trials(experiment(), space, 3, seed=1)]
    assert len(some) == 3
    assert all(settings not in some[:n] for n, settings in enumerate(some))


def test_a_trial_is_the_experiment_with_what_was_drawn() -> None:
    space = read_space(["training.schedule=choice(cosine,plateau)", "model.width=choice(64,128)"])
    last = draw_trials(experiment(), space, 4, seed=1)[-1]
    assert last.number == 4
    assert (last.experiment.training.schedule, last.experiment.model.width) == ("plateau", 128)
    assert last.overrides == ['training.schedule="plateau"', "model.width=128"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["model.dropout"],
            f"--search is 'model.dropout', but it must be KEY={KINDS}, or a YAML file of such "
            "lines",
        ),
        (
            ["model.dropout=choise(0.1,0.2)"],
            f"--search model.dropout is choise(0.1,0.2), but it must be {KINDS}",
        ),
        (["model.dropout=0.1"], f"--search model.dropout is 0.1, but it must be {KINDS}"),
        (
            ["model.dropout=choice(0.1)"],
            "--search model.dropout is choice(0.1), but it needs two values or more, each once",
        ),
        (
            ["model.dropout=choice(0.1, 0.1)"],
            "--search model.dropout is choice(0.1, 0.1), but it needs two values or more, each "
            "once",
        ),
        (
            ["model.dropout=uniform(0.3,0.1)"],
            "--search model.dropout is uniform(0.3,0.1), but it needs two numbers, the low end "
            "first",
        ),
        (
            ["training.learning_rate=loguniform(0,0.1)"],
            "--search training.learning_rate is loguniform(0,0.1), but it needs two numbers above "
            "0, the low end first",
        ),
        (
            ["model.width=integers(64,128.5)"],
            "--search model.width is integers(64,128.5), but it needs two whole numbers, the low "
            "end first",
        ),
        (
            ["seed=integers(1,2)", "seed=choice(3,4)"],
            "--search: seed is searched twice; keep one of them",
        ),
        (
            ["nowhere.yaml"],
            "nowhere.yaml: there is no such file; configs/ holds the ones that come with nmt",
        ),
    ],
)
def test_a_range_that_cannot_be_is_refused(texts: list[str], message: str) -> None:
    """P9."""
    with pytest.raises(ConfigError) as refused:
        read_space(texts)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["training.learning_rat=uniform(0.1,0.2)"],
            "command line: training.learning_rat is not a setting; "
            "did you mean training.learning_rate?",
        ),
        (
            ["model.dropout=uniform(0.1,1.5)"],
            "command line: model.dropout is 1.5, but it must be less than 1",
        ),
        (
            ["cluster.workers=integers(1,2)"],
            "--search: cluster.workers cannot be searched: where it trains changes nothing of what "
            "is learnt",
        ),
        (
            ["name=choice(a,b)"],
            "--search: name cannot be searched: a trial has a name of its own",
        ),
        (
            ["model.width=choice(64,66)", "model.heads=choice(3,4)"],
            "command line: model.width is 66, but it must be a multiple of model.heads (4)",
        ),
        (
            ["model.width=choice(64,96)", "model.heads=choice(4,32,64)"],
            "--search: trial 6 (model.width=96 model.heads=64) cannot be: command line: "
            "model.width is 96, but it must be a multiple of model.heads (64)",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_starts(
    texts: list[str], message: str
) -> None:
    """P9."""
    base = experiment(model={"width": 64})
    with pytest.raises(ConfigError) as refused:
        draw_trials(base, read_space(texts), 8, seed=1)
    assert str(refused.value) == message
