"""Python API: `nmt.load`, `prepare`, `train`, `evaluate`, and the example of the README."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nmt
from nmt.api import load_settings
from nmt.config.decoding import MAX_THREADS
from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.jobs.preparation import prepare_corpus

ROOT = Path(__file__).resolve().parents[1]
LINES = ["3 a dog runs.", "", "4 two cats sleep."]


def test_importing_nmt_loads_no_slow_library() -> None:
    code = (
        "import sys, nmt; nmt.__version__; "
        "print([name for name in ('torch', 'ray', 'pydantic', 'pyarrow') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_every_public_name_has_a_docstring() -> None:
    for name in set(nmt.__all__) - {"__version__"}:
        assert getattr(nmt, name).__doc__
    with pytest.raises(AttributeError, match="module 'nmt' has no attribute 'lod'"):
        _ = nmt.lod  # type: ignore[attr-defined]


def test_a_loaded_run_translates_as_the_command_line(
    here: Path, request: pytest.FixtureRequest
) -> None:
    run_command = request.getfixturevalue("nmt")
    translator = nmt.load("runs/tiny", beam=2, threads=1)
    assert isinstance(translator, nmt.Translator)
    answer = run_command("translate runs/tiny --beam 2", "\n".join(LINES).encode() + b"\n")
    assert translator.translate(LINES) == answer.out.splitlines()


def test_detailed_translations_have_scores_and_alignments(here: Path) -> None:
    [first, blank, _] = nmt.load("runs/tiny").translate_detailed(LINES, n_best=2)
    assert len(first.n_best) == 2
    assert first.text == first.n_best[0].text
    assert first.score == first.n_best[0].score >= first.n_best[1].score
    assert first.tokens[-1] == "</s>"
    assert all(src < 4 for src, _ in first.alignment)
    assert blank.text == ""


def test_the_choice_of_a_preset_is_printed_once(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment, cluster = load_settings("tiny.yaml", None, ["preset=auto"])
    with Console() as console:
        for explains in (True, False):
            prepare_corpus(experiment, cluster, console, explains_preset=explains)
    assert "".join(capfd.readouterr()).count("preset auto: 100 pairs -> ") == 1


@pytest.mark.parametrize(("key", "value"), [("tag", 1), ("weight", 0.5)])
@pytest.mark.parametrize("kind", ["dev", "tests"])
def test_a_mapping_is_checked_like_a_file(here: Path, key: str, value: float, kind: str) -> None:
    tree = load_settings("tiny.yaml")[0].model_dump()
    text = tree["corpus"][kind] if kind == "dev" else tree["corpus"][kind][0]
    text[key] = value
    with pytest.raises(nmt.NmtError) as caught:
        load_settings(tree)
    assert str(caught.value) == (
        f"experiment: {key} of corpus {text['name']!r} is {value}, but only training corpora have "
        f"a {key}: remove it"
    )
    # As stored by an earlier version.
    assert load_settings(Experiment.model_validate(tree))


def test_models_are_loaded_with_options(here: Path) -> None:
    lines = ["3 a dog runs."]
    plain = nmt.load("runs/tiny").translate(lines)
    assert nmt.load("runs/tiny", ensemble=["runs/tiny"]).translate(lines) == plain
    assert nmt.load("runs/tiny", device="cpu", precision="int8").translate(lines) == plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "decoding.beam is 0, but it must be 1 or more"),
        ({"bem": 3}, "decoding.bem is not a setting; did you mean decoding.beam?"),
        (
            {"method": "sample", "beam": 3},
            "beam is 3, but it needs method beam: set that, or omit it",
        ),
        ({"engine": "tf"}, "engine is 'tf', but it must be one of auto, torch, onnx"),
        ({"device": "cuda:1"}, "device is 'cuda:1', but it must be one of auto, cpu, cuda"),
        ({"precision": "fp16"}, "precision is 'fp16', but it must be one of fp32, bf16, int8"),
        ({"threads": "2"}, f"threads is '2', but it must be 1 to {MAX_THREADS}, or None"),
        ({"threads": 0}, f"threads is 0, but it must be 1 to {MAX_THREADS}, or None"),
        ({"threads": True}, f"threads is True, but it must be 1 to {MAX_THREADS}, or None"),
        ({"ensemble": "runs/tiny"}, "ensemble is 'runs/tiny', but it must be a list of runs"),
        ({"ensemble": None}, "ensemble is None, but it must be a list of runs"),
        ({"ensemble": [5]}, "run is 5, but it must be a path"),
        (
            {"protect": {"tags"}},
            "decoding.protect is \"{'tags'}\", but it must be a list: [first, second]",
        ),
    ],
)
def test_a_wrong_option_is_an_nmt_error(
    here: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(nmt.NmtError) as caught:
        nmt.load("runs/tiny", **options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_options_can_be_numbers_of_numpy(here: Path) -> None:
    lines = ["3 a dog runs."]
    options: dict[str, Any] = {
        "beam": np.int64(2), "length_penalty": np.float32(0.5), "threads": np.int32(1)
    }  # fmt: skip
    expected = nmt.load("runs/tiny", beam=2, length_penalty=0.5, threads=1)
    assert nmt.load("runs/tiny", **options).translate(lines) == expected.translate(lines)


@pytest.mark.parametrize("run", [5, None, b"runs/tiny"])
def test_a_run_that_is_no_path_is_refused(run: Any) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    for call in (nmt.load, lambda run: nmt.evaluate(run, src=["a"], ref=["a"])):
        with pytest.raises(nmt.NmtError) as caught:
            call(run)
        assert str(caught.value) == f"run is {run!r}, but it must be a path"


def test_a_missing_run_is_an_nmt_error(here: Path) -> None:
    with pytest.raises(nmt.NmtError, match="runs/none"):
        nmt.load("runs/none")


def test_evaluation_accepts_files_and_lines(here: Path) -> None:
    from_files = nmt.evaluate("runs/tiny", src="raw/news.en", ref="raw/news.de", num_resamples=0)
    translator = nmt.load("runs/tiny")
    src, ref = (Path(f"raw/news.{side}").read_text().splitlines() for side in ("en", "de"))
    from_lines = nmt.evaluate(translator, src=src, ref=ref, metrics=["bleu"], num_resamples=0)
    names = [score.name for score in from_files.scores if not score.label]
    assert names == ["BLEU", "chrF2", "TER"]
    assert from_lines.scores[0].value == from_files.scores[0].value
    two = nmt.evaluate(translator, src=src, ref=[ref, ref], metrics=["bleu"], num_resamples=0)
    with pytest.raises(nmt.NmtError) as caught:
        nmt.evaluate(translator, src=src, ref=ref, beam=3)
    assert str(caught.value) == (
        "beam is 3, but the translator is loaded already: give it to nmt.load"
    )
    with pytest.raises(nmt.NmtError) as caught:
        nmt.evaluate(translator, src=src, ref=ref, metrics="bleu")
    assert str(caught.value) == "metrics is 'bleu', but it must be a list of names"
    assert "nrefs:2" in two.scores[0].signature


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ref": ["a", "b"]}, "ref has 2 lines, src has 1: both need one line per segment"),
        (
            {"ref": [["a"], ["a", "b"]]},
            "ref has 2 lines, src has 1: both need one line per segment",
        ),
        ({"metrics": ["blue"]}, "'blue' is not a metric; did you mean bleu?"),
        (
            {"ref": "none.de"},
            "none.de: there is no such file; check corpus.root and the file's name",
        ),
        ({"ref": [None]}, "ref, line 1 is NoneType, but it must be a string"),
        ({"ref": [1]}, "ref, line 1 is int, but it must be a string"),
        ({"ref": [["a"], [None]]}, "ref, line 1 is NoneType, but it must be a string"),
        ({"num_resamples": "10"}, "num_resamples is '10', but it must be an integer"),
        ({"src": None}, "src is None, but it must be lines or a file"),
        ({"ref": 5}, "ref is 5, but it must be lines or a file"),
        ({"metrics": 5}, "metrics is 5, but it must be a list of names"),
        ({"metrics": [5]}, "metrics is [5], but it must be a list of names"),
    ],
)
def test_evaluation_checks_its_input_before_translating(
    arguments: dict[str, Any], message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    translator = nmt.load("runs/tiny")
    monkeypatch.setattr(nmt.Translator, "translate", None)
    with pytest.raises(nmt.NmtError) as caught:
        nmt.evaluate(translator, **{"src": ["2 a dog runs."], "ref": ["a"], **arguments})
    assert str(caught.value) == message


def test_evaluation_accepts_generators(here: Path) -> None:
    arguments: dict[str, Any] = {"src": ["2 a dog runs."], "ref": ["a"], "metrics": ["bleu"]}
    expected = nmt.evaluate("runs/tiny", **arguments, num_resamples=0)
    generators = {key: iter(values) for key, values in arguments.items()}
    assert nmt.evaluate("runs/tiny", **generators, num_resamples=0) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": ""}, "output is empty, but it must name the run to write"),
        ({"dev": "t.en"}, "dev is 't.en', but it must be two files: source and target"),
        ({"test": ("t.en",)}, "test is ('t.en',), but it must be two files: source and target"),
        ({"test": 5}, "test is 5, but it must be two files: source and target"),
        ({"dev": (5, 6)}, "the file is 5, but it must be a path"),
        ({"src": 5}, "the file is 5, but it must be a path"),
        ({"run": None}, "run is None, but it must be a path"),
        ({"output": None}, "output is None, but it must be a path"),
        ({"mix": "2"}, "mix is '2', but it must be 0 to 1,000"),
        (
            {"overrides": "training.updates=5"},
            "overrides is 'training.updates=5', but it must be a list of settings",
        ),
    ],
)
def test_wrong_arguments_of_adapt_are_errors(
    arguments: dict[str, Any], message: str, here: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    files = {"run": "runs/tiny", "src": "raw/news.en", "tgt": "raw/news.de", "output": "runs/new"}
    with pytest.raises(nmt.NmtError) as caught:
        nmt.adapt(**(files | arguments))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experiment": 5}, "experiment is 5, but it must be a file, a mapping or an Experiment"),
        ({"cluster": {}}, "cluster is {}, but it must be a file, a Cluster or None"),
        ({"overrides": None}, "overrides is None, but it must be a list of settings"),
        ({"overrides": [5]}, "overrides is [5], but it must be a list of settings"),
    ],
)
def test_wrong_arguments_of_training_are_errors(
    arguments: dict[str, Any], message: str, here: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    for function in (nmt.prepare, nmt.train):
        with pytest.raises(nmt.NmtError) as caught:
            function(**({"experiment": "tiny.yaml"} | arguments))
        assert str(caught.value) == message


def test_a_string_of_overrides_is_refused(here: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    for function in (nmt.prepare, nmt.train):
        with pytest.raises(nmt.NmtError) as caught:
            function("tiny.yaml", overrides="training.updates=5")
        assert str(caught.value) == (
            "overrides is 'training.updates=5', but it must be a list of settings"
        )


def test_an_experiment_can_be_a_mapping(here: Path) -> None:
    experiment = {
        "name": "tiny",
        "corpus": {
            "src": "en",
            "tgt": "de",
            "root": "raw",
            "train": [{"name": "train", "src": "train.en", "tgt": "train.de"}],
            "dev": {"name": "dev", "src": "dev.en", "tgt": "dev.de"},
        },
        "model": {"widht": 32},
    }
    with pytest.raises(nmt.NmtError) as caught:
        nmt.prepare(experiment)
    assert str(caught.value) == (
        "experiment: model.widht is not a setting; did you mean model.width?"
    )


@pytest.mark.ray
def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    """One code path (nmt/README.md, Guarantees)."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 20
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "['ein Hund rennt']"
