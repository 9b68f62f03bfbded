"""Damage to files and values, the same for the same seed."""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nmt.checkpoint.format import digest_of_json

DEEP: Any = []
for _ in range(80):
    DEEP = [DEEP]
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 7, 10**6, 2**31, 2**53 + 1, 2**63, 10**400, 0.5, -0.0, 1e-320,
    1e308, math.inf, -math.inf, math.nan, "", "x", "x" * 5000, "a\0b", "\ud800", "\x1b[31mred",
    "../../etc/passwd", "/dev/zero", "~", "$HOME", "1e30", "nan", "a\nb", [], {}, [[]], [None],
    {"": None}, {"x": {"y": 1}}, DEEP,
)  # fmt: skip
"""Values that a field of a file does not expect."""
ODD_WORDS = (
    "", " ", "-1", "0", "1", "7", "1000", "1000000000", "1e30", "9" * 400, "nan", "inf", "-inf",
    "0.5", "1_0", "0x10", "x", "x" * 300, "x" * 5000, "a/" * 3000, "\udcff", "a\nb", "\x1b[31m",
    "..", "/", "/dev/null", "/dev/zero", "/dev/full", "missing", "loop", "loop/x", "raw",
    "raw/news.en", "tiny.yaml", "prepared/tiny", "runs/tiny", "~", "~nobody/x", "$HOME", "*", "=",
    "a=b", "seed=2", "decoding.beam=3", "model.width=1e30", "corpus.train.9.weight=1",
    "stages=[{}]", "--", "-", "١", "true", "s3://", "http://", "sacrebleu:none", "1,2,3", "1,,",
)  # fmt: skip
"""Values that an option of a command may not expect."""

Damage = Callable[[Random, Path], str]
"""Changes files of the folder of the tiny model and returns a description."""
BEST = Path("runs/tiny/checkpoints/update-00000060")
PREPARED = Path("prepared/tiny")


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Return bytes that differ in some places."""
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice([1, 1, 2, 8, 64, 1000]))
    match random.randrange(7):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + random.randbytes(end - start) + data[end:]
        case 2:
            return data[:start] + data[end:]
        case 3:
            return data[:end] + data[start:]
        case 4:
            return data[:start] + bytes(end - start) + data[end:]
        case 5:
            return data[:start] + b"\xff" * (end - start) + data[end:]
    return data[:start] + random.choice([b"\0", b"9" * 30, b"-", b'"', b"\n", b"{"]) + data[start:]


def mutate_tree(random: Random, tree: Any) -> Any:
    """Return a tree of lists and dictionaries that differs from `tree` in one or two places."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random.choice([1, 1, 1, 2])):
        tree = _mutate_once(random, tree)
    return tree


def _mutate_once(random: Random, tree: Any) -> Any:
    places = list(_places(tree))
    if not places or random.randrange(60) == 0:
        return random.choice(ODD_VALUES)
    parent, key = random.choice(places)
    match random.randrange(8):
        case 0:
            del parent[key]
        case 1:
            other, other_key = random.choice(places)
            parent[key] = json.loads(json.dumps(other[other_key]))
        case 2 if isinstance(parent, list):
            parent.append(parent[key])
        case 2:
            parent[random.choice(["x", "", "format", f"{key}x"])] = parent[key]
        case 3 if isinstance(parent[key], int | float):
            parent[key] = random.choice([parent[key] + 1, parent[key] - 1, -parent[key], 1e9])
        case _:
            parent[key] = random.choice(ODD_VALUES)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each list and dictionary with each of its indices and keys."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            # Large lists, such as a vocabulary, are not all of a file's structure.
            if key != "vocab" or len(tree) < 10:
                yield from _places(tree[key])


def mutate_json(random: Random, file: Path) -> str:
    """Change a JSON file as a tree or as bytes."""
    data = file.read_bytes()
    if random.randrange(3):
        file.write_text(json.dumps(mutate_tree(random, json.loads(data))), encoding="utf-8")
    else:
        file.write_bytes(mutate_bytes(random, data))
    return file.name


