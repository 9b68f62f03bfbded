"""The systems that `nmt evaluate` scores: models, each with a name and a place for its results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.cli.models import load_bundle, load_others
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.checkpoint.load import Checkpoint


@dataclass(frozen=True, eq=False)
class System:
    """One model that is evaluated, or several as one."""

    name: str
    bundle: "Checkpoint"
    folder: Path
    """For its translations and scores."""
    others: "Sequence[Checkpoint]" = ()
    """What it is an ensemble with."""

    @property
    def checkpoint(self) -> str:
        """Which weights translated."""
        return "+".join(bundle.path.name for bundle in (self.bundle, *self.others))


def load_systems(
    runs: Sequence[str], ensemble: Sequence[str], baseline: str | None, output: str | None
) -> list[System]:
    """All systems, the baseline first, each with a name and a folder of its own.

    Args:
        ensemble: runs whose models are averaged with that of the only one of `runs`.
        output: a folder for all results; None: each system's are in its run.

    Raises:
        ConfigError: it is not clear what is meant, or what is to be compared cannot be.
    """
    from nmt.evaluation import results

    if ensemble and len(runs) > 1:
        rule = f"{len(runs)} RUNs are given: name the one that it is averaged with"
        raise ConfigError("--ensemble", ensemble[0], rule)
    models = [[load_bundle(run)] for run in ([baseline] if baseline else []) + list(runs)]
    models[-1] += load_others(models[-1][0], ensemble)
    paths = [[bundle.path.resolve() for bundle in model] for model in models]
    models = [model for number, model in enumerate(models) if paths.index(paths[number]) == number]
    if baseline and len(models) == 1:
        raise ConfigError("--baseline", baseline, "it is all there is: name another run")
    systems: list[System] = []
    for name, (bundle, *others) in zip(_names_of(models), models, strict=True):
        folder = results.folder_of(bundle.path)
        if others:
            folder /= "ensemble"
        if output:
            folder = Path(output) / name.replace("/", "_") if len(models) > 1 else Path(output)
        if folder in [other.folder for other in systems]:
            raise ConfigError.from_message(
                f"{folder} is the place for the results of two of these systems, and one would "
                "replace the other: name a folder with --output"
            )
        systems.append(System(name, bundle, folder, others))
    _check_languages(systems)
    return systems


def _names_of(models: Sequence[Sequence["Checkpoint"]]) -> list[str]:
    """A name for each system, as short as tells them apart."""
    names: list[str] = []
    for name_of in (
        lambda bundle: bundle.experiment.name,
        lambda bundle: f"{bundle.experiment.name}@{bundle.path.name}",
        lambda bundle: str(bundle.path),
    ):
        names = ["+".join(map(name_of, model)) for model in models]
        if len(set(names)) == len(names):
            break
    return names


def _check_languages(systems: Sequence[System]) -> None:
    """Raise ConfigError where systems do not translate from one language to one other."""
    first, *others = (system.bundle.experiment.corpus for system in systems)
    for other, system in zip(others, systems[1:], strict=True):
        if (other.src, other.tgt) != (first.src, first.tgt):
            raise ConfigError.from_message(
                f"{system.name} translates {other.src}-{other.tgt}, but {systems[0].name} "
                f"{first.src}-{first.tgt}; only systems of one language pair can be compared"
            )
