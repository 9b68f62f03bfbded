import copy
import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nmt.config.experiment import TrainingConfig
from nmt.training.optimizer import (
    average_decay,
    has_importance,
    keep_importance,
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    move_average,
    move_average_by_importance,
    optimizer_tensors,
    update_average,
)

COSINE = TrainingConfig(
    updates=110, learning_rate=1.0, warmup_updates=10, learning_rate_floor=0.1, schedule="cosine"
)
INVERSE_SQRT = COSINE.model_copy(update={"updates": 10_000, "schedule": "inverse_sqrt"})


@pytest.mark.parametrize(
    ("config", "update", "expected"),
    [
        (COSINE, 0, 0.1),  # first of ten updates of warm-up
        (COSINE, 4, 0.5),
        (COSINE, 9, 1.0),  # the peak
        (COSINE, 59, 0.55),  # half-way down
        (COSINE, 109, 0.1),  # the floor
        (COSINE, 500, 0.1),
        (INVERSE_SQRT, 0, 0.1),
        (INVERSE_SQRT, 9, 1.0),
        (INVERSE_SQRT, 39, 0.5),  # four times the updates, half the rate
        (INVERSE_SQRT, 999, 0.1),
        (INVERSE_SQRT, 9_999, 0.1),  # the floor
    ],
)
def test_learning_rate(config: TrainingConfig, update: int, expected: float) -> None:
    assert learning_rate(update, config) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "inverse_sqrt"])
def test_without_warm_up_the_rate_starts_at_its_peak(schedule: str) -> None:
    config = COSINE.model_copy(update={"warmup_updates": 0, "schedule": schedule})
    assert learning_rate(0, config) == pytest.approx(1.0, rel=1e-3)


def test_warm_up_may_cover_all_updates() -> None:
    config = COSINE.model_copy(update={"updates": 10})
    assert learning_rate(9, config) == 1.0


@pytest.mark.parametrize("config", [COSINE, INVERSE_SQRT])
def test_the_rate_rises_then_falls(config: TrainingConfig) -> None:
    rates = [learning_rate(update, config) for update in range(110)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)


def model_with_gradients(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    config = TrainingConfig(learning_rate=0.1, weight_decay=0.5)
    make_optimizer(model, config).step()
    assert model.weight.tolist() == [[pytest.approx(0.95)] * 2] * 2
    assert model.bias.tolist() == [1.0, 1.0]


def test_moments_are_restored_bit_for_bit() -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    model = model_with_gradients(1)
    optimizer = make_optimizer(model, TrainingConfig())
    for _ in range(3):
        optimizer.step()
    twin = copy.deepcopy(model)
    other = make_optimizer(twin, TrainingConfig())
    load_optimizer_tensors(other, twin, optimizer_tensors(optimizer, model))
    found = optimizer_tensors(other, twin)
    for name, tensor in optimizer_tensors(optimizer, model).items():
        assert torch.equal(found[name], tensor)
        assert found[name].data_ptr() != tensor.data_ptr()


def test_a_loaded_optimizer_steps_as_the_saved_one() -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    model = model_with_gradients(2)
    optimizer = make_optimizer(model, TrainingConfig())
    optimizer.step()
    twin = copy.deepcopy(model)
    other = make_optimizer(twin, TrainingConfig())
    load_optimizer_tensors(other, twin, optimizer_tensors(optimizer, model))
    for one, its_twin in zip(model.parameters(), twin.parameters(), strict=True):
        its_twin.grad = one.grad
    optimizer.step()
    other.step()
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)


def test_an_optimizer_without_a_step_has_no_state() -> None:
    model = model_with_gradients(3)
    optimizer = make_optimizer(model, TrainingConfig())
    assert optimizer_tensors(optimizer, model) == {}
    load_optimizer_tensors(optimizer, model, {})
    optimizer.step()


def test_first_moments_alone_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    model = model_with_gradients(3)
    optimizer = make_optimizer(model, TrainingConfig())
    tensors = {f"{name}.exp_avg": each.detach() for name, each in model.named_parameters()}
    load_optimizer_tensors(optimizer, model, tensors | {"step": torch.tensor(3.0)})
    assert not optimizer.state
    assert caplog.messages == [
        "the checkpoint has no second moments: the optimizer starts without a state"
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: {"bias.exp_avg": tensors["moment1/bias"]},
         "bias.exp_avg is missing or not of this model"),
        (lambda tensors: tensors | {"more": torch.ones(1)},
         "more is missing or not of this model"),
        (lambda tensors: {key: tensors[key] for key in tensors if key != "step/bias"},
         "step/bias is missing or not of this model"),
        (lambda tensors: tensors | {"moment1/bias": torch.ones(3)},
         "moment1/bias has shape [3] or a dtype of another model"),
        (lambda tensors: tensors | {"step/bias": torch.ones((), dtype=torch.float64)},
         "step/bias has shape [] or a dtype of another model"),
        (lambda tensors: tensors | {"moment2/bias": -torch.ones(2)}, "moment2/bias is negative"),
    ],
)  # fmt: skip
def test_tensors_of_another_optimizer_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], problem: str
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    model = model_with_gradients(5)
    optimizer = make_optimizer(model, TrainingConfig())
    optimizer.step()
    tensors = change(optimizer_tensors(optimizer, model))
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        load_optimizer_tensors(optimizer, model, tensors)


def test_tensors_are_named_after_their_parameters() -> None:
    model = model_with_gradients(4)
    optimizer = make_optimizer(model, TrainingConfig())
    optimizer.step()
    assert sorted(optimizer_tensors(optimizer, model)) == [
        "moment1/bias",
        "moment1/weight",
        "moment2/bias",
        "moment2/weight",
        "step/bias",
        "step/weight",
    ]


