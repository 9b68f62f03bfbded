"""Fake Ray cluster, and a folder with config files to submit from."""

import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# The scripts of cluster/ import each other from their own folder, as a script does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cluster"))

import submit

ADDRESS = "http://10.0.0.1:8265"


class Client:
    """Fake job client: jobs keep the state in which they were added."""

    address = ADDRESS

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.sent: list[dict[str, Any]] = []
        self.files: dict[str, str] = {}
        self.before_submit: Callable[[], None] = lambda: None

    def add(self, job_id: str, status: str, target: str, name: str = "tiny", **more: Any) -> Any:
        metadata = {"nmt_name": name, "nmt_verb": "train", "nmt_target": target}
        times = {"start_time": 1_000_000 + 1000 * len(self.jobs), "end_time": 1_012_000}
        job = {"submission_id": job_id, "status": status, "message": None, "metadata": metadata}
        self.jobs.append(SimpleNamespace(**{**job, "runtime_env": None, **times, **more}))

    def list_jobs(self) -> list[Any]:
        driver = SimpleNamespace(
            submission_id=None, metadata=None, status="RUNNING", start_time=None
        )
        return [driver, *self.jobs]

    def submit_job(self, **sent: Any) -> str:
        self.before_submit()
        if any(job.submission_id == sent["submission_id"] for job in self.jobs):
            raise RuntimeError(f"Job with submission_id {sent['submission_id']} already exists.")
        self.sent.append(sent)
        folder = Path(sent["runtime_env"]["working_dir"])
        self.files = {
            str(path.relative_to(folder)): path.read_text(encoding="utf-8")
            for path in folder.rglob("*")
            if path.is_file()
        }
        return str(sent["submission_id"])

    def get_job_info(self, job_id: str) -> Any:
        return next(job for job in self.jobs if job.submission_id == job_id)

    def get_job_logs(self, job_id: str) -> str:
        return f"log of {job_id}\n"

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "line 1\n"
        yield "line 2\n"

    def stop_job(self, job_id: str) -> bool:
        self.get_job_info(job_id).status = "STOPPED"
        return True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """Fake cluster at every address; the time zone is UTC."""
    fake = Client()
    monkeypatch.setattr(submit, "connect", lambda address, print_line: fake)
    monkeypatch.setattr(sys, "argv", ["cluster/submit.py"])
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    time.tzset()
    return fake


@pytest.fixture
def files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_files: Callable[[str], None]
) -> Path:
    """Current directory with an experiment, a cluster file and raw text; nothing is prepared."""
    monkeypatch.chdir(tmp_path)
    write_files(ADDRESS)
    return tmp_path


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[[str], None]:
    """Return a function that writes raw text and config files to tmp_path."""

    def write(address: str) -> None:
        pairs = [
            (f"The dog has {number} bones.", f"Der Hund hat {number} Knochen.")
            for number in range(55)
        ]
        (tmp_path / "raw").mkdir()
        for name, some in (("train", pairs[:50]), ("dev", pairs[50:])):
            for side, lines in zip(("en", "de"), zip(*some, strict=True), strict=True):
                text = "".join(line + "\n" for line in lines)
                (tmp_path / "raw" / f"{name}.{side}").write_text(text, encoding="utf-8")
        (tmp_path / "tiny.yaml").write_text(
            "name: tiny\ncorpus:\n  src: en\n  tgt: de\n  root: raw\n  subword: {vocab_size: 400}\n"
            "  train: [{name: train, src: train.en, tgt: train.de}]\n"
            "  dev: {name: dev, src: dev.en, tgt: dev.de}\n"
        )
        (tmp_path / "here.yaml").write_text(f"name: here\nstorage: runs\naddress: {address}\n")

    return write


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs submit.py: exit status, standard output, standard error."""

    def call_with(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            submit.main(list(words))
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return call_with