def mutate_lines(random: Random, file: Path) -> str:
    """Change a file of JSON lines: one as a tree, some bytes, or the order of lines."""
    lines = file.read_bytes().splitlines(keepends=True)
    row = random.randrange(len(lines))
    match random.randrange(4):
        case 0 | 1:
            tree = mutate_tree(random, json.loads(lines[row]))
            lines[row] = json.dumps(tree).encode() + b"\n"
        case 2:
            lines[row] = mutate_bytes(random, lines[row])
        case _:
            lines.insert(random.randrange(len(lines)), lines[row])
    file.write_bytes(b"".join(lines))
    return file.name


def digest_of(file: Path) -> tuple[int, str]:
    data = file.read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()


# Prepared corpora.


def damage_prepared(random: Random, root: Path) -> str:
    """Change a file of the prepared corpus; its digests are those of the new content, or not."""
    folder = root / PREPARED
    match random.randrange(6):
        case 0 | 1:
            return mutate_json(random, folder / "manifest.json")
        case 2:
            what = mutate_json(random, folder / "tokenizer.json")
        case 3:
            file = random.choice(sorted(folder.rglob("*.src")) + sorted(folder.rglob("*.tgt")))
            file.write_bytes(mutate_bytes(random, file.read_bytes()))
            what = file.name
        case 4:
            shard = folder / "shards/00000.arrow"
            shard.write_bytes(mutate_bytes(random, shard.read_bytes()))
            what = "bytes of a shard"
        case _:
            what = mutate_shard(random, folder / "shards/00000.arrow")
    if random.randrange(4):
        seal_prepared(folder)
        what += ", sealed"
    return what


def seal_prepared(folder: Path) -> None:
    """Write sizes and digests of all files to the manifest."""
    tree = json.loads((folder / "manifest.json").read_bytes())
    for info in [*tree["files"], *(shard["file"] for shard in tree["shards"])]:
        info["size"], info["sha256"] = digest_of(folder / info["name"])
        if info["name"] == "tokenizer.json":
            tree["tokenizer_fingerprint"] = info["sha256"]
    (folder / "manifest.json").write_text(json.dumps(tree), encoding="utf-8")


def mutate_shard(random: Random, file: Path) -> str:
    """Write a shard with other ids, offsets or types."""
    with pa.OSFile(str(file), "rb") as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        columns = {name: batch.column(name) for name in batch.schema.names}
        offsets = columns["src"].offsets.to_numpy().copy()
        tokens = columns["src"].values.to_numpy().copy()
        lines = columns["line"].to_numpy().copy()
    row = random.randrange(len(lines))
    what = random.choice(["ids", "offsets", "type", "offset type", "lines", "rows", "column"])
    match what:
        case "ids":
            value = random.choice([0, 1, 2, np.iinfo(tokens.dtype).max])
            tokens[random.randrange(len(tokens))] = value
        case "offsets":
            offsets[row] = random.choice([0, -1, 2**31 - 1, offsets[-1], offsets[row] + 1])
        case "type":
            tokens = tokens.astype(random.choice(["i2", "u1", "u8", "f4", "f8"]))
        case "lines":
            lines = lines.astype(random.choice(["f8", "i4"]))
    kind = pa.LargeListArray if what == "offset type" else pa.ListArray
    columns["src"] = kind.from_arrays(pa.array(offsets), pa.array(tokens))
    columns["line"] = pa.array(lines)
    if what == "column":
        del columns[random.choice(sorted(columns))]
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    if what == "rows":
        batch = batch.slice(random.randrange(len(lines)), random.randrange(len(lines)))
    options = pa.ipc.IpcWriteOptions(compression=random.choice([None, None, None, "zstd", "lz4"]))
    with (
        pa.OSFile(str(file), "wb") as out,
        pa.ipc.new_file(out, batch.schema, options=options) as writer,
    ):
        writer.write_batch(batch)
    return f"{what} of a shard"


# Checkpoints.


