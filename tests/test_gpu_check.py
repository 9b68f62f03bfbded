"""`tools/gpu_check.sh` on a CPU, with tiny sizes."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tests", "facts", "demo", "checks", "profile", "multi30k", "translate", "bench")
FILES = {
    *(f"{part}.log" for part in PARTS),
    *("facts.json", "checks.json", "translate.json", "bench.json", "profile_8_bf16.txt"),
    *("demo.metrics.jsonl", "multi30k_en_de_gpu.metrics.jsonl"),
}


@pytest.mark.slow
def test_every_part_of_the_gpu_check_starts_and_ends(shared_data: Path, tmp_path: Path) -> None:
    env = os.environ | {
        "QUICK": "1", "LIMIT": "1500", "OUT": str(tmp_path), "PYTHON": sys.executable,
        "MULTI30K": str(shared_data / "multi30k"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [ROOT / "tools" / "gpu_check.sh"], env=env, capture_output=True, text=True, check=False
    )
    for part in PARTS:
        assert f"== {part}: status 0 after " in done.stdout, done.stdout
    assert "s; failed: none\n" in done.stdout
    assert done.returncode == 0
    with tarfile.open(tmp_path / "gpu_check.tgz") as archive:
        assert {Path(name).name for name in archive.getnames()} >= FILES


def test_the_parts_of_the_gpu_check_fit_into_its_time_limit() -> None:
    lines = (ROOT / "tools" / "gpu_check.sh").read_text().splitlines()
    calls = [line.split() for line in lines if line.lstrip().startswith(("part ", "check "))]
    limits = {name: int(seconds) for _, name, seconds, *_ in calls}
    assert set(limits) == set(PARTS)
    assert sum(limits.values()) <= 300


@pytest.mark.parametrize("words", [[], ["--help"], ["nope"]])
def test_a_part_that_does_not_exist_is_refused(words: list[str]) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    script = ROOT / "tools" / "gpu_check.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.stderr == (
        "gpu_check.py: usage: gpu_check.py PART, one of facts, fit, checks, rank, profile, "
        "translate, bench\n"
    )
    assert done.returncode == 2
