"""Checkpoints beside training: the state is copied, and a thread brings the copy to the disk.

Training waits for the copy, and for the write before it where that has not ended. What goes wrong
in a write is told at the next question, so that all workers can act on it after the same update.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor

from nmt.checkpoint.format import TrainingState
from nmt.checkpoint.remote import RemoteRun
from nmt.checkpoint.run_directory import prune_checkpoints
from nmt.checkpoint.write import save_checkpoint, storage_key
from nmt.config.experiment import Experiment
from nmt.errors import NmtError, StorageError

log = logging.getLogger(__name__)

PATIENCE_S = (2.0, 8.0)
"""Seconds before each further try to bring a checkpoint to a store that does not take it."""


class AsyncCheckpointWriter:
    """Writes the checkpoints of a run, one after the other; the first worker has one."""

    def __init__(
        self,
        run_dir: Path,
        experiment: Experiment,
        tokenizer_json: str,
        remote: RemoteRun | None = None,
    ) -> None:
        """Args: remote: where checkpoints go from the folder of the run; None: they stay there."""
        self._run_dir = run_dir
        self._experiment = experiment
        self._tokenizer_json = tokenizer_json
        self._remote = remote
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.num_failures = 0
        """Checkpoints in a row that could not be written."""

    def write(
        self,
        state: TrainingState,
        bleu: float | None = None,
        signature: str = "",
        pending: Collection[int] = (),
        on_complete: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        """Begin to write a checkpoint and to drop old ones; the state may change from now on.

        Args:
            pending: updates whose checkpoints are kept because their score is to come.
            on_complete: told the checkpoint once it is whole, in the thread.
        """
        self.wait()
        # No daemon: an interpreter that ends waits for what it has begun to write.
        self._thread = threading.Thread(
            target=self._write,
            args=(*_copy(state), bleu, signature, tuple(pending), on_complete),
            name="checkpoint",
        )
        self._thread.start()

    def wait(self) -> None:
        """Until what was begun has ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def record_error(self, error: Exception) -> None:
        """Take note that a checkpoint could not be begun."""
        self.num_failures += 1
        self._error = error

    @property
    def has_error(self) -> bool:
        """Whether there is a problem that nobody was told."""
        return self._error is not None

    def take_error(self) -> str:
        """Why a checkpoint could not be written, told once; empty: nothing went wrong so far."""
        error, self._error = self._error, None
        if error is None:
            return ""
        if not isinstance(error, NmtError | OSError):
            raise error
        return str(error)

    def close(self) -> None:
        """The end: what was begun is written, and what stands beside checkpoints goes up too."""
        self.wait()
        if self._remote is not None:
            try:
                self._remote.upload_logs()
            except (StorageError, OSError) as error:
                log.warning("the end of the logs is not in the store: %s", error)

    def _write(
        self,
        state: TrainingState,
        copied: torch.Event | None,
        bleu: float | None,
        signature: str,
        pending: Collection[int],
        on_complete: Callable[[Path], None],
    ) -> None:
        try:
            if copied is not None:
                copied.synchronize()
            written = save_checkpoint(
                self._run_dir, self._experiment, self._tokenizer_json, state, bleu, signature
            )
            prune_checkpoints(self._run_dir, self._experiment.training.keep_last, written, pending)
            if self._remote is not None:
                self._upload(self._remote, written, pending)
            self.num_failures = 0
            on_complete(written)
        except Exception as error:
            self.record_error(error)

    def _upload(self, remote: RemoteRun, folder: Path, pending: Collection[int]) -> None:
        for pause_s in (*PATIENCE_S, None):
            try:
                # First what a resume from this checkpoint reads beside it, scores among it.
                remote.upload_logs()
                remote.push(folder)
                remote.prune(self._experiment.training.keep_last, folder.name, pending)
                break
            except StorageError as error:
                if pause_s is None:
                    raise
                log.warning("%s; trying again in %.0f s", error, pause_s)
                time.sleep(pause_s)


def _copy(state: TrainingState) -> tuple[TrainingState, torch.Event | None]:
    """The state as it is now, ties kept; from a GPU, an event at which all of it is here."""
    copies: dict[object, Tensor] = {}

    def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for tensor in tensors.values():
            if storage_key(tensor) not in copies:
                copies[storage_key(tensor)] = _copy_of(tensor)
        return {name: copies[storage_key(tensor)] for name, tensor in tensors.items()}

    average = None if state.average is None else copied(state.average)
    weights, optimizer = copied(state.weights), copied(state.optimizer)
    event = None
    if any(tensor.is_cuda for tensor in state.weights.values()):
        event = torch.Event("cuda")
        event.record()
    return TrainingState(state.update, weights, average, optimizer, state.counters), event


def _copy_of(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.detach().clone()
    # Into pinned memory the copy runs beside what comes next; the next step waits for it in turn.
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return pinned.copy_(tensor.detach(), non_blocking=True)
