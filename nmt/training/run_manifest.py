"""manifest.json of a run: settings, code and data of the training, and every start.

One entry per start of the workers: a score can be traced to the code and the data behind it, and
resumes and restarts stay visible. Environment variables and command lines are not stored: they may
hold secrets.
"""

import hashlib
import json
import logging
import platform
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nmt
from nmt.batching.schedule import Schedule
from nmt.config.experiment import Experiment
from nmt.config.settings import Count, NaturalInt, PathText, PositiveInt, parse_record
from nmt.corpus.io import atomic_write
from nmt.corpus.manifest import MANIFEST
from nmt.corpus.shards import Shards
from nmt.errors import DataError

# Not imported at run time: submitting a job needs this module, but not torch.
if TYPE_CHECKING:
    from nmt.training.distributed import World

log = logging.getLogger(__name__)

NAME = "manifest.json"
FORMAT = 1
REVISION = "REVISION"
"""File beside nmt/ with the git revision, in the directory of a submitted job without git."""
SUBMITTED = "NMT_SUBMITTED"
"""Environment variable of a job: time of submission in seconds since 1970."""
PACKAGES = ("nmt", "torch", "ray", "numpy", "pyarrow", "tokenizers", "sacrebleu", "safetensors",
            "pydantic")  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Command that started the workers, and its code."""

    launched: str
    """Time of the command in Unix seconds; equal for all starts of one command."""
    host: str
    revision: str
    """Git revision of the code, with +changes if files differ from it; empty: unknown."""
    code_sha256: str
    """Digest of the names and contents of nmt/**/*.py."""

    @classmethod
    def here(cls) -> "Origin":
        """Return the origin of workers that this process starts now."""
        return cls(f"{time.time():.3f}", platform.node(), revision(), code_sha256())


@dataclass(frozen=True)
class RunStart:
    """One start of the workers of a run."""

    time: str
    """Time in UTC, ISO 8601."""
    reason: str
    """begun (new run), continued (resumed by another command) or restarted (workers replaced)."""
    update: Count
    """Updates done before it."""
    origin: Origin
    workers: Count
    """World size."""
    devices: str
    """cpu or cuda, with the name of the GPU."""
    host: str
    """Host of rank 0."""
    python: str
    platform: str
    packages: dict[str, str]
    """Versions of the packages that results depend on."""


@dataclass(frozen=True)
class WarmStart:
    """Parameters and pieces that a new run took from another one (training.init_from)."""

    checkpoint: PathText
    """Checkpoint that was read; for an address its local copy."""
    weights_sha256: str
    taken: Count
    """Number of parameters (tensors) taken; tied ones count once."""
    new: list[str]
    """Names of parameters that the source lacks; initialised at random."""
    unused: list[str]
    """Names of parameters of the source that the model lacks."""
    kept_pieces: Count
    """Pieces in both vocabularies."""
    new_pieces: Count
    """Pieces that start as the mean of the old pieces that spell them."""
    dropped_pieces: Count
    """Pieces of the source that the vocabulary lacks."""
    optimizer: bool
    """True if the optimizer state was taken."""
    resized: list[str] = field(default_factory=list)
    """Names of taken parameters with another number of feed-forward units."""


@dataclass(frozen=True)
class RunManifest:
    """Content of manifest.json."""

    format: int
    experiment: dict[str, Any]
    """Resolved experiment of the last start."""
    seed: NaturalInt
    prepared: PathText
    """Directory of the prepared corpus at the last start."""
    corpus_sha256: str
    """Digest of the manifest of the prepared corpus, which has the digests of its files."""
    tokenizer_sha256: str
    pairs: Count
    """Pairs of an epoch: all kept pairs up to batching.max_length."""
    left_out: Count
    """Kept pairs longer than batching.max_length."""
    updates_per_epoch: PositiveInt
    starts: list[RunStart]
    warm_start: WarmStart | None = None
    """Origin of the first weights; None: initialised at random."""


@dataclass(frozen=True)
class _Header:
    """Part of manifest.json that every format has."""

    format: int


def add_start(
    run_dir: Path,
    experiment: Experiment,
    shards: Shards,
    schedule: Schedule,
    world: "World",
    update: int,
    origin: Origin,
    warm_start: WarmStart | None = None,
) -> None:
    """Add a start to the manifest of a run; call on rank 0.

    No error stops the run: a corrupt manifest is renamed to manifest.json.damaged, and a full disk
    is logged as a warning.

    Args:
        run_dir: run directory.
        experiment: resolved experiment.
        shards: prepared corpus.
        schedule: schedule of the first stage.
        world: ranks of the run.
        update: updates done before this start.
        origin: command that started the workers.
        warm_start: origin of the weights of a new run.
    """
    path = run_dir / NAME
    before: list[RunStart] = []
    if path.exists():
        try:
            stored = read_run_manifest(run_dir)
            before = stored.starts
            # A resumed run has the first weights of its first start.
            warm_start = stored.warm_start if update else warm_start
        except DataError as error:
            log.warning("started a new manifest: %s", error)
            # Kept for inspection; the history of starts begins again.
            path.replace(path.with_name(f"{NAME}.damaged"))
    manifest = RunManifest(
        format=FORMAT,
        experiment=experiment.model_dump(mode="json"),
        seed=experiment.seed,
        prepared=str(shards.folder.resolve()),
        corpus_sha256=corpus_sha256(shards),
        tokenizer_sha256=shards.manifest.tokenizer_fingerprint,
        pairs=schedule.num_pairs,
        left_out=schedule.num_left_out,
        updates_per_epoch=schedule.updates_per_epoch,
        starts=[*before, _new_start(before, world, update, origin)],
        warm_start=warm_start,
    )
    try:
        with atomic_write(path) as scratch:
            scratch.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    except DataError as error:
        log.warning("start not recorded in the manifest: %s", error)


def _new_start(before: list[RunStart], world: "World", update: int, origin: Origin) -> RunStart:
    # A restart by the same command has the same time of launch as the start before it.
    reason = "continued" if update else "begun"
    if before and before[-1].origin.launched == origin.launched:
        reason = "restarted"
    return RunStart(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        reason=reason,
        update=update,
        origin=origin,
        workers=world.size,
        devices=_device(world),
        host=platform.node(),
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: _version(name) for name in PACKAGES},
    )


def read_run_manifest(run_dir: Path) -> RunManifest:
    """Read the manifest of a run.

    Raises:
        DataError: it is missing, corrupt or of another format.
    """
    path = run_dir / NAME
    try:
        data = path.read_bytes()
        # The format comes first: the fields of another one may differ.
        found = parse_record(_Header, data).format
        if found != FORMAT:
            raise DataError(
                f"{path}: format {found}, but this version reads format {FORMAT}; use the version "
                "of nmt that wrote it"
            )
        return parse_record(RunManifest, data)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; name the directory of a run"
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path}: corrupt, not the manifest of a run: {error}; the next start of the run "
            "replaces it"
        ) from None


def find_prepared(checkpoint: Path, experiment: Experiment) -> Path:
    """Return the prepared corpus of a checkpoint's run, which may not be there."""
    folder = Path(experiment.prepared)
    # Relative to the working directory of the training, which may be another one: the manifest of
    # the run has the absolute path.
    if not (folder / MANIFEST).is_file():
        with suppress(DataError):
            recorded = Path(read_run_manifest(checkpoint.parent.parent).prepared)
            return recorded if (recorded / MANIFEST).is_file() else folder
    return folder


def corpus_sha256(shards: Shards) -> str:
    """Return the digest of the manifest of a prepared corpus, which has those of its files."""
    return hashlib.sha256(shards.manifest.to_json().encode()).hexdigest()


def code_sha256() -> str:
    """Return the digest of the names and contents of nmt/**/*.py on disk."""
    root = Path(nmt.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        # The length separates one file from the next.
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def revision() -> str:
    """Return the git revision, with +changes if nmt/ differs from it.

    Without git it is read from REVISION; empty: unknown.
    """
    root = Path(nmt.__file__).parents[1]
    # First: the working directory of a job has no .git of its own.
    if (root / REVISION).is_file():
        return (root / REVISION).read_text(encoding="utf-8").strip()
    if not (root / ".git").exists():
        return ""
    head = _git(root, "rev-parse", "HEAD")
    return f"{head}+changes" if head and _git(root, "status", "--porcelain", "nmt") else head


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _device(world: "World") -> str:
    if world.device.type != "cuda":
        return world.device.type
    import torch

    return f"cuda, {torch.cuda.get_device_name(world.device)}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
