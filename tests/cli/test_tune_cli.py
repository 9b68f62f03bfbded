"""`nmt tune` of a run: beam size and length penalty by dev BLEU."""

import json
from pathlib import Path

import pytest
from cli_calls import Nmt


def test_best_setting_has_the_best_dev_bleu(here: Path, nmt: Nmt) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    answer = nmt("tune runs/tiny --beams 1,4 --penalties 1 --rerank none,chrf")
    assert answer.status == 0, answer.err
    header, first, *others = answer.out.splitlines()
    assert header == "beam  length_penalty  rerank  dev BLEU"
    beam, penalty, rerank, bleu = first.split()[:4]
    tried = {tuple(line.split()[:3:2]) for line in (first, *others)}
    assert tried == {("1", "none"), ("4", "none"), ("4", "chrf")}
    search = f"--beam {beam} --length-penalty {penalty}"
    search += f" --rerank {rerank}" if rerank != "none" else ""
    assert search in answer.err
    again = nmt(
        f"evaluate runs/tiny --src raw/dev.en --ref raw/dev.de {search} --metrics bleu --json"
    )
    assert f"{json.loads(again.out)['scores'][0]['score']:.2f}" == bleu


def test_dev_set_without_lines_is_an_error(here: Path, nmt: Nmt) -> None:
    """Actionable errors (nmt/README.md, Guarantees): the raw files were emptied since training."""
    for language in ("en", "de"):
        Path(f"raw/dev.{language}").write_bytes(b"")
    answer = nmt("tune runs/tiny --beams 1 --penalties 1")
    assert (answer.status, answer.err) == (
        2, "nmt: the dev set is empty: validation needs at least one pair (corpus.dev)\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name"),
    [("tune runs/tiny --beams 2,90", "beam is 90"),
     ("backtranslate runs/tiny raw/train.en bt decoding.beam=90", "beam is 90"),
     ("backtranslate runs/tiny raw/train.en bt decoding.method=mbr", "samples is 32")],
)  # fmt: skip
def test_memory_of_a_search_is_checked_before_it_starts(
    command: str, name: str, here: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.model.host_memory.memory_limits", lambda: [1 << 20])
    answer = nmt(command)
    assert answer.status == 2
    start = f"nmt: {name} for batches of 64 sentences, but it needs 0.0 GiB of memory and there "
    assert answer.err == start + "are 0.0 GiB: use a smaller value\n"


def test_the_largest_value_tried_is_reported(here: Path, nmt: Nmt) -> None:
    answer = nmt("tune runs/tiny --beams 2 --penalties 0,1")
    best = answer.out.splitlines()[1].split()[1]
    line = "1 is the largest value tried: try larger ones (--penalties)"
    assert (line in answer.err) == (best == "1")
    assert "--beams" not in answer.err
