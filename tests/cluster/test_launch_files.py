"""Launch files, as far as they can be checked without a cloud: schemas, tokens, syntax."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nmt.config.files import load_cluster

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("start.sh", "slurm.sh")
CLOUDS = ("aws", "gcp")


def tree_of(name: str) -> Any:
    return yaml.safe_load((ROOT / "cluster" / name).read_text(encoding="utf-8"))


# Clouds: Ray's own schema.


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_the_launch_file_of_a_cloud(cloud: str) -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    filled = fillout_defaults(tree_of(f"{cloud}.yaml"))
    validate_config(filled)
    assert filled["provider"]["type"] == cloud


def test_rays_schema_refuses_a_key_that_it_does_not_know() -> None:
    from jsonschema.exceptions import ValidationError
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    broken = tree_of("aws.yaml") | {"max_wrokers": 3}
    with pytest.raises(ValidationError):
        validate_config(fillout_defaults(broken))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_hosts_of_a_cloud_have_a_token_and_this_package(cloud: str) -> None:
    """P10."""
    tree = tree_of(f"{cloud}.yaml")
    assert tree["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("pip install" in line and "~/nmt-src" in line for line in tree["setup_commands"])
    # What is mounted is there, and is what the package needs to be installed.
    for target, source in tree["file_mounts"].items():
        assert source.startswith("~") or (ROOT / source).exists(), target
    for side, word in (("head", "start.sh head"), ("worker", "start.sh join")):
        assert word in tree[f"{side}_start_ray_commands"][-1]
    assert tree["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert "setup_commands" in tree
    assert "ssh_private_key" not in str(tree)


# Kubernetes: the fields of RayJob that are used, by hand after KubeRay's API reference (ray.io/v1).

CONTAINER = {"name", "image", "env", "ports", "resources", "volumeMounts"}
POD = {"containers", "volumes", "restartPolicy", "terminationGracePeriodSeconds"}
KNOWN: dict[str, set[str]] = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished", "submitterPodTemplate", "rayClusterSpec",
    },
    "rayClusterSpec": {
        "rayVersion", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs",
    },
    "headGroupSpec": {"rayStartParams", "template"},
    "group": {
        "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
    },
}  # fmt: skip


def complaints(tree: Any) -> list[str]:
    """Keys of a RayJob that nobody knows, and containers without the token."""
    found = []

    def only(node: Any, known: set[str], where: str) -> None:
        found.extend(f"{where}: {key}" for key in sorted(node.keys() - known))

    spec = tree["spec"]
    cluster = spec["rayClusterSpec"]
    only(tree, KNOWN[""], "RayJob")
    only(spec, KNOWN["spec"], "spec")
    only(cluster, KNOWN["rayClusterSpec"], "rayClusterSpec")
    only(cluster["headGroupSpec"], KNOWN["headGroupSpec"], "headGroupSpec")
    templates = {
        "submitter": spec["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
    }
    for group in cluster["workerGroupSpecs"]:
        only(group, KNOWN["group"], group["groupName"])
        templates[group["groupName"]] = group["template"]
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"{group['groupName']}: replicas out of range")
    for name, template in templates.items():
        pod = template["spec"]
        only(pod, POD, name)
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            only(container, CONTAINER, f"{name}, {container['name']}")
            env = {each["name"]: each for each in container["env"]}
            if env.get("RAY_AUTH_MODE", {}).get("value") != "token":
                found.append(f"{name}: no token mode")
            if "valueFrom" not in env.get("RAY_AUTH_TOKEN", {}):
                found.append(f"{name}: no token from a secret")
            mounted = {each["name"] for each in container.get("volumeMounts", [])}
            found.extend(f"{name}: no volume {each}" for each in sorted(mounted - volumes))
    return found


def test_the_job_for_kubernetes_has_known_fields_and_the_token_everywhere() -> None:
    """P10."""
    tree = tree_of("kuberay.yaml")
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    assert complaints(tree) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tree: tree["spec"].update(entrypiont="x"), "spec: entrypiont"),
        (
            lambda tree: tree["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"][
                "containers"
            ][0].update(env=[]),
            "head: no token mode",
        ),
    ],
)
def test_a_broken_job_for_kubernetes_is_found(change: Any, complaint: str) -> None:
    tree = copy.deepcopy(tree_of("kuberay.yaml"))
    change(tree)
    assert complaint in complaints(tree)


def test_the_job_for_kubernetes_runs_configs_that_are_here() -> None:
    words = tree_of("kuberay.yaml")["spec"]["entrypoint"].split()
    files = [word for word in words if word.endswith(".yaml")]
    assert all((ROOT / file.removeprefix("/opt/nmt/")).is_file() for file in files)
    cluster = load_cluster(ROOT / files[-1].removeprefix("/opt/nmt/"))
    assert cluster.storage.startswith("/mnt/shared")


# Scripts.


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_bash(script: str) -> None:
    path = ROOT / "cluster" / script
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)


def call(tmp_path: Path, *words: str, **env: str) -> tuple[int, str]:
    """Calls a script with a `ray` that only prints; exit status and what was said."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    ray = tools / "ray"
    ray.write_text('#!/bin/sh\necho ray "$@" mode=$RAY_AUTH_MODE\n')
    ray.chmod(0o755)
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster", dirs_exist_ok=True)
    python = tools / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / "cluster" / words[0]), *words[1:]], capture_output=True, text=True,
        env={"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)} | env,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def token(tmp_path: Path) -> Path:
    assert call(tmp_path, "start.sh", "token")[0] == 0
    return tmp_path / ".ray/auth_token"


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path: Path, token: Path) -> None:
    """P10."""
    assert (token.stat().st_mode & 0o777, len(token.read_text())) == (0o600, 64)
    assert call(tmp_path, "start.sh", "token") == (
        2, f"start.sh: {token} is there already: use it, or remove it\n",
    )  # fmt: skip


