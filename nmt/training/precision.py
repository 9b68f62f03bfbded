"""Which numbers an experiment is trained in where it leaves that open: training.precision auto."""

import torch

from nmt.config.experiment import Experiment
from nmt.model.quantise import bf16_gain
from nmt.training.distributed import World

WORTH = 1.2
"""Times as fast as in fp32 that products must be in bf16: what stands between them stays fp32."""


def resolve_precision(experiment: Experiment, world: World) -> Experiment:
    """The experiment with its precision decided by the first worker; all workers must ask."""
    if experiment.training.precision != "auto":
        return experiment
    is_worth_it = world.all_gather(_is_worth_it(world.device))[0]
    return with_precision(experiment, "bf16" if is_worth_it else "fp32")


def with_precision(experiment: Experiment, precision: str) -> Experiment:
    """The experiment in other numbers."""
    training = experiment.training.model_copy(update={"precision": precision})
    return experiment.model_copy(update={"training": training})


def _is_worth_it(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bf16_gain() >= WORTH