@pytest.mark.parametrize(
    ("update", "decay"),
    [(0, 0.1), (10, 11 / 20), (100_000, 0.9)],  # grows to the configured one
)
def test_the_average_forgets_random_weights(update: int, decay: float) -> None:
    assert average_decay(update, TrainingConfig(ema_decay=0.9)) == pytest.approx(decay)


def test_the_average_moves_towards_the_weights() -> None:
    average, model = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.zeros_(average.weight)
    nn.init.ones_(model.weight)
    move_average(average, model, 0.9)
    assert average.weight.item() == pytest.approx(0.1)
    assert model.weight.item() == 1


def test_init_share_is_left_after_the_last_update() -> None:
    config = TrainingConfig(updates=20, warmup_updates=0, init_from="runs/old", init_share=0.25)
    average, model = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.ones_(average.weight)
    nn.init.zeros_(model.weight)
    for update in range(20):
        move_average(average, model, average_decay(update, config))
    assert average.weight.item() == pytest.approx(0.25)


def start_average(
    config: TrainingConfig, size: int
) -> tuple[nn.Linear, nn.Linear, torch.optim.Optimizer]:
    """Return an average of ones, a model of zeros, and its optimizer after a step."""
    model = nn.Linear(size, 1, bias=False)
    optimizer = make_optimizer(model, config)
    model.weight.grad = torch.ones(1, size)
    optimizer.step()
    average = copy.deepcopy(model)
    nn.init.ones_(average.weight)
    nn.init.zeros_(model.weight)
    return average, model, optimizer


def test_weights_that_the_earlier_run_used_keep_more() -> None:
    """Fisher merging (Matena & Raffel 2022): shares a F / (a F + G) of the earlier weights."""
    config = TrainingConfig(
        updates=20, warmup_updates=0, init_from="runs/old", init_optimizer=True, init_share=0.25
    )
    average, model, optimizer = start_average(config, 6)
    moments = optimizer.state[model.weight]["exp_avg_sq"]
    moments.copy_(torch.tensor([[2e-7, 1.0, 0.0, 0.0, 8e-9, 4.0]]))
    keep_importance(optimizer)
    moments.copy_(torch.tensor([[2e-7, 0.0, 1.0, 0.0, 2e-9, 1.0]]))
    for _ in range(config.updates):
        move_average_by_importance(average, model, optimizer, config)
    expected = [0.25, 1.0, 0.0, 0.25, 4 / 7, 4 / 7]
    assert average.weight[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("init_share", "importance", "kept"),
    [(0.5, 3.0, 0.75), (0.5, None, 0.5), (0.0, 3.0, 1 - 0.9)],
)
def test_the_average_is_weighted_if_share_and_importance_are_set(
    init_share: float, importance: float | None, kept: float
) -> None:
    config = TrainingConfig(updates=1, warmup_updates=0, init_from="old", init_share=init_share)
    average, model, optimizer = start_average(config, 1)
    state = optimizer.state[model.weight]
    state["exp_avg_sq"].fill_(1.0)
    if importance is not None:
        keep_importance(optimizer)
        state["importance"].fill_(importance)
    update_average(average, model, optimizer, 0, config)
    assert average.weight.item() == pytest.approx(kept)


def test_frozen_weights_of_an_average_by_importance_stay() -> None:
    model = model_with_gradients(6)
    model.bias.requires_grad_(False)
    config = TrainingConfig(init_from="runs/old", init_optimizer=True, init_share=0.5)
    optimizer = make_optimizer(model, config)
    optimizer.step()
    keep_importance(optimizer)
    average = copy.deepcopy(model)
    nn.init.zeros_(average.weight)
    move_average_by_importance(average, model, optimizer, config)
    assert torch.equal(average.bias, model.bias)
    assert (average.weight != 0).all()


def test_importance_is_restored_bit_for_bit() -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    model = model_with_gradients(1)
    optimizer = make_optimizer(model, TrainingConfig())
    optimizer.step()
    keep_importance(optimizer)
    optimizer.step()
    twin = copy.deepcopy(model)
    other = make_optimizer(twin, TrainingConfig())
    assert not has_importance(other)
    load_optimizer_tensors(other, twin, optimizer_tensors(optimizer, model))
    assert has_importance(other)
    found = optimizer_tensors(other, twin)
    expected = optimizer_tensors(optimizer, model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["importance/weight"], found["moment2/weight"])


def test_the_average_of_constant_weights_equals_them() -> None:
    model = nn.Linear(3, 3)
    average = copy.deepcopy(model)
    for _ in range(5):
        move_average(average, model, 0.999)
    assert torch.equal(average.weight, model.weight)
    assert math.isfinite(average.bias.sum().item())


def test_plateau_halves_and_stays_above_the_floor() -> None:
    config = TrainingConfig(
        learning_rate=1.0, warmup_updates=10, learning_rate_floor=0.1, schedule="plateau"
    )
    rates = [learning_rate(50, config, halvings) for halvings in range(5)]
    assert rates == [1.0, 0.5, 0.25, 0.125, 0.1]
    assert learning_rate(4, config, 3) == 0.5  # warm-up


def test_adam_has_the_settings_of_training() -> None:
    config = TrainingConfig(betas=(0.5, 0.75), epsilon=1e-4)
    for group in make_optimizer(nn.Linear(2, 2), config).param_groups:
        assert (group["betas"], group["eps"]) == ((0.5, 0.75), 1e-4)
