"""manifest.json of a run: what was started, with which code, on what, how often.

One entry for each time that workers began: by whom a run was begun, continued or put together again
after a loss is thereby known for good, and a score can be traced to the code and the data that it
came from. Environment variables and command lines stay out: they may hold secrets.
"""

import hashlib
import json
import logging
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nmt
from nmt.batching.schedule import Schedule
from nmt.config.experiment import Experiment
from nmt.corpus.io import atomic_write
from nmt.corpus.shards import Shards
from nmt.errors import DataError

if TYPE_CHECKING:
    from nmt.training.distributed import World

log = logging.getLogger(__name__)

NAME = "manifest.json"
FORMAT = 1
REVISION = "REVISION"
"""File beside nmt/ that names the git revision where there is no git: in the folder of a job."""
SUBMITTED = "NMT_SUBMITTED"
"""Environment variable of a job: when it was submitted, in seconds since 1970."""
PACKAGES = ("nmt", "torch", "ray", "numpy", "pyarrow", "tokenizers", "sacrebleu", "safetensors",
            "pydantic")  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Where the command that started the workers ran, and with which code."""

    launched: str
    """When, as Unix seconds; the same for all starts of one command."""
    host: str
    revision: str
    """Git revision of the code, +changes where files differ from it; empty: not known."""
    code_sha256: str
    """Over the names and the contents of nmt/**/*.py."""

    @classmethod
    def here(cls) -> "Origin":
        """Of this process, now."""
        return cls(f"{time.time():.3f}", platform.node(), revision(), code_sha256())


@dataclass(frozen=True)
class RunStart:
    """One time that workers began."""

    time: str
    """UTC, ISO 8601."""
    reason: str
    """begun, continued (the command was given again) or restarted (workers had to be replaced)."""
    update: int
    """Updates done before it."""
    origin: Origin
    workers: int
    devices: str
    """cpu or cuda, with the name of the GPU."""
    host: str
    """Of the first worker."""
    python: str
    platform: str
    packages: dict[str, str]
    """Versions of those that results depend on."""


@dataclass
class RunManifest:
    """What is known of a run."""

    format: int = FORMAT
    experiment: dict[str, Any] = field(default_factory=dict)
    """The resolved experiment of the last start."""
    seed: int = 0
    """Of everything random."""
    prepared: str = ""
    """Folder of the corpus at the last start."""
    corpus_sha256: str = ""
    """Of the corpus's manifest, which has the digests of all its files."""
    tokenizer_sha256: str = ""
    pairs: int = 0
    """Kept pairs that are short enough: an epoch."""
    left_out: int = 0
    """Kept pairs longer than batching.max_length."""
    updates_per_epoch: int = 0
    starts: list[RunStart] = field(default_factory=list)


def add_start(
    run_dir: Path,
    experiment: Experiment,
    shards: Shards,
    schedule: Schedule,
    world: "World",
    update: int,
    origin: Origin,
) -> None:
    """Add a start to the manifest of a run; the first worker does.

    Training goes on without: a damaged one is set aside as manifest.json.damaged, and a full disk
    gets a warning in the log.
    """
    path = run_dir / NAME
    before: list[RunStart] = []
    if path.exists():
        try:
            before = read_run_manifest(run_dir).starts
        except DataError as error:
            log.warning("a new manifest is begun: %s", error)
            path.replace(path.with_name(f"{NAME}.damaged"))
    reason = "continued" if update else "begun"
    if before and before[-1].origin.launched == origin.launched:
        reason = "restarted"
    start = RunStart(
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
    manifest = RunManifest(
        experiment=experiment.model_dump(mode="json"),
        seed=experiment.seed,
        prepared=str(shards.folder.resolve()),
        corpus_sha256=corpus_sha256(shards),
        tokenizer_sha256=shards.manifest.tokenizer_fingerprint,
        pairs=schedule.num_pairs,
        left_out=schedule.num_left_out,
        updates_per_epoch=schedule.updates_per_epoch,
        starts=[*before, start],
    )
    try:
        with atomic_write(path) as scratch:
            scratch.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    except DataError as error:
        log.warning("this start is not in the manifest: %s", error)


def read_run_manifest(run_dir: Path) -> RunManifest:
    """The manifest of a run; DataError where it is missing or damaged."""
    path = run_dir / NAME
    try:
        tree = json.loads(path.read_bytes())
        found = tree["format"]
        if found != FORMAT:
            raise DataError(f"{path}: format {found}, but this nmt reads format {FORMAT}")
        starts = [
            RunStart(**{**start, "origin": Origin(**start["origin"])})
            for start in tree.pop("starts")
        ]
        return RunManifest(**tree, starts=starts)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; name the folder of a run that this nmt "
            "trained"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{path}: damaged, not the manifest of a run; the next start sets it aside"
        ) from None


def corpus_sha256(shards: Shards) -> str:
    """Digest of a prepared corpus: of its manifest, which has the digests of its files."""
    return hashlib.sha256(shards.manifest.to_json().encode()).hexdigest()


def code_sha256() -> str:
    """Over the names and the contents of nmt/**/*.py, as they are on disk."""
    root = Path(nmt.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def revision() -> str:
    """Git revision of this checkout, +changes where nmt/ differs; else what REVISION says."""
    root = Path(nmt.__file__).parents[1]
    if (root / REVISION).is_file():
        return (root / REVISION).read_text(encoding="utf-8").strip()
    if not (root / ".git").exists():
        return ""
    head = _git(root, "rev-parse", "HEAD")
    return f"{head}+changes" if head and _git(root, "status", "--porcelain", "nmt") else head


def _git(root: Path, *words: str) -> str:
    try:
        told = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


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
