"""Validation shared by the ranks, and asynchronous validation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_results import assert_near, assert_same, counters_of, records_of
from toy_runs import GlooRuns, Run, corpus_of, go, validate_untrained

from nmt.batching.batch import make_batch
from nmt.checkpoint.format import read_info
from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.run_directory import best_checkpoint, list_checkpoints
from nmt.config.experiment import Experiment
from nmt.decoding.preprocess import Preprocessor
from nmt.decoding.translator import Translator
from nmt.errors import ConfigError, NmtError
from nmt.evaluation.scores import bleu
from nmt.model import seq2seq
from nmt.training.data import set_source_limit
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.validation import Validation, validate

EVERY = ["training.validate_every=5"]
STILL = ["training.learning_rate=1e-12", "training.patience=1", "training.validate_every=2"]
"""The weights hardly move, so that the second validation equals the first."""


@pytest.fixture(scope="module")
def single(toy_file: Path) -> Validation:
    found = validate_untrained(toy_file, World())
    assert isinstance(found, Validation)
    return found


def test_every_dev_line_is_translated_and_scored(single: Validation, toy: Experiment) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    _, refs = corpus_of(toy).dev
    scored = bleu(single.hyps, refs, toy.corpus.tgt)
    assert len(single.hyps) == len(refs)
    assert (single.bleu, single.signature) == (scored.value, f"BLEU|{scored.signature}")


def test_the_loss_is_that_of_the_references(single: Validation, toy: Experiment) -> None:
    corpus = corpus_of(toy)
    torch.manual_seed(1)
    model = seq2seq.Seq2Seq(toy.model, corpus.subword.num_pieces).eval()
    total, num_tokens = 0.0, 0
    for src, ref in zip(*corpus.dev, strict=True):
        batch = make_batch([(corpus.subword.encode(src), corpus.subword.encode(ref))])
        logits = model(*batch[:4]) @ model.output_weight.T
        total += torch.nn.functional.cross_entropy(logits, batch.tgt_out, reduction="sum").item()
        num_tokens += len(batch.tgt_out)
    assert single.nll == pytest.approx(total / num_tokens, rel=1e-5)


def test_several_workers_validate_as_one(single: Validation, gloo: GlooRuns) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    for rank in range(3):
        found = json.loads((gloo / f"world-3-{rank}.json").read_text())["validation"]
        assert found["hyps"] == single.hyps
        assert found["bleu"] == single.bleu
        assert found["nll"] == pytest.approx(single.nll, rel=1e-6)


def fail_at(number: int, error: Exception, patch: pytest.MonkeyPatch) -> None:
    """Make the validation of this number fail, counted from 1."""
    calls: list[object] = []

    def fail(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == number:
            raise error
        return bleu(*arguments)

    patch.setattr("nmt.training.validation.bleu", fail)


def go_until_failure(
    toy_file: Path, run: Run, number: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train until the validation of this number, counted from 1, which fails."""
    with monkeypatch.context() as patch:
        fail_at(number, error, patch)
        with pytest.raises(type(error)):
            go(toy_file, run)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (1, ConfigError("corpus.tgt", "ja", "MeCab is gone")),
        (1, torch.OutOfMemoryError("CUDA out of memory.")),
        # That of the last update.
        (2, torch.OutOfMemoryError("CUDA out of memory.")),
    ],
)
def test_a_failed_validation_is_repeated(
    number: int, error: Exception, toy_file: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    run, update = Run(f"failed-{number}-{type(error).__name__}"), 10 * number
    go_until_failure(toy_file, run, number, error, monkeypatch)
    folder = toy_file.parent / run.folder
    saved = list_checkpoints(folder)[-1]
    assert (read_info(saved).update, read_info(saved).bleu) == (update, None)
    assert f"update {update} | validation failed | saved" in (folder / "train.log").read_text()
    reason, state = go(toy_file, run)
    assert (reason, state.update) == ("finished", 20)
    assert_same(one, folder)
    ours, theirs = ([read_info(each).bleu for each in list_checkpoints(of)] for of in (folder, one))
    assert ours == theirs


def test_a_repeated_validation_can_end_the_run(
    toy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("failed-still", overrides=STILL)
    error = torch.OutOfMemoryError("CUDA out of memory.")
    go_until_failure(toy_file, run, 2, error, monkeypatch)
    reason, state = go(toy_file, run)
    assert (reason, state.update, state.best_update) == ("stopped early", 4, 2)
    assert [each["update"] for each in validations_of(toy_file.parent / run.folder)] == [2, 4]


def test_a_failed_validation_is_repeated_asynchronously(
    toy_file: Path, asynchronous: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("failed-late", overrides=EVERY)
    error = torch.OutOfMemoryError("CUDA out of memory.")
    go_until_failure(toy_file, run, 1, error, monkeypatch)
    go(toy_file, replace(run, scorer="reversed"))
    assert_same(asynchronous, toy_file.parent / run.folder)


@pytest.mark.parametrize(
    ("language", "line", "message"),
    [
        ("xx", "我在北京大学学习。", "corpus.tgt xx: BLEU would split words at spaces"),
        ("de", None, "the dev set is empty"),
    ],
)
def test_an_unusable_dev_set_is_refused_at_the_start(
    language: str, line: str | None, message: str, toy: Experiment, tmp_path: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    data = corpus_of(toy)
    dev = ([], []) if line is None else (["a"] * 3, [line] * 3)
    corpus = toy.corpus.model_copy(update={"tgt": language})
    with pytest.raises(NmtError, match=message):
        train(toy.model_copy(update={"corpus": corpus}), replace(data, dev=dev), World(), tmp_path)
    assert not list(tmp_path.iterdir())


# Asynchronous validation.


@pytest.fixture(scope="session")
def shared(toy_file: Path) -> Path:
    """Run with shared validation."""
    go(toy_file, Run("shared", overrides=EVERY))
    return toy_file.parent / "shared"


@pytest.fixture(scope="session")
def asynchronous(toy_file: Path) -> Path:
    """Run whose scores arrive as late as possible, newest first."""
    go(toy_file, Run("late", overrides=EVERY, scorer="reversed"))
    return toy_file.parent / "late"


def validations_of(run: Path) -> list[dict[str, object]]:
    return [record for record in records_of(run) if record["kind"] == "validation"]


def test_pending_scores_choose_the_same_best_checkpoint(shared: Path, asynchronous: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    mine = validations_of(asynchronous)
    known_at = [record.pop("known_at") for record in mine]
    assert mine == validations_of(shared)
    assert known_at == [15, 20, 21, 21]
    ours, theirs = best_checkpoint(asynchronous), best_checkpoint(shared)
    assert ours is not None
    assert theirs is not None
    assert ours.name == theirs.name
    assert read_info(ours).bleu == read_info(theirs).bleu
    assert read_info(ours).bleu_signature == read_info(theirs).bleu_signature


def test_scores_and_translations_belong_to_their_checkpoint(
    shared: Path, asynchronous: Path
) -> None:
    for folder in list_checkpoints(asynchronous):
        of = {record["update"]: record["dev_bleu"] for record in validations_of(shared)}
        assert read_info(folder).bleu == of[read_info(folder).update]
    ours, theirs = (
        {file.name: file.read_text() for file in (run / "dev").iterdir()}
        for run in (asynchronous, shared)
    )
    assert ours == theirs


@pytest.mark.parametrize("kind", ["quick", "lost"])
def test_the_arrival_of_scores_changes_nothing(
    kind: str, toy_file: Path, asynchronous: Path
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    run = Run(f"late-{kind}", overrides=EVERY, scorer=kind)
    go(toy_file, run)
    assert_same(asynchronous, toy_file.parent / run.folder)


@pytest.mark.parametrize(
    ("stop_after", "first", "then"),
    [(7, "reversed", "quick"), (12, "quick", "lost"), (16, "lost", "reversed")],
)
def test_a_resumed_run_uses_pending_scores_as_one_unstopped(
    stop_after: int, first: str, then: str, toy_file: Path, asynchronous: Path
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    folder = f"late-stopped-{stop_after}"
    go(toy_file, Run(folder, overrides=EVERY, scorer=first, stop_after=stop_after))
    go(toy_file, Run(folder, overrides=EVERY, scorer=then))
    assert_same(asynchronous, toy_file.parent / folder)


def test_two_workers_use_scores_at_the_same_updates(asynchronous: Path, gloo: GlooRuns) -> None:
    assert_near(asynchronous, gloo / "two-async")
    mine, theirs = (
        [(record["update"], record["known_at"]) for record in validations_of(run)]
        for run in (asynchronous, gloo / "two-async")
    )
    assert mine == theirs


def test_early_stopping_acts_two_validations_later(toy_file: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    for kind in ("quick", "reversed"):
        run = Run(f"late-early-{kind}", overrides=STILL, scorer=kind)
        reason, state = go(toy_file, run)
        assert (reason, state.update) == ("stopped early", 8)
        assert (state.best_update, state.validations_without_gain) == (2, 1)
        found = best_checkpoint(toy_file.parent / run.folder)
        assert found is not None
        assert found.name == "update-00000002"
        reason, state = go(toy_file, run)
        assert (reason, state.update) == ("stopped early", 8)


def test_more_updates_use_each_score_once(toy_file: Path, asynchronous: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    longer, run = [*EVERY, "training.updates=30"], toy_file.parent / "late-longer"
    shutil.copytree(asynchronous, run)
    go(toy_file, Run(run.name, overrides=longer, scorer="quick"))
    go(toy_file, Run("late-thirty", overrides=longer, scorer="reversed"))
    ours, theirs = (
        [(record["update"], record["known_at"]) for record in validations_of(of)]
        for of in (run, toy_file.parent / "late-thirty")
    )
    assert ours == theirs == [(5, 15), (10, 20), (15, 25), (20, 30), (25, 31), (30, 31)]


def test_pending_scores_come_first_after_a_change_to_shared(toy_file: Path, shared: Path) -> None:
    run = Run("late-then-shared", overrides=EVERY, scorer="reversed", stop_after=9)
    go(toy_file, run)
    go(toy_file, Run(run.folder, overrides=EVERY))
    ours = validations_of(toy_file.parent / run.folder)
    assert [record.pop("known_at", None) for record in ours] == [10, None, None, None]
    assert ours == validations_of(shared)
    assert counters_of(toy_file.parent / run.folder) == counters_of(shared)


def test_a_corrupt_checkpoint_has_no_score(toy_file: Path) -> None:
    run = Run("late-damaged", overrides=EVERY, scorer="reversed", stop_after=9)
    go(toy_file, run)
    folder = toy_file.parent / run.folder
    (folder / "checkpoints/update-00000005/weights.safetensors").write_bytes(b"damaged")
    go(toy_file, Run(run.folder, overrides=EVERY, scorer="lost"))
    assert [record["update"] for record in validations_of(folder)] == [10, 15, 20]
    assert "update 5 | no dev BLEU: " in (folder / "train.log").read_text()


def test_a_checkpoint_has_the_longest_source_of_training(shared: Path, toy: Experiment) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    longest = max(corpus_of(toy).shards.src_lengths) + 1
    for checkpoint in list_checkpoints(shared):
        assert load_checkpoint(checkpoint).experiment.decoding.max_source_length == longest
    # Without that value, as in older checkpoints, the limit is batching.max_length.
    subword = corpus_of(toy).subword
    assert Preprocessor(subword, toy).max_tokens == toy.batching.max_length
    changed = toy.model_copy(
        update={"decoding": toy.decoding.model_copy(update={"max_source_length": 7})}
    )
    assert Preprocessor(subword, changed).max_tokens == 7


def test_sources_longer_than_the_limit_do_not_count(toy: Experiment) -> None:
    shards = corpus_of(toy).shards
    longer = [max(pair) for pair in zip(shards.src_lengths, shards.tgt_lengths, strict=True)]
    limit = int(sorted(longer)[len(longer) // 2]) + 1
    batching = toy.batching.model_copy(update={"max_length": limit})
    found = set_source_limit(toy.model_copy(update={"batching": batching}), shards)
    kept = [src for src, both in zip(shards.src_lengths, longer, strict=True) if both + 1 <= limit]
    assert found.decoding.max_source_length == max(kept) + 1


def test_validation_searches_with_its_own_beam(
    toy: Experiment, toy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    beams: list[int] = []

    def spy(engine: Any, subword: Any, experiment: Experiment) -> Translator:
        beams.append(experiment.decoding.beam)
        return Translator(engine, subword, experiment)

    monkeypatch.setattr("nmt.training.validation.Translator", spy)
    validate_untrained(toy_file, World())
    assert beams == [toy.decoding.validation_beam] != [toy.decoding.beam]


def test_the_dev_loss_is_that_of_normalised_text(toy: Experiment) -> None:
    corpus = corpus_of(toy)
    torch.manual_seed(1)
    model = seq2seq.Seq2Seq(toy.model, corpus.subword.num_pieces).eval()
    plain, odd = (
        validate(model, corpus.subword, toy, ([f"a{space}dog"], [f"ein{space}Hund"]), World())
        for space in (" ", "\u00a0 ")
    )
    assert odd.nll == plain.nll
