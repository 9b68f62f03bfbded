"""AdamW, learning-rate schedules, and the moving average of the weights."""

import logging
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from nmt.config.experiment import TrainingConfig
from nmt.errors import ConfigError

log = logging.getLogger(__name__)

IMPORTANCE = "importance"
"""Key of the optimizer state with the second moments that training started with."""
_TINY = 1e-30
"""Mean squared gradient below which a weight counts as not used."""


def freeze_parameters(model: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude parameters from training by patterns of their names, such as `encoder.*`.

    Tied parameters are frozen by any of their names.

    Raises:
        ConfigError: a pattern matches no parameter, or all are frozen.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        matched = [parameter for name, parameter in named if fnmatchcase(name, pattern)]
        if not matched:
            parts = ", ".join(dict.fromkeys(f"{name.partition('.')[0]}.*" for name, _ in named))
            rule = f"it matches no parameter; the parts of the model are {parts}"
            raise ConfigError("training.freeze", pattern, rule)
        for parameter in matched:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        rule = "it freezes all parameters: leave some to train"
        raise ConfigError("training.freeze", ", ".join(patterns), rule)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return a fused AdamW (Loshchilov & Hutter 2019); weight decay of matrices only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True
    )


def learning_rate(update: int, config: TrainingConfig, halvings: int = 0) -> float:
    """Return the learning rate of an update: linear warm-up, then the schedule, above the floor.

    Args:
        update: counted from 0.
        halvings: halvings so far, of schedule plateau only.
    """
    peak, warmup = config.learning_rate, config.warmup_updates
    floor = peak * config.learning_rate_floor
    done = update + 1
    if done <= warmup:
        return peak * done / warmup
    match config.schedule:
        case "cosine":
            progress = (done - warmup) / max(1, config.updates - warmup)
            return floor + (peak - floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        case "inverse_sqrt":
            return max(floor, peak * math.sqrt(max(1, warmup) / done))
        case "plateau":
            return max(floor, math.ldexp(peak, -halvings))


def average_decay(update: int, config: TrainingConfig) -> float:
    """Return the decay of the moving average in an update.

    It grows from 0.1 to `ema_decay` (TensorFlow's rule), so that random initial weights have little
    influence. With `init_share` it is constant: the average ends between the initial and the
    trained weights (interpolation of fine-tuned models, Wortsman et al. 2022). With the optimizer
    state of the earlier run it differs by weight: `move_average_by_importance`.

    Args:
        update: counted from 0.
    """
    if config.init_share:
        return math.pow(config.init_share, 1 / config.updates)
    return min(config.ema_decay, (1 + update) / (10 + update))


def update_average(
    average: nn.Module, model: nn.Module, optimizer: torch.optim.Optimizer, update: int,
    config: TrainingConfig,
) -> None:  # fmt: skip
    """Update the moving average of the weights after update `update`, counted from 0."""
    if config.init_share and has_importance(optimizer):
        move_average_by_importance(average, model, optimizer, config)
    else:
        move_average(average, model, average_decay(update, config))


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move an exponential average towards the weights; `decay` of it is left."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def keep_importance(optimizer: torch.optim.Optimizer) -> None:
    """Keep the second moments that training starts with, for `move_average_by_importance`."""
    for state in optimizer.state.values():
        state[IMPORTANCE] = state["exp_avg_sq"].clone()


def has_importance(optimizer: torch.optim.Optimizer) -> bool:
    """Return True if `keep_importance` was called, in this run or before its checkpoint."""
    return any(IMPORTANCE in state for state in optimizer.state.values())


@torch.no_grad()
def move_average_by_importance(
    average: nn.Module, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig
) -> None:
    """Move an average towards the weights that ends between the initial and the trained ones.

    Fisher merging (Matena & Raffel 2022, arXiv 2111.09832): with the mean squared gradients F of
    the earlier run and G of this one, a weight keeps the share a F / (a F + G) of its initial
    value, where a = init_share / (1 - init_share): init_share where F = G. So weights that matter
    to the old text stay, and those that matter to the new text only change.
    """
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    # Frozen parameters are equal in both.
    trained = [
        (kept, each, optimizer.state[each]) for kept, each in pairs if each in optimizer.state
    ]
    averages: list[Tensor] = [kept for kept, _, _ in trained]
    weights: list[Tensor] = [each for _, each, _ in trained]
    before = torch._foreach_add([state[IMPORTANCE] for _, _, state in trained], _TINY)
    # The share is 1 / (1 + G / (a F)); its log is spread over the updates.
    changes = list(torch._foreach_add([state["exp_avg_sq"] for _, _, state in trained], _TINY))
    torch._foreach_div_(changes, before)
    torch._foreach_mul_(changes, (1 - config.init_share) / config.init_share)
    torch._foreach_log1p_(changes)
    torch._foreach_mul_(changes, -1 / config.updates)
    torch._foreach_expm1_(changes)
    torch._foreach_neg_(changes)
    torch._foreach_lerp_(averages, weights, changes)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the state of AdamW as `moment1/<name>`, `moment2/<name>` and `step/<name>`.

    With `keep_importance` also as `importance/<name>`.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        if state:
            tensors[f"moment1/{name}"] = state["exp_avg"]
            tensors[f"moment2/{name}"] = state["exp_avg_sq"]
            tensors[f"step/{name}"] = state["step"]
        if IMPORTANCE in state:
            tensors[f"{IMPORTANCE}/{name}"] = state[IMPORTANCE]
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Restore the state that `optimizer_tensors` returned, bit for bit.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape or dtype than its parameter.
    """
    parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
    if tensors.keys() == {"step", *(f"{name}.exp_avg" for name in parameters)}:
        # Format 1 has first moments only: AdamW cannot use them without the second ones.
        log.warning("the checkpoint has no second moments: the optimizer starts without a state")
        tensors = {}
    shapes = {}
    for name, parameter in parameters.items():
        # The fused kernel has its step in fp32; before the first update there is no state.
        shapes[f"step/{name}"] = (torch.Size(), torch.float32)
        kinds = ["moment1", "moment2"]
        # Only runs with training.init_share have it.
        kinds += [IMPORTANCE] * (f"{IMPORTANCE}/{name}" in tensors)
        for moment in kinds:
            shapes[f"{moment}/{name}"] = (parameter.shape, parameter.dtype)
    if tensors and (different := sorted(shapes.keys() ^ tensors.keys())):
        raise ValueError(f"{different[0]} is missing or not of this model")
    for key, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != shapes[key]:
            raise ValueError(f"{key} has shape {list(tensor.shape)} or a dtype of another model")
        if not key.startswith("moment1/") and (tensor < 0).any():
            raise ValueError(f"{key} is negative")
    for name, parameter in parameters.items() if tensors else ():
        optimizer.state[parameter] = {
            # The fused kernel needs it on the device of the parameter.
            "step": tensors[f"step/{name}"].to(parameter.device, copy=True),
            "exp_avg": tensors[f"moment1/{name}"].to(parameter.device, copy=True),
            "exp_avg_sq": tensors[f"moment2/{name}"].to(parameter.device, copy=True),
        }
        if (importance := tensors.get(f"{IMPORTANCE}/{name}")) is not None:
            optimizer.state[parameter][IMPORTANCE] = importance.to(parameter.device, copy=True)
