"""Ray's trainer without the processes that a run has no use for.

On two cores a run's start is a matter of how many processes there are to start: each takes 1 to 1.5
s of a core before it does a thing. Like `nmt.jobs.recovery` this knows internals of Ray: where they
are not as they were, a run starts all the same, only later.
"""

import os
from typing import Any

from ray.train.torch import TorchTrainer

_UNUSED = "DatasetsCallback"
"""Hands out Ray Data to the workers: ours read shards of their own."""
_OUTLIVING = "PlacementGroupCleanerCallback"
"""Cleans up behind a dead controller; without a dashboard it only complains, once a second."""


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer that starts what a run needs."""

    def _create_default_callbacks(self) -> list[Any]:
        # A cluster of others outlives this command; one that was started here does not.
        is_ours = not os.environ.get("RAY_ADDRESS")
        needless = {_UNUSED, _OUTLIVING} if is_ours else {_UNUSED}
        made = super()._create_default_callbacks()
        return [each for each in made if type(each).__name__ not in needless]
