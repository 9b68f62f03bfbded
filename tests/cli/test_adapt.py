"""`nmt adapt`: text and settings of the experiment, scores; training is tested elsewhere."""

import fcntl
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Nmt

from nmt import api
from nmt.checkpoint.load import Checkpoint, load_checkpoint, load_training_state
from nmt.checkpoint.write import save_checkpoint
from nmt.cli import adapt
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment, override
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.subword import Subword
from nmt.errors import NmtError
from nmt.evaluation.scores import score
from nmt.training.adaptation import INIT_SHARE
from nmt.training.run_manifest import read_run_manifest

NAMES = ("Anna", "Ben", "Carla", "Dora", "Emil", "Fritz", "Gerda", "Hugo", "Ida", "Jan")
NEW = [
    (f"{a} and {b} greet me.", f"{a} und {b} grüßen mich.") for a in NAMES for b in NAMES if a < b
]
RUN = "adapt runs/tiny --src new.en --tgt new.de -o runs/adapted"


@pytest.fixture
def new_text(here: Path) -> Path:
    for side, lines in zip(("en", "de"), zip(*NEW, strict=True), strict=True):
        Path(f"new.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return here


@pytest.fixture
def adapted(new_text: Path, monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Experiments that would be trained; the result of each is the earlier run."""
    found: list[Experiment] = []

    def train_run(experiment: Experiment, *_: Any) -> str:
        found.append(experiment)
        prepare_tests(experiment)
        return "runs/tiny"

    monkeypatch.setattr(adapt, "train_run", train_run)
    monkeypatch.setattr(adapt, "_compare", lambda *_: None)
    # It has the path of the folder that `here` is a copy of.
    Path("runs/tiny/manifest.json").unlink()
    return found


def prepare_tests(experiment: Experiment) -> None:
    """Check that all texts of an experiment can be read."""
    corpus = experiment.corpus
    for text in (*corpus.train, corpus.dev, *corpus.tests):
        assert list(PairFiles.of(text, corpus).read())


def pairs_of(experiment: Experiment, name: str) -> list[tuple[str, str]]:
    corpus = experiment.corpus
    [text] = [each for each in (*corpus.train, corpus.dev, *corpus.tests) if each.name == name]
    return list(PairFiles.of(text, corpus).read())


def test_defaults_are_gentle(adapted: list[Experiment], nmt: Nmt) -> None:
    answer = nmt(RUN)
    assert answer.status == 0, answer.err
    [made] = adapted
    training = made.training
    assert (made.name, training.init_from, training.init_optimizer) == (
        "adapted", "runs/tiny", True
    )  # fmt: skip
    assert training.learning_rate == pytest.approx(0.5 * 0.02)
    assert (training.updates, training.warmup_updates, training.validate_every) == (60, 6, 12)
    assert (training.patience, training.init_share) == (3, INIT_SHARE)
    assert made.model == load_experiment("tiny.yaml").model
    given = Subword.read(Path(made.corpus.subword.tokenizer))
    assert given.fingerprint == Subword.read(Path("prepared/tiny/tokenizer.json")).fingerprint


@pytest.mark.parametrize("change", ["model.encoder_layers=2", "corpus.subword.tokenizer=''"])
def test_another_model_has_a_new_optimizer_and_average(
    change: str, adapted: list[Experiment], nmt: Nmt
) -> None:
    answer = nmt(f"{RUN} {change}")
    assert answer.status == 0, answer.err
    training = adapted[0].training
    assert (training.init_optimizer, training.init_share) == (False, 0)


def test_without_an_average_no_share_of_the_weights_is_kept(
    adapted: list[Experiment], nmt: Nmt
) -> None:
    answer = nmt(f"{RUN} training.ema_decay=0")
    assert answer.status == 0, answer.err
    assert (adapted[0].training.ema_decay, adapted[0].training.init_share) == (0, 0)


def test_a_model_without_training_state_has_a_new_optimizer(
    adapted: list[Experiment], nmt: Nmt
) -> None:
    assert nmt("export runs/tiny -o exported").status == 0
    answer = nmt(RUN.replace("runs/tiny", "exported"))
    assert answer.status == 0, answer.err
    assert not adapted[0].training.init_optimizer


def set_old(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """Change the settings of the earlier run."""

    def load(path: Path) -> Checkpoint:
        source = load_checkpoint(path)
        return replace(source, experiment=override(source.experiment, overrides))

    monkeypatch.setattr("nmt.checkpoint.load.load_checkpoint", load)


def test_settings_are_those_of_the_last_stage(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = "{from_update: 9, reverse: 0, dropout: 0.4, learning_rate: 0.01, weights: {tiny: 2}}"
    changes = "training.reverse=0.5", f"stages=[{stages}, {{from_update: 60, reverse: 1}}]"
    set_old(monkeypatch, "corpus.train.0.weight=0.5", "corpus.train.0.name=tiny", *changes)
    answer = nmt(RUN)
    assert answer.status == 0, answer.err
    [made] = adapted
    assert (made.training.reverse, made.model.dropout, made.stages) == (0, 0.4, [])
    assert made.training.learning_rate == pytest.approx(0.5 * 0.01)


def test_corpora_of_the_last_stage_are_sampled(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = load_experiment("tiny.yaml").corpus.train[0].name
    other = "{name: other, src: dev.en, tgt: dev.de}"
    text = f"{{name: {name}, src: dev.en, tgt: dev.de}}"
    stage = f"{{from_update: 9, weights: {{{name}: 0}}}}"
    set_old(monkeypatch, f"corpus.train=[{other}, {text}]", f"stages=[{stage}]")
    # The prepared corpus has only the one that is not in use any more.
    assert "from the raw files in " in nmt(RUN).err
    [made] = adapted
    dev = load_experiment("tiny.yaml").corpus.dev.name
    assert set(pairs_of(made, "old_sample")) <= set(pairs_of(load_experiment("tiny.yaml"), dev))


def test_a_run_with_frozen_parameters_gives_no_optimizer(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_old(monkeypatch, "training.freeze=['encoder.*']")
    answer = nmt(RUN)
    assert answer.status == 0, answer.err
    assert (adapted[0].training.freeze, adapted[0].training.init_optimizer) == ([], False)


def test_held_out_pairs_are_not_trained_on(adapted: list[Experiment], nmt: Nmt) -> None:
    answer = nmt(RUN)
    [made] = adapted
    train, dev, test = (pairs_of(made, name) for name in ("new", "new_dev", "new_test"))
    assert len(dev) == len(test) == len(NEW) // 10
    assert sorted([*train, *dev, *test]) == sorted(NEW)
    assert "37 new pairs | dev and test 4 pairs held out | 37 old pairs per epoch" in answer.err


def test_old_pairs_are_mixed_in(adapted: list[Experiment], nmt: Nmt, here: Path) -> None:
    nmt(f"{RUN} --mix 0.5")
    [made] = adapted
    texts = {text.name: text for text in made.corpus.train}
    tiny = load_experiment("tiny.yaml")
    old = list(PairFiles.of(tiny.corpus.train[0], tiny.corpus).read())
    sample = pairs_of(made, "old_sample")
    assert len(sample) == len(set(sample)) == 100
    assert set(sample) <= set(old)
    assert texts["old_sample"].weight == pytest.approx(round(0.5 * 37) / 100)
    assert [text.name for text in made.corpus.tests] == ["new_test", "news", "talks"]


def test_one_pair_is_counted_in_the_singular(adapted: list[Experiment], nmt: Nmt) -> None:
    for side in ("en", "de"):
        Path(f"new.{side}").write_text("Anna\n")
    sets = "--dev raw/dev.en raw/dev.de --test raw/news.en raw/news.de"
    assert " at most | 1 new pair | 1 old pair per epoch, of 10 from " in nmt(f"{RUN} {sets}").err
    assert "new.en: too few pairs (1) to hold out 10% of them" in nmt(RUN).err


def test_a_line_that_is_not_utf_8_is_left_to_cleaning(new_text: Path, nmt: Nmt,
    adapted: list[Experiment], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("test_adapt.prepare_tests", lambda experiment: None)
    Path("new.en").write_bytes(b"\xff\n" + Path("new.en").read_bytes())
    Path("new.de").write_bytes(b"x\n" + Path("new.de").read_bytes())
    answer = nmt(RUN)
    assert answer.status == 0, answer.err
    assert b"\xff\n" in Path("prepared/adapted.text/train.src").read_bytes()


def test_raw_files_replace_a_lost_prepared_corpus(adapted: list[Experiment], nmt: Nmt) -> None:
    nmt(RUN)
    with_prepared = sorted(pairs_of(adapted[0], "old_sample"))
    shutil.rmtree("prepared/tiny")
    assert "from the raw files in raw" in nmt(RUN).err
    assert sorted(pairs_of(adapted[1], "old_sample")) == with_prepared


def test_adapts_without_old_text(adapted: list[Experiment], nmt: Nmt) -> None:
    shutil.rmtree("prepared/tiny")
    shutil.rmtree("raw")
    answer = nmt(RUN)
    [made] = adapted
    assert [text.name for text in made.corpus.train] == ["new"]
    assert [text.name for text in made.corpus.tests] == ["new_test"]
    assert "no old pairs: " in answer.err
    assert "test sets of tiny not found: news, talks" in answer.err
    nmt(f"{RUN} --mix 0")
    assert adapted[1].corpus.train == made.corpus.train


def test_text_of_another_process_is_not_touched(new_text: Path, nmt: Nmt, no_ray: None) -> None:
    folder = Path("prepared/adapted.text")
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = nmt("adapt runs/tiny --src new.en --tgt new.de -o runs/adapted")
    assert (answer.status, answer.err) == (
        2,
        "nmt: prepared/adapted.text: lock file held by another process; wait for it to end, or "
        "name another output\n",
    )
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_text_of_a_run_of_the_same_name_is_not_replaced(
    adapted: list[Experiment], nmt: Nmt
) -> None:
    nmt(RUN)
    files = Path("prepared/adapted.text").iterdir()
    before = {file.name: file.read_bytes() for file in files}
    answer = nmt("adapt runs/tiny --src raw/dev.en --tgt raw/dev.de -o other/adapted")
    assert (answer.status, answer.err) == (
        2,
        f"nmt: prepared/adapted.text: holds the text of {Path.cwd()}/runs/adapted; give the "
        "output another name, or remove the folder\n",
    )
    files = Path("prepared/adapted.text").iterdir()
    assert {file.name: file.read_bytes() for file in files} == before
    assert nmt(RUN).status == 0


def test_given_sets_are_used_as_they_are(adapted: list[Experiment], nmt: Nmt) -> None:
    nmt(f"{RUN} --dev raw/dev.en raw/dev.de --test raw/news.en raw/news.de")
    [made] = adapted
    assert pairs_of(made, "new") == NEW
    assert made.corpus.dev.src == os.path.abspath("raw/dev.en")
    assert pairs_of(made, "new_test") == pairs_of(made, "news")


def test_experiment_file_and_overrides_win(adapted: list[Experiment], nmt: Nmt) -> None:
    Path("domain.yaml").write_text(
        "name: domain\n"
        "corpus:\n"
        "  src: en\n"
        "  tgt: de\n"
        "  train: [{name: talk, src: new.en, tgt: new.de}]\n"
        "  dev: {name: dev, src: raw/dev.en, tgt: raw/dev.de}\n"
        "  tests: [{name: news, src: raw/talks.en, tgt: raw/talks.de}]\n"
        "training: {learning_rate: 0.001, patience: 9}\n"
    )
    changes = "training.updates=30 training.patience=2"
    answer = nmt(f"adapt runs/tiny --experiment domain.yaml -o runs/adapted {changes}")
    assert answer.status == 0, answer.err
    [made] = adapted
    training = made.training
    assert (training.learning_rate, training.patience, training.updates) == (0.001, 2, 30)
    assert (training.warmup_updates, training.validate_every) == (3, 6)
    assert made.name == "adapted"
    assert [text.name for text in made.corpus.train] == ["talk", "old_sample"]
    assert [text.name for text in made.corpus.tests] == ["news", "old_news", "talks"]


def test_weights_count_in_the_mix(adapted: list[Experiment], nmt: Nmt) -> None:
    entry = "src: new.en, tgt: new.de, weight"
    Path("domain.yaml").write_text(
        "name: domain\n"
        "corpus:\n"
        "  src: en\n"
        "  tgt: de\n"
        f"  train: [{{name: a, {entry}: 2}}, {{name: b, {entry}: 0.2}}, {{name: c, {entry}: 0}}]\n"
        "  dev: {name: dev, src: raw/dev.en, tgt: raw/dev.de}\n"
    )
    answer = nmt("adapt runs/tiny --experiment domain.yaml -o runs/adapted")
    assert "| 135 new pairs | 99 old pairs per epoch, of 100 from" in answer.err
    assert [text.weight for text in adapted[0].corpus.train] == [2, 0.2, 0, 0.99]


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
    answer = nmt(f"{RUN} training.learning_rate=0.02")
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
    answer = nmt(f"{RUN} training.updates=4")
    assert answer.status == 0, answer.err
    file = Path("runs/adapted/evaluation/before/new_test.metrics.json")
    assert json.loads(file.read_text())["checkpoint"] == "update-00000061"


def test_no_test_set_is_no_error(new_text: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt, "train_run", train_here)
    answer = nmt(f"{RUN} training.updates=4 corpus.tests=[]")
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
    assert nmt(f"{RUN} --mix 0.5 --dev raw/dev.en raw/dev.de").status == 0
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
    answer = nmt(f"{RUN} training.updates=10")
    assert answer.status == 0, answer.err
    assert "/runs/tiny/checkpoints/update-00000060 | " in answer.err
    table = [line.split()[:2] for line in answer.out.splitlines()[1:4]]
    assert table == [["new_test", "4"], ["news", "5"], ["talks", "3"]]
    again = nmt(f"{RUN} training.updates=10")
    assert again.status == 0
    assert again.out == answer.out
    assert "is finished: 10 of 10 updates" in again.err
