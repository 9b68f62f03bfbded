"""Launch files: schemas, tokens, syntax; everything that needs no cloud."""

import copy
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from nmt.api import load_settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("start.sh", "slurm.sh")
CLOUDS = ("aws", "gcp")


def tree_of(name: str) -> Any:
    return yaml.safe_load((ROOT / "cluster" / name).read_text(encoding="utf-8"))


# Clouds: the schema of Ray.


@pytest.mark.parametrize("cloud", CLOUDS)
def test_cloud_file_matches_the_schema_of_ray(cloud: str) -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    filled = fillout_defaults(tree_of(f"{cloud}.yaml"))
    validate_config(filled)
    assert filled["provider"]["type"] == cloud


def test_schema_of_ray_refuses_unknown_keys() -> None:
    from jsonschema.exceptions import ValidationError
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    broken = tree_of("aws.yaml") | {"max_wrokers": 3}
    with pytest.raises(ValidationError):
        validate_config(fillout_defaults(broken))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_cloud_hosts_have_the_token_and_the_package(cloud: str) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    tree = tree_of(f"{cloud}.yaml")
    assert tree["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("pip install" in line and "~/nmt-src" in line for line in tree["setup_commands"])
    # Every mounted source exists, and together they suffice to install the package.
    for target, source in tree["file_mounts"].items():
        assert source.startswith("~") or (ROOT / source).exists(), target
    for side, word in (("head", "start.sh head"), ("worker", "start.sh join")):
        assert word in tree[f"{side}_start_ray_commands"][-1]
    assert tree["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert "setup_commands" in tree
    assert "ssh_private_key" not in str(tree)


# Kubernetes: fields of RayJob that are used, after KubeRay's API reference (ray.io/v1).

CONTAINER = {"name", "image", "env", "ports", "resources", "volumeMounts"}
POD = {"containers", "volumes", "restartPolicy", "terminationGracePeriodSeconds"}
KNOWN: dict[str, set[str]] = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished", "submitterPodTemplate", "rayClusterSpec",
    },
    "rayClusterSpec": {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "headGroupSpec",
        "workerGroupSpecs",
    },
    "headGroupSpec": {"rayStartParams", "template"},
    "group": {
        "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
    },
}  # fmt: skip


def find_problems(tree: Any) -> list[str]:
    """Return unknown keys of a RayJob and containers without the token."""
    problems = []

    def check_keys(node: Any, known: set[str], where: str) -> None:
        problems.extend(f"{where}: {key}" for key in sorted(node.keys() - known))

    spec = tree["spec"]
    cluster = spec["rayClusterSpec"]
    check_keys(tree, KNOWN[""], "RayJob")
    check_keys(spec, KNOWN["spec"], "spec")
    check_keys(cluster, KNOWN["rayClusterSpec"], "rayClusterSpec")
    if cluster.get("authOptions") != {"mode": "token", "secretName": "nmt-ray-token"}:
        problems.append("rayClusterSpec: the operator has no token")
    check_keys(cluster["headGroupSpec"], KNOWN["headGroupSpec"], "headGroupSpec")
    templates = {
        "submitter": spec["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
    }
    for group in cluster["workerGroupSpecs"]:
        check_keys(group, KNOWN["group"], group["groupName"])
        templates[group["groupName"]] = group["template"]
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            problems.append(f"{group['groupName']}: replicas out of range")
    for name, template in templates.items():
        pod = template["spec"]
        check_keys(pod, POD, name)
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            check_keys(container, CONTAINER, f"{name}, {container['name']}")
            env = {each["name"]: each for each in container["env"]}
            if env.get("RAY_AUTH_MODE", {}).get("value") != "token":
                problems.append(f"{name}: no token mode")
            if "valueFrom" not in env.get("RAY_AUTH_TOKEN", {}):
                problems.append(f"{name}: no token from a secret")
            mounted = {each["name"] for each in container.get("volumeMounts", [])}
            problems.extend(f"{name}: no volume {each}" for each in sorted(mounted - volumes))
    return problems


def test_rayjob_has_known_fields_and_tokens() -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    tree = tree_of("kuberay.yaml")
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    assert find_problems(tree) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tree: tree["spec"].update(entrypiont="x"), "spec: entrypiont"),
        (
            lambda tree: tree["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"][
                "containers"
            ][0].update(env=[]),
            "head: no token mode",
        ),
        (
            lambda tree: tree["spec"]["rayClusterSpec"].pop("authOptions"),
            "rayClusterSpec: the operator has no token",
        ),
    ],
)
def test_invalid_rayjob_is_found(change: Any, problem: str) -> None:
    tree = copy.deepcopy(tree_of("kuberay.yaml"))
    change(tree)
    assert problem in find_problems(tree)


