"""`nmt adapt`: training, scores, errors, and the same from Python."""

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_calls import ADAPT, Nmt

from nmt import api
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.checkpoint.write import save_checkpoint
from nmt.cli import adapt
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.errors import NmtError
from nmt.evaluation.scores import score
from nmt.training.run_manifest import read_run_manifest


def test_scores_are_side_by_side() -> None:
    refs = [["ein Hund rennt schnell"]]
    reports = {
        name: [
            score([hyp], refs, "de", test_set=name, system="s", metrics=("bleu", "chrf"))
            for hyp in hyps
        ]
        for name, hyps in {"new": ("nein", refs[0][0]), "old": (refs[0][0], refs[0][0])}.items()
    }
    head, new, old, bleu, chrf = adapt.format_scores(reports)
    columns = "segments BLEU before BLEU after chrF2 before chrF2 after"
    assert " ".join(head.split()) == columns
    assert new.split()[:5] == ["new", "1", "0.00", "100.00", "(+100.00)"]
    assert old.split()[:5] == ["old", "1", "100.00", "100.00", "(+0.00)"]
    assert bleu.startswith("BLEU|nrefs:1|")
    assert chrf.startswith("chrF2|nrefs:1|")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "adapt runs/tiny --src new.en -o runs/adapted",
            "the new text is missing: give src and tgt, or experiment",
        ),
        (
            "adapt runs/tiny --src new.en --tgt new.de -o runs/tiny",
            "output is runs/tiny, but it is the run to start from: name another one",
        ),
        (
            "adapt runs/none --src new.en --tgt new.de -o runs/adapted",
            "runs/none: no such directory; name a run or one of its checkpoints",
        ),
        (
            "adapt runs/tiny --src new.en --tgt none.de -o runs/adapted",
            "none.de: file not found; check the path",
        ),
        (
            "adapt runs/tiny --src new.en --tgt new.de -o s3://bucket?region=x",
            "output is s3://bucket?region=x, but the run is missing: s3://BUCKET/PATH",
        ),
        (
            "adapt runs/tiny --src new.en --tgt new.de -o s3://bucket/",
            "output is s3://bucket/, but the run is missing: s3://BUCKET/PATH",
        ),
        (
            "adapt runs/tiny --src new.en --tgt new.de --mix 1e308 -o runs/adapted",
            "Invalid value for '--mix': 1e+308 is not in the range 0<=x<=1000. See `nmt adapt "
            "--help`.",
        ),
        (
            "adapt runs/tiny --src new.en --experiment tiny.yaml -o runs/adapted",
            "experiment is tiny.yaml, but the experiment names the text: omit src, tgt, dev and "
            "test",
        ),
        (
            "adapt runs/tiny --src new.en --tgt new.de -o runs/ä",
            "output: name is 'ä', but it must be 1 to 100 of A-Z a-z 0-9 . _ - and start with a "
            "letter or digit",
        ),
        (
            "adapt runs/tiny --experiment tiny.yaml -o runs/adapted model.width=64",
            "model.width is 64, but the source runs/tiny/checkpoints/update-00000060 has 32: use "
            "the same",
        ),
    ],
)
def test_errors(command: str, message: str, new_text: Path, nmt: Nmt, no_ray: None) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    answer = nmt(command)
    assert answer.status == 2
    assert answer.err.splitlines()[-1] == f"nmt: {message}"


def train_here(experiment: Experiment, cluster: Cluster, _: Any) -> str:
    """Prepare and train in this process, without Ray."""
    from nmt.corpus.prepare import prepare
    from nmt.corpus.prepared import open_prepared, read_dev
    from nmt.training.data import TrainingData
    from nmt.training.distributed import World
    from nmt.training.loop import train

    prepare(experiment)
    shards, subword = open_prepared(experiment)
    corpus = TrainingData(shards, subword, read_dev(experiment.prepared))
    run_dir = Path(cluster.storage, experiment.name)
    train(experiment, corpus, World(), run_dir)
    return str(run_dir)