def test_hosts_are_started_with_the_token(tmp_path: Path, token: Path) -> None:
    """P10."""
    head = call(tmp_path, "start.sh", "head", "10.0.0.1", "--num-cpus=0")
    assert head == (
        0,
        "ray start --head --node-ip-address=10.0.0.1 --port=6379 --disable-usage-stats "
        "--num-cpus=0 mode=token\n",
    )
    join = call(tmp_path, "start.sh", "join", "10.0.0.1", "10.0.0.2")
    assert join == (
        0,
        "ray start --address=10.0.0.1:6379 --node-ip-address=10.0.0.2 --disable-usage-stats "
        "mode=token\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start.sh"], "start.sh: say token, head, join or stop; the head of this file tells more"),
        (
            ["start.sh", "head"],
            "start.sh: the address of this host is missing: start.sh head ADDRESS",
        ),
        (
            ["start.sh", "join", "10.0.0.1"],
            "start.sh: two addresses are needed, the head's and this host's: start.sh join HEAD "
            "ADDRESS",
        ),
        (
            ["start.sh", "head", "10.0.0.1"],
            "start.sh: no token in {home}/.ray/auth_token: `start.sh token` makes one on the head; "
            "copy it to every host",
        ),
        (
            ["slurm.sh"],
            "slurm.sh: say sbatch cluster/slurm.sh EXPERIMENT CLUSTER [KEY=VALUE]...",
        ),
        (
            ["slurm.sh", "a.yaml", "b.yaml"],
            "slurm.sh: no Slurm allocation here: send it with sbatch",
        ),
    ],
)
def test_what_is_missing_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    """P9, P10."""
    assert call(tmp_path, *words) == (2, message.format(home=tmp_path) + "\n")


def test_a_token_that_others_can_read_is_refused(tmp_path: Path, token: Path) -> None:
    """P10."""
    token.chmod(0o644)
    assert call(tmp_path, "start.sh", "head", "10.0.0.1") == (
        2, f"start.sh: others can read {token}: chmod 600 {token}\n",
    )  # fmt: skip
