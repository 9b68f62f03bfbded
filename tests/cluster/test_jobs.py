"""Jobs: contents, resubmission and resumption."""

import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
import yaml

from nmt.config.files import load_experiment
from nmt.config.preset import PATIENCE, resolve

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/run-of-format-1"
Call = Callable[..., tuple[int, str, str]]


def test_job_contains_code_and_resolved_config_files(client: Any, files: Path, call: Call) -> None:
    status, out, _ = call("tiny.yaml", "here.yaml", "cluster.workers=2", "seed=7")
    assert (status, out) == (0, "nmt-train-tiny\n")
    [sent] = client.sent
    assert sent["entrypoint"] == "python -m nmt train experiment.yaml --cluster cluster.yaml"
    assert sent["metadata"]["nmt_target"] == f"{files}/runs/tiny"
    code = {
        f"nmt/{path.relative_to(ROOT / 'nmt')}"
        for path in (ROOT / "nmt").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"experiment.yaml", "cluster.yaml", "REVISION", *code} == set(client.files)
    assert f"root: {files}/raw\n" in client.files["experiment.yaml"]
    assert f"prepared: {files}/prepared/tiny\n" in client.files["experiment.yaml"]
    assert "seed: 7\n" in client.files["experiment.yaml"]
    assert "workers: 2\n" in client.files["cluster.yaml"]
    assert f"storage: {files}/runs\n" in client.files["cluster.yaml"]


def test_submission_prints_next_commands(client: Any, files: Path, call: Call) -> None:
    lines = call("train", "tiny.yaml", "here.yaml")[2].splitlines()
    assert lines[0] == (
        f"not prepared on this machine: {files}/prepared/tiny; the job prepares it unless it is on "
        "the cluster"
    )
    size = sum(len(text.encode()) for text in client.files.values()) / 1000
    assert lines[1:] == [
        f"sending {len(client.files)} files, {size:.0f} kB of code and settings",
        f"all hosts need access to {files}/runs, {files}/prepared/tiny and {files}/raw",
        f"dashboard {client.address}; next commands:",
        f"  cluster/submit.py logs nmt-train-tiny --follow --address {client.address}",
        f"  cluster/submit.py status tiny --address {client.address}",
        f"  cluster/submit.py stop nmt-train-tiny --address {client.address}",
        f"  tensorboard --logdir {files}/runs/tiny/tensorboard",
    ]


def test_run_in_an_object_store_has_an_address(client: Any, files: Path, call: Call) -> None:
    address = "s3://bucket/runs?region=eu-west-1"
    status, _, err = call("train", "tiny.yaml", "here.yaml", f"cluster.storage={address}")
    assert status == 0
    assert client.sent[0]["metadata"]["nmt_target"] == "s3://bucket/runs/tiny?region=eu-west-1"
    assert f"storage: {address}\n" in client.files["cluster.yaml"]
    lines = err.splitlines()
    assert lines[0] == "not checked: run in s3://bucket/runs"
    assert (
        f"all hosts need access to s3://bucket/runs, {files}/prepared/tiny and {files}/raw" in lines
    )
    assert not any("tensorboard" in line for line in lines)


def test_evaluation_in_an_object_store_needs_a_folder(client: Any, files: Path, call: Call) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    status, _, err = call("evaluate", "tiny.yaml", "here.yaml", "cluster.storage=s3://bucket/runs")
    assert (status, client.sent) == (2, [])
    assert err.splitlines() == [
        "nmt: a job that evaluates a run in an object store needs -o FOLDER, on a disk that all "
        "hosts share"
    ]


def test_running_job_is_not_submitted_again(client: Any, files: Path, call: Call) -> None:
    client.add("nmt-train-tiny", "RUNNING", f"{files}/runs/tiny")
    status, out, err = call("tiny.yaml", "here.yaml")
    assert (status, out, client.sent) == (0, "nmt-train-tiny\n", [])
    assert err.splitlines()[1] == (
        "not submitted, nmt-train-tiny is running: RUNNING for 12 s, started "
        f"1970-01-01 00:16:40, target {files}/runs/tiny"
    )


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_ended_job_is_resumed_by_the_next(
    client: Any, files: Path, call: Call, status: str
) -> None:
    client.add("nmt-train-tiny", "FAILED", f"{files}/runs/tiny", message="Traceback\n  nmt: full\n")
    client.add("nmt-train-tiny-2", status, f"{files}/runs/tiny")
    _, out, err = call("tiny.yaml", "here.yaml")
    assert out == "nmt-train-tiny-3\n"
    assert err.splitlines()[1] == (
        f"resuming where nmt-train-tiny-2 ended: {status} after 11 s, started "
        f"1970-01-01 00:16:41, target {files}/runs/tiny"
    )


