"""`nmt adapt`: text and settings of the experiment."""

import fcntl
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cli_calls import ADAPT, NEW, Nmt

from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.config.corpus import ROBUST_NOISE, NoiseConfig
from nmt.config.experiment import Experiment, TrainingConfig
from nmt.config.files import load_experiment, override
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.subword import Subword
from nmt.training.adaptation import DISTILLATION, INIT_SHARES

SETS = "--dev raw/dev.en raw/dev.de --test raw/news.en raw/news.de"


def from_file(training: str, corpus: str = "") -> str:
    """Write an experiment for the new text, and return the call of `nmt adapt`."""
    Path("domain.yaml").write_text(
        "name: domain\n"
        "corpus:\n"
        "  src: en\n"
        "  tgt: de\n"
        "  train: [{name: talk, src: new.en, tgt: new.de}]\n"
        "  dev: {name: dev, src: raw/dev.en, tgt: raw/dev.de}\n"
        "  tests: [{name: news, src: raw/talks.en, tgt: raw/talks.de}]\n"
        f"{corpus}"
        f"training: {training}\n"
    )
    return "adapt runs/tiny --experiment domain.yaml -o runs/adapted"


def pairs_of(experiment: Experiment, name: str) -> list[tuple[str, str]]:
    corpus = experiment.corpus
    [text] = [each for each in (*corpus.train, corpus.dev, *corpus.tests) if each.name == name]
    return list(PairFiles.of(text, corpus).read())


def test_defaults(adapted: list[Experiment], nmt: Nmt) -> None:
    answer = nmt(ADAPT)
    assert answer.status == 0, answer.err
    [made] = adapted
    training = made.training
    assert (made.name, training.init_from, training.init_optimizer) == (
        "adapted", "runs/tiny", True
    )  # fmt: skip
    assert training.learning_rate == pytest.approx(0.02)
    assert (training.updates, training.warmup_updates, training.validate_every) == (100, 10, 20)
    assert (training.patience, training.init_share) == (3, INIT_SHARES[True, True])
    assert [text.distillation for text in made.corpus.train] == [0, DISTILLATION]
    assert made.model == load_experiment("tiny.yaml").model
    given = Subword.read(Path(made.corpus.subword.tokenizer))
    assert given.fingerprint == Subword.read(Path("prepared/tiny/tokenizer.json")).fingerprint


@pytest.mark.parametrize(("updates", "share"), [(200, 1), (400, 0.5), (5000, 0.3)])
def test_more_updates_have_a_lower_rate(
    updates: int, share: float, adapted: list[Experiment], nmt: Nmt
) -> None:
    command = f"{ADAPT} training.updates={updates}"
    for each in (command, from_file(f"{{updates: {updates}, warmup_updates: 10}}")):
        assert nmt(each).status == 0
    rates = [each.training.learning_rate for each in adapted]
    assert rates == pytest.approx([share * 0.02] * 2)


def test_updates_follow_the_size_of_a_batch(adapted: list[Experiment], nmt: Nmt) -> None:
    for side, name in enumerate(("new.en", "new.de")):
        Path(name).write_text("".join(f"{pair[side]}\n" for pair in NEW) * 20)
    half = f"{ADAPT} {SETS} batching.max_tokens=64"
    file = from_file("{}") + " batching.max_tokens=64"
    for command in (half, half.replace("=64", "=128"), half.replace("=64", "=256"), file):
        assert nmt(command).status == 0
    updates = [each.training.updates for each in adapted]
    assert updates[0] == pytest.approx(2 * updates[1], abs=2)
    assert updates[0] == pytest.approx(4 * updates[2], abs=4)
    assert updates[3] > 2 * 100


@pytest.mark.parametrize(
    "change", ["model.encoder_layers=2", "model.ffn_width=48", "corpus.subword.tokenizer=''"]
)
def test_another_model_has_a_new_optimizer_and_average(
    change: str, adapted: list[Experiment], nmt: Nmt
) -> None:
    answer = nmt(f"{ADAPT} {change}")
    assert answer.status == 0, answer.err
    training = adapted[0].training
    assert (training.init_optimizer, training.init_share) == (False, 0)
    # The initial model is not the earlier one.
    assert not adapted[0].distils


