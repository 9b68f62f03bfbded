import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.batching.batch import make_batch
from nmt.checkpoint.format import CheckpointState
from nmt.config.experiment import Experiment
from nmt.errors import CheckpointError
from nmt.training.distributed import World
from nmt.training.learner import Learner

VOCAB = 12
BATCHES = [
    make_batch([([5, 6, 7], [8, 4]), ([9], [10, 11])]),
    make_batch([([3, 4], [5])]),
]
NUM_TOKENS = sum(len(batch.tgt_out) for batch in BATCHES)


def make(toy: Experiment, **training: Any) -> Learner:
    """Without dropout."""
    none = {"dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0, "word_dropout": 0.0}
    changes = {
        "model": toy.model.model_copy(update=none),
        "training": toy.training.model_copy(update=training),
    }
    return Learner(toy.model_copy(update=changes), VOCAB, World())


def gradients(learner: Learner) -> list[Tensor]:
    found = [parameter.grad for parameter in learner.model.parameters()]
    return [gradient.clone() for gradient in found if gradient is not None]


def assert_same(one: CheckpointState, other: CheckpointState) -> None:
    assert one.average is not None
    assert other.average is not None
    for ours, theirs in [
        (one.weights, other.weights),
        (one.average, other.average),
        (one.optimizer, other.optimizer),
    ]:
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def learn(learner: Learner, number: int) -> float:
    for batch in BATCHES:
        learner.backward(batch, NUM_TOKENS, is_my_last=batch is BATCHES[-1])
    return learner.step(number)


def test_micro_batches_add_up_to_the_gradient_of_the_mean_token(toy: Experiment) -> None:
    """P3: however an update is parted, each token counts the same."""
    learner = make(toy, label_smoothing=0.0)
    for batch in BATCHES:
        learner.backward(batch, NUM_TOKENS, is_my_last=True)
    found = gradients(learner)
    whole = make(toy, label_smoothing=0.0)
    losses = []
    for batch in BATCHES:
        logits = whole.model(*batch[:4]) @ whole.model.output_weight.T
        losses.append(torch.nn.functional.cross_entropy(logits, batch.tgt_out, reduction="none"))
    torch.cat(losses).mean().backward()
    for one, other in zip(found, gradients(whole), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_batch_without_pairs_changes_no_gradient(toy: Experiment) -> None:
    """P3."""
    learner = make(toy)
    learner.backward(BATCHES[0], NUM_TOKENS, is_my_last=False)
    before = gradients(learner)
    loss = learner.backward(make_batch([]), NUM_TOKENS, is_my_last=True)
    assert (loss.smoothed.item(), loss.nll.item()) == (0, 0)
    assert len(before) == len(list(learner.model.parameters()))
    for one, other in zip(before, gradients(learner), strict=True):
        assert torch.equal(one, other)


def test_every_parameter_has_a_gradient_though_there_are_no_pairs(toy: Experiment) -> None:
    """P3: all workers wait for all gradients."""
    learner = make(toy)
    learner.backward(make_batch([]), NUM_TOKENS, is_my_last=True)
    assert all(not parameter.grad.any() for parameter in learner.model.parameters())


def test_learning_lowers_the_loss(toy: Experiment) -> None:
    learner = make(toy, learning_rate=0.01, warmup_updates=0)
    first = learner.backward(BATCHES[0], NUM_TOKENS, is_my_last=True).smoothed.item()
    for number in range(20):
        learn(learner, number)
    assert learner.backward(BATCHES[0], NUM_TOKENS, is_my_last=True).smoothed.item() < first - 1


def test_the_norm_is_that_before_clipping(toy: Experiment) -> None:
    assert learn(make(toy, clip_norm=1e-3), 0) == learn(make(toy, clip_norm=0.0), 0) > 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_cheaper_numbers_learn_with_fp32_weights(toy: Experiment, precision: str) -> None:
    learner = make(toy, precision=precision)
    assert learn(learner, 0) == pytest.approx(learn(make(toy), 0), rel=0.05)
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}


def test_gradients_too_small_for_fp16_survive_with_a_scale(toy: Experiment) -> None:
    """Micikevicius et al. 2018, section 3.2."""
    num_tokens = 100_000_000  # of a huge update, of which this is one micro-batch
    norms = {}
    for precision, scale in (("fp32", 1.0), ("fp16", 1.0), ("fp16", 2.0**16)):
        learner = make(toy, precision=precision, clip_norm=0.0)
        learner.begin(0, 0, scale)
        learner.backward(BATCHES[0], num_tokens, is_my_last=True)
        of_encoder = [p.grad for p in learner.model.encoder.parameters() if p.grad is not None]
        norms[precision, scale] = float(torch.cat([g.flatten() for g in of_encoder]).norm() / scale)
    assert norms["fp16", 2.0**16] == pytest.approx(norms["fp32", 1.0], rel=0.02)
    assert abs(norms["fp16", 1.0] / norms["fp32", 1.0] - 1) > 0.5


def test_a_scale_changes_nothing_that_is_learnt(toy: Experiment) -> None:
    plain, scaled = make(toy), make(toy)
    scaled.begin(0, 0, 2.0**16)
    plain.begin(0, 0)
    assert learn(plain, 0) == learn(scaled, 0)
    assert_same(plain.state(1, {}), scaled.state(1, {}))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_an_update_without_a_finite_gradient_changes_nothing(
    toy: Experiment, poison: float
) -> None:
    learner = make(toy)
    learn(learner, 0)
    before = copy.deepcopy(learner.state(1, {}))
    learner.model.output_weight.grad = torch.full_like(learner.model.output_weight, poison)
    assert not math.isfinite(learn(learner, 1))
    assert_same(learner.state(1, {}), before)


def test_the_average_is_the_best_guess(toy: Experiment) -> None:
    learner = make(toy)
    learn(learner, 0)
    assert learner.best_guess is not learner.model
    assert not learner.best_guess.training
    assert not any(parameter.requires_grad for parameter in learner.best_guess.parameters())


def test_without_an_average_the_weights_are_the_best_guess(toy: Experiment) -> None:
    learner = make(toy, ema_decay=0.0)
    learn(learner, 0)
    assert learner.best_guess is learner.model
    assert not learner.best_guess.training
    assert learner.state(1, {}).average is None


def test_tied_weights_stay_tied_in_the_average(toy: Experiment) -> None:
    learner = make(toy)
    learn(learner, 0)
    assert learner.best_guess.output_weight is learner.best_guess.src_embedding.weight


def test_a_state_that_is_loaded_goes_on_bit_for_bit(toy: Experiment) -> None:
    """P4."""
    learner = make(toy)
    learn(learner, 0)
    twin = make(toy)
    twin.load(learner.state(1, {}), Path("somewhere"))
    assert learn(learner, 1) == learn(twin, 1)
    assert_same(learner.state(2, {}), twin.state(2, {}))


def test_weights_of_another_model_are_refused(toy: Experiment) -> None:
    """P5."""
    learner = make(toy)
    state = learner.state(1, {})
    del state.weights["encoder.norm.bias"]
    with pytest.raises(
        CheckpointError, match=r"somewhere has no encoder\.norm\.bias; config\.yaml or"
    ):
        make(toy).load(state, Path("somewhere"))


def test_r_drop_without_dropout_learns_what_one_pass_learns(toy: Experiment) -> None:
    """Both passes of each pair are the same then."""
    plain, twice = make(toy), make(toy, rdrop=2.0)
    for learner in (plain, twice):
        for batch in BATCHES:
            learner.backward(batch, NUM_TOKENS, is_my_last=True)
    for one, other in zip(gradients(plain), gradients(twice), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_r_drop_pulls_two_passes_with_dropout_together(toy: Experiment) -> None:
    learner = Learner(toy, VOCAB, World())
    losses = []
    for alpha in (1e-9, 5.0):
        learner.settings = toy.training.model_copy(update={"rdrop": alpha})
        torch.manual_seed(1)
        losses.append(learner.backward(BATCHES[0], NUM_TOKENS, is_my_last=True))
    near, far = losses
    assert far.smoothed > near.smoothed
    assert far.nll == near.nll