def test_simultaneous_submissions_give_one_job(client: Any, files: Path, call: Call) -> None:
    client.before_submit = lambda: client.add("nmt-train-tiny", "PENDING", f"{files}/runs/tiny")
    _, out, _ = call("tiny.yaml", "here.yaml")
    assert (out, client.sent) == ("nmt-train-tiny\n", [])


@pytest.mark.parametrize("target", ["/elsewhere/tiny", "/elsewhere/tiny-2"])
def test_same_name_with_another_target_is_another_job(
    client: Any, files: Path, call: Call, target: str
) -> None:
    client.add("nmt-train-tiny", "RUNNING", target)
    assert call("tiny.yaml", "here.yaml")[1] == "nmt-train-tiny-2\n"


def test_job_gets_environment_and_grace_period(client: Any, files: Path, call: Call) -> None:
    call("tiny.yaml", "here.yaml", "cluster.env={NCCL_DEBUG: WARN}")
    env = client.sent[0]["runtime_env"]["env_vars"]
    assert time.time() - 60 < float(env.pop("NMT_SUBMITTED")) <= time.time()
    assert env == {"NCCL_DEBUG": "WARN", "RAY_JOB_STOP_WAIT_TIME_S": "60"}


def test_config_text_never_reaches_a_shell(client: Any, files: Path, call: Call) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    storage = "/x'; touch gone; echo $(id)"
    words = ["here.yaml", f'cluster.storage="{storage}"', "--test", "dev; rm -r ~"]
    call("evaluate", "tiny.yaml", *words)
    command = ["python", "-m", "nmt", "evaluate", f"{storage}/tiny", "--test", "dev; rm -r ~"]
    assert shlex.split(client.sent[0]["entrypoint"]) == [*command, "--threads", "1"]


def test_translate_job_has_worker_resources(client: Any, files: Path, call: Call) -> None:
    words = ["here.yaml", "cluster.cpus_per_worker=4", "cluster.gpus_per_worker=1"]
    call("translate", "tiny.yaml", *words, "-i", "in.en", "-o", "out.de", "--beam", "3")
    [sent] = client.sent
    command = f"python -m nmt translate {files}/runs/tiny --input {files}/in.en --output "
    assert sent["entrypoint"] == f"{command}{files}/out.de --beam 3 --threads 4"
    assert (sent["entrypoint_num_cpus"], sent["entrypoint_num_gpus"]) == (4, 1)
    assert sent["metadata"]["nmt_target"] == f"{files}/out.de"


def test_a_job_reserves_the_threads_that_it_uses(client: Any, files: Path, call: Call) -> None:
    call("evaluate", "tiny.yaml", "here.yaml", "cluster.cpus_per_worker=4", "--threads", "2")
    [sent] = client.sent
    assert sent["entrypoint"] == f"python -m nmt evaluate {files}/runs/tiny --threads 2"
    assert sent["entrypoint_num_cpus"] == 2


def test_workers_of_a_translate_job_are_those_of_the_file(
    client: Any, files: Path, call: Call
) -> None:
    """The command must not hold the CPUs and GPUs that its workers wait for."""
    words = ["here.yaml", "cluster.cpus_per_worker=4", "cluster.gpus_per_worker=1"]
    call("translate", "tiny.yaml", *words, "-i", "in.en", "-o", "out.de", "--workers", "2")
    [sent] = client.sent
    command = f"python -m nmt translate {files}/runs/tiny --cluster cluster.yaml --input "
    assert sent["entrypoint"] == f"{command}{files}/in.en --output {files}/out.de --workers 2"
    assert (sent["entrypoint_num_cpus"], sent["entrypoint_num_gpus"]) == (None, None)
    assert "cpus_per_worker: 4\n" in client.files["cluster.yaml"]


