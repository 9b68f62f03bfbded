"""One update (`make_update`): its gradient, its step, and the state after it."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.batching.batch import Batch, make_batch
from nmt.batching.loader import MicroBatch
from nmt.batching.schedule import Update
from nmt.checkpoint.format import CheckpointState
from nmt.config.experiment import Experiment
from nmt.errors import CheckpointError
from nmt.training.distributed import World
from nmt.training.loop import make_update
from nmt.training.loss import LossSums, compute_loss
from nmt.training.meter import UpdateStats
from nmt.training.state import Learner, LossScale, TrainState

VOCAB = 12
BATCHES = [
    make_batch([([5, 6, 7], [8, 4]), ([9], [10, 11])]),
    make_batch([([3, 4], [5])]),
]
NUM_TOKENS = sum(len(batch.tgt_out) for batch in BATCHES)


def make_learner(toy: Experiment, **training: Any) -> Learner:
    """Return a learner without dropout."""
    none = {"dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0, "word_dropout": 0.0}
    changes = {
        "model": toy.model.model_copy(update=none),
        "training": toy.training.model_copy(update=training),
    }
    return Learner(toy.model_copy(update=changes), VOCAB, World())


def step(
    learner: Learner,
    number: int = 0,
    batches: list[Batch] = BATCHES,
    split: int = 1,
    num_tokens: int = NUM_TOKENS,
) -> UpdateStats:
    parts = [MicroBatch(n, batch, np.arange(len(batch.src))) for n, batch in enumerate(batches)]
    update = Update(number, 0, tuple(part.rows for part in parts), num_tokens)
    return make_update(learner, TrainState(split=split), update, parts, num_tokens)


def add_gradient(learner: Learner, batch: Batch) -> LossSums:
    loss = compute_loss(learner.model, learner.model, batch, learner.settings, learner.dtype)
    (loss.smoothed / NUM_TOKENS).backward()  # type: ignore[no-untyped-call]
    return loss


def gradients(learner: Learner) -> list[Tensor]:
    found = [parameter.grad for parameter in learner.model.parameters()]
    return [gradient.clone() for gradient in found if gradient is not None]


def assert_equal_states(one: CheckpointState, other: CheckpointState) -> None:
    assert one.average is not None
    assert other.average is not None
    for ours, theirs in [
        (one.weights, other.weights),
        (one.average, other.average),
        (one.optimizer, other.optimizer),
    ]:
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# Gradient.


def test_each_token_has_the_same_weight_in_the_gradient(toy: Experiment) -> None:
    """World-size independence (nmt/README.md, Guarantees): however an update is divided."""
    learner = make_learner(toy, label_smoothing=0.0)
    for batch in BATCHES:
        add_gradient(learner, batch)
    found = gradients(learner)
    whole = make_learner(toy, label_smoothing=0.0)
    losses = []
    for batch in BATCHES:
        logits = whole.model(*batch[:4]) @ whole.model.output_weight.T
        losses.append(torch.nn.functional.cross_entropy(logits, batch.tgt_out, reduction="none"))
    torch.cat(losses).mean().backward()
    for one, other in zip(found, gradients(whole), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_split_update_has_the_same_gradient(toy: Experiment) -> None:
    whole, split = make_learner(toy), make_learner(toy)
    ours, theirs = step(split, split=2), step(whole)
    assert ours.gnorm == pytest.approx(theirs.gnorm, rel=1e-5)
    assert (len(ours.losses), len(theirs.losses)) == (3, 2)
    assert ours[3:6] == theirs[3:6]
    for one, other in zip(split.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_batch_without_pairs_changes_no_gradient(toy: Experiment) -> None:
    learner = make_learner(toy)
    add_gradient(learner, BATCHES[0])
    before = gradients(learner)
    loss = add_gradient(learner, make_batch([]))
    assert (loss.smoothed.item(), loss.nll.item()) == (0, 0)
    assert len(before) == len(list(learner.model.parameters()))
    for one, other in zip(before, gradients(learner), strict=True):
        assert torch.equal(one, other)


def test_without_pairs_every_parameter_has_a_gradient(toy: Experiment) -> None:
    """All ranks wait for the gradients of all parameters."""
    learner = make_learner(toy)
    add_gradient(learner, make_batch([]))
    assert all(not parameter.grad.any() for parameter in learner.model.parameters())


def test_r_drop_without_dropout_has_the_plain_gradient(toy: Experiment) -> None:
    plain, twice = make_learner(toy), make_learner(toy, rdrop=2.0)
    for learner in (plain, twice):
        for batch in BATCHES:
            add_gradient(learner, batch)
    for one, other in zip(gradients(plain), gradients(twice), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_r_drop_adds_the_distance_of_two_passes(toy: Experiment) -> None:
    learner = Learner(toy, VOCAB, World())
    losses = []
    for alpha in (1e-9, 5.0):
        learner.settings = toy.training.model_copy(update={"rdrop": alpha})
        torch.manual_seed(1)
        losses.append(add_gradient(learner, BATCHES[0]))
    near, far = losses
    assert far.smoothed > near.smoothed
    assert far.nll == near.nll


def test_cutoff_adds_the_distance_of_the_erased_input(toy: Experiment) -> None:
    learner = make_learner(toy)
    losses = []
    # Without dropout the passes differ in the erased embeddings only.
    for share, weight in ((0.0, 0.0), (0.5, 0.0), (0.5, 5.0)):
        learner.settings = toy.training.model_copy(
            update={"cutoff": share, "cutoff_weight": weight}
        )
        torch.manual_seed(1)
        losses.append(add_gradient(learner, BATCHES[0]))
    plain, erased, consistent = losses
    assert erased.nll != plain.nll
    assert consistent.nll == erased.nll
    assert consistent.smoothed > erased.smoothed


def test_the_risk_has_a_gradient_and_the_loss_its_value(toy: Experiment) -> None:
    learner = make_learner(toy, risk=0.0)
    plain = add_gradient(learner, BATCHES[0])
    learner.settings = toy.training.model_copy(update={"risk": 3.0, "risk_samples": 4})
    without = gradients(learner)
    learner.model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    found = add_gradient(learner, BATCHES[0])
    num_tokens = len(BATCHES[0].tgt_out)
    assert found.risk is not None
    assert 0 < float(found.risk) <= num_tokens
    assert float(found.nll) == pytest.approx(float(plain.nll), rel=1e-5)
    expected = plain.smoothed.item() + 3 * found.risk.item()
    assert found.smoothed.item() == pytest.approx(expected, rel=1e-5)
    both = list(zip(gradients(learner), without, strict=True))
    assert any(not torch.allclose(one, other) for one, other in both)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_all_parameters_have_gradients_of_the_risk(toy: Experiment, precision: str) -> None:
    """Autocast must not reuse weights that were cast while samples were drawn."""
    learner = make_learner(toy, risk=1.0, risk_samples=4, precision=precision)
    torch.manual_seed(1)
    add_gradient(learner, BATCHES[0])
    for name, parameter in learner.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_minimum_risk_raises_the_bleu_of_samples(toy: Experiment) -> None:
    learner = make_learner(toy, learning_rate=0.01, warmup_updates=0, schedule="inverse_sqrt")
    for number in range(30):
        step(learner, number)
    # The cross entropy hardly counts.
    learner.settings = learner.settings.model_copy(update={"risk": 1000.0})
    risks = []
    for number in range(30, 110):
        losses = step(learner, number).losses
        risks.append(sum(float(each.risk) for each in losses if each.risk is not None))
    assert sum(risks[-10:]) < 0.85 * sum(risks[:10])


# Optimizer step.


def test_updates_lower_the_loss(toy: Experiment) -> None:
    learner = make_learner(toy, learning_rate=0.01, warmup_updates=0)
    losses = [float(step(learner, number).losses[0].smoothed) for number in range(20)]
    assert losses[-1] < losses[0] - 1


def test_gnorm_is_the_norm_before_clipping(toy: Experiment) -> None:
    clipped, free = (step(make_learner(toy, clip_norm=limit)) for limit in (1e-3, 0.0))
    assert clipped.gnorm == free.gnorm > 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_fp32_weights(toy: Experiment, precision: str) -> None:
    learner = make_learner(toy, precision=precision)
    assert step(learner).gnorm == pytest.approx(step(make_learner(toy)).gnorm, rel=0.05)
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}


def test_the_loss_scale_keeps_small_fp16_gradients(toy: Experiment) -> None:
    """Micikevicius et al. 2018, section 3.2."""
    norms = {}
    for precision, scale in (("fp32", 1.0), ("fp16", 1.0), ("fp16", 2.0**16)):
        learner = make_learner(toy, precision=precision, clip_norm=0.0)
        learner.set_loss_scale(LossScale(scale))
        # One micro-batch of a huge update.
        norms[precision, scale] = step(learner, batches=BATCHES[:1], num_tokens=100_000_000).gnorm
    assert norms["fp16", 2.0**16] == pytest.approx(norms["fp32", 1.0], rel=0.02)
    assert norms["fp16", 1.0] != pytest.approx(norms["fp32", 1.0], rel=0.02)


def test_the_loss_scale_does_not_change_an_update(toy: Experiment) -> None:
    learners = []
    for scale in (2.0**8, 2.0**10):
        learner = make_learner(toy, precision="fp16")
        # The model in fp32: nothing is rounded, so a power of two changes no bit.
        learner.dtype = torch.float32
        learner.set_loss_scale(LossScale(scale))
        step(learner)
        learners.append(learner)
    assert_equal_states(*(learner.state(1, {}) for learner in learners))
    assert learners[0].loss_scale == LossScale(2.0**8, 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gradient_that_is_not_finite_changes_nothing(
    toy: Experiment, value: float, precision: str
) -> None:
    learner = make_learner(toy, precision=precision)
    step(learner, 0)
    before = copy.deepcopy(learner.state(1, {}))
    learner.model.output_weight.grad = torch.full_like(learner.model.output_weight, value)
    stats = step(learner, 1)
    assert stats.is_skipped
    assert not math.isfinite(stats.gnorm)
    assert_equal_states(learner.state(1, {}), before)
    assert all(parameter.grad is None for parameter in learner.model.parameters())


# Learner.


def test_the_average_is_the_model_of_validation(toy: Experiment) -> None:
    learner = make_learner(toy)
    step(learner)
    assert learner.eval_model is learner.average
    assert not learner.eval_model.training
    assert not any(parameter.requires_grad for parameter in learner.eval_model.parameters())
    assert learner.eval_model.output_weight is learner.eval_model.src_embedding.weight


def test_without_average_validation_uses_the_weights(toy: Experiment) -> None:
    learner = make_learner(toy, ema_decay=0.0)
    step(learner)
    assert learner.eval_model is learner.model
    assert not learner.eval_model.training
    assert learner.state(1, {}).average is None


def test_a_loaded_learner_continues_bit_for_bit(toy: Experiment) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    learner = make_learner(toy)
    step(learner)
    twin = make_learner(toy)
    twin.load(learner.state(1, {}), Path("somewhere"))
    assert step(learner, 1).gnorm == step(twin, 1).gnorm
    assert_equal_states(learner.state(2, {}), twin.state(2, {}))


def test_weights_of_another_model_are_refused(toy: Experiment) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    learner = make_learner(toy)
    state = learner.state(1, {})
    del state.weights["encoder.norm.bias"]
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.bias"):
        make_learner(toy).load(state, Path("somewhere"))


@pytest.mark.parametrize(("number", "expected"), [(0, 0.001), (4, 0.005), (39, 0.005)])
def test_an_update_has_the_rate_of_its_schedule(
    number: int, expected: float, toy: Experiment
) -> None:
    learner = make_learner(toy, learning_rate=0.01, warmup_updates=10, schedule="inverse_sqrt")
    step(learner, number)
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    assert rates == pytest.approx([expected] * 2)


def test_gradients_are_clipped_before_the_step(toy: Experiment) -> None:
    learner = make_learner(toy, clip_norm=0.01, betas=(0.8, 0.9))
    assert step(learner).gnorm > 0.1
    moments = [state["exp_avg"] for state in learner.optimizer.state.values()]
    # After one step the first moment is a share of 1 - 0.8 of the gradient.
    assert float(torch.nn.utils.get_total_norm(moments)) == pytest.approx(0.2 * 0.01, rel=1e-3)


def test_the_average_moves_by_the_decay_of_its_update(toy: Experiment) -> None:
    learner = make_learner(toy, ema_decay=0.9, learning_rate=0.1, schedule="inverse_sqrt")
    before = learner.model.output_weight.detach().clone()
    step(learner, 90)
    expected = torch.lerp(before, learner.model.output_weight.detach(), 0.1)
    assert learner.average is not None
    torch.testing.assert_close(learner.average.output_weight, expected)


def test_the_loss_has_the_label_smoothing_of_the_settings(toy: Experiment) -> None:
    learner, batch = make_learner(toy, label_smoothing=0.3), BATCHES[0]
    logits = learner.model(*batch[:4]) @ learner.model.output_weight.T
    expected = torch.nn.functional.cross_entropy(
        logits, batch.tgt_out, reduction="sum", label_smoothing=0.3
    )
    assert add_gradient(learner, batch).smoothed.item() == pytest.approx(expected.item(), rel=1e-5)


def test_dropout_is_on_again_after_a_validation(toy: Experiment) -> None:
    learner = make_learner(toy, ema_decay=0.0)
    assert not learner.eval_model.training
    step(learner)
    assert learner.model.training
