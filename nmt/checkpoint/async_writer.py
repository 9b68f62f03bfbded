"""Checkpoint writing in a background thread.

Training waits while the state is copied, and for the previous write if it is still running. An
error of a write is stored until `take_error` is called, so that all ranks can act on it after the
same update.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor

from nmt.checkpoint.format import CheckpointState
from nmt.checkpoint.remote import RemoteRun
from nmt.checkpoint.run_directory import prune_checkpoints
from nmt.checkpoint.write import save_checkpoint, storage_key
from nmt.config.experiment import Experiment
from nmt.errors import NmtError, StorageError

log = logging.getLogger(__name__)

RETRY_PAUSES_S = (2.0, 8.0)
"""Pauses before each further attempt to upload a checkpoint."""


class AsyncCheckpointWriter:
    """Writes the checkpoints of a run one after the other; exists on rank 0 only."""

    def __init__(
        self,
        run_dir: Path,
        experiment: Experiment,
        tokenizer_json: str,
        remote: RemoteRun | None = None,
    ) -> None:
        """Create a writer without a thread.

        Args:
            run_dir: run directory.
            experiment: resolved experiment.
            tokenizer_json: subword vocabulary as JSON text.
            remote: object store to upload to; None: checkpoints stay in the run directory.
        """
        self._run_dir = run_dir
        self._experiment = experiment
        self._tokenizer_json = tokenizer_json
        self._remote = remote
        self._thread: threading.Thread | None = None
        self.error: Exception | None = None
        """Error that `take_error` has not returned yet."""
        self.num_failures = 0
        """Consecutive checkpoints that could not be written."""

    def write(
        self,
        state: CheckpointState,
        bleu: float | None = None,
        signature: str = "",
        dev_loss: float | None = None,
        pending: Collection[int] = (),
        on_complete: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        """Start writing a checkpoint and pruning old ones; the state may change on return.

        Args:
            state: state to write; copied before this method returns.
            bleu: dev BLEU; None: not known yet.
            signature: sacreBLEU signature of that score.
            dev_loss: dev loss of the same validation.
            pending: updates of checkpoints to keep because their score is pending.
            on_complete: called in the thread with the complete checkpoint.
        """
        # One write at a time: each holds a copy of the state.
        self.wait()
        copy, copied = _copy_state(state)
        pending = tuple(pending)

        def run() -> None:
            try:
                if copied is not None:
                    copied.synchronize()
                written = self._save(copy, pending, (bleu, signature, dev_loss))
                self.num_failures = 0
                on_complete(written)
            except Exception as error:
                self.record_error(error)

        # Not a daemon: an interpreter that exits waits for the checkpoint being written.
        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the current write to end."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def record_error(self, error: Exception) -> None:
        """Record an error that prevented a checkpoint."""
        self.num_failures += 1
        self.error = error

    def take_error(self) -> str:
        """Return the recorded error message once; empty: none.

        Raises:
            Exception: the error itself, if it is neither an NmtError nor an OSError.
        """
        error, self.error = self.error, None
        if error is None:
            return ""
        if not isinstance(error, NmtError | OSError):
            raise error
        if isinstance(error, OSError) and error.filename is not None:
            return f"{error.filename} cannot be written: {error.strerror}"
        return str(error)

    def close(self) -> None:
        """Wait for the current write and upload the final logs."""
        self.wait()
        if self._remote is not None:
            try:
                self._remote.upload_logs()
            except (StorageError, OSError) as error:
                log.warning("final logs not uploaded: %s", error)

    def _save(
        self,
        state: CheckpointState,
        pending: Collection[int],
        scores: tuple[float | None, str, float | None],
    ) -> Path:
        written = save_checkpoint(
            self._run_dir, self._experiment, self._tokenizer_json, state, *scores
        )
        # After the write: the run has a complete checkpoint at any time.
        prune_checkpoints(self._run_dir, self._experiment.training.keep_last, written, pending)
        if self._remote is not None:
            self._upload(self._remote, written, pending)
        return written

    def _upload(self, remote: RemoteRun, folder: Path, pending: Collection[int]) -> None:
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                # Logs first: resuming from this checkpoint needs them.
                remote.upload_logs()
                remote.push(folder)
                remote.prune(self._experiment.training.keep_last, folder.name, pending)
                break
            except StorageError as error:
                # Out of attempts: `record_error` counts the checkpoint as failed.
                if pause_s is None:
                    raise
                log.warning("%s; retrying in %.0f s", error, pause_s)
                time.sleep(pause_s)


def _copy_state(state: CheckpointState) -> tuple[CheckpointState, torch.Event | None]:
    """Copy a state to CPU memory; tied tensors stay tied.

    Returns:
        The copy, and for a state on a GPU the event after which the copy is complete.
    """
    copies: dict[object, Tensor] = {}

    def copy_all(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for tensor in tensors.values():
            if storage_key(tensor) not in copies:
                copies[storage_key(tensor)] = _copy_tensor(tensor)
        return {name: copies[storage_key(tensor)] for name, tensor in tensors.items()}

    average = None if state.average is None else copy_all(state.average)
    weights, optimizer = copy_all(state.weights), copy_all(state.optimizer)
    event = None
    if any(tensor.is_cuda for tensor in state.weights.values()):
        event = torch.Event("cuda")
        event.record()
    return CheckpointState(state.update, weights, average, optimizer, state.counters), event


def _copy_tensor(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.detach().clone()
    # A copy into pinned memory overlaps with what follows; the stream orders it before the next
    # optimizer step.
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return pinned.copy_(tensor.detach(), non_blocking=True)
