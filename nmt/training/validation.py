"""Validation: the dev set is translated and scored with the averaged weights.

Either all ranks share the work between two updates, or another process scores a checkpoint while
training continues (asynchronous validation).

A pending score is recorded when it arrives, in any order. Decisions from scores, the best
checkpoint and early stopping, are made in the order of the checkpoints and at fixed updates:
`behind` validations later, where training waits for a score that has not arrived. So a resumed run
decides as one that was never stopped, and finds the same best checkpoint as shared validation;
early stopping ends it that many validations later.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from nmt.batching.batch import make_batch
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.format import folder_name
from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.remote import RemoteRun
from nmt.checkpoint.write import write_score
from nmt.config.experiment import Experiment
from nmt.corpus.subword import Subword
from nmt.corpus.text import normalise
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import Translator
from nmt.errors import CheckpointError, StorageError, TrainingError
from nmt.evaluation.scores import bleu
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.loss import cross_entropy
from nmt.training.run_log import RunLogger


@dataclass(frozen=True)
class Validation:
    """Scores and translations of the dev set, the same on all ranks."""

    bleu: float
    """sacreBLEU of the translations against the raw references, 0 to 100."""
    signature: str
    """sacreBLEU signature of the score."""
    nll: float
    """Negative log-likelihood of the references, in nats per target token."""
    hyps: list[str]
    """Translations in the order of the dev set."""


def validate(
    model: Seq2Seq,
    subword: Subword,
    experiment: Experiment,
    dev: tuple[Sequence[str], Sequence[str]],
    world: World,
) -> Validation:
    """Translate and score the dev set. Collective: call on every rank.

    Args:
        model: in evaluation mode.
        dev: source lines and reference lines.

    Raises:
        Exception: that of this rank, or TrainingError with the error of another one.
    """
    srcs, refs = dev
    share = range(world.rank, len(srcs), world.size)
    decoding = experiment.decoding.for_validation()
    share_hyps, sums, problem = [""] * len(share), (0.0, 0.0), None
    try:
        engine = TorchEngine([model], world.device)
        changed = experiment.model_copy(update={"decoding": decoding})
        translator = Translator(engine, subword, changed)
        share_hyps = translator.translate(srcs[n] for n in share)
        pairs = [(srcs[n], refs[n]) for n in share]
        sums = _sum_nll(model, subword, experiment, pairs, world.device)
    except Exception as error:
        problem = error
    hyps = [""] * len(srcs)
    # With the errors, which end the validation on all ranks: none waits for a rank that failed.
    shares = world.all_gather((share_hyps, problem and f"{type(problem).__name__}: {problem}"))
    for rank, (rank_hyps, rank_problem) in enumerate(shares):
        if rank_problem is not None:
            raise problem or TrainingError(f"validation failed on rank {rank}: {rank_problem}")
        hyps[rank :: world.size] = rank_hyps
    nll, num_tokens = world.all_reduce(list(sums))
    scored = bleu(hyps, refs, experiment.corpus.tgt)
    return Validation(scored.value, f"BLEU|{scored.signature}", nll / max(1, num_tokens), hyps)


@torch.inference_mode()
def _sum_nll(
    model: Seq2Seq,
    subword: Subword,
    experiment: Experiment,
    pairs: list[tuple[str, str]],
    device: torch.device,
) -> tuple[float, float]:
    """Return the sum of negative log-likelihoods in nats, and its number of target tokens."""
    cleaning = experiment.corpus.cleaning
    sources, refs = ([normalise(pair[side], cleaning) for pair in pairs] for side in (0, 1))
    encoded_sources = subword.encode_sources(sources, experiment.marks_case)
    encoded = list(zip(encoded_sources, subword.encode_batch(refs), strict=True))
    encoded.sort(key=lambda pair: max(map(len, pair)))
    sums, num_tokens = [], 0
    for start in range(0, len(encoded), 64):
        batch = make_batch(encoded[start : start + 64]).to(device)
        hidden = model(batch.src, batch.src_lengths, batch.tgt_in, batch.real)
        loss = cross_entropy(hidden, model.output_weight, batch.tgt_out, 0.0, torch.float32)
        sums.append(loss.nll)
        num_tokens += len(batch.tgt_out)
    # Read at the end: a GPU works on the next batch meanwhile.
    total = 0.0
    for nll in torch.stack(sums).tolist() if sums else ():
        total += nll
    return total, num_tokens


class CheckpointScorer(Protocol):
    """Scores checkpoints in another process."""

    behind: int
    """Validations until a score is needed, 1 or more."""

    def ask(self, update: int, folder: Path) -> None:
        """Start to score a complete checkpoint; may be called from any thread."""

    def arrived(self) -> list[tuple[int, Validation | str]]:
        """Return the scores that arrived since the last call, or an error; does not wait."""

    def wait(self) -> None:
        """Wait for one more score."""


class AsyncValidator:
    """Pending scores of checkpoints, on rank 0."""

    def __init__(
        self,
        scorer: CheckpointScorer | None,
        writer: AsyncCheckpointWriter,
        run_dir: Path,
        experiment: Experiment,
        dev: tuple[Sequence[str], Sequence[str]],
        logger: RunLogger,
        remote: RemoteRun | None,
        device: torch.device,
    ) -> None:
        """Create without pending scores.

        Args:
            scorer: None: scores that were pending when the run was stopped are computed here.
            device: device of the scores that are computed here.
        """
        self._scorer = scorer
        self._writer = writer
        self._run_dir = run_dir
        self._experiment = experiment
        self._dev = dev
        self._logger = logger
        self._remote = remote
        self._device = device
        self._pending: set[int] = set()
        self._scores: dict[int, tuple[float, str, float] | None] = {}

    def request(self, folder: Path) -> None:
        """Have a complete checkpoint scored; may be called from any thread."""
        update = int(folder.name.removeprefix("update-"))
        if self._scorer is not None:
            self._pending.add(update)
            self._scorer.ask(update, folder)

    def request_again(self, updates: Sequence[int]) -> None:
        """Request the scores that were pending when the run was stopped."""
        for update in updates:
            # A corrupt checkpoint is logged when its score is due.
            with contextlib.suppress(CheckpointError):
                self.request(self._folder(update))

    def collect(self) -> None:
        """Record the scores that have arrived; does not wait."""
        for update, found in self._scorer.arrived() if self._scorer else ():
            self._pending.discard(update)
            if isinstance(found, str):
                self._logger.log(
                    f"update {update:,} | validation task failed ({found}), scoring here"
                )
                self._score_here(update)
            else:
                self._record(update, found)

    def wait(self, update: int) -> tuple[float, str, float] | None:
        """Wait for a score: BLEU, signature and loss; None: the checkpoint is corrupt."""
        # The request for a checkpoint that is being written follows its completion.
        self._writer.wait()
        self.collect()
        while update not in self._scores:
            if update not in self._pending or self._scorer is None:
                self._score_here(update)
            else:
                self._scorer.wait()
                self.collect()
        return self._scores.pop(update)

    def _score_here(self, update: int) -> None:
        try:
            checkpoint = load_checkpoint(self._folder(update))
        except CheckpointError as error:
            self._logger.log(f"update {update:,} | no dev BLEU: {error}")
            self._scores[update] = None
            return
        world = World(device=self._device)  # rank 0 alone
        experiment = checkpoint.experiment  # as a task does
        found = validate(checkpoint.model(), checkpoint.subword, experiment, self._dev, world)
        self._record(update, found)

    def _record(self, update: int, found: Validation) -> None:
        self._scores[update] = (found.bleu, found.signature, found.nll)
        try:
            write_score(self._folder(update), found.bleu, found.signature, found.nll)
        except (CheckpointError, StorageError) as error:
            self._logger.log(f"update {update:,} | cannot write the score: {error}")
        self._logger.write_hyps(update, self._experiment.corpus.tgt, found.hyps)
        self._logger.log_dev_score(
            f"update {update:,} | dev BLEU {found.bleu:.2f} | dev loss {found.nll:.3f} | scored "
            "asynchronously",
            found.signature,
            self._experiment.decoding.validation_beam,
        )

    def _folder(self, update: int) -> Path:
        folder = self._run_dir / "checkpoints" / folder_name(update)
        if self._remote is not None and not folder.exists():
            return self._remote.pull(folder.name)
        return folder