def test_paths_in_options_of_a_job_are_absolute(client: Any, files: Path, call: Call) -> None:
    """A job has another working folder; addresses stay."""
    words = ["--baseline", "runs/old", "--ensemble", "runs/b", "--ensemble", "s3://bucket/runs/c"]
    call("evaluate", "tiny.yaml", "here.yaml", *words, "--train-text", "raw/train.de")
    assert shlex.split(client.sent[0]["entrypoint"])[5:] == [
        "--ensemble", f"{files}/runs/b", "--ensemble", "s3://bucket/runs/c",
        "--baseline", f"{files}/runs/old", "--train-text", f"{files}/raw/train.de",
        "--threads", "1",
    ]  # fmt: skip


def test_stop_timeout_is_that_of_the_job(client: Any) -> None:
    client.add("one", "RUNNING", "/one")
    given = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "300"}}
    client.add("two", "RUNNING", "/two", runtime_env=given)
    assert [jobs.stop_timeout_s(job) for job in client.jobs] == [60, 300]


def test_resume_uses_the_submitted_settings(client: Any, files: Path, call: Call) -> None:
    """Exact resume (nmt/README.md, Guarantees): current config files are not read."""
    words = ["here.yaml", "seed=7", "cluster.env={NCCL_DEBUG: WARN}"]
    call("tiny.yaml", *words)
    [first] = client.sent
    before = dict(client.files)
    client.add("nmt-train-tiny", "STOPPED", f"{files}/runs/tiny", metadata=first["metadata"])
    (files / "tiny.yaml").unlink()
    status, out, err = call("resume", "tiny", "--address", client.address)
    assert (status, out) == (0, "nmt-train-tiny-2\n")
    assert err.startswith("resuming where nmt-train-tiny ended: STOPPED after")
    again = client.sent[1]
    assert again["entrypoint"] == first["entrypoint"]
    assert again["metadata"] == first["metadata"]
    assert again["runtime_env"]["env_vars"]["NCCL_DEBUG"] == "WARN"
    assert client.files == before


def test_a_job_chooses_the_sizes_of_preset_auto(client: Any, files: Path, call: Call) -> None:
    """The number of pairs is known once the job has prepared the corpus."""
    changes = ["preset=auto", "name=other"]
    # Of 8 workers the micro-batches of the preset decide.
    status, _, error = call("tiny.yaml", "here.yaml", "cluster.workers=8", *changes)
    assert (status, "micro-batches" in error) == (0, False)
    client.sent.clear()
    call("tiny.yaml", "here.yaml", *changes)
    client.add("nmt-train-other", "STOPPED", "", "other", metadata=client.sent[0]["metadata"])
    call("resume", "other", "--address", client.address)
    assert len(client.sent) == 2
    (files / "sent.yaml").write_text(client.files["experiment.yaml"])
    sent, given = load_experiment("sent.yaml"), load_experiment("tiny.yaml", changes)
    assert resolve(sent, 100).training == resolve(given, 100).training
    assert resolve(sent, 100).training.patience == PATIENCE


def test_resume_uses_the_submitted_options(client: Any, files: Path, call: Call) -> None:
    call("translate", "tiny.yaml", "here.yaml", "-i", "in.en", "-o", "out.de", "--beam", "3")
    [first] = client.sent
    client.add("nmt-translate-tiny", "FAILED", f"{files}/out.de", metadata=first["metadata"])
    call("resume", "tiny", "--address", client.address)
    assert client.sent[1]["entrypoint"] == first["entrypoint"]


def test_running_job_is_not_resumed(client: Any, files: Path, call: Call) -> None:
    call("tiny.yaml", "here.yaml")
    target = f"{files}/runs/tiny"
    client.add("nmt-train-tiny", "RUNNING", target, metadata=client.sent[0]["metadata"])
    status, out, err = call("resume", "tiny", "--address", client.address)
    assert (status, out, len(client.sent)) == (0, "nmt-train-tiny\n", 1)
    assert err.startswith("not submitted, nmt-train-tiny is running: RUNNING")


def test_resume_warns_of_different_code(client: Any, files: Path, call: Call) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    call("tiny.yaml", "here.yaml")
    metadata = client.sent[0]["metadata"] | {"nmt_code": "other"}
    client.add("nmt-train-tiny", "FAILED", f"{files}/runs/tiny", metadata=metadata)
    err = call("resume", "tiny", "--address", client.address)[2]
    assert err.startswith(
        "warning: the code of this checkout differs from that of nmt-train-tiny\n"
    )


