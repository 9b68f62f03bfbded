"""Every kind of damage is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_checkpoints import FILES, flip, message_of, save, truncate

from nmt.checkpoint.format import digest_of_json, nmt_version, read_info, verify_checkpoint
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.errors import CheckpointError


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, "is damaged: 123 bytes, but {size:,} were written"),
        (flip, "is damaged: its SHA-256 is not that of what was written"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    damage: Callable[[Path], None], what: str, name: str, tmp_path: Path
) -> None:
    """P5."""
    save(tmp_path, 400)
    folder = save(tmp_path)
    size = (folder / name).stat().st_size
    damage(folder / name)
    expected = (
        f"{folder}/{name} {what.format(size=size)}; "
        f"use another checkpoint, such as {tmp_path}/checkpoints/update-00000400"
    )
    assert message_of(lambda: verify_checkpoint(folder)) == expected
    used_by = load_training_state if name.startswith("training") else load_checkpoint
    assert message_of(lambda: used_by(folder)) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "is missing: this is no whole checkpoint"),
        ("", "is damaged: it is not JSON"),
        ('{"format": 1', "is damaged: it is not JSON"),
        ("\udcff", "is damaged: it is not JSON"),
        ("[" * 100_000, "is damaged: it is not JSON"),
        ("[1]", "is damaged: it is not what was written"),
        ('{"format": 1}', "is damaged: it is not what was written"),
        ('{"format": "1"}', "is damaged: it is not what was written"),
    ],
)
def test_a_damaged_bundle_json(text: str | None, what: str, tmp_path: Path) -> None:
    """P5."""
    folder = save(tmp_path)
    (folder / "bundle.json").unlink()
    if text is not None:
        (folder / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
    assert message_of(lambda: load_checkpoint(folder)) == (
        f"{folder}/bundle.json {what}; restore it from a copy, or train again"
    )


def complaint_about(folder: Path) -> str:
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        return str(error)
    return ""


def test_no_flipped_byte_goes_unseen(tmp_path: Path) -> None:
    """P5."""
    folder = save(tmp_path)
    info = read_info(folder)
    for name in FILES:
        good = (folder / name).read_bytes()
        for place in range(0, len(good), max(1, len(good) // 50)):
            bad = bytearray(good)
            bad[place] ^= 1 << place % 8
            (folder / name).write_bytes(bad)
            complaint = complaint_about(folder)
            if complaint or name != "bundle.json":
                assert complaint.startswith(f"{folder}/{name} "), place
            else:
                # White space may change there: it says the same.
                assert read_info(folder) == info
        (folder / name).write_bytes(good)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"files": 3}, "keys are missing or unknown"),
        ({"extra": 3}, "keys are missing or unknown"),
        (
            {
                "files": {
                    "../a": {"num_bytes": 1, "sha256": ""},
                    "b": {"num_bytes": 1, "sha256": ""},
                }
            },
            "it lists ../a and 1 more",
        ),
    ],
)
def test_a_bundle_json_of_a_stranger(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    """P10."""
    file = save(tmp_path) / "bundle.json"
    tree = json.loads(file.read_text()) | change
    del tree["sha256"]
    file.write_text(json.dumps(tree | {"sha256": digest_of_json(tree)}))
    assert message_of(lambda: load_checkpoint(file.parent)) == f"{file} is none of ours: {what}"


def test_a_bundle_of_another_format(tmp_path: Path) -> None:
    """P9."""
    folder = save(tmp_path)
    tree = json.loads((folder / "bundle.json").read_text())
    tree |= {"format": 2, "nmt_version": "9.0"}
    (folder / "bundle.json").write_text(json.dumps(tree))
    assert message_of(lambda: load_checkpoint(folder)) == (
        f"{folder}/bundle.json has format 2, but nmt {nmt_version()} reads format 1; "
        "use nmt 9.0, which wrote it"
    )
