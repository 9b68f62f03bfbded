"""Distillation from the initial model: loss, micro-batches, runs, settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from toy_runs import Run, corpus_of, go

from nmt.batching.batch import make_batch
from nmt.batching.loader import Loader
from nmt.batching.schedule import Schedule
from nmt.checkpoint.load import load_training_state
from nmt.config.corpus import CorpusConfig
from nmt.config.experiment import BatchingConfig, ModelConfig
from nmt.config.files import load_experiment
from nmt.corpus.prepared import corpus_settings
from nmt.errors import ConfigError
from nmt.model.seq2seq import Seq2Seq
from nmt.training.data import make_noise
from nmt.training.distillation import distillation_loss
from nmt.training.distributed import World
from nmt.training.loss import cross_entropy
from nmt.training.state import TEACHER, Learner
from nmt.training.warm_start import warm_start

VOCAB = 300
BATCH = make_batch([([270, 280, 290], [271, 281]), ([275], [276, 286, 296, 299])])


def model_of(seed: int) -> Seq2Seq:
    torch.manual_seed(seed)
    config = ModelConfig(
        width=16, heads=2, encoder_layers=1, decoder_layers=1, ffn_width=8, dropout=0,
        embedding_dropout=0,
    )  # fmt: skip
    return Seq2Seq(config, VOCAB)


def gradients_of(loss: Tensor, model: Seq2Seq) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=False))


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_loss_is_the_divergence_from_the_teacher(scale: float) -> None:
    model, teacher = model_of(1), model_of(2).eval()
    sums = distillation_loss(model, model, teacher, BATCH, scale, torch.float32)
    inputs = BATCH.src, BATCH.src_lengths, BATCH.tgt_in, BATCH.real
    with torch.no_grad():
        kept = (teacher(*inputs) @ teacher.output_weight.T).log_softmax(dim=1)
    hidden = model(*inputs)
    log_probs = (hidden @ model.output_weight.T).log_softmax(dim=1)
    expected = scale * functional.kl_div(log_probs, kept, reduction="sum", log_target=True)
    assert torch.allclose(sums.smoothed, expected, rtol=1e-4)
    found, wanted = gradients_of(sums.smoothed, model), gradients_of(expected, model)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    plain = cross_entropy(hidden, model.output_weight, BATCH.tgt_out, 0.0, torch.float32)
    assert torch.allclose(sums.nll, plain.nll, rtol=1e-4)
    assert not sums.nll.requires_grad


def test_equal_models_have_no_loss() -> None:
    model, teacher = model_of(1), model_of(1).eval()
    loss = distillation_loss(model, model, teacher, BATCH, 5.0, torch.float32).smoothed
    assert abs(loss.item()) < 1e-4
    assert all(each.abs().max() < 1e-4 for each in gradients_of(loss, model))


class FakeShards:
    """Pair n is ([n, n], [n, n]); odd ones are of the second corpus."""

    corpora = np.arange(30) % 2

    def pairs(self, rows: Any) -> list[tuple[Any, Any]]:
        return [(np.full(2, row), np.full(2, row)) for row in rows]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_pairs_of_each_corpus_are_a_part(num_workers: int) -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    config = BatchingConfig(max_length=4, max_tokens=24, micro_batches=2)
    schedule = Schedule([2] * 30, [2] * 30, config, 1, FakeShards.corpora, [1.0, 1.0])
    seen: dict[tuple[int, int], list[int]] = {}
    for rank in range(num_workers):
        loader = Loader(
            FakeShards(), schedule, range(3), rank=rank, num_workers=num_workers,  # type: ignore[arg-type]
            distillation=[0.0, 2.0],
        )  # fmt: skip
        for update, parts in loader:
            for part in parts:
                assert {2.0 * (row % 2) for row in part.rows.tolist()} == {part.distillation}
                assert len(part.batch.src) == len(part.rows)
                seen.setdefault((update.number, part.index), []).extend(part.rows.tolist())
        loader.close()
    for (number, index), rows in seen.items():
        planned = schedule.update(number).micro_batches[index].tolist()
        assert sorted(rows) == sorted(planned)


def settings_of(source: Path, *more: str) -> list[str]:
    return [f"training.init_from={source}", "corpus.train.0.distillation=2", *more]


def test_teacher_is_the_average_of_the_source(toy_file: Path, one: Path) -> None:
    go(toy_file, Run("distilled", overrides=settings_of(one)))
    first, second = load_training_state(one), load_training_state(toy_file.parent / "distilled")
    assert first.average is not None
    kept = {key: each for key, each in second.optimizer.items() if key.startswith(f"{TEACHER}/")}
    assert kept
    for key, tensor in kept.items():
        assert torch.equal(tensor, first.average[key.removeprefix(f"{TEACHER}/")])
    # A run that starts from this one has a teacher of its own.
    settings = settings_of(toy_file.parent / "distilled", "training.init_optimizer=true")
    experiment = load_experiment(toy_file, settings)
    corpus = corpus_of(experiment)
    learner = Learner(experiment, corpus.subword.num_pieces, World())
    warm_start(learner, corpus.subword, World())
    assert learner.teacher is None
    learner.share_weights(World())
    assert learner.teacher is not None
    assert second.average is not None
    for name, parameter in learner.teacher.named_parameters():
        assert torch.equal(parameter, second.average[name])


def test_dropout_is_off_for_distilled_pairs_only(toy_file: Path, one: Path) -> None:
    experiment = load_experiment(toy_file, settings_of(one, "model.dropout=0.5"))
    corpus = corpus_of(experiment)
    learner = Learner(experiment, corpus.subword.num_pieces, World())
    warm_start(learner, corpus.subword, World())
    learner.share_weights(World())
    learner.set_stage(0)
    learner.model.train()
    batch = make_batch([([270, 280], [271, 281])])
    assert learner.average is not None
    learner.model.load_state_dict(learner.average.state_dict())
    assert abs(learner.distil(batch, 1.0).smoothed.item()) < 1e-3
    assert learner.model.config.dropout == 0.5


def test_distillation_needs_an_initial_model(toy_file: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as error:
        load_experiment(toy_file, ["corpus.train.0.distillation=2"])
    assert str(error.value).endswith(
        "distillation of corpus 'train' is 2, but training.init_from is empty: there is no model "
        "to keep to"
    )


def test_distilled_pairs_are_neither_noisy_nor_reversed(toy_file: Path, one: Path) -> None:
    """The earlier model does not know what to do with them."""
    experiment = load_experiment(toy_file, settings_of(one, "training.robust=true"))
    noise = make_noise(experiment, corpus_of(experiment))
    assert noise is not None
    assert [rates.is_on for rates in noise._rates] == [False]
    assert [text.is_reversible for text in experiment.corpus.train] == [False]
    own = load_experiment(toy_file, settings_of(one, "corpus.train.0.noise={typos: 0.5}"))
    found = make_noise(own, corpus_of(own))
    assert found is not None
    assert found._rates[0].typos == 0.5


@pytest.mark.parametrize("weight", ["true", ".inf", "-1", "1001"])
def test_weights_of_distillation_are_checked(weight: str, toy_file: Path, one: Path) -> None:
    with pytest.raises(ConfigError, match="distillation"):
        load_experiment(toy_file, settings_of(one, f"corpus.train.0.distillation={weight}"))


def test_only_training_corpora_are_distilled() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    text = {"name": "a", "src": "a.en", "tgt": "a.de"}
    dev = {"name": "b", "src": "b.en", "tgt": "b.de", "distillation": 1}
    with pytest.raises(ConfigError) as error:
        CorpusConfig.model_validate({"src": "en", "tgt": "de", "train": [text], "dev": dev})
    assert str(error.value) == (
        "distillation of corpus 'b' is 1, but only training corpora can have it: remove it"
    )


def test_a_prepared_corpus_stays_valid(toy_file: Path, one: Path) -> None:
    plain, distilled = load_experiment(toy_file), load_experiment(toy_file, settings_of(one))
    assert corpus_settings(distilled) == corpus_settings(plain)