def damage_checkpoint(random: Random, root: Path) -> str:
    """Change a file of the best checkpoint, whose digests are those of the new content."""
    folder = root / random.choice([BEST, BEST, BEST, Path("int8")])
    tensors = sorted(folder.rglob("*.safetensors"))
    match random.randrange(10):
        case 0 | 1:
            return mutate_sealed(random, folder / "bundle.json")
        case 2:
            return _damage_score(random, folder)
        case 3:
            what = mutate_json(random, folder / "tokenizer.json")
        case 4:
            text = (folder / "config.yaml").read_text(encoding="utf-8")
            (folder / "config.yaml").write_text(mutate_yaml(random, text), encoding="utf-8")
            what = "config.yaml"
        case 5 if (folder / "training/state.json").exists():
            what = mutate_json(random, folder / "training/state.json")
        case 6:
            file = random.choice(tensors)
            file.write_bytes(mutate_bytes(random, file.read_bytes()))
            what = f"bytes of {file.name}"
        case 7:
            what = mutate_header(random, random.choice(tensors))
        case _:
            what = mutate_tensors(random, random.choice(tensors))
    seal_checkpoint(folder)
    return f"{folder.name}: {what}"


def seal_checkpoint(folder: Path) -> None:
    """Write sizes and digests of all files to bundle.json."""
    tree = json.loads((folder / "bundle.json").read_bytes())
    for name, info in tree["files"].items():
        info["num_bytes"], info["sha256"] = digest_of(folder / name)
    del tree["sha256"]
    text = json.dumps(tree | {"sha256": digest_of_json(tree)})
    (folder / "bundle.json").write_text(text, encoding="utf-8")


def mutate_sealed(random: Random, file: Path) -> str:
    """Change a JSON file that has its own digest."""
    tree = json.loads(file.read_bytes())
    del tree["sha256"]
    tree = mutate_tree(random, tree)
    if isinstance(tree, dict):
        # The digest of what a reader parses.
        tree = json.loads(json.dumps(tree))
        tree["sha256"] = digest_of_json(tree)
    file.write_text(json.dumps(tree), encoding="utf-8")
    return file.name


def _damage_score(random: Random, folder: Path) -> str:
    """Add a score that belongs to the checkpoint, with changes."""
    of = json.loads((folder / "bundle.json").read_bytes())["sha256"]
    tree = {"of": of, "bleu": 12.5, "bleu_signature": "tok:13a", "dev_loss": 2.5, "sha256": ""}
    (folder / "score.json").write_text(json.dumps(tree), encoding="utf-8")
    return mutate_sealed(random, folder / "score.json")


def mutate_header(random: Random, file: Path) -> str:
    """Change shapes, dtypes, offsets or metadata in the header of a tensor file."""
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    if random.randrange(3):
        header = mutate_tree(random, header)
        what = "header"
    else:
        names = [name for name in header if name != "__metadata__"]
        tied = [{}, {"x": "y"}, {"x": names[0]}, {names[0]: names[-1]}, {names[0]: names[0]},
                [], ["x"], [1, 2], "x", None, 1, {"x": 1}, DEEP]  # fmt: skip
        text = random.choice([json.dumps(random.choice(tied)), "", "{", "[" * 5000])
        header["__metadata__"] = {"tied": text}
        what = "tied"
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return f"{what} of {file.name}"


