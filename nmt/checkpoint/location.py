"""Directories of runs and checkpoints that are named by a path or by an address.

pyarrow is imported for addresses only.
"""

from pathlib import Path

from nmt.config.cluster import Cluster
from nmt.config.settings import is_address
from nmt.errors import check_path


def checkpoint_dir(run: str | Path) -> Path:
    """Return the directory of a run or checkpoint; download the checkpoint from an object store."""
    check_path("run", run)
    if not is_address(str(run)):
        return Path(run)
    from nmt.checkpoint.remote import fetch_checkpoint

    return fetch_checkpoint(str(run), Path(Cluster().scratch))


def run_dir(run: str) -> Path:
    """Return the directory of a run; update the local copy of a run in an object store.

    The copy has the newest complete checkpoint and the best one.
    """
    if not is_address(run):
        return Path(run)
    from nmt.checkpoint.remote import RemoteRun, local_copy
    from nmt.storage import ObjectStore

    directory = local_copy(run, Path(Cluster().scratch))
    remote = RemoteRun(ObjectStore(run), directory)
    remote.newest_complete()
    if (best := remote.best()) is not None:
        remote.pull(best)
    remote.download_logs()
    return directory
