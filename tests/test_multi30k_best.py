"""`tools/multi30k_best.sh` with a stand-in for `nmt`: its steps, their order, resuming."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from nmt.config.files import load_experiment

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = """#!/usr/bin/env bash
printf "%q " "$@" >> calls.txt && echo >> calls.txt
[ "$(grep -c . calls.txt)" = "${FAIL_AT:-0}" ] && exit 2
case $1 in
  train) name=$(grep -o 'name=[^ ]*' <<< "$*") && mkdir -p "runs/${name#name=}" ;;
  export) mkdir "$4" || exit 2 ;;
  evaluate) echo "BLEU = 40.00" ;;
esac
exit 0
"""


def run(folder: Path, *settings: str, **environment: str) -> list[str]:
    """Run the script; return the calls of `nmt`, and write what it prints to output.txt."""
    (folder / "nmt").write_text(STAND_IN)
    (folder / "nmt").chmod(0o755)
    (folder / "calls.txt").write_text("")
    (folder / "text").mkdir(exist_ok=True)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "DATA": "text", **environment}
    command = [str(ROOT / "tools/multi30k_best.sh"), *settings]
    with (folder / "output.txt").open("w") as output:
        subprocess.run(command, cwd=folder, env=env, check=False, stdout=output)
    return (folder / "calls.txt").read_text().splitlines()


def names(calls: list[str]) -> list[str]:
    """Return the verb of each call, with the run or the text that it makes or scores."""
    found = []
    for call in calls:
        verb, *words = call.split()
        name = next((word for word in words if word.startswith("name=")), "")
        name = name or (words[2] if verb == "backtranslate" else words[0])
        found.append(f"{verb} {name.removeprefix('name=').removeprefix('runs/')}")
    return found


STEPS = [
    "train multi30k_en_de_teacher", "evaluate multi30k_en_de_teacher",
    "train multi30k_de_en_teacher", "evaluate multi30k_de_en_teacher",
    "backtranslate text/forward", "backtranslate text/backward",
]  # fmt: skip


def models(*runs: str) -> list[str]:
    return [f"{verb} {run}" for run in runs for verb in ("train", "evaluate")]


def first_round(name: str, text: str) -> list[str]:
    return [*models(f"{name}_first_student", f"{name}_first"), f"backtranslate text/{text}"]


def second_round(name: str, seed: str = "") -> list[str]:
    run = f"{name}{seed}"
    last = [f"export {run}", f"evaluate {run}", f"evaluate {run}-int8"]
    return models(f"{name}_student{seed}", run) + last


BEST = [
    *STEPS, *first_round("multi30k_en_de_best", "forward2"), *second_round("multi30k_en_de_best")
]  # fmt: skip


def test_teachers_text_and_two_rounds_in_this_order(tmp_path: Path) -> None:
    calls = run(tmp_path, "training.updates=50")
    assert names(calls) == BEST
    sources = {
        call.split("name=")[1].split()[0]: call.split("training.init_from=runs/")[1].split()[0]
        for call in calls
        if "training.init_from=" in call
    }
    best = "multi30k_en_de_best"
    assert sources == {
        f"{best}_first_student": "multi30k_en_de_teacher",
        f"{best}_first": f"{best}_first_student",
        best: f"{best}_student",
    }
    trainings = [call.split() for call in calls if call.startswith("train")]
    assert all(words[-1] == "training.updates=50" for words in trainings)


def test_captions_and_seeds_share_the_teachers(tmp_path: Path) -> None:
    run(tmp_path)
    found = names(run(tmp_path, MONO="1"))
    mono = "multi30k_en_de_best_mono"
    assert found == [
        "backtranslate text/mono_bt", *first_round(mono, "forward2_mono"), *second_round(mono)
    ]  # fmt: skip
    # The first round is shared by all seeds.
    assert names(run(tmp_path, SEED="2")) == second_round("multi30k_en_de_best", "_seed2")


def test_another_command_replaces_nmt(tmp_path: Path) -> None:
    calls = run(tmp_path, NMT=f"env X=1 {tmp_path}/nmt", PATH=os.environ["PATH"])
    assert len(calls) == len(BEST)


@pytest.mark.parametrize("step", range(2, len(BEST) + 1))
def test_an_interrupted_step_is_repeated(tmp_path: Path, step: int) -> None:
    interrupted = names(run(tmp_path, FAIL_AT=str(step)))
    assert interrupted == BEST[:step]
    # A training whose score is missing is run again: nmt resumes or finds it finished.
    is_dev = BEST[step - 1].replace("evaluate", "train") == BEST[step - 2]
    assert names(run(tmp_path)) == BEST[step - 2 if is_dev else step - 1 :]


def test_a_finished_recipe_prints_its_scores_again(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path) == []
    output = (tmp_path / "output.txt").read_text()
    for name in ("multi30k_en_de_teacher/dev", "multi30k_en_de_best-int8/test"):
        assert f"==> runs/{name}.txt <==\nBLEU = 40.00\n" in output


def test_its_files_name_its_runs_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("best", "best_mono"):
        experiment = load_experiment(f"configs/multi30k_en_de_{name}.yaml")
        # Without other text the second student starts from random weights.
        source = "runs/multi30k_en_de_teacher" if "mono" in name else ""
        assert experiment.training.init_from == source
        assert experiment.corpus.subword.tokenizer == "prepared/multi30k_en_de/tokenizer.json"
        texts = {text.src.partition(".")[0] for text in experiment.corpus.train}
        own = {"mono_bt", "forward2_mono"} if "mono" in name else {"forward2"}
        assert texts == {"train", "forward", "backward"} | own


def test_the_settings_of_its_trainings_are_valid(tmp_path: Path) -> None:
    calls = [shlex.split(call) for call in run(tmp_path, MONO="1") if call.startswith("train ")]
    experiments = {}
    for _, file, _, _, *settings in calls:
        experiment = load_experiment(file, settings)
        experiments[experiment.name.removeprefix("multi30k_en_de_best_mono")] = experiment
    runs = [*list(experiments)[:2], "_first_student", "_first", "_student", ""]
    assert list(experiments) == runs
    assert [run for run in runs if experiments[run].training.risk] == ["_first", ""]
    # Minimum risk training has the width of its student.
    widths = [experiments[run].model.ffn_width for run in runs]
    assert widths == [256, 256, 256, 256, 768, 768]
    texts = {run: [text.name for text in experiments[run].corpus.train] for run in runs}
    assert texts["_first_student"] == ["multi30k", "forward", "backward", "mono"]
    assert texts["_student"] == ["multi30k", "forward", "forward2", "backward", "mono"]
    assert {len(texts[run]) for run in ("_first", "")} == {1}
