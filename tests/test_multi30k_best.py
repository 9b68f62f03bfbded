"""`tools/multi30k_best.sh` with a stand-in for `nmt`: its steps, their order, resuming."""

import os
import subprocess
from pathlib import Path

import pytest

from nmt.config.files import load_experiment

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = """#!/usr/bin/env bash
echo "$*" >> calls.txt
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
    "train multi30k_en_de_best_student", "evaluate multi30k_en_de_best_student",
    "train multi30k_en_de_best", "evaluate multi30k_en_de_best",
]  # fmt: skip
LAST = ["export {0}", "evaluate {0}", "evaluate {0}-int8"]
NUM_STEPS = len(STEPS) + len(LAST)


def last(name: str) -> list[str]:
    return [each.format(name) for each in LAST]


def models(name: str, seed: str = "") -> list[str]:
    """Return the steps of a student and of the model that is trained from it."""
    runs = (f"{name}_student{seed}", f"{name}{seed}")
    steps = [f"{verb} {run}" for run in runs for verb in ("train", "evaluate")]
    return steps + last(f"{name}{seed}")


def test_teachers_text_student_risk_and_int8_in_this_order(tmp_path: Path) -> None:
    calls = run(tmp_path, "training.updates=50")
    assert names(calls) == STEPS + last("multi30k_en_de_best")
    assert "training.init_from=runs/multi30k_en_de_best_student" in calls[len(STEPS) - 2].split()
    assert all(call.endswith("training.updates=50") for call in calls if call.startswith("train"))


def test_captions_and_seeds_share_the_teachers(tmp_path: Path) -> None:
    run(tmp_path)
    found = names(run(tmp_path, MONO="1"))
    assert found == ["backtranslate text/mono_bt", *models("multi30k_en_de_best_mono")]
    assert names(run(tmp_path, SEED="2")) == models("multi30k_en_de_best", "_seed2")


def test_another_command_replaces_nmt(tmp_path: Path) -> None:
    calls = run(tmp_path, NMT=f"env X=1 {tmp_path}/nmt", PATH=os.environ["PATH"])
    assert len(calls) == NUM_STEPS


@pytest.mark.parametrize("step", range(2, NUM_STEPS + 1))
def test_an_interrupted_step_is_repeated(tmp_path: Path, step: int) -> None:
    steps = STEPS + last("multi30k_en_de_best")
    interrupted = names(run(tmp_path, FAIL_AT=str(step)))
    assert interrupted == steps[:step]
    # A training whose score is missing is run again: nmt resumes or finds it finished.
    is_dev = step <= len(STEPS) and steps[step - 1].startswith("evaluate")
    assert names(run(tmp_path)) == steps[step - 2 if is_dev else step - 1 :]


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
        assert experiment.training.init_from == "runs/multi30k_en_de_teacher"
        assert experiment.corpus.subword.tokenizer == "prepared/multi30k_en_de/tokenizer.json"
        texts = {text.src.partition(".")[0] for text in experiment.corpus.train}
        assert texts == {"train", "forward", "backward"} | (
            {"mono_bt"} if "mono" in name else set()
        )


def test_the_settings_of_its_trainings_are_valid(tmp_path: Path) -> None:
    calls = [call.split() for call in run(tmp_path, MONO="1") if call.startswith("train ")]
    experiments = [load_experiment(file, settings) for _, file, _, _, *settings in calls]
    assert [each.name for each in experiments][2:] == [
        "multi30k_en_de_best_mono_student", "multi30k_en_de_best_mono"
    ]  # fmt: skip
    assert [bool(each.training.risk) for each in experiments] == [False, False, False, True]