def test_job_without_stored_settings_is_not_resumed(client: Any, call: Call) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    client.add("nmt-train-tiny", "FAILED", "/runs/tiny")
    assert call("resume", "tiny", "--address", client.address) == (
        2, "",
        "nmt: nmt-train-tiny was submitted by an nmt that did not store its settings: submit "
        "EXPERIMENT CLUSTER again, which resumes the run\n",
    )  # fmt: skip


def test_paths_of_a_job_are_those_of_the_command_line(
    client: Any, files: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` is the home directory, also in a submission."""
    monkeypatch.setenv("HOME", str(files / "home"))
    monkeypatch.setenv("RUNS", str(files / "some runs"))
    words = ["corpus.prepared=~/prepared", "cluster.storage=$RUNS", "cluster.scratch=~/x"]
    status, _, err = call("tiny.yaml", "here.yaml", *words)
    assert status == 0
    sent, place = (
        yaml.safe_load(client.files[f"{name}.yaml"]) for name in ("experiment", "cluster")
    )
    assert sent["corpus"]["prepared"] == f"{files}/home/prepared"
    assert (place["storage"], place["scratch"]) == (f"{files}/some runs", "~/x")
    assert client.sent[0]["metadata"]["nmt_target"] == f"{files}/some runs/tiny"
    # Printed commands can be pasted.
    assert f"  tensorboard --logdir '{files}/some runs/tiny/tensorboard'" in err.splitlines()


def test_job_has_absolute_paths(client: Any, files: Path, call: Call) -> None:
    """A job has another working directory."""
    shutil.copytree(GOLDEN, files / "runs" / "old")
    tokenizer = next((files / "runs/old").rglob("tokenizer.json")).relative_to(files)
    words = ["training.init_from=runs/old", f"corpus.subword.tokenizer={tokenizer}"]
    words += ["corpus.prepared=prepared/it"]
    model = {"width": 4, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "ffn_width": 4}
    words += [f"model.{key}={value}" for key, value in model.items()]
    status, _, err = call("tiny.yaml", "here.yaml", *words)
    assert status == 0, err
    sent = yaml.safe_load(client.files["experiment.yaml"])
    assert sent["training"]["init_from"] == f"{files}/runs/old"
    assert sent["corpus"]["subword"]["tokenizer"] == f"{files}/{tokenizer}"
    assert sent["corpus"]["prepared"] == f"{files}/prepared/it"
    assert sent["corpus"]["root"] == f"{files}/raw"


def test_source_of_weights_is_checked(client: Any, files: Path, call: Call) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    (files / "runs/old").mkdir(parents=True)
    status, _, err = call("tiny.yaml", "here.yaml", "training.init_from=runs/old")
    assert (status, client.sent) == (2, [])
    assert f"nmt: training.init_from: {files}/runs/old is neither a run" in err
    status, _, err = call("tiny.yaml", "here.yaml", "training.init_from=runs/other")
    assert status == 0
    assert (
        f"not checked: {files}/runs/other is not on this machine; it must exist on the cluster"
        in err.splitlines()
    )


@pytest.mark.parametrize(("gpus", "is_noted"), [("auto", True), ("1", False), ("0", False)])
def test_evaluation_without_a_gpu_is_noted(
    gpus: str, is_noted: bool, client: Any, files: Path, call: Call
) -> None:
    _, _, err = call("evaluate", "tiny.yaml", "here.yaml", f"cluster.gpus_per_worker={gpus}")
    note = (
        "evaluate uses no GPU: gpus_per_worker is auto, which is for workers of training; set "
        "cluster.gpus_per_worker=1 for one"
    )
    assert (note in err.splitlines()) == is_noted


def test_text_or_prepared_corpus_must_be_on_the_cluster(
    client: Any, files: Path, call: Call
) -> None:
    status, _, err = call(
        "tiny.yaml", "here.yaml", "corpus.root=/mnt/text", "corpus.prepared=/mnt/p"
    )
    assert status == 0, err
    assert err.splitlines()[0] == (
        "not checked: neither /mnt/p nor /mnt/text is on this machine; one of them must exist on "
        "the cluster"
    )


def test_job_can_prepare_the_corpus_first(client: Any, files: Path, call: Call) -> None:
    (files / "raw/dev.de").unlink()
    status, _, err = call("tiny.yaml", "here.yaml")
    assert (status, client.sent) == (2, [])
    assert err == (
        f"nmt: {files}/raw/dev.de: there is no such file; check corpus.root and the names in the "
        "experiment\n"
    )
