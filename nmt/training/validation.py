"""Validation: the dev set is translated and scored with the averaged weights, by all workers.

Late scores: dev BLEU of checkpoints that are scored elsewhere while training goes on.

A score is a fact about its checkpoint: it is written down when it comes, in whatever order. What
follows from it, the best so far and early stopping, is decided in the order of the checkpoints and
at updates fixed by number alone: `behind` validations later, where training waits for a score that
has not come. So a run that was stopped and resumed decides as one that was not, whatever the clock
says (P4), and the best checkpoint is the one that validation shared over the workers finds; early
stopping ends the run that many validations later.
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
from nmt.decoding.translator import Translator
from nmt.errors import CheckpointError, StorageError
from nmt.evaluation.scores import bleu
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.loss import cross_entropy
from nmt.training.metrics import Journal


@dataclass(frozen=True)
class Validation:
    """What came out; the same at every worker."""

    bleu: float
    """sacreBLEU of the translations against the untouched references, 0 to 100."""
    signature: str
    """How it was computed."""
    nll: float
    """Nats for each true token of the dev set."""
    hyps: list[str]
    """The translations, in the order of the dev set."""


def validate(
    model: Seq2Seq,
    subword: Subword,
    experiment: Experiment,
    dev: tuple[Sequence[str], Sequence[str]],
    world: World,
) -> Validation:
    """Translate and score the dev set; all workers must ask.

    Args:
        model: in evaluation mode.
        dev: source lines and reference lines.
    """
    srcs, refs = dev
    mine = range(world.rank, len(srcs), world.size)
    decoding = experiment.decoding.for_validation()
    translator = Translator(
        model, subword, experiment.model_copy(update={"decoding": decoding}), device=world.device
    )
    my_hyps = translator.translate(srcs[n] for n in mine)
    hyps = [""] * len(srcs)
    for rank, theirs in enumerate(world.all_gather(my_hyps)):
        hyps[rank :: world.size] = theirs
    nll, num_tokens = world.all_reduce(
        list(_nll(model, subword, experiment, [(srcs[n], refs[n]) for n in mine], world.device))
    )
    scored = bleu(hyps, refs, experiment.corpus.tgt)
    return Validation(scored.value, f"BLEU|{scored.signature}", nll / max(1, num_tokens), hyps)


@torch.inference_mode()
def _nll(
    model: Seq2Seq,
    subword: Subword,
    experiment: Experiment,
    pairs: list[tuple[str, str]],
    device: torch.device,
) -> tuple[float, float]:
    """Sum of negative log-likelihoods, in nats, and the number of tokens it is over."""
    cleaning = experiment.corpus.cleaning
    encoded = [
        (subword.encode(normalise(src, cleaning)), subword.encode(normalise(ref, cleaning)))
        for src, ref in pairs
    ]
    encoded.sort(key=lambda pair: max(map(len, pair)))
    total, num_tokens = 0.0, 0
    for start in range(0, len(encoded), 64):
        batch = make_batch(encoded[start : start + 64]).to(device)
        hidden = model(batch.src, batch.src_lengths, batch.tgt_in, batch.real)
        sums = cross_entropy(hidden, model.output_weight, batch.tgt_out, 0.0, torch.float32)
        total += float(sums.nll)
        num_tokens += len(batch.tgt_out)
    return total, num_tokens


class CheckpointScorer(Protocol):
    """Scores checkpoints elsewhere."""

    behind: int
    """Validations after which a score is needed, 1 or more."""

    def ask(self, update: int, folder: Path) -> None:
        """Begin to score a checkpoint that is whole; from any thread."""

    def arrived(self) -> list[tuple[int, Validation | str]]:
        """Scores that have come since the last call, or why there is none; does not wait."""

    def wait(self) -> None:
        """Until one more has come."""


class AsyncValidator:
    """The first worker's book of scores that are to come."""

    def __init__(
        self,
        scorer: CheckpointScorer | None,
        writer: AsyncCheckpointWriter,
        run_dir: Path,
        experiment: Experiment,
        dev: tuple[Sequence[str], Sequence[str]],
        journal: Journal,
        remote: RemoteRun | None,
    ) -> None:
        """Args: scorer: None: what was to come when the run was stopped is scored here."""
        self._scorer = scorer
        self._writer = writer
        self._run_dir = run_dir
        self._experiment = experiment
        self._dev = dev
        self._journal = journal
        self._remote = remote
        self._asked: set[int] = set()
        self._scores: dict[int, tuple[float, str, float] | None] = {}

    def ask(self, folder: Path) -> None:
        """Have a checkpoint scored that is whole; from any thread."""
        update = int(folder.name.removeprefix("update-"))
        if self._scorer is not None:
            self._asked.add(update)
            self._scorer.ask(update, folder)

    def ask_again(self, updates: Sequence[int]) -> None:
        """After a start: what was to come when the run was stopped."""
        for update in updates:
            # One that is damaged has its line when its score is due.
            with contextlib.suppress(CheckpointError):
                self.ask(self._folder(update))

    def collect(self) -> None:
        """Write down the scores that have come; does not wait."""
        for update, found in self._scorer.arrived() if self._scorer else ():
            self._asked.discard(update)
            if isinstance(found, str):
                self._journal.say(
                    f"update {update:,}: its validation task was lost ({found}): scored here"
                )
                self._score_here(update)
            else:
                self._write_down(update, found)

    def wait(self, update: int) -> tuple[float, str, float] | None:
        """BLEU, signature and loss of a checkpoint, when they have come; None: it is damaged."""
        # A checkpoint that is being written will be asked for when it is whole.
        self._writer.wait()
        self.collect()
        while update not in self._scores:
            if update not in self._asked or self._scorer is None:
                self._score_here(update)
            else:
                self._scorer.wait()
                self.collect()
        return self._scores.pop(update)

    def _score_here(self, update: int) -> None:
        try:
            bundle = load_checkpoint(self._folder(update))
        except CheckpointError as error:
            self._journal.say(f"update {update:,} has no dev BLEU: {error}")
            self._scores[update] = None
            return
        world, model = World(), bundle.model()
        found = validate(model, bundle.subword, self._experiment, self._dev, world)
        self._write_down(update, found)

    def _write_down(self, update: int, found: Validation) -> None:
        self._scores[update] = (found.bleu, found.signature, found.nll)
        try:
            write_score(self._folder(update), found.bleu, found.signature)
        except (CheckpointError, StorageError) as error:
            self._journal.say(f"update {update:,}: its score is not beside it: {error}")
        self._journal.keep_hyps(update, self._experiment.corpus.tgt, found.hyps)
        self._journal.say(
            f"update {update:,}: dev BLEU {found.bleu:.2f}, scored beside training, beam "
            f"{self._experiment.decoding.validation_beam}, dev loss {found.nll:.3f} nats/token, "
            f"{found.signature}"
        )

    def _folder(self, update: int) -> Path:
        folder = self._run_dir / "checkpoints" / folder_name(update)
        if self._remote is not None and not folder.exists():
            return self._remote.pull(folder.name)
        return folder
