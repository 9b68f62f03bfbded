"""The verbs, end to end on a tiny model; what they refuse is in wrong/."""

import gzip
import io
import json
import lzma
import math
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
import zstandard

from nmt.checkpoint.loading import load
from nmt.checkpoint.run import bundles
from nmt.cli.main import main
from nmt.config.files import load_experiment
from nmt.evaluation.metrics import DEFAULT_METRICS

ROOT = Path(__file__).resolve().parents[1]
Nmt = Callable[..., Any]

TEXT = "1 a dog runs.\n2 two cats sleep.\n3 my dog sees a cat.\n"


def translated(nmt: Nmt, text: str, options: str = "") -> list[str]:
    answer = nmt(f"translate runs/tiny {options}", text.encode())
    assert answer.status == 0, answer.err
    assert answer.out.endswith("\n")
    return answer.out[:-1].split("\n")


# --- translate ---


def test_the_tiny_model_translates(here: Path, nmt: Nmt) -> None:
    lines = translated(nmt, TEXT)
    assert [line.split(" ", 1)[1] for line in lines][1:] == [
        "zwei Katzen schlafen.",
        "mein Hund sieht eine Katze.",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_n_lines_in_are_n_lines_out_and_blank_stays_blank(
    end: str, last: str, here: Path, nmt: Nmt
) -> None:
    """P6."""
    lines = ["1 a dog\u2028runs.", "", "2 a\u0085cat\u2029sleeps.", " \t\u3000", "3 two\rdogs run."]
    plain = ["1 a dog runs.", "", "2 a cat sleeps.", "", "3 two dogs run."]
    found = translated(nmt, end.join(lines) + (end if last else ""))
    assert found == translated(nmt, "\n".join(plain))
    assert [not line for line in found] == [False, True, False, True, False]


def test_nothing_in_is_nothing_out(here: Path, nmt: Nmt) -> None:
    """P6."""
    answer = nmt("translate runs/tiny", b"")
    assert (answer.status, answer.out) == (0, "")


def test_a_line_longer_than_any_seen_in_training_is_translated(here: Path, nmt: Nmt) -> None:
    """P6."""
    text = "a dog runs. " * 750 + "\n" + TEXT
    found = translated(nmt, text, "--beam 1 --max-length-ratio 0.1")
    assert len(found) == 4
    assert found[0] != ""


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_changes_no_byte(batch: int, here: Path, nmt: Nmt) -> None:
    """P7."""
    text = Path("raw/train.en").read_text(encoding="utf-8")
    assert translated(nmt, text, f"--batch {batch}") == translated(nmt, text)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_files_are_packed_and_unpacked_by_their_names(suffix: str, here: Path, nmt: Nmt) -> None:
    """P6."""
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    unpack = {
        "": bytes,
        ".gz": gzip.decompress,
        ".xz": lzma.decompress,
        ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    Path(f"in{suffix}").write_bytes(pack[suffix](TEXT.encode()))
    answer = nmt(f"translate runs/tiny -i in{suffix} -o out{suffix}")
    assert (answer.status, answer.out) == (0, "")
    written = unpack[suffix](Path(f"out{suffix}").read_bytes()).decode()
    assert written.split("\n") == [*translated(nmt, TEXT), ""]


def test_a_pipe_is_written_to_and_not_replaced(here: Path, nmt: Nmt) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert nmt("translate runs/tiny -o pipe", TEXT.encode()).status == 0
    assert os.read(reader, 4096).decode().splitlines() == translated(nmt, TEXT)
    os.close(reader)
    assert Path("pipe").is_fifo()


def test_the_file_that_a_link_leads_to_is_written(here: Path, nmt: Nmt) -> None:
    Path("out.de").write_text("before\n")
    Path("link.de").symlink_to("out.de")
    assert nmt("translate runs/tiny -o link.de", TEXT.encode()).status == 0
    assert Path("link.de").is_symlink()
    assert Path("out.de").read_text(encoding="utf-8").splitlines() == translated(nmt, TEXT)


def test_the_checkpoint_and_its_dev_bleu_are_told_in_a_line(here: Path, nmt: Nmt) -> None:
    """P11."""
    [line] = nmt("translate runs/tiny -o out.de", TEXT.encode()).err.splitlines()[:1]
    info = load(Path("runs/tiny")).info
    assert line == (
        f"runs/tiny/checkpoints/update-00000060: update 60, dev BLEU {info.bleu:.2f}, "
        f"{info.bleu_signature}"
    )


def test_a_stream_that_goes_bad_ends_after_whole_lines(
    here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9."""
    monkeypatch.setattr("nmt.corpus.files.READ_BYTES", 64)
    lines = TEXT.encode() * 20
    answer = nmt("translate runs/tiny --batch 1", lines + b"a caf\xe9\n")
    assert answer.status == 2
    assert answer.err.splitlines()[-1] == (
        "nmt: standard input, line 61: byte 0xE9 at position 6 is not UTF-8; convert the file "
        "(`iconv -f ISO-8859-1 -t UTF-8`) or mend the line"
    )
    done = answer.out[:-1].split("\n")
    assert answer.out[-1] == "\n"
    assert 0 < len(done) < 60
    assert done == translated(nmt, lines.decode())[: len(done)]


class Typist(io.RawIOBase):
    """A terminal at which each line waits for the answer to the one before."""

    def __init__(self, lines: list[str], answers: io.BytesIO) -> None:
        self._lines, self._answers = lines, answers
        self.waited: list[int] = []

    @property
    def buffer(self) -> "Typist":
        return self

    def isatty(self) -> bool:
        return True

    def read1(self, size: int) -> bytes:
        self.waited.append(self._answers.getvalue().count(b"\n"))
        return self._lines.pop(0).encode() if self._lines else b""


def test_what_is_typed_is_answered_line_by_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = io.BytesIO()
    typist = Typist(TEXT.splitlines(keepends=True), answers)
    monkeypatch.setattr(sys, "stdin", typist)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(answers))
    with pytest.raises(SystemExit) as ended:
        main(["translate", "runs/tiny"])
    assert not ended.value.code
    assert typist.waited == [0, 1, 2, 3]
    assert "type a line to have it translated; Ctrl-D ends\n" in capfd.readouterr().err


def test_the_script_of_a_checkout_gives_the_same_bytes(
    here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.en").write_text(TEXT)
    script = str(ROOT / "tools/translate.py")
    monkeypatch.setattr(sys, "argv", [script, "runs/tiny", "-i", "in.en", "-o", "out.de"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert not ended.value.code
    assert Path("out.de").read_text(encoding="utf-8").split("\n") == [*translated(nmt, TEXT), ""]


# --- score ---


def write_pairs() -> None:
    Path("my.en").write_text("1 a dog runs.\n\n2 two cats sleep.\n \n3 my dog sees a cat.\n")
    Path("my.de").write_text("1 ein Hund rennt.\n\n\n2 ja\n3 mein Hund\n", encoding="utf-8")


def test_each_pair_has_a_score_and_the_corpus_a_perplexity(here: Path, nmt: Nmt) -> None:
    """P6, P11."""
    write_pairs()
    answer = nmt("score runs/tiny my.en my.de --length-penalty 1")
    assert answer.status == 0
    rows = [line.split("\t") for line in answer.out[:-1].split("\n")]
    assert [text for _, text in rows] == ["1 ein Hund rennt.", "", "", "2 ja", "3 mein Hund"]
    assert [score for score, _ in rows[1::2]] == ["0.000000", "-inf"]
    trees = [
        json.loads(line)
        for line in nmt("score runs/tiny my.en my.de --format jsonl").out.splitlines()
    ]
    assert [tree["src"] for tree in trees] == Path("my.en").read_text().splitlines()
    assert trees[3] == {
        "src": " ", "tgt": "2 ja", "score": None, "log_prob": None, "tokens": [],
        "token_log_probs": [],
    }  # fmt: skip
    real = [trees[index] for index in (0, 2, 4)]
    for (score, _), tree in zip(rows[::2], real, strict=True):
        assert tree["log_prob"] == tree["score"] == pytest.approx(sum(tree["token_log_probs"]))
        assert tree["tokens"][-1] == "</s>"
        penalty = (5 + len(tree["tokens"])) / 6
        assert float(score) == pytest.approx(tree["log_prob"] / penalty, abs=1e-6)
    num_tokens = sum(len(tree["tokens"]) for tree in real)
    nats = -sum(tree["log_prob"] for tree in real)
    assert answer.err.splitlines()[0].startswith("runs/tiny/checkpoints/update-00000060: update 60")
    assert answer.err.splitlines()[-2:] == [
        f"{num_tokens} target tokens, ends counted: {nats / num_tokens:.4f} nats/token, perplexity "
        f"{math.exp(nats / num_tokens):.2f}; 7 words: {nats / 7:.4f} nats/word",
        "2 of 5 sources are blank and have no part in that; 1 of these have a translation, which "
        "is impossible",
    ]


@pytest.mark.parametrize("form", ["text", "scores", "jsonl"])
def test_the_batch_changes_no_byte_of_scores(form: str, here: Path, nmt: Nmt) -> None:
    """P7."""
    options = f"score runs/tiny raw/train.en raw/train.de --format {form}"
    together = nmt(options).out
    assert len(together.splitlines()) == 100
    for batch in (1, 7):
        assert nmt(f"{options} --batch {batch} -o packed.gz").out == ""
        assert gzip.decompress(Path("packed.gz").read_bytes()).decode() == together


# --- evaluate and average ---


def sacrebleu_command(folder: str, name: str, *options: str) -> str:
    command = [sys.executable, "-m", "sacrebleu", f"{folder}/{name}.de.ref"]
    command += ["-i", f"{folder}/{name}.de", "-m", "bleu", "chrf", "ter", "--confidence", *options]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    return done.stdout.decode()


def test_scores_are_those_of_the_sacrebleu_command_for_the_written_files(
    here: Path, nmt: Nmt
) -> None:
    """P6, P11."""
    answer = nmt("evaluate runs/tiny --test news")
    assert answer.status == 0
    title, *lines = answer.out.splitlines()
    assert title == "news: 5 segments, tiny, checkpoint update-00000060"
    printed = sacrebleu_command("runs/tiny/evaluation", "news", "-w", "2", "-f", "text")
    assert [line.strip() for line in lines[:3]] == [
        line.strip() for line in printed.strip().splitlines()
    ]
    assert lines[3].startswith("lower-cased: BLEU|nrefs:1|bs:1000|seed:12345|case:lc|")


def test_json_is_a_line_for_each_test_set(here: Path, nmt: Nmt) -> None:
    """P11."""
    answer = nmt("evaluate runs/tiny --json")
    news, talks = map(json.loads, answer.out.splitlines())
    assert (news["test_set"], talks["test_set"]) == ("news", "talks")
    assert news["checkpoint"] == "update-00000060"
    assert news == json.loads(Path("runs/tiny/evaluation/news.metrics.json").read_text())
    assert [score["name"] for score in news["scores"]] == ["BLEU", "chrF2", "TER"]


def test_what_was_translated_is_kept_and_the_reference_untouched(here: Path, nmt: Nmt) -> None:
    """P6."""
    Path("my.en").write_bytes(TEXT.encode().replace(b"\n", b"\r\n"))
    Path("my.de").write_text("1 ein  Hund .\n2\u00a0Katzen\n3 ja\n", encoding="utf-8")
    answer = nmt(f"evaluate {bundles(Path('runs/tiny'))[0]} --src my.en --ref my.de")
    assert answer.out.startswith("my: 3 segments, tiny, checkpoint update-00000030\n")
    assert answer.err.splitlines()[-1] == "translations and scores: runs/tiny/evaluation/"
    kept = Path("runs/tiny/evaluation")
    names = ["my.de", "my.de.ref", "my.en", "my.metrics", "my.metrics.json"]
    assert sorted(path.name for path in kept.iterdir()) == names
    assert (kept / "my.de.ref").read_bytes() == Path("my.de").read_bytes()
    assert (kept / "my.en").read_text() == TEXT


BOTH = "evaluate runs/tiny --baseline runs/tiny/checkpoints/update-00000030 --test news -o both"


def test_a_system_is_compared_with_a_named_baseline_and_both_are_kept(here: Path, nmt: Nmt) -> None:
    """P11."""
    answer = nmt(f"{BOTH} --slices --metrics bleu,ter")
    assert answer.status == 0
    titles = [line for line in answer.out.splitlines() if line.startswith("news")]
    assert titles == [
        "news: 5 segments, tiny@update-00000030, checkpoint update-00000030",
        "news: 5 segments, tiny@update-00000060, checkpoint update-00000060",
        "news, slices:",
        "news: tiny@update-00000060 against tiny@update-00000030, paired bootstrap, 1,000 trials",
    ]
    assert "tiny@update-00000030 BLEU" in answer.out
    kept = sorted(str(path.relative_to("both")) for path in Path("both").rglob("*.json"))
    assert kept == [
        "tiny@update-00000030/news.metrics.json",
        "tiny@update-00000060/news.comparison.json",
        "tiny@update-00000060/news.metrics.json",
    ]


@pytest.mark.parametrize(
    ("limits", "status", "verdict"),
    [
        ("--min-gain -100", 0, "gate open: news, tiny@update-00000060: BLEU "),
        ("--min-gain 101", 1, "gate shut: news, tiny@update-00000060: BLEU "),
        ("--min-gain -100 --max-p 0.0000001", 1, "gate shut: news, tiny@update-00000060: BLEU "),
    ],
)
def test_the_gate_is_an_exit_status(
    limits: str, status: int, verdict: str, here: Path, nmt: Nmt
) -> None:
    answer = nmt(f"{BOTH} {limits}")
    assert answer.status == status
    assert answer.out.splitlines()[-1].startswith(verdict)


def test_the_gate_stands_in_the_json_too(here: Path, nmt: Nmt) -> None:
    answer = nmt(f"{BOTH} --json --min-gain 101")
    first, second, found = map(json.loads, answer.out.splitlines())
    assert (first["system"], second["system"]) == ("tiny@update-00000030", "tiny@update-00000060")
    assert found["gate"]["is_open"] is False
    kept = json.loads(Path("both/tiny@update-00000060/news.comparison.json").read_text())
    assert kept == {key: value for key, value in found.items() if key != "gate"}


def test_test_sets_together_have_a_slice_for_each(here: Path, nmt: Nmt) -> None:
    answer = nmt("evaluate runs/tiny --together --train-text prepared/tiny --json --metrics bleu")
    found = json.loads(answer.out.splitlines()[-1])
    assert (found["test_set"], found["segments"]) == ("together", 8)
    parts = [(part["kind"], part["slice"], part["segments"]) for part in found["slices"]]
    assert ("corpus", "news", 5) in parts
    assert ("corpus", "talks", 3) in parts
    assert {kind for kind, *_ in parts} == {"length", "rarity", "corpus"}


def test_an_ensemble_is_scored_as_one_system_against_one_of_its_models(
    here: Path, nmt: Nmt
) -> None:
    """P11."""
    earlier = "runs/tiny/checkpoints/update-00000030"
    options = "--test news --metrics bleu"
    answer = nmt(f"evaluate runs/tiny --ensemble {earlier} --baseline runs/tiny {options}")
    assert answer.status == 0
    titles = [line for line in answer.out.splitlines() if line.startswith("news")]
    assert titles == [
        "news: 5 segments, tiny, checkpoint update-00000060",
        "news: 5 segments, tiny+tiny, checkpoint update-00000060+update-00000030",
        "news: tiny+tiny against tiny, paired bootstrap, 1,000 trials",
    ]
    kept = Path("runs/tiny/evaluation")
    assert {path.name for path in kept.glob("*.json")} == {"news.metrics.json"}
    news = json.loads((kept / "ensemble/news.metrics.json").read_text())
    assert news["checkpoint"] == "update-00000060+update-00000030"
    source = Path("raw/news.en").read_text(encoding="utf-8")
    same = "\n".join(translated(nmt, source, f"--ensemble {earlier}")) + "\n"
    assert (kept / "ensemble/news.de").read_text(encoding="utf-8") == same


def test_robustness_is_told_beside_the_plain_score(here: Path, nmt: Nmt) -> None:
    answer = nmt("evaluate runs/tiny --test news --robust --metrics chrf")
    rows = answer.out.splitlines()[-5:]
    assert rows[0].split() == ["chrF2"]
    names = [row.split()[0] for row in rows[1:]]
    assert names == ["upper-case", "title-case", "typos", "no-punctuation"]
    assert Path("runs/tiny/evaluation/news_upper-case.en").read_text().isupper()


def test_files_are_scored_as_the_sacrebleu_command_does(here: Path, nmt: Nmt) -> None:
    """P6."""
    nmt("evaluate runs/tiny --test news")
    folder = "runs/tiny/evaluation"
    answer = nmt(f"compare {folder}/news.de --ref {folder}/news.de.ref --json")
    printed = json.loads(sacrebleu_command(folder, "news", "-w", "8", "-f", "json"))
    assert json.loads(answer.out)["scores"] == printed


def test_files_are_compared_with_a_named_baseline(here: Path, nmt: Nmt) -> None:
    Path("old.de").write_text("1 ein Hund\n2 zwei Katzen\n")
    Path("new.de").write_text("1 ein Hund rennt\n2 zwei Katzen\n")
    Path("corpora").write_text("news\ntalks\n")
    Path("ref.de").write_text("1 ein Hund rennt.\n2 zwei Katzen.\n")
    command = "compare new.de --baseline old.de --ref ref.de --metrics chrf --labels corpora"
    answer = nmt(f"{command} --slices --paired ar --min-gain 1")
    assert answer.status == 0
    assert "ref: new.de against old.de, paired approximate randomisation, 10,000" in answer.out
    names = [line.split()[0] for line in answer.out.splitlines() if line]
    assert names.index("news") + 1 == names.index("talks")
    assert answer.out.endswith("wanted: a gain of +1.00 or more\n")
    assert nmt(f"{command} --min-gain 99").status == 1


def test_options_of_the_search_reach_it(here: Path, nmt: Nmt) -> None:
    options = "--test news --metrics bleu --beam 1 --max-length-ratio 0.1 --threads 1 --batch 2"
    nmt(f"evaluate runs/tiny {options} -o short")
    nmt("evaluate runs/tiny --test news --metrics bleu -o long")
    short, long = (Path(folder, "news.de").read_text() for folder in ("short", "long"))
    assert len(short) < len(long)


def test_an_average_translates_and_says_what_it_is(here: Path, nmt: Nmt) -> None:
    """P5, P11."""
    first, second = map(str, bundles(Path("runs/tiny")))
    line = "mean: the mean of 2 checkpoints, update 60, its dev BLEU is not known\n"
    assert nmt(f"average {first} {second} -o mean").err == line
    answer = nmt("translate mean", TEXT.encode())
    assert answer.err.startswith(line)
    assert len(answer.out.splitlines()) == 3


BEST = "runs/tiny/checkpoints/update-00000060"


def weights_of(folder: str) -> Path:
    return Path(folder, "weights.safetensors")


def test_a_bundle_that_only_translates_gives_the_same_bytes(here: Path, nmt: Nmt) -> None:
    """P5."""
    answer = nmt("export runs/tiny -o small")
    info = load(Path("small")).info
    assert answer.err == (f"small: update 60, dev BLEU {info.bleu:.2f}, {info.bleu_signature}\n")
    names = ["bundle.json", "config.yaml", "tokenizer.json", "weights.safetensors"]
    assert sorted(path.name for path in Path("small").iterdir()) == names
    assert (
        nmt("translate small", TEXT.encode()).out == nmt("translate runs/tiny", TEXT.encode()).out
    )


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_bundle_in_cheap_numbers_translates_in_them_and_says_so(
    precision: str, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5, P11: the dev BLEU was that of other numbers."""
    monkeypatch.setattr("nmt.checkpoint.packing.MIN_WEIGHTS", 1)
    line = f"small: update 60, {precision} weights, its dev BLEU is not known\n"
    assert nmt(f"export runs/tiny -o small --precision {precision}").err == line
    assert weights_of("small").stat().st_size < 0.6 * weights_of(f"{BEST}").stat().st_size
    built = []
    monkeypatch.setattr(
        "nmt.model.precision.cheapen", lambda model, numbers: built.append(numbers) or model
    )
    answer = nmt("translate small", TEXT.encode())
    assert answer.err.startswith(line)
    assert [text.split(" ", 1)[1] for text in answer.out.splitlines()][1:] == [
        "zwei Katzen schlafen.",
        "mein Hund sieht eine Katze.",
    ]
    nmt("translate small --precision fp32", TEXT.encode())
    assert built == [precision, "fp32"]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_cheap_numbers_translate_a_model_that_was_trained(
    precision: str, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.model.precision.MIN_WEIGHTS", 1)
    text = Path("raw/train.en").read_text(encoding="utf-8")
    ours, cheap = translated(nmt, text), translated(nmt, text, f"--precision {precision}")
    assert sum(one == other for one, other in zip(ours, cheap, strict=True)) > 90


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_changes_no_byte_in_int8_either(
    batch: int, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P7."""
    monkeypatch.setattr("nmt.model.precision.MIN_WEIGHTS", 1)
    text = Path("raw/train.en").read_text(encoding="utf-8")
    options = "--precision int8"
    assert translated(nmt, text, f"{options} --batch {batch}") == translated(nmt, text, options)


# --- train and config ---


def no_ray(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a cluster was touched")


def test_a_run_that_is_finished_says_so_without_a_cluster(
    here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4."""
    monkeypatch.setattr("ray.init", no_ray)
    answer = nmt("train tiny.yaml")
    assert answer.status == 0
    assert answer.err.splitlines() == [
        f"the run in {here}/runs/tiny is finished: 60 of 60 updates; set training.updates higher "
        "to train on, or give the experiment another name",
        "to score it on its test sets: nmt evaluate runs/tiny",
    ]


def test_a_corpus_that_is_prepared_says_so_without_a_cluster(
    here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", no_ray)
    answer = nmt("prepare tiny.yaml")
    assert answer.status == 0
    assert answer.err.splitlines()[:2] == [
        f"{here}/prepared/tiny is prepared already",
        "train: 100 pairs read = 100 kept + 0 dropped; mended: none; 16 kept also stand in the "
        "dev or a test set",
    ]


def test_settings_that_are_shown_load_again_to_the_same(here: Path, nmt: Nmt) -> None:
    answer = nmt("config show tiny.yaml model.dropout=0.3 cluster.workers=2")
    Path("shown.yaml").write_text(answer.out, encoding="utf-8")
    assert load_experiment("shown.yaml") == load_experiment("tiny.yaml", ["model.dropout=0.3"])
    assert "\n# workers: 2\n" in answer.out


@pytest.mark.parametrize("key", ["training.patience", "cluster.storage", "corpus.train.tsv"])
def test_a_setting_is_explained(key: str, nmt: Nmt) -> None:
    answer = nmt(f"config explain {key}")
    assert answer.status == 0
    assert re.fullmatch(rf"{re.escape(key)}: [A-Z].*\.  \[.*]\n", answer.out)


# --- help ---


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_tells_every_option_and_what_it_means(verb: str, nmt: Nmt) -> None:
    answer = nmt(f"{verb} --help")
    assert answer.status == 0
    for param in COMMANDS[verb].params:
        is_option = isinstance(param, click.Option)
        assert (param.opts[-1] if is_option else param.human_readable_name) in answer.out
        assert not is_option or param.help


def test_help_lists_the_verbs_in_the_order_of_the_work(nmt: Nmt) -> None:
    listed = re.findall(r"^  (\w+)  ", nmt("--help").out.partition("Commands:")[2], re.M)
    assert listed == [
        "demo", "prepare", "train", "translate", "tune", "backtranslate", "score", "evaluate",
        "compare", "report", "average", "export", "audit", "plan", "bench", "config",
    ]  # fmt: skip


def test_every_line_about_a_verb_is_whole(nmt: Nmt) -> None:
    assert "..." not in nmt("--help").out.partition("Commands:")[2]


def test_the_version_is_told(nmt: Nmt) -> None:
    assert re.fullmatch(r"nmt, version \d+\.\d+\.\d+.*\n", nmt("--version").out)


def test_the_metrics_by_default_are_those_of_the_scores() -> None:
    [option] = [each for each in COMMANDS["evaluate"].params if each.name == "metrics"]
    assert option.default == ",".join(DEFAULT_METRICS)


def test_help_waits_for_neither_torch_nor_ray() -> None:
    code = (
        "import sys\nfrom nmt.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*{'torch', 'ray', 'pydantic', 'sacrebleu'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr == b"\n"


def test_a_reader_that_goes_away_is_no_error_to_tell(here: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "nmt", "config", "show", "tiny.yaml"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


# --- on Ray ---


@pytest.mark.ray
def test_from_raw_text_to_a_score_on_two_workers(here: Path) -> None:
    """P1: the four verbs as a person types them."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nmt", *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    Path("two.yaml").write_text("workers: 2\nstorage: runs\n")
    settings = ("tiny.yaml", "name=two", "training.updates=10", "--cluster", "two.yaml")
    prepared = run("prepare", *settings)
    assert prepared.returncode == 0, prepared.stderr
    assert prepared.stderr.startswith("train: 100 pairs read = 100 kept + 0 dropped; ")
    trained = run("train", *settings)
    assert trained.returncode == 0, trained.stderr
    assert "2 workers on cpu; 100 pairs; " in trained.stderr
    assert "finished after 10 of 10 updates, " in trained.stderr
    evaluated = run("evaluate", "runs/two", "--test", "news")
    assert evaluated.stdout.startswith("news: 5 segments, two, checkpoint update-00000010\n")
    again = run("train", *settings)
    assert "is finished: 10 of 10 updates" in again.stderr
    for done in (prepared, trained, again):
        assert done.stdout == ""
        assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_a_big_file_has_the_same_bytes_on_two_workers_after_a_kill(here: Path, nmt: Nmt) -> None:
    """P4, P7."""
    text = Path("raw/train.en").read_text(encoding="utf-8") * 6 + "\n"
    Path("in.en.zst").write_bytes(zstandard.compress(text.encode()))
    command = "translate runs/tiny -i in.en.zst -o out.gz --format moses --n-best 2 --batch 1"
    words = [sys.executable, "-m", "nmt", *command.split(), "--workers", "2"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = Path("out.gz.unfinished/chunks.jsonl")
    first = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not (done.exists() and done.stat().st_size) and time.monotonic() < until:
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert not Path("out.gz").exists()
    second = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert re.search(
        r"^[1-9]\d* of 601 lines were translated before: going on$", second.stderr, re.M
    )
    assert not done.parent.exists()
    found = Path("out.gz").read_bytes()
    assert nmt(command).status == 0
    assert Path("out.gz").read_bytes() == found


# --- tune ---


def test_the_best_setting_on_the_dev_set_is_the_one_that_scores_so(here: Path, nmt: Nmt) -> None:
    """P11."""
    answer = nmt("tune runs/tiny --beams 1,2 --penalties 1")
    assert answer.status == 0, answer.err
    header, first, second = answer.out.splitlines()
    assert header == "beam  length_penalty  dev BLEU"
    beam, penalty, bleu = first.split()[:3]
    assert {first.split()[0], second.split()[0]} == {"1", "2"}
    assert f"--beam {beam} --length-penalty {penalty}" in answer.err
    again = nmt(
        f"evaluate runs/tiny --src raw/dev.en --ref raw/dev.de --beam {beam} "
        f"--length-penalty {penalty} --metrics bleu --json"
    )
    assert f"{json.loads(again.out)['scores'][0]['score']:.2f}" == bleu