def test_rayjob_uses_existing_configs() -> None:
    words = tree_of("kuberay.yaml")["spec"]["entrypoint"].split()
    files = [word for word in words if word.endswith(".yaml")]
    assert all((ROOT / file.removeprefix("/opt/nmt/")).is_file() for file in files)
    paths = [str(ROOT / file.removeprefix("/opt/nmt/")) for file in files]
    overrides = [word for word in words if "=" in word]
    experiment, cluster = load_settings(paths[0], paths[1], overrides)
    # On the volume, which all pods mount.
    for place in (cluster.storage, experiment.corpus.root, experiment.prepared):
        assert Path(place).is_relative_to("/mnt/shared")


# Scripts.


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_bash(script: str) -> None:
    path = ROOT / "cluster" / script
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)


def copy_launchers(folder: Path) -> None:
    shutil.copytree(ROOT / "cluster", folder / "cluster", dirs_exist_ok=True)
    if not (folder / "pyproject.toml").exists():
        shutil.copy(ROOT / "pyproject.toml", folder)


def call(tmp_path: Path, *words: str, **env: str) -> tuple[int, str]:
    """Run a script with a fake `ray` that prints its arguments; return exit status and output."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    ray = tools / "ray"
    ray.write_text('#!/bin/sh\necho ray "$@" mode=$RAY_AUTH_MODE\n')
    ray.chmod(0o755)
    copy_launchers(tmp_path)
    python = tools / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / "cluster" / words[0]), *words[1:]], capture_output=True, text=True,
        env={"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)} | env,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def token(tmp_path: Path) -> Path:
    assert call(tmp_path, "start.sh", "token")[0] == 0
    return tmp_path / ".ray/auth_token"


def test_token_is_created_once_and_private(tmp_path: Path, token: Path) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    assert (token.stat().st_mode & 0o777, len(token.read_text())) == (0o600, 64)
    assert call(tmp_path, "start.sh", "token") == (
        2, f"start.sh: {token} exists already: use it, or remove it\n",
    )  # fmt: skip


def test_hosts_start_with_token_authentication(tmp_path: Path, token: Path) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    ports = [f"--port={free_port()}", f"--dashboard-port={free_port()}"]
    status, head = call(tmp_path, "start.sh", "head", "127.0.0.1", "--num-cpus=0", *ports)
    assert (status, re.sub(r"(listen-port=)\d+", r"\1N", head)) == (
        0,
        "ray start --head --node-ip-address=127.0.0.1 --port=6379 --disable-usage-stats "
        f"--dashboard-agent-listen-port=N --num-cpus=0 {' '.join(ports)} mode=token\n",
    )
    for given, expected in (("10.0.0.1", "10.0.0.1:6379"), ("10.0.0.1:6380", "10.0.0.1:6380")):
        status, join = call(tmp_path, "start.sh", "join", given, "10.0.0.2")
        assert (status, re.sub(r"(listen-port=)\d+", r"\1N", join)) == (
            0,
            f"ray start --address={expected} --node-ip-address=10.0.0.2 --disable-usage-stats "
            "--dashboard-agent-listen-port=N mode=token\n",
        )


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
def test_ports_of_another_ray_are_refused(tmp_path: Path, token: Path, option: str) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        ports = {"--port": free_port(), "--dashboard-port": free_port()} | {option: taken}
        words = [f"{name}={port}" for name, port in ports.items()]
        assert call(tmp_path, "start.sh", "head", "127.0.0.1", *words) == (
            2,
            f"start.sh: port {taken} is taken, perhaps by another Ray on this host: set another "
            f"one with {option}=PORT\n",
        )


def test_stop_ends_only_its_own_processes(tmp_path: Path, token: Path) -> None:
    environments = [{"NMT_RAY_HOST": str(tmp_path)}, {"NMT_RAY_HOST": "/elsewhere"}, {}]
    processes = [subprocess.Popen(["sleep", "300"], env=env) for env in environments]
    try:
        # A reaped process: a zombie has no environment.
        assert call(tmp_path, "start.sh", "stop") == (0, "")
        assert processes[0].wait(timeout=30) == -15
        assert [process.poll() for process in processes[1:]] == [None, None]
        assert call(tmp_path, "start.sh", "stop") == (
            0,
            "start.sh: nothing to stop: no Ray that was started with "
            f"{tmp_path}/cluster/start.sh\n",
        )
    finally:
        for process in processes:
            process.kill()
            process.wait()


FAKES = {
    "scontrol": "echo node1",
    # srun forwards TERM to its task: here it is the task.
    "srun": 'while [ "${1#-}" != "$1" ]; do [ "$1" = -w ] && shift; shift; done; exec "$@"',
    "hostname": "echo 127.0.0.1",
    "python": f'exec {sys.executable} "$@"',
    "ray": '[ "$1" = status ] && echo " 1 node_0" && exit 0; echo $$ >head.pid; exec sleep 60',
    # Training that needs the head for a second after TERM.
    "nmt": "trap 'sleep 1; kill -0 $(cat head.pid) && echo saved; exit 130' TERM; "
    "touch training; for n in $(seq 300); do sleep 0.1; done",
}


def test_scancel_leaves_ray_until_the_checkpoint_is_written(tmp_path: Path) -> None:
    copy_launchers(tmp_path)
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    for name, text in FAKES.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    start = tmp_path / "cluster/start.sh"
    # Other programs may use the ports of a head.
    start.write_text(start.read_text().replace("need_port --", ": --"))
    job = subprocess.Popen(
        ["cluster/slurm.sh", "a.yaml", "b.yaml"], cwd=tmp_path, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "SLURM_JOB_ID": "7",
             "SLURM_JOB_NODELIST": "node1"},
    )  # fmt: skip
    until = time.monotonic() + 30
    while not (tmp_path / "training").exists() or not (tmp_path / "head.pid").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    # As scancel does.
    os.killpg(job.pid, signal.SIGTERM)
    output, _ = job.communicate(timeout=30)
    assert (job.returncode, "saved\n" in output) == (143, True), output
    # The host is stopped at the end; a zombie has ended.
    status = Path("/proc", (tmp_path / "head.pid").read_text().strip(), "status")
    assert not status.exists() or "State:\tZ" in status.read_text()
    assert not list((tmp_path / ".ray-tokens").iterdir())


def test_slurm_ends_if_the_head_does_not_start(tmp_path: Path) -> None:
    copy_launchers(tmp_path)
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    log = f'echo "$*" >>{tmp_path}/steps; '
    fakes = {
        **FAKES,
        "srun": log + FAKES["srun"],
        "ray": '[ "$1" = status ] && exit 1; echo "port 6379 is taken" >&2; exit 2',
    }
    for name, text in fakes.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    ended = subprocess.run(
        ["cluster/slurm.sh", "a.yaml", "b.yaml"], cwd=tmp_path, text=True, timeout=60,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env={"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "SLURM_JOB_ID": "7",
             "SLURM_JOB_NODELIST": "node1"},
    )  # fmt: skip
    reason = "slurm.sh: Ray did not start on node1; the reason is above\n"
    assert (ended.returncode, reason in ended.stdout) == (2, True), ended.stdout
    assert not (tmp_path / "training").exists()
    # A step has one CPU unless it asks for more (Slurm 22.05).
    steps = (tmp_path / "steps").read_text()
    assert "-w node1 --cpus-per-task=4 .venv/bin/python" in steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["start.sh"],
            "start.sh: usage: start.sh token | head | join | stop; see the comment at the top of "
            "this script",
        ),
        (
            ["start.sh", "head"],
            "start.sh: missing address of this host: start.sh head ADDRESS",
        ),
        (
            ["start.sh", "join", "10.0.0.1"],
            "start.sh: missing addresses of the head and of this host: start.sh join HEAD ADDRESS",
        ),
        (
            ["start.sh", "head", "10.0.0.1"],
            "start.sh: no token in {home}/.ray/auth_token: create it with `start.sh token` on the "
            "head and copy it to every host",
        ),
        (
            ["slurm.sh"],
            "slurm.sh: usage: sbatch cluster/slurm.sh EXPERIMENT CLUSTER [KEY=VALUE]...",
        ),
        (
            ["slurm.sh", "a.yaml", "b.yaml"],
            "slurm.sh: not in a Slurm allocation: submit this script with sbatch",
        ),
    ],
)
def test_user_errors_are_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    """Actionable errors, safe by default (nmt/README.md, Guarantees)."""
    assert call(tmp_path, *words) == (2, message.format(home=tmp_path) + "\n")


def test_missing_packages_are_named(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    needed = ["torch>=2", "no-such-package>=1,<2", "ray[default]>=2", "nor_this[all]", "PyYAML"]
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = {needed}\n")
    assert call(tmp_path, "start.sh", "token") == (
        2, f"start.sh: missing packages: no-such-package nor_this: pip install '{tmp_path}' for "
        f"{tmp_path}/tools/python\n",
    )  # fmt: skip


def test_image_has_the_version_of_the_package() -> None:
    text = (ROOT / "cluster" / "kuberay.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"image: \S+/nmt:(\S+)", text)) == {version("nmt")}


def test_token_readable_by_others_is_refused(tmp_path: Path, token: Path) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    token.chmod(0o644)
    assert call(tmp_path, "start.sh", "head", "10.0.0.1") == (
        2, f"start.sh: other users can read {token}: chmod 600 {token}\n",
    )  # fmt: skip
