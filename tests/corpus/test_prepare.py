"""Preparing: from raw text to a prepared corpus."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from toy_corpora import CLEAN, DIRTY, NOUNS, Make, error_of, text_of

from nmt.config.experiment import Experiment
from nmt.corpus import drop_stages
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import (
    count_left_out,
    format_summary,
    open_prepared,
    read_dev,
    resolve_by_prepared,
)
from nmt.corpus.subword import Subword
from nmt.corpus.task_cache import run_locally


def test_every_kept_pair_is_stored_with_its_origin(make_corpus: Make) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    experiment = make_corpus({"clean": CLEAN, "dirty": DIRTY}, shard_pairs=30)
    prepare(experiment)
    expected = [("clean", line, *pair) for line, pair in enumerate(CLEAN, start=1)]
    expected += [
        ("dirty", 1, "Two spaces", "Zwei Leerzeichen"),
        ("dirty", 4, "Nothing else", "Sonst nichts"),
        ("dirty", 7, "été", "sommer"),
    ]
    assert text_of(experiment) == expected


@pytest.mark.parametrize(("shard_pairs", "num_shards"), [(5, 10), (7, 8), (48, 2)])
def test_chunk_size_does_not_change_the_pairs(
    make_corpus: Make, shard_pairs: int, num_shards: int
) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    experiment = make_corpus({"clean": CLEAN[:40], "dirty": DIRTY}, shard_pairs=shard_pairs)
    manifest = prepare(experiment)
    assert len(manifest.shards) == num_shards
    assert text_of(experiment)[-2:] == [
        ("dirty", 7, "été", "sommer"),
        ("dirty", 8, *CLEAN[99]),
    ]
    assert manifest.corpora[1].dropped["duplicates"] == 2  # CLEAN[3] and the second "Nothing else"


@pytest.mark.parametrize("part_pairs", [7, 1000])
def test_duplicates_do_not_depend_on_part_size(
    make_corpus: Make, monkeypatch: pytest.MonkeyPatch, part_pairs: int
) -> None:
    monkeypatch.setattr(drop_stages, "PART_PAIRS", part_pairs)
    experiment = make_corpus({"a": CLEAN[:20], "b": CLEAN[10:30]}, shard_pairs=6)
    manifest = prepare(experiment)
    assert [corpus.kept for corpus in manifest.corpora] == [20, 10]
    assert [row[1] for row in text_of(experiment)] == [*range(1, 21), *range(11, 21)]


def test_every_dropped_pair_is_counted(make_corpus: Make) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    manifest = prepare(make_corpus({"clean": CLEAN, "dirty": DIRTY}))
    dirty = manifest.corpora[1]
    assert (dirty.read, dirty.kept) == (8, 3)
    assert {why: count for why, count in dirty.dropped.items() if count} == {
        "empty": 1,
        "copies": 1,
        "duplicates": 3,
    }
    assert dirty.normalised == {"control_characters": 1, "nfc": 1}


def test_the_summary_lists_all_counts(make_corpus: Make) -> None:
    leak = [("Nothing else", "Sonst\u00a0nichts"), ("New", "Neu")]
    experiment = make_corpus({"clean": CLEAN, "dirty": DIRTY}, dev=leak)
    manifest = prepare(experiment)
    counts = [(info.src_tokens, info.tgt_tokens) for info in manifest.corpora]
    assert format_summary(manifest) == [
        "clean: 100 pairs read = 100 kept + 0 dropped; normalised: none",
        f"clean: {counts[0][0]} en tokens ({counts[0][0] / 100:.1f} per pair), {counts[0][1]} de "
        f"tokens ({counts[0][1] / 100:.1f} per pair)",
        "dirty: 8 pairs read = 3 kept + 5 dropped (1 empty, 1 copies, 3 duplicates); normalised: "
        "1 control_characters, 1 nfc",
        f"dirty: {counts[1][0]} en tokens ({counts[1][0] / 3:.1f} per pair), {counts[1][1]} de "
        f"tokens ({counts[1][1] / 3:.1f} per pair)",
        "warning: dirty: 1 pairs kept are also in the dev or a test set: scores on it are too "
        "high; remove them from the training text",
        f"vocabulary: {manifest.num_pieces} pieces (bpe, 400 requested); longest pair: "
        f"{manifest.longest} tokens",
    ]


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize(
    ("src", "tgt"),
    [
        ("Tom &amp; I say &quot;yes&quot;", "Tom &amp; ich sagen &quot;ja&quot;"),
        ("The <i>old</i> man", "Der <i>alte</i> Mann"),
        ("They visit Köln.", "Sie besuchen KÃ¶ln fÃ¼r uns."),
        ("Er wohnt in der alten Stadt am Fluss.", "He lives in the old town by the river."),
    ],
)
def test_a_set_that_needs_repairs_is_no_hiding_place(
    src: str, tgt: str, is_on: bool, make_corpus: Make
) -> None:
    rules = ("encoding", "html_entities", "markup", "swapped")
    cleaning = {**dict.fromkeys(rules, True), "leaks": is_on}
    manifest = prepare(
        make_corpus({"a": [*CLEAN[:9], (src, tgt)]}, dev=[(src, tgt)], cleaning=cleaning)
    )
    [corpus] = manifest.corpora
    assert (corpus.dropped.get("leaks", 0), corpus.leaked) == ((1, 0) if is_on else (0, 1))


def test_a_pair_with_any_reference_is_a_leak(make_corpus: Make, tmp_path: Path) -> None:
    tests = [{"name": "t", "src": "dev.en", "tgt": "dev.de", "refs": ["other.de"]}]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/other.de").write_text("Danke schön!\n", encoding="utf-8")
    experiment = make_corpus(
        {"a": [*CLEAN[:9], ("thank you", "danke schön")]},
        dev=[("Thank you.", "Danke.")],
        cleaning={"leaks": True},
        tests=tests,
    )
    assert prepare(experiment).corpora[0].dropped.get("leaks", 0) == 1


def test_pairs_that_training_leaves_out_are_counted(make_corpus: Make) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    experiment = make_corpus(
        {"clean": [("a b c d", "a b"), ("x", "a b c"), ("y", "z"), ("q", "r")]}
    )
    manifest = prepare(experiment)
    found = []
    for limit in (manifest.longest + 1, manifest.longest, 2, 1):
        batching = experiment.batching.model_copy(update={"max_length": limit})
        found.append(count_left_out(experiment.model_copy(update={"batching": batching}), manifest))
    shards, _ = open_prepared(experiment)
    longer = [max(pair) + 1 for pair in zip(shards.src_lengths, shards.tgt_lengths, strict=True)]
    assert found == [0, longer.count(manifest.longest + 1), sum(n > 2 for n in longer), 4]


def test_dev_and_test_sets_are_not_cleaned(make_corpus: Make, tmp_path: Path) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    odd = [("  two  spaces\u2028 ", "e\u0301"), ("", ""), ("Berlin", "Berlin")]
    experiment = make_corpus({"train": CLEAN}, dev=odd)
    settings = experiment.model_dump()
    raw = Path(experiment.corpus.root)
    (raw / "t.tsv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfone\teins\r\ntwo\tzwei"))
    settings["corpus"]["tests"] = [{"name": "flickr", "tsv": "t.tsv.gz"}]
    experiment = Experiment.model_validate(settings)
    prepare(experiment)
    folder = tmp_path / "prepared"
    assert read_dev(folder) == tuple(map(list, zip(*odd, strict=True)))
    assert (folder / "dev.src").read_bytes() == (raw / "dev.en").read_bytes()
    assert (folder / "tests" / "flickr.src").read_bytes() == b"one\ntwo\n"
    assert (folder / "tests" / "flickr.tgt").read_bytes() == b"eins\nzwei\n"


def test_compressed_tsv_gives_the_pairs_of_plain_files(make_corpus: Make) -> None:
    plain = make_corpus({"train": CLEAN})
    prepare(plain)
    rows = text_of(plain)
    raw = Path(plain.corpus.root)
    (raw / "t.tsv.gz").write_bytes(
        gzip.compress("".join(f"{src}\t{tgt}\t0.9\r\n" for src, tgt in CLEAN).encode())
    )
    settings = plain.model_dump()
    settings["corpus"]["train"] = [{"name": "train", "tsv": "t.tsv.gz"}]
    settings["corpus"]["prepared"] = str(raw.parent / "other")
    packed = Experiment.model_validate(settings)
    prepare(packed)
    assert text_of(packed) == rows


def test_the_vocabulary_uses_an_even_sample(
    make_corpus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "nmt.corpus.prepare_tasks.Subword.train",
        lambda lines, config, train=Subword.train: (
            seen.extend(lines),
            train(lines, config),
        )[1],
    )
    pairs = [(f"number {n} a", f"Nummer {n} b") for n in range(20)]
    prepare(
        make_corpus(
            {"train": pairs},
            shard_pairs=6,
            subword={"vocab_size": 300, "max_sentences": 8},
        )
    )
    assert seen == [line for n in (0, 5, 10, 15) for line in pairs[n]]


def test_a_tag_is_a_token_that_no_text_has(make_corpus: Make) -> None:
    """Tagged pairs have one more source token; weights do not affect the shards."""
    pairs = [("A dog runs.", "Ein Hund rennt."), ("Two cats sleep.", "Zwei Katzen schlafen.")]
    experiment = make_corpus({"plain": pairs[:1], "made": pairs[1:]})
    texts = experiment.corpus.train
    tagged = [texts[0], texts[1].model_copy(update={"tag": 1})]
    corpus = experiment.corpus.model_copy(update={"train": tagged})
    experiment = experiment.model_copy(update={"corpus": corpus})
    prepare(experiment)
    shards, subword = open_prepared(experiment)
    plain, made = (src.tolist() for src, _ in shards.pairs([0, 1]))
    assert subword.pieces(made[:1]) == ["<0xFF>"]
    assert subword.decode(plain) == "A dog runs."
    assert subword.decode(made[1:]) == "Two cats sleep."
    assert shards.corpora.tolist() == [0, 1]
    heavier = [texts[0].model_copy(update={"weight": 2.0}), tagged[1]]
    corpus = corpus.model_copy(update={"train": heavier})
    open_prepared(experiment.model_copy(update={"corpus": corpus}))


def test_progress_covers_each_stage(make_corpus: Make) -> None:
    calls: list[tuple[str, int, int]] = []
    prepare(
        make_corpus({"train": CLEAN}, shard_pairs=60),
        run_locally,
        lambda stage, done, total: calls.append((stage, done, total)),
    )
    assert calls == [
        *(("reading", done, 3) for done in range(4)),
        *(("cleaning", done, 2) for done in range(3)),
        *(("duplicates", done, 1) for done in range(2)),
        *(("subwords", done, 1) for done in range(2)),
        *(("encoding", done, 2) for done in range(3)),
    ]


# --- a corpus repeated in another letter case ---


def with_cases(experiment: Experiment, **cases: str) -> Experiment:
    """Repeat the first corpus under each of these names with its source in that case."""
    texts = list(experiment.corpus.train)
    texts += [
        texts[0].model_copy(update={"name": name, "src_case": case, "weight": 0.1})
        for name, case in cases.items()
    ]
    corpus = experiment.corpus.model_copy(update={"train": texts})
    return experiment.model_copy(update={"corpus": corpus})


def test_a_corpus_can_repeat_another_in_upper_case(make_corpus: Make) -> None:
    pairs = [("A dog runs.", "Ein Hund rennt."), ("Two cats sleep.", "Zwei Katzen schlafen.")]
    experiment = with_cases(make_corpus({"plain": pairs}), upper="upper", title="title")
    manifest = prepare(experiment)
    assert [info.kept for info in manifest.corpora] == [2, 2, 2]
    assert text_of(experiment)[2:] == [
        ("upper", 1, "A DOG RUNS.", "Ein Hund rennt."),
        ("upper", 2, "TWO CATS SLEEP.", "Zwei Katzen schlafen."),
        ("title", 1, "A Dog Runs.", "Ein Hund rennt."),
        ("title", 2, "Two Cats Sleep.", "Zwei Katzen schlafen."),
    ]
    other = with_cases(make_corpus({"plain": pairs}), upper="title", title="title")
    assert error_of(other) == (
        'prepared: prepared with corpus.train.1.src_case "upper", but the experiment has '
        '"title"; set it back, or remove the folder and run `nmt prepare` again'
    )


@pytest.mark.parametrize("shard_pairs", [15, 1000])
def test_upper_case_takes_a_small_part_of_the_vocabulary(
    make_corpus: Make, shard_pairs: int
) -> None:
    plain = make_corpus({"plain": CLEAN}, shard_pairs=shard_pairs)
    sizes = []
    for experiment in (plain, with_cases(plain, upper="upper")):
        settings = experiment.corpus.model_copy(
            update={"prepared": f"{experiment.corpus.prepared}-{len(experiment.corpus.train)}"}
        )
        experiment = experiment.model_copy(update={"corpus": settings})
        prepare(experiment)
        _, subword = open_prepared(experiment)
        pieces = subword.pieces(range(259, subword.num_pieces))
        sizes.append(sum(piece.strip("▁").isupper() and len(piece) > 2 for piece in pieces))
        assert subword.decode(subword.encode("THE DOG")) == "THE DOG"
    assert sizes[0] == 0
    assert 0 < sizes[1] < 40


def test_repeated_pairs_do_not_count_for_the_preset(make_corpus: Make) -> None:
    auto = make_corpus({"plain": CLEAN[:60]}).model_copy(update={"preset": "auto"})
    experiment = with_cases(auto, upper="upper")
    prepare(experiment)
    lines: list[str] = []
    resolve_by_prepared(experiment, lines.append)
    assert lines[0].startswith("preset auto: 60 pairs -> ")


PEAK = """
import sys
from nmt.config.experiment import Experiment
from nmt.corpus.prepare import prepare
prepare(Experiment.model_validate_json(sys.stdin.read()))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(make_corpus: Make, tmp_path: Path) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    peaks = []
    for num_pairs in (20_000, 120_000):
        pairs = [
            (f"{n % 97} {NOUNS[n % 5][0]}s and {n} trees", f"{n % 97} {NOUNS[n % 5][1]} und {n}")
            for n in range(num_pairs)
        ]
        experiment = make_corpus(
            {"train": pairs},
            prepared=f"of-{num_pairs}",
            shard_pairs=5_000,
            subword={"vocab_size": 400, "max_sentences": 20_000},
        )
        text = experiment.model_dump_json()
        run = subprocess.run(
            [sys.executable, "-c", PEAK], input=text, capture_output=True, text=True
        )
        peaks.append(int(run.stdout))
    assert peaks[1] - peaks[0] < 15, peaks  # MB, of about 140