def test_new_domain_is_learnt(new_text: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt, "train_run", train_here)
    answer = nmt(f"{ADAPT} training.learning_rate=0.02")
    assert answer.status == 0, answer.err
    lines = Path("runs/adapted/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [each["dev_loss"] for each in records if each["kind"] == "validation"]
    assert losses[-1] < losses[0]
    manifest = read_run_manifest(new_text / "runs/adapted")
    assert manifest.warm_start is not None
    assert (manifest.warm_start.new, manifest.warm_start.new_pieces) == ([], 0)
    for folder in ("evaluation", "evaluation/before"):
        assert Path("runs/adapted", folder, "new_test.metrics.json").is_file()
    assert not Path("runs/tiny/evaluation").exists()


def test_scores_before_are_those_of_the_start(
    new_text: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old run may still be training."""
    old = load_checkpoint(Path("runs/tiny"))

    def train_later(experiment: Experiment, cluster: Cluster, console: Any) -> str:
        tokenizer, state = old.subword.to_json(), load_training_state(old.path)
        counters = {**state.counters, "update": state.update + 1}
        state = replace(state, update=state.update + 1, counters=counters)
        save_checkpoint(Path("runs/tiny"), old.experiment, tokenizer, state, 100.0, "nrefs:1")
        return train_here(experiment, cluster, console)

    monkeypatch.setattr(adapt, "train_run", train_later)
    answer = nmt(f"{ADAPT} training.updates=4")
    assert answer.status == 0, answer.err
    file = Path("runs/adapted/evaluation/before/new_test.metrics.json")
    assert json.loads(file.read_text())["checkpoint"] == "update-00000061"


def test_no_test_set_is_no_error(new_text: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt, "train_run", train_here)
    answer = nmt(f"{ADAPT} training.updates=4 corpus.tests=[]")
    assert (answer.status, answer.out) == (0, "")
    assert "no test set to score: corpus.tests is empty" in answer.err


def test_python_and_command_line_train_the_same(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_model(experiment: Experiment, cluster: Cluster, _: Any) -> str:
        adapted.append(experiment)
        return f"{cluster.storage}/{experiment.name}"

    monkeypatch.setattr("nmt.api.train_model", train_model)
    files, sets = ("new.en", Path("new.de")), {"dev": ("raw/dev.en", "raw/dev.de")}
    found = api.adapt("runs/tiny", *files, output="runs/adapted", mix=0.5, **sets)
    assert found == os.path.abspath("runs/adapted")
    assert nmt(f"{ADAPT} --mix 0.5 --dev raw/dev.en raw/dev.de").status == 0
    assert adapted[0] == adapted[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the new text is missing: give src and tgt, or experiment"),
        ({"src": "new.en", "tgt": "none.de"}, "none.de: file not found; check the path"),
        ({"src": "new.en", "tgt": "new.de", "mix": -1}, "mix is -1, but it must be 0 to 1,000"),
        ({"src": "new.en", "tgt": "new.de", "mix": math.nan}, "mix is nan"),
        ({"src": "new.en", "experiment": "tiny.yaml"}, "experiment is tiny.yaml, but"),
        ({"src": "new.en", "tgt": "new.de", "output": "runs/ä"}, "output: name is 'ä'"),
        ({"experiment": {"name": "x"}}, "experiment: corpus is missing"),
    ],
)
def test_errors_in_python(
    arguments: dict[str, Any], message: str, new_text: Path, no_ray: None
) -> None:
    with pytest.raises(NmtError, match=f"^{re.escape(message)}"):
        api.adapt("runs/tiny", **{"output": "runs/adapted", **arguments})


@pytest.mark.ray
@pytest.mark.slow
def test_adapts_on_ray_and_resumes(new_text: Path, nmt: Nmt) -> None:
    """One code path, exact resume (nmt/README.md, Guarantees)."""
    command = f"{ADAPT} training.updates=10 training.patience=0"
    answer = nmt(command)
    assert answer.status == 0, answer.err
    assert "/runs/tiny/checkpoints/update-00000060 | " in answer.err
    table = [line.split()[:2] for line in answer.out.splitlines()[1:4]]
    assert table == [["new_test", "4"], ["news", "5"], ["talks", "3"]]
    again = nmt(command)
    assert again.status == 0
    assert again.out == answer.out
    assert "is finished: 10 of 10 updates" in again.err
