"""Verification of checkpoint files, and packed weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_checkpoints import FILES, flip, message_of, save, truncate

from nmt.checkpoint.format import (
    digest_of_json,
    nmt_version,
    read_info,
    verify_checkpoint,
)
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.checkpoint.tensor_files import pack_weights, unpack_weights
from nmt.config.decoding import Precision
from nmt.errors import CheckpointError


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "is corrupt: 123 bytes, expected {size:,}"),
        (flip, "is corrupt: its SHA-256 does not match bundle.json"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_corrupt_file_is_refused_by_name(
    damage: Callable[[Path], None], problem: str, name: str, tmp_path: Path
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    save(tmp_path, 400)
    folder = save(tmp_path)
    size = (folder / name).stat().st_size
    damage(folder / name)
    expected = (
        f"{folder}/{name} {problem.format(size=size)}; "
        f"use another checkpoint, such as {tmp_path}/checkpoints/update-00000400"
    )
    assert message_of(lambda: verify_checkpoint(folder)) == expected
    used_by = load_training_state if name.startswith("training") else load_checkpoint
    assert message_of(lambda: used_by(folder)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "is missing: the checkpoint is incomplete"),
        ("", "is corrupt: not valid JSON"),
        ('{"format": 1', "is corrupt: not valid JSON"),
        ("\udcff", "is corrupt: not valid JSON"),
        ("[" * 100_000, "is corrupt: not valid JSON"),
        ("[1]", "is corrupt: its SHA-256 does not match"),
        ('{"format": 1}', "is corrupt: its SHA-256 does not match"),
        ('{"format": "1"}', "is corrupt: its SHA-256 does not match"),
    ],
)
def test_a_corrupt_bundle_json_is_refused(text: str | None, problem: str, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    (folder / "bundle.json").unlink()
    if text is not None:
        (folder / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
    assert message_of(lambda: load_checkpoint(folder)) == (
        f"{folder}/bundle.json {problem}; restore it from a copy, or train again"
    )


def error_of(folder: Path) -> str:
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        return str(error)
    return ""


def test_a_flipped_byte_is_detected(tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    info = read_info(folder)
    for name in FILES:
        intact = (folder / name).read_bytes()
        for position in range(0, len(intact), max(1, len(intact) // 50)):
            corrupt = bytearray(intact)
            corrupt[position] ^= 1 << position % 8
            (folder / name).write_bytes(corrupt)
            error = error_of(folder)
            if error or name != "bundle.json":
                assert error.startswith(f"{folder}/{name} "), position
            else:
                # White space may differ: the content is the same.
                assert read_info(folder) == info
        (folder / name).write_bytes(intact)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"files": 3}, "files: Input should be an object; restore it from a copy, or train again"),
        (
            {"update": "3"},
            "update: Input should be a valid integer; restore it from a copy, or train again",
        ),
        (
            {"bleu": 1e999},
            "bleu: Input should be a finite number; restore it from a copy, or train again",
        ),
        (
            {
                "files": {
                    "../a": {"num_bytes": 1, "sha256": ""},
                    "b": {"num_bytes": 1, "sha256": ""},
                }
            },
            "unknown file ../a and 1 more",
        ),
    ],
)
def test_unknown_keys_and_files_are_refused(
    change: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    file = save(tmp_path) / "bundle.json"
    tree = json.loads(file.read_text()) | change
    del tree["sha256"]
    file.write_text(json.dumps(tree | {"sha256": digest_of_json(tree)}))
    assert (
        message_of(lambda: load_checkpoint(file.parent))
        == f"{file} was not written by nmt: {problem}"
    )


def test_another_format_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path)
    tree = json.loads((folder / "bundle.json").read_text())
    tree |= {"format": 2, "nmt_version": "9.0"}
    (folder / "bundle.json").write_text(json.dumps(tree))
    assert message_of(lambda: load_checkpoint(folder)) == (
        f"{folder}/bundle.json has format 2, but nmt {nmt_version()} reads format 1; "
        "use nmt 9.0, which wrote it"
    )


# Packed weights.


@pytest.mark.parametrize(("precision", "bytes_each"), [("bf16", 2), ("int8", 1)])
def test_large_matrices_are_packed_once(precision: Precision, bytes_each: int) -> None:
    large, small = torch.randn(400, 200), torch.randn(4, 4)
    packed = pack_weights({"a": large, "b": large, "c": small, "d": torch.randn(80_000)}, precision)
    assert packed["a"] is packed["b"]
    assert packed["a"].nbytes == 80_000 * bytes_each
    assert packed["c"] is small
    assert packed["d"].dtype == torch.float32
    weights = unpack_weights(packed)
    assert sorted(weights) == ["a", "b", "c", "d"]
