"""`nmt translate` with its options, on the tiny model."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Nmt, translated

from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.checkpoint.write import save_checkpoint
from nmt.cli import translate as translate_command
from nmt.config.files import override
from nmt.decoding.output_formats import FORMATS
from nmt.decoding.resumable_output import work_folder

LINES = ["1 a dog runs.", "", "2 two cats sleep.", "3 my dog sees a cat."]
TEXT = "".join(f"{line}\n" for line in LINES)


def out(nmt: Nmt, options: str, text: str = TEXT) -> list[str]:
    return translated(nmt, text, options)


def test_formats_agree_on_the_translations(here: Path, nmt: Nmt) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    plain = out(nmt, "")
    assert [line.partition("\t")[2] for line in out(nmt, "--format scored")] == plain
    moses = [line.split(" ||| ") for line in out(nmt, "--format moses")]
    assert [(int(fields[0]), fields[1]) for fields in moses] == list(enumerate(plain))
    for form in ("pharaoh", "soft"):
        lines = out(nmt, f"--format {form}")
        assert [line.partition(" |||")[0] for line in lines] == plain
    assert [json.loads(line)["translation"] for line in out(nmt, "--format jsonl")] == plain


def test_moses_has_n_best_lists_with_scores(here: Path, nmt: Nmt) -> None:
    lines = [line.split(" ||| ") for line in out(nmt, "--format moses --n-best 2")]
    assert [fields[0] for fields in lines] == ["0", "0", "1", "2", "2", "3", "3"]
    for _, _, features, total in lines:
        assert re.fullmatch(r"LogProb= -?\d+\.\d{6}", features)
        assert float(features.split()[1]) <= float(total) <= 0
    assert lines[2][1:] == ["", "LogProb= 0.000000", "0.000000"]


def test_alignment_has_a_source_word_per_word(here: Path, nmt: Nmt) -> None:
    for line in [*out(nmt, "--format pharaoh"), *out(nmt, "--format pharaoh --n-best 1 --beam 1")]:
        text, _, links = line.partition(" |||")
        pairs = [tuple(map(int, link.split("-"))) for link in links.split()]
        assert sorted(tgt for _, tgt in pairs) == list(range(len(text.split())))
        assert all(src < 6 for src, _ in pairs)
    for line, soft in zip(LINES, out(nmt, "--format soft"), strict=True):
        text, _, rows = soft.partition(" |||")
        weights = [list(map(float, row.split(","))) for row in rows.split()]
        assert len(weights) == len(text.split())
        assert all(len(row) == len(line.split()) and sum(row) <= 1.001 for row in weights)


def test_json_lines_copy_unknown_keys(here: Path, nmt: Nmt) -> None:
    lines = [
        {"id": 1, "text": "1 a dog runs.", "meta": {"a": [None, 1.5, "ä"]}},
        {"text": "2 two dogs run.", "target_prefix": "2 zwei Katzen"},
        {"text": "3 two dogs run.", "constraints": ["Katze"]},
        {"text": "4 two dogs run.", "avoid": ["Hunde"]},
        {"text": ""},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    found = [json.loads(line) for line in out(nmt, "--json-input --format jsonl --n-best 2", text)]
    assert [line | tree for line, tree in zip(lines, found, strict=True)] == found
    assert found[1]["translation"].startswith("2 zwei Katzen")
    assert re.search(r"\bKatze\b", found[2]["translation"])
    assert not re.search(r"\bHunde\b", found[3]["translation"])
    assert found[4]["translation"] == ""
    assert found[0]["log_prob"] == pytest.approx(sum(found[0]["token_log_probs"]))
    assert len(found[0]["tokens"]) == len(found[0]["token_log_probs"])
    assert found[0]["translations"][0] == found[0]["translation"]
    assert len(found[0]["scores"]) == 2
    assert (found[4]["translations"], found[4]["scores"]) == ([""], [0.0])


def test_json_output_can_be_input_again(here: Path, nmt: Nmt) -> None:
    """No key of the first result is left in a second one that lacks it."""
    text = '{"text": "1 a dog runs. http://a.org", "id": 7}\n'
    [first] = out(nmt, "--json-input --format jsonl --n-best 2", text)
    [second] = out(nmt, "--json-input --format jsonl --protect urls", first + "\n")
    assert json.loads(second).keys() == {
        "text", "id", "translation", "score", "log_prob", "tokens", "token_log_probs",
    }  # fmt: skip


def test_glossary_and_avoided_words_apply_to_all_lines(here: Path, nmt: Nmt) -> None:
    Path("terms.tsv").write_text("dog\tKatze\n")
    found = out(nmt, "--terms terms.tsv --avoid Hund --avoid zwei")
    assert [bool(re.search(r"\bKatze\b", line)) for line in found] == [True, False, False, True]
    assert not any(re.search(r"\b(Hund|zwei)\b", line) for line in found)


def test_protected_text_is_copied_and_counted(here: Path, nmt: Nmt) -> None:
    text = "1 a <b>dog</b> runs.\n2 see http://a.org two cats sleep.\n"
    answer = nmt("translate runs/tiny --protect tags,urls,numbers", text.encode())
    first, second = answer.out.splitlines()
    assert all(part in first for part in ("<b>", "</b>", "1"))
    assert "http://a.org" in second
    assert answer.err.splitlines()[-1].startswith("protected spans restored 5 of 5")


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (["rerank=chrf", "rerank_scale=2"], "--rerank none"),
        (["rerank=chrf", "rerank_scale=2"], "--rerank none --beam 1"),
        (["rerank=chrf", "rerank_scale=2"], "--rerank none --method sample"),
        (["protect=[tags,numbers]"], "--protect none"),
        (["protect=[tags,numbers]"], "--protect none --method sample"),
        (["protect=[tags,numbers]"], "--protect none --beam 4 --diverse-groups 2"),
    ],
)
def test_search_settings_of_a_run_can_be_turned_off(
    settings: list[str], options: str, here: Path, nmt: Nmt
) -> None:
    bundle = load_checkpoint(Path("runs/tiny"))
    experiment = override(bundle.experiment, [f"decoding.{each}" for each in settings])
    tokenizer = bundle.subword.to_json()
    save_checkpoint(Path("runs/other"), experiment, tokenizer, load_training_state(bundle.path))
    answer = nmt(f"translate runs/other {options}", TEXT.encode())
    assert answer.out.splitlines() == out(nmt, options), answer.err


def test_long_lines_are_split_joined_and_counted(here: Path, nmt: Nmt) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    text = "1 a dog runs. 2 two cats sleep.\n3 two dogs run.\n"
    answer = nmt("translate runs/tiny --max-source-length 12", text.encode())
    parts = out(nmt, "", "1 a dog runs.\n2 two cats sleep.\n3 two dogs run.\n")
    assert answer.out.splitlines() == [" ".join(parts[:2]), parts[2]]
    assert answer.err.splitlines()[-1] == "long lines split at sentence ends 1"


def test_samples_depend_on_the_seed_only(here: Path, nmt: Nmt) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    first = out(nmt, "--method sample --temperature 5 --seed 3")
    assert out(nmt, "--method sample --temperature 5 --seed 3 --batch 1") == first
    assert out(nmt, "--method sample --temperature 5 --seed 4") != first
    assert out(nmt, "--method sample --top-k 1") == out(nmt, "--beam 1")


def test_mbr_ranks_the_samples(here: Path, nmt: Nmt) -> None:
    lines = out(nmt, "--method mbr --samples 8 --n-best 8 --format moses")
    scores = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("0 ")]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 100 for score in scores)


@pytest.mark.parametrize("similarity", ["bleu", "chrf"])
def test_rerank_orders_the_beam_by_similarity(similarity: str, here: Path, nmt: Nmt) -> None:
    def n_best(options: str) -> list[list[str]]:
        lines = out(nmt, f"--beam 6 --n-best 6 --format moses {options}")
        return [line.split(" ||| ") for line in lines if line.startswith("0 ")]

    beam, reranked = n_best(""), n_best(f"--rerank {similarity}")
    assert sorted(each[1] for each in reranked) == sorted(each[1] for each in beam)
    scores = [float(each[-1]) for each in reranked]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 100 for score in scores)
    # A large scale leaves the best score alone.
    assert n_best(f"--rerank {similarity} --rerank-scale 1000")[0][1] == beam[0][1]
    # The list is cut after it is ordered.
    best = out(nmt, f"--beam 6 --rerank {similarity}")[0]
    assert best == reranked[0][1]


def test_ensemble_of_a_model_with_itself_is_the_model(here: Path, nmt: Nmt) -> None:
    answer = nmt("translate runs/tiny --ensemble runs/tiny", TEXT.encode())
    assert answer.out.splitlines() == out(nmt, "")
    first, second, *_ = answer.err.splitlines()
    assert first == second


COMBINING = ["translate", "evaluate", "backtranslate"]
"""Commands with --ensemble."""


def combine(nmt: Nmt, verb: str) -> Any:
    """Run a command with the models `tiny` and `other`."""
    text = ""
    if verb == "backtranslate":
        Path("text.en").write_bytes(TEXT.encode())
        text = "text.en pairs"
    return nmt(f"{verb} runs/tiny {text} --ensemble runs/other", TEXT.encode())


@pytest.mark.parametrize("verb", COMBINING)
def test_ensemble_of_two_directions_is_an_error(verb: str, here: Path, nmt: Nmt) -> None:
    """Models of both directions can share a vocabulary."""
    bundle = load_checkpoint(Path("runs/tiny"))
    settings = bundle.experiment
    reverse = {"src": settings.corpus.tgt, "tgt": settings.corpus.src}
    experiment = settings.model_copy(update={"corpus": settings.corpus.model_copy(update=reverse)})
    tokenizer = bundle.subword.to_json()
    save_checkpoint(Path("runs/other"), experiment, tokenizer, load_training_state(bundle.path))
    answer = combine(nmt, verb)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == (
        "nmt: ensemble is runs/other/checkpoints/update-00000060, but it translates de-en, "
        "runs/tiny/checkpoints/update-00000060 translates en-de\n"
    )


@pytest.mark.parametrize("verb", COMBINING)
def test_ensemble_of_two_vocabularies_is_an_error(verb: str, here: Path, nmt: Nmt) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    bundle = load_checkpoint(Path("runs/tiny"))
    tokenizer = json.dumps(json.loads(bundle.subword.to_json()), indent=1)
    save_checkpoint(
        Path("runs/other"), bundle.experiment, tokenizer, load_training_state(bundle.path)
    )
    answer = combine(nmt, verb)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == (
        "nmt: ensemble is runs/other/checkpoints/update-00000060, but its vocabulary differs "
        "from that of runs/tiny/checkpoints/update-00000060\n"
    )


def test_only_models_that_all_mark_case_form_an_ensemble(here: Path, nmt: Nmt) -> None:
    bundle = load_checkpoint(Path("runs/tiny"))
    experiment = override(bundle.experiment, ["training.robust=true"])
    tokenizer = bundle.subword.to_json()
    save_checkpoint(Path("runs/other"), experiment, tokenizer, load_training_state(bundle.path))
    answer = nmt("translate runs/tiny --ensemble runs/other", TEXT.encode())
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == (
        "nmt: ensemble is runs/other/checkpoints/update-00000060, but training.robust or "
        "case_marks differs from that of runs/tiny/checkpoints/update-00000060\n"
    )
    # Read in lower case after a mark, which belongs to no word.
    answer = nmt("translate runs/other --format pharaoh", b"TWO DOGS.\n")
    links = re.findall(r"(\d+)-\d+", answer.out.split("|||")[-1])
    assert {*links} <= {"0", "1"}


def test_formats_of_the_option_are_all_formats() -> None:
    assert translate_command.FORMATS == FORMATS


SEARCHES = (
    "", "--coverage-penalty 0.3 --length-norm average", "--min-length 9", "--method sample",
    "--method mbr --samples 4", "--beam 4 --diverse-groups 2", "--protect numbers",
    "--ensemble runs/tiny", "--avoid Hund", "--beam 4 --rerank bleu",
)  # fmt: skip


@pytest.mark.parametrize("search", SEARCHES)
def test_batch_and_order_do_not_change_the_output(search: str, here: Path, nmt: Nmt) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    lines = Path("raw/train.en").read_text(encoding="utf-8").splitlines()[::4]
    options = f"--format jsonl --n-best 2 {search}"
    one_way = out(nmt, options, "\n".join(lines) + "\n")
    assert len(one_way) == len(lines)
    other = out(nmt, f"{options} --batch 3", "\n".join(reversed(lines)) + "\n")
    assert other == one_way[::-1]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_low_precision_rarely_changes_a_translation(
    precision: str, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.model.quantise.MIN_WEIGHTS", 1)
    text = Path("raw/train.en").read_text(encoding="utf-8")
    full, low = translated(nmt, text), translated(nmt, text, f"--precision {precision}")
    assert sum(one == other for one, other in zip(full, low, strict=True)) > 90


@pytest.mark.parametrize("batch", [1, 7])
def test_batch_does_not_change_the_output_in_int8(
    batch: int, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    monkeypatch.setattr("nmt.model.quantise.MIN_WEIGHTS", 1)
    text = Path("raw/train.en").read_text(encoding="utf-8")
    options = "--precision int8"
    assert translated(nmt, text, f"{options} --batch {batch}") == translated(nmt, text, options)


@pytest.fixture
def model() -> str:
    """Run or checkpoint of an English-German model."""
    named = os.environ.get("NMT_TEST_MODEL")
    if not named:
        pytest.skip("set NMT_TEST_MODEL to a trained model")
    return named


@pytest.fixture
def real_lines(shared_data: Path) -> list[str]:
    with gzip.open(shared_data / "multi30k/train.en.gz", "rt", encoding="utf-8") as file:
        return list(islice(file, 3000))


def command(model: str, source: Path, output: Path, form: str, how: str) -> list[str]:
    many = " --n-best 2" if form in ("moses", "jsonl") else ""
    options = f"-i {source} -o {output} --format {form} --beam 2 --threads 1{many} {how}"
    return [sys.executable, "-m", "nmt", *f"translate {model} {options}".split()]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_3000_real_lines_do_not_depend_on_the_batch(
    form: str, model: str, real_lines: list[str], tmp_path: Path
) -> None:
    """Line in, line out, batch-invariant translation (nmt/README.md, Guarantees)."""
    answers = {}
    for name, batch, order in [("one", 64, 1), ("two", 7, 1), ("back", 32, -1)]:
        file, output = tmp_path / name, tmp_path / f"{name}.out"
        file.write_text("".join(real_lines[::order]), encoding="utf-8")
        subprocess.run(command(model, file, output, form, f"--batch {batch}"), check=True)
        answers[name] = per_line(form, output.read_text(encoding="utf-8"))
        assert len(answers[name]) == 3000
    assert answers["one"] == answers["two"] == answers["back"][::-1]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("form", FORMATS)
def test_3000_real_lines_on_workers_are_equal(
    form: str, model: str, real_lines: list[str], tmp_path: Path
) -> None:
    """Exact resume, batch-invariant translation (nmt/README.md, Guarantees)."""
    source = tmp_path / "in.en"
    source.write_text("".join(real_lines), encoding="utf-8")

    def to(name: str, how: str) -> list[str]:
        return command(model, source, tmp_path / name, form, how)

    subprocess.run(to("here", "--batch 64"), check=True)
    subprocess.run(to("one", "--batch 64 --workers 1"), check=True)
    stopped = subprocess.Popen(to("two", "--batch 8 --workers 2"), start_new_session=True)
    chunks = work_folder(tmp_path / "two") / "chunks.jsonl"
    while not (chunks.exists() and chunks.read_bytes().count(b"\n") >= 2):
        assert stopped.poll() is None, "done before it could be interrupted"
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(60) == 130
    assert not (tmp_path / "two").exists()
    subprocess.run(to("two", "--batch 8 --workers 2"), check=True)
    here = (tmp_path / "here").read_bytes()
    assert here.count(b"\n") >= 3000
    assert here == (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def per_line(form: str, text: str) -> list[str]:
    """Return the output of each line; for Moses its n-best list without the line number."""
    if form != "moses":
        return text.splitlines()
    found: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(" ||| ")
        found[number] = found.get(number, "") + rest + "\n"
    return list(found.values())