@pytest.mark.parametrize("mix", [0.25, 1, 4])
def test_old_pairs_weigh_the_same_at_any_mix(
    mix: float, adapted: list[Experiment], nmt: Nmt
) -> None:
    assert nmt(f"{ADAPT} --mix {mix}").status == 0
    text = adapted[0].corpus.train[1]
    assert text.distillation == pytest.approx(DISTILLATION / mix)


@pytest.mark.parametrize("place", ["override", "file"])
def test_without_optimizer_state_half_the_rate(
    place: str, adapted: list[Experiment], nmt: Nmt
) -> None:
    off = "training.init_optimizer=false"
    command = f"{ADAPT} {off}" if place == "override" else from_file("{init_optimizer: false}")
    answer = nmt(command)
    assert answer.status == 0, answer.err
    training = adapted[0].training
    assert (training.init_optimizer, training.init_share) == (False, INIT_SHARES[False, True])
    assert training.learning_rate == pytest.approx(0.5 * 0.02)


def test_risk_of_the_earlier_run_is_not_kept(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_old(monkeypatch, "training.init_from=runs/other", "training.risk=3", "training.updates=9")
    assert nmt(ADAPT).status == 0
    training = adapted[0].training
    # Nor its updates: it can have been the short last step of a recipe.
    assert (training.risk, training.updates) == (0, 100)
    assert training.learning_rate == TrainingConfig().learning_rate


def test_old_pairs_have_the_noise_of_the_earlier_run(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings in ([], ["corpus.train.0.noise={typos: 0.2}"], ["training.robust=true"]):
        set_old(monkeypatch, *settings)
        assert nmt(ADAPT).status == 0
    noise = [each.corpus.train[1].noise for each in adapted]
    assert noise == [NoiseConfig(), NoiseConfig(typos=0.2), ROBUST_NOISE]


def test_order_of_the_text_does_not_decide_about_updates(
    adapted: list[Experiment], nmt: Nmt
) -> None:
    short, long = [("Anna", "Anna")] * 3000, [(NEW[0][0] * 4, NEW[0][1] * 4)] * 3000
    for pairs in ([*short, *long], [*long, *short]):
        for side, name in enumerate(("new.en", "new.de")):
            Path(name).write_text("".join(f"{pair[side]}\n" for pair in pairs))
        assert nmt(f"{ADAPT} --mix 0 {SETS}").status == 0
    updates = [each.training.updates for each in adapted]
    assert updates[0] == pytest.approx(updates[1], rel=0.01)


def test_without_old_pairs_more_of_the_weights_is_kept(adapted: list[Experiment], nmt: Nmt) -> None:
    assert nmt(f"{ADAPT} --mix 0").status == 0
    [made] = adapted
    assert (made.distils, made.training.init_share) == (False, INIT_SHARES[True, False])


def test_without_an_average_no_share_of_the_weights_is_kept(
    adapted: list[Experiment], nmt: Nmt
) -> None:
    answer = nmt(f"{ADAPT} training.ema_decay=0")
    assert answer.status == 0, answer.err
    assert (adapted[0].training.ema_decay, adapted[0].training.init_share) == (0, 0)


def test_a_model_without_training_state_has_a_new_optimizer(
    adapted: list[Experiment], nmt: Nmt
) -> None:
    assert nmt("export runs/tiny -o exported").status == 0
    answer = nmt(ADAPT.replace("runs/tiny", "exported"))
    assert answer.status == 0, answer.err
    training = adapted[0].training
    assert (training.init_optimizer, training.init_share) == (False, INIT_SHARES[False, True])
    assert training.learning_rate == pytest.approx(0.5 * 0.02)


def set_old(monkeypatch: pytest.MonkeyPatch, *overrides: str, update: int = 60) -> None:
    """Change the settings of the earlier run, and the updates of its checkpoint."""

    def load(path: Path) -> Checkpoint:
        source = load_checkpoint(path)
        info = replace(source.info, update=update)
        return replace(source, experiment=override(source.experiment, overrides), info=info)

    monkeypatch.setattr("nmt.checkpoint.load.load_checkpoint", load)


def test_settings_are_those_of_the_last_stage(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = "{from_update: 9, reverse: 0, dropout: 0.4, learning_rate: 0.01, weights: {tiny: 2}}"
    changes = "training.reverse=0.5", f"stages=[{stages}, {{from_update: 60, reverse: 1}}]"
    set_old(monkeypatch, "corpus.train.0.weight=0.5", "corpus.train.0.name=tiny", *changes)
    answer = nmt(ADAPT)
    assert answer.status == 0, answer.err
    [made] = adapted
    assert (made.training.reverse, made.model.dropout, made.stages) == (0, 0.4, [])
    assert made.training.learning_rate == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("update", "dropout"), [(0, 0.1), (9, 0.1), (10, 0.2), (39, 0.2), (40, 0.3), (60, 0.3)]
)
def test_settings_are_those_of_the_checkpoint(
    update: int, dropout: float, adapted: list[Experiment], nmt: Nmt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It can be older than the last update of the run, which can have stopped early."""
    stages = "stages=[{from_update: 9, dropout: 0.2}, {from_update: 39, dropout: 0.3}]"
    set_old(monkeypatch, "model.dropout=0.1", stages, update=update)
    answer = nmt(ADAPT)
    assert answer.status == 0, answer.err
    assert adapted[0].model.dropout == dropout


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (["news"], ["news"]),
        (["new_test"], ["old_new_test"]),
        # An adapted run, adapted again to text of the same name.
        (["new_test", "old_new_test"], ["old_new_test", "old_old_new_test"]),
        (["old_new_test", "new_test"], ["old_new_test", "old_old_new_test"]),
        (
            ["new_test", "old_new_test", "old_old_new_test", "news"],
            ["old_new_test", "old_old_new_test", "old_old_old_new_test", "news"],
        ),
    ],
)
def test_old_test_sets_get_names_that_are_free(
    old: list[str], expected: list[str], adapted: list[Experiment], nmt: Nmt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    entries = ", ".join(f"{{name: {name}, src: news.en, tgt: news.de}}" for name in old)
    set_old(monkeypatch, f"corpus.tests=[{entries}]")
    answer = nmt(ADAPT)
    assert answer.status == 0, answer.err
    assert [text.name for text in adapted[0].corpus.tests] == ["new_test", *expected]


def test_corpora_of_the_last_stage_are_sampled(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = load_experiment("tiny.yaml").corpus.train[0].name
    other = "{name: other, src: dev.en, tgt: dev.de}"
    text = f"{{name: {name}, src: dev.en, tgt: dev.de}}"
    stage = f"{{from_update: 9, weights: {{{name}: 0}}}}"
    set_old(monkeypatch, f"corpus.train=[{other}, {text}]", f"stages=[{stage}]")
    # The prepared corpus has only the one that is not in use any more.
    assert "from the raw files in " in nmt(ADAPT).err
    [made] = adapted
    dev = load_experiment("tiny.yaml").corpus.dev.name
    assert set(pairs_of(made, "old_sample")) <= set(pairs_of(load_experiment("tiny.yaml"), dev))


def test_a_run_with_frozen_parameters_gives_no_optimizer(
    adapted: list[Experiment], nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_old(monkeypatch, "training.freeze=['encoder.*']")
    answer = nmt(ADAPT)
    assert answer.status == 0, answer.err
    assert (adapted[0].training.freeze, adapted[0].training.init_optimizer) == ([], False)


def test_held_out_pairs_are_not_trained_on(adapted: list[Experiment], nmt: Nmt) -> None:
    answer = nmt(ADAPT)
    [made] = adapted
    train, dev, test = (pairs_of(made, name) for name in ("new", "new_dev", "new_test"))
    assert len(dev) == len(test) == len(NEW) // 10
    assert sorted([*train, *dev, *test]) == sorted(NEW)
    assert "37 new pairs | dev and test 4 pairs held out | 70 old pairs per epoch" in answer.err


def test_old_pairs_are_mixed_in(adapted: list[Experiment], nmt: Nmt, here: Path) -> None:
    nmt(f"{ADAPT} --mix 0.5")
    [made] = adapted
    texts = {text.name: text for text in made.corpus.train}
    tiny = load_experiment("tiny.yaml")
    old = list(PairFiles.of(tiny.corpus.train[0], tiny.corpus).read())
    sample = pairs_of(made, "old_sample")
    assert len(sample) == len(set(sample)) == 100
    assert set(sample) <= set(old)
    subword = load_checkpoint(Path("runs/tiny")).subword

    def count_tokens(pairs: list[tuple[str, str]]) -> int:
        return sum(max(map(len, map(subword.encode, pair))) + 1 for pair in pairs)

    share = count_tokens(sample) * texts["old_sample"].weight / count_tokens(pairs_of(made, "new"))
    assert share == pytest.approx(0.5, rel=0.02)
    assert [text.name for text in made.corpus.tests] == ["new_test", "news", "talks"]


def test_one_pair_is_counted_in_the_singular(adapted: list[Experiment], nmt: Nmt) -> None:
    for side in ("en", "de"):
        Path(f"new.{side}").write_text("Anna\n")
    assert " at most | 1 new pair | 1 old pair per epoch, of 10 from " in nmt(f"{ADAPT} {SETS}").err
    assert "new.en: too few pairs (1) to hold out 10% of them" in nmt(ADAPT).err


def test_a_line_that_is_not_utf_8_is_left_to_cleaning(new_text: Path, nmt: Nmt,
    adapted: list[Experiment], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("cli_calls.prepare_tests", lambda experiment: None)
    Path("new.en").write_bytes(b"\xff\n" + Path("new.en").read_bytes())
    Path("new.de").write_bytes(b"x\n" + Path("new.de").read_bytes())
    answer = nmt(ADAPT)
    assert answer.status == 0, answer.err
    assert b"\xff\n" in Path("prepared/adapted.text/train.src").read_bytes()


def test_raw_files_replace_a_lost_prepared_corpus(adapted: list[Experiment], nmt: Nmt) -> None:
    nmt(ADAPT)
    with_prepared = sorted(pairs_of(adapted[0], "old_sample"))
    shutil.rmtree("prepared/tiny")
    assert "from the raw files in raw" in nmt(ADAPT).err
    assert sorted(pairs_of(adapted[1], "old_sample")) == with_prepared


def test_adapts_without_old_text(adapted: list[Experiment], nmt: Nmt) -> None:
    shutil.rmtree("prepared/tiny")
    shutil.rmtree("raw")
    answer = nmt(ADAPT)
    [made] = adapted
    assert [text.name for text in made.corpus.train] == ["new"]
    assert [text.name for text in made.corpus.tests] == ["new_test"]
    assert "no old pairs: " in answer.err
    assert "test sets of tiny not found: news, talks" in answer.err
    nmt(f"{ADAPT} --mix 0")
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
    nmt(ADAPT)
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
    assert nmt(ADAPT).status == 0


def test_text_is_not_written_into_a_prepared_corpus(adapted: list[Experiment], nmt: Nmt) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    shutil.copytree("prepared/tiny", "prepared/adapted.text")
    before = Path("prepared/adapted.text/dev.src").read_bytes()
    answer = nmt(ADAPT)
    assert (answer.status, answer.err) == (
        2,
        "nmt: prepared/adapted.text: holds other files (manifest.json and 2 more); name another "
        "output\n",
    )
    assert Path("prepared/adapted.text/dev.src").read_bytes() == before


def test_given_sets_are_used_as_they_are(adapted: list[Experiment], nmt: Nmt) -> None:
    nmt(f"{ADAPT} {SETS}")
    [made] = adapted
    assert pairs_of(made, "new") == NEW
    assert made.corpus.dev.src == os.path.abspath("raw/dev.en")
    assert pairs_of(made, "new_test") == pairs_of(made, "news")


def test_experiment_file_and_overrides_win(adapted: list[Experiment], nmt: Nmt) -> None:
    command = from_file("{learning_rate: 0.001, patience: 9}")
    answer = nmt(f"{command} training.updates=30 training.patience=2")
    assert answer.status == 0, answer.err
    [made] = adapted
    training = made.training
    assert (training.learning_rate, training.patience, training.updates) == (0.001, 2, 30)
    assert (training.warmup_updates, training.validate_every) == (3, 6)
    assert made.name == "adapted"
    assert [text.name for text in made.corpus.train] == ["talk", "old_sample"]
    assert [text.name for text in made.corpus.tests] == ["news", "old_news", "talks"]


def test_folder_and_source_of_an_experiment_file_are_left_out(
    adapted: list[Experiment], nmt: Nmt
) -> None:
    command = from_file("{init_from: runs/other}", "  prepared: prepared/domain\n")
    answer = nmt(command)
    assert answer.status == 0, answer.err
    [made] = adapted
    assert (made.training.init_from, made.prepared) == ("runs/tiny", "prepared/adapted")


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
    answer = nmt("adapt runs/tiny --experiment domain.yaml --mix 1 -o runs/adapted")
    assert "| 135 new pairs | 188 old pairs per epoch, of 100 from" in answer.err
    assert [text.weight for text in adapted[0].corpus.train] == [2, 0.2, 0, 1.88]