def mutate_tensors(random: Random, file: Path) -> str:
    """Change a tensor of a file: values, dtype, shape or name."""
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    scales = [name for name in tensors if name.endswith("int8_scale")]
    name = random.choice(scales if scales and random.randrange(2) else sorted(tensors))
    tensor = tensors[name]
    dtypes = [torch.float16, torch.float64, torch.int8, torch.int64, torch.bool, torch.bfloat16]
    what = random.choice(
        ["nan", "inf", "zero", "dtype", "shape", "missing", "name", "more", "1e38"]
    )
    match what:
        case "nan" | "inf" | "zero" | "1e38":
            value = {"nan": math.nan, "inf": math.inf, "zero": 0.0, "1e38": 1e38}[what]
            tensor = tensor.float()
            if tensor.numel() and random.randrange(2):
                tensor.view(-1)[random.randrange(tensor.numel())] = value
            else:
                tensor = torch.full_like(tensor, value)
            tensors[name] = tensor
        case "dtype":
            tensors[name] = tensor.to(random.choice(dtypes))
        case "shape":
            shapes = [tensor.reshape(-1), tensor[None], tensor.t().contiguous()
                      if tensor.dim() == 2 else tensor[..., None], tensor.new_empty(0),
                      tensor[:1].clone() if tensor.dim() else tensor[None]]  # fmt: skip
            tensors[name] = random.choice(shapes)
        case "missing":
            del tensors[name]
        case "name":
            tensors[f"{name}x"] = tensors.pop(name)
        case "more":
            tensors["more"] = torch.ones(2)
    save_file({key: each.contiguous().clone() for key, each in tensors.items()}, file, metadata)
    return f"{what} in {name} of {file.name}"


# Exported models.


def damage_export(random: Random, root: Path) -> str:
    """Change a file of the exported model, whose digests are those of the new content."""
    folder = root / "onnx"
    match random.randrange(4):
        case 0:
            return mutate_json(random, folder / "config.json")
        case 1:
            what = mutate_json(random, folder / "tokenizer.json")
        case _:
            file = random.choice(sorted(folder.glob("*.onnx")))
            file.write_bytes(mutate_bytes(random, file.read_bytes()))
            what = f"bytes of {file.name}"
    tree = json.loads((folder / "config.json").read_bytes())
    for name, info in tree["files"].items():
        info["num_bytes"], info["sha256"] = digest_of(folder / name)
    (folder / "config.json").write_text(json.dumps(tree), encoding="utf-8")
    return what


# Run directories.


def damage_run(random: Random, root: Path) -> str:
    """Change a file of the run beside its checkpoints."""
    run = root / "runs/tiny"
    match random.randrange(8):
        case 0:
            return mutate_json(random, run / "manifest.json")
        case 1 | 2:
            return mutate_lines(random, run / "ledger.jsonl")
        case 3 | 4:
            return mutate_lines(random, run / "metrics.jsonl")
        case 5 | 6:
            file = random.choice(sorted(root.glob("**/evaluation/*")))
            if file.suffix == ".json":
                return mutate_json(random, file)
            file.write_bytes(mutate_bytes(random, file.read_bytes()))
            return file.name
    heartbeat = {"update": 60, "time": 1.5e9, "workers": 2}
    (run / "pulse.json").write_text(json.dumps(heartbeat).ljust(100), encoding="utf-8")
    return mutate_json(random, run / "pulse.json")


# Settings.

_HOSTILE_YAML = (
    "a: &a [x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e]",
    "seed: !!timestamp abc", "seed: !!python/object/apply:os.system [id]", "seed: &x [*x]",
    "seed: !!binary '***'", "seed: 2026-99-99", "seed: 1:99:99", "seed: " + "[" * 3000,
    "? [a, b]\n: 1", "<<: *x", "<<: [1]", "seed: !!set {a}", "seed: !!int ''", "name: |\n  a\0b",
    "%YAML 9.9\n---\nseed: 1", "--- a\n--- b", "\ufeffseed: 1", "seed: *missing",
)  # fmt: skip


def mutate_yaml(random: Random, text: str) -> str:
    """Change YAML: a value, some bytes, or a hostile construct at its end."""
    lines = text.splitlines()
    match random.randrange(4):
        case 0:
            return mutate_bytes(random, text.encode()).decode(errors="replace")
        case 1:
            return f"{text}\n{random.choice(_HOSTILE_YAML)}\n"
        case 2:
            row = random.randrange(len(lines))
            lines[row] = random.choice(["", "  ", "\t"]) + lines[row]
        case _:
            rows = [row for row, line in enumerate(lines) if ":" in line]
            row = random.choice(rows)
            key, _, _ = lines[row].partition(":")
            lines[row] = f"{key}: {json.dumps(random.choice(ODD_VALUES))}"
    return "\n".join(lines) + "\n"
