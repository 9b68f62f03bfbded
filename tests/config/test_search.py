"""Search spaces: parsing, drawing and errors."""

from pathlib import Path

import pytest

from nmt.config.experiment import Experiment
from nmt.config.search_space import Range, draw_trials, read_space
from nmt.errors import ConfigError

KINDS = "choice(a, b, ...), uniform(low, high), loguniform(low, high) or integers(low, high)"


def experiment(**sections: object) -> Experiment:
    text = {"name": "a", "src": "a.en", "tgt": "a.de"}
    corpus = {"src": "en", "tgt": "de", "train": [text], "dev": text}
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
def test_parse_range(expression: str, kind: str, values: tuple[object, ...]) -> None:
    assert read_space([f"some.key={expression}"]) == {"some.key": Range(kind, values)}


def test_narrow_range_is_drawn_completely() -> None:
    space = read_space(["training.learning_rate=uniform(0.001, 0.001002)"])
    drawn = [t.settings["training.learning_rate"] for t in draw_trials(experiment(), space, 8, 1)]
    assert sorted(drawn) == [0.001, 0.001001, 0.001002]


def test_space_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("model.dropout: uniform(0.1, 0.4)\ntraining.rdrop: choice(0, 1)\n")
    space = read_space([str(file), "seed=integers(1, 3)"])
    assert list(space) == ["model.dropout", "training.rdrop", "seed"]


def test_drawn_numbers_are_in_range_and_short() -> None:
    space = read_space(["training.learning_rate=loguniform(1e-3,1e-2)"])
    drawn = [t.settings["training.learning_rate"] for t in draw_trials(experiment(), space, 50, 1)]
    assert len(set(drawn)) == 50
    assert all(1e-3 <= value <= 1e-2 and value == float(f"{value:.4g}") for value in drawn)
    assert 15 < sum(value < 10**-2.5 for value in drawn) < 35


def test_trials_depend_on_the_seed_and_extend() -> None:
    space = read_space(["training.learning_rate=loguniform(1e-3,1e-2)", "seed=integers(1,9)"])
    few, many = (draw_trials(experiment(), space, most, seed=7) for most in (3, 6))
    assert [trial.settings for trial in many[:3]] == [trial.settings for trial in few]
    assert few[0].settings == {"training.learning_rate": 0.001306, "seed": 4}
    assert draw_trials(experiment(), space, 3, seed=8)[0].settings != few[0].settings


def test_finite_space_is_enumerated_without_repeats() -> None:
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


def test_a_wide_range_of_integers_is_drawn() -> None:
    space = read_space([f"seed=integers(0, {2**63 - 1})"])
    drawn = [trial.settings["seed"] for trial in draw_trials(experiment(), space, 3, seed=1)]
    assert len(set(drawn)) == 3
    assert max(drawn) > 2**53


def test_trial_is_the_experiment_with_drawn_values() -> None:
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
            f"--search is 'model.dropout', but it must be KEY={KINDS}, or a YAML file",
        ),
        (
            ["model.dropout=choise(0.1,0.2)"],
            f"--search model.dropout is choise(0.1,0.2), but it must be {KINDS}",
        ),
        (["model.dropout=0.1"], f"--search model.dropout is 0.1, but it must be {KINDS}"),
        (
            ["model.dropout=choice(0.1)"],
            "--search model.dropout is choice(0.1), but it needs two or more distinct values",
        ),
        (
            ["model.dropout=choice(0.1, 0.1)"],
            "--search model.dropout is choice(0.1, 0.1), but it needs two or more distinct values",
        ),
        (
            ["model.dropout=uniform(0.3,0.1)"],
            "--search model.dropout is uniform(0.3,0.1), but it needs two numbers, the lower first",
        ),
        (
            ["training.learning_rate=loguniform(0,0.1)"],
            "--search training.learning_rate is loguniform(0,0.1), but it needs two numbers above "
            "0, the lower first",
        ),
        (
            ["model.width=integers(64,128.5)"],
            "--search model.width is integers(64,128.5), but it needs two integers, the lower "
            "first",
        ),
        (
            ["seed=integers(1,2)", "seed=choice(3,4)"],
            "--search: seed is given twice; remove one",
        ),
        (
            ["nowhere.yaml"],
            "nowhere.yaml: file not found; the files that come with nmt are in configs/",
        ),
    ],
)
def test_invalid_range_is_an_error(texts: list[str], message: str) -> None:
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
            "--search: cluster.workers cannot be searched: cluster settings do not affect the "
            "model",
        ),
        (
            ["name=choice(a,b)"],
            "--search: name cannot be searched: each trial has its own name",
        ),
        (
            ["model.width=choice(64,66)", "model.heads=choice(3,4)"],
            "command line: model.width is 66, but it must be a multiple of model.heads (4)",
        ),
        (
            ["model.width=choice(64,96)", "model.heads=choice(4,32,64)"],
            "--search: trial 6 (model.width=96 model.heads=64) is invalid: command line: "
            "model.width is 96, but it must be a multiple of model.heads (64)",
        ),
    ],
)
def test_invalid_trial_is_an_error_before_the_search(texts: list[str], message: str) -> None:
    base = experiment(model={"width": 64})
    with pytest.raises(ConfigError) as refused:
        draw_trials(base, read_space(texts), 8, seed=1)
    assert str(refused.value) == message
