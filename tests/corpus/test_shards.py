"""Token ids on disk."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nmt.corpus.manifest import CorpusInfo, FileInfo, Manifest
from nmt.corpus.shards import Shards, ShardWriter
from nmt.errors import DataError

Pair = tuple[list[int], list[int]]
FIRST: list[Pair] = [([5, 6, 7], [8]), ([], [9, 10]), ([300], [400, 401])]
SECOND: list[Pair] = [([11], [12]), ([13, 14], [15, 16, 17])]


def write(folder: Path, *parts: list[Pair], num_pieces: int = 500) -> Manifest:
    """Write a prepared corpus whose n-th shard has the n-th part; lines are 10, 20, ..."""
    (folder / "shards").mkdir(parents=True)
    shards = []
    for number, pairs in enumerate(parts):
        writer = ShardWriter(num_pieces, f"corpus{number}")
        src, tgt = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        writer.add(src, tgt, range(10, 10 + 10 * len(pairs), 10))
        name = f"shards/{number:05}.arrow"
        shards.append(writer.write(folder / name, name))
    (folder / "tokenizer.json").write_text("{}")
    manifest = Manifest(
        format=1,
        src="en",
        tgt="de",
        settings={"corpus.src": "en"},
        cleaning_fingerprint="c",
        tokenizer_fingerprint="t",
        num_pieces=num_pieces,
        pairs=sum(shard.pairs for shard in shards),
        src_tokens=sum(shard.src_tokens for shard in shards),
        tgt_tokens=sum(shard.tgt_tokens for shard in shards),
        longest=max((shard.longest for shard in shards), default=0),
        corpora=[
            CorpusInfo(
                shard.corpus,
                [FileInfo("a.en", 1, "s", 3)],
                shard.pairs,
                shard.pairs,
                {},
                {},
                shard.src_tokens,
                shard.tgt_tokens,
                0,
            )
            for shard in shards
        ],
        shards=shards,
        files=[FileInfo.from_path(folder / "tokenizer.json", "tokenizer.json")],
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


def use(folder: Path) -> None:
    shards = Shards.open(folder)
    shards.verify()
    shards.pairs([0])


def error_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        use(folder)
    return str(caught.value).replace(str(folder), "prepared")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "prepared", FIRST, SECOND)
    return tmp_path / "prepared"


def test_pairs_come_in_the_requested_order(folder: Path) -> None:
    rows = [4, 0, 2, 1, 3, 0]
    found = [(src.tolist(), tgt.tolist()) for src, tgt in Shards.open(folder).pairs(rows)]
    assert found == [(FIRST + SECOND)[row] for row in rows]


def test_lengths_exclude_bos_and_eos(folder: Path) -> None:
    shards = Shards.open(folder)
    assert len(shards) == 5
    assert shards.src_lengths.tolist() == [3, 0, 1, 1, 2]
    assert shards.tgt_lengths.tolist() == [1, 2, 2, 1, 3]
    assert (shards.src_lengths.dtype, shards.tgt_lengths.dtype) == (np.int32, np.int32)


def test_rows_know_where_they_came_from(folder: Path) -> None:
    shards = Shards.open(folder)
    assert [shards.origin(row) for row in range(5)] == [
        ("corpus0", 10),
        ("corpus0", 20),
        ("corpus0", 30),
        ("corpus1", 10),
        ("corpus1", 20),
    ]


def test_the_manifest_counts_pairs_and_tokens(tmp_path: Path) -> None:
    manifest = write(tmp_path / "prepared", FIRST, SECOND)
    assert [(s.pairs, s.src_tokens, s.tgt_tokens, s.longest) for s in manifest.shards] == [
        (3, 4, 5, 3),
        (2, 3, 4, 3),
    ]
    assert (manifest.pairs, manifest.src_tokens, manifest.tgt_tokens, manifest.longest) == (
        5,
        7,
        9,
        3,
    )


@pytest.mark.parametrize(
    ("num_pieces", "kind"), [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, "u4")]
)
def test_tokens_have_the_smallest_sufficient_type(
    tmp_path: Path, num_pieces: int, kind: object
) -> None:
    write(tmp_path / "prepared", [([3], [num_pieces - 1])], num_pieces=num_pieces)
    src, tgt = Shards.open(tmp_path / "prepared").pairs([0])[0]
    assert (src.dtype, tgt.tolist()) == (kind, [num_pieces - 1])


def test_pairs_are_read_only_views_of_the_file(folder: Path) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    src, _ = Shards.open(folder).pairs([0])[0]
    assert not src.flags.owndata
    assert not src.flags.writeable


def test_a_shard_is_a_plain_arrow_file(folder: Path) -> None:
    table = pa.ipc.open_file(str(folder / "shards" / "00000.arrow")).read_all()
    assert table.to_pylist() == [
        {"src": src, "tgt": tgt, "corpus": "corpus0", "line": line}
        for (src, tgt), line in zip(FIRST, (10, 20, 30), strict=True)
    ]
    assert table.schema.field("src").type == pa.list_(pa.uint16())


def test_writing_twice_gives_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    write(tmp_path / "again", FIRST, SECOND)
    for name in ("manifest.json", "shards/00000.arrow", "shards/00001.arrow"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_pickled_and_forked_shards_read_the_same(folder: Path) -> None:
    shards = Shards.open(folder)
    shards.pairs([0])
    again = pickle.loads(pickle.dumps(shards))
    assert again.manifest == shards.manifest
    assert again.pairs([4])[0][1].tolist() == [15, 16, 17]
    if not (child := os.fork()):
        os._exit(0 if shards.pairs([4])[0][1].tolist() == [15, 16, 17] else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_out_of_range_raises_index_error(folder: Path, row: int) -> None:
    with pytest.raises(IndexError, match=f"rows {row} to {row} of 5"):
        Shards.open(folder).pairs([row])


def test_empty_sides_are_stored(tmp_path: Path) -> None:
    write(tmp_path / "prepared", [([], [5]), ([], [])])
    shards = Shards.open(tmp_path / "prepared")
    assert shards.src_lengths.tolist() == [0, 0]
    assert [(src.tolist(), tgt.tolist()) for src, tgt in shards.pairs([0, 1])] == [
        ([], [5]),
        ([], []),
    ]


def test_no_rows_give_no_pairs(folder: Path) -> None:
    assert Shards.open(folder).pairs([]) == []


def test_a_missing_manifest_is_reported(tmp_path: Path) -> None:
    assert error_of(tmp_path / "prepared") == (
        "prepared: no prepared corpus here (manifest.json is missing); "
        "run `nmt prepare` with this experiment first"
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "corpora": 3}'])
def test_a_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert error_of(folder) == (
        "prepared/manifest.json: damaged, not the manifest that `nmt prepare` wrote; "
        "remove the folder and run `nmt prepare` again"
    )


def test_a_manifest_of_another_format_is_refused(folder: Path) -> None:
    tree = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**tree, "format": 2}))
    assert error_of(folder) == (
        "prepared/manifest.json: format 2, but this nmt reads format 1; "
        "run `nmt prepare` again into an empty folder"
    )


def test_a_missing_shard_is_reported(folder: Path) -> None:
    size = (folder / "shards" / "00001.arrow").stat().st_size
    (folder / "shards" / "00001.arrow").unlink()
    assert error_of(folder) == (
        f"prepared/shards/00001.arrow: missing, but the manifest lists {size} bytes; remove the "
        "folder and run `nmt prepare` again"
    )


def test_a_truncated_shard_is_reported(folder: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    path = folder / "shards" / "00000.arrow"
    data = path.read_bytes()
    path.write_bytes(data[:-8])
    assert error_of(folder) == (
        f"prepared/shards/00000.arrow: {len(data) - 8} bytes, but the manifest lists {len(data)} "
        "bytes; remove the folder and run `nmt prepare` again"
    )


def test_a_damaged_shard_is_found_by_its_digest(folder: Path) -> None:
    path = folder / "shards" / "00000.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    Shards.open(folder)
    assert error_of(folder) == (
        "prepared/shards/00000.arrow: damaged: its SHA-256 differs from that in the manifest; "
        "remove the folder and run `nmt prepare` again"
    )


def test_a_file_of_another_format_is_reported(folder: Path) -> None:
    path = folder / "shards" / "00000.arrow"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(DataError, match="not a shard of nmt") as caught:
        Shards.open(folder).pairs([0])
    assert str(caught.value).startswith(f"{path}: not a shard of nmt (")
    assert str(caught.value).endswith("); remove the folder and run `nmt prepare` again")


def test_a_shard_with_other_rows_is_reported(folder: Path) -> None:
    manifest = Shards.open(folder).manifest
    first = replace(manifest.shards[0], pairs=4)
    corpus = replace(manifest.corpora[0], read=4, kept=4)
    changed = replace(
        manifest,
        shards=[first, *manifest.shards[1:]],
        pairs=6,
        corpora=[corpus, *manifest.corpora[1:]],
    )
    (folder / "manifest.json").write_text(changed.to_json())
    assert error_of(folder) == (
        "prepared/shards/00000.arrow: 3 pairs, but the manifest lists 4; remove the folder and "
        "run `nmt prepare` again"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pairs": 6}, "pairs is 6, but 5 by the other numbers"),
        ({"longest": 4}, "longest is 4, but 3 by the other numbers"),
        ({"tgt_tokens": 0}, "tgt_tokens is 0, but 9 by the other numbers"),
        ({"corpora": []}, "shards of its corpora is 2, but 0 by the other numbers"),
        (
            {"files": [FileInfo("../x", 1, "0" * 64)]},
            "'../x' is not a file of the folder with a SHA-256",
        ),
    ],
)
def test_contradictions_in_a_manifest_are_refused(
    folder: Path, change: dict[str, object], problem: str
) -> None:
    changed = replace(Shards.open(folder).manifest, **change)  # type: ignore[arg-type]
    (folder / "manifest.json").write_text(changed.to_json())
    assert error_of(folder) == (
        f"prepared/manifest.json: damaged: {problem}; remove the folder and run `nmt prepare` again"
    )


def rewrite(folder: Path, src: list[list[int]], offsets: list[int] | None = None) -> None:
    """Write the first shard again with other sources, and its digest into the manifest."""
    path = folder / "shards" / "00000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    values = pa.array([token for row in src for token in row], pa.uint16())
    ends = [0, *np.cumsum([len(row) for row in src]).tolist()]
    column = pa.ListArray.from_arrays(pa.array(offsets or ends, pa.int32()), values)
    table = table.set_column(0, "src", column)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    tree = json.loads((folder / "manifest.json").read_text())
    info = FileInfo.from_path(path, "shards/00000.arrow")
    tree["shards"][0]["file"] |= {"size": info.size, "sha256": info.sha256}
    (folder / "manifest.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("src", "offsets", "problem"),
    [
        ([[5, 6, 7], [], [500]], None, "row 2 has a token outside 3 to 499, the vocabulary "
         "without special tokens"),
        ([[5, 2, 7], [], [300]], None, "row 0 has a token outside 3 to 499, the vocabulary "
         "without special tokens"),
        ([[5, 6, 7], [], [300]], [0, 3, 2, 4], "row 1 has -1 src tokens; expected 0 to 3, the "
         "longest in the manifest"),
        ([[5, 6, 7, 300], [], []], None, "row 0 has 4 src tokens; expected 0 to 3, the longest "
         "in the manifest"),
        ([[5, 6, 7], [], []], None, "rows use src tokens 0 to 3 of 3; the manifest lists 4"),
    ],
)  # fmt: skip
def test_contents_out_of_bounds_are_refused(
    folder: Path, src: list[list[int]], offsets: list[int] | None, problem: str
) -> None:
    rewrite(folder, src, offsets)
    shards = Shards.open(folder)
    shards.verify()
    with pytest.raises(DataError) as caught:
        shards.pairs([0, 1, 2])
    assert str(caught.value) == (
        f"{folder}/shards/00000.arrow: {problem}; remove the folder and run `nmt prepare` again"
    )


def test_a_verified_file_is_read_again_after_a_change(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read: list[str] = []
    from_path = FileInfo.from_path
    monkeypatch.setattr(
        FileInfo, "from_path", lambda path, name: read.append(name) or from_path(path, name)
    )
    shards = Shards.open(folder)
    shards.verify()
    assert sorted(read) == ["shards/00000.arrow", "shards/00001.arrow", "tokenizer.json"]
    shards.verify()
    assert len(read) == 3
    shards.verify(again=True)
    assert len(read) == 6
    path = folder / "shards" / "00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"00001.arrow: damaged: its SHA-256 differs"):
        shards.verify()
    assert read[6:] == ["shards/00001.arrow"]
