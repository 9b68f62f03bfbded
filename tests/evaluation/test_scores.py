"""Scores as the sacrebleu command prints them, and warnings."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import sacrebleu

from nmt.errors import ConfigError, DataError
from nmt.evaluation import scores
from nmt.evaluation.sacrebleu_metrics import (
    METRICS,
    bleu_tokenizer,
    check_metrics,
    find_wrong_tokenizer,
)

HYPS = [
    "Ein Hund läuft über den grünen Rasen.",
    "Zwei Männer spielen Fußball , und einer lacht.",
    "Das Mädchen im roten Kleid springt ins Wasser!",
    "",
    "Die Frau kauft 1,5 kg Äpfel auf dem Markt\u2028von Bonn.  ",
    "EINE KATZE schläft auf dem Sofa.\r",
]
REFS = [
    "Ein Hund rennt über den grünen Rasen.",
    "Zwei Männer spielen Fußball, und einer von ihnen lacht.",
    "Ein Mädchen in einem roten Kleid springt ins Wasser!",
    "»Niemand« ist hier – oder?",
    "Eine Frau kauft auf dem Markt von Bonn 1,5 kg Äpfel.",
    "Eine Katze schläft auf dem Sofa.",
]
OTHER_REFS = ["Ein Hund läuft übers Gras.", *REFS[1:]]
V = f"version:{sacrebleu.__version__}"


def report(**options: object) -> scores.ScoreReport:
    return scores.score(HYPS, [REFS], "de", test_set="toy", system="s", **options)


def sacrebleu_command(folder: Path, *options: str, num_refs: int = 1) -> str:
    files = {"hyp": HYPS, "ref0": REFS, "ref1": OTHER_REFS}
    for name, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    refs = [str(folder / f"ref{number}") for number in range(num_refs)]
    command = [sys.executable, "-m", "sacrebleu", *refs, "-i", str(folder / "hyp"), *options]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    return done.stdout.decode().rstrip("\n")


def test_scores_of_a_literal_text_to_eight_digits() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    found = report(metrics=METRICS, num_resamples=1).scores
    assert [
        (score.label, score.name, f"{score.value:.8f}", score.signature) for score in found
    ] == [
        ("", "BLEU", "50.32172853", f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{V}"),
        ("", "chrF2", "69.57110241", f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{V}"),
        ("", "TER", "38.29787234", f"nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|{V}"),
        ("lower-cased", "BLEU", "55.09086214", f"nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|{V}"),
        (
            "lower-cased, international tokenisation",
            "BLEU",
            "52.69599290",
            f"nrefs:1|case:lc|eff:no|tok:intl|smooth:exp|{V}",
        ),
    ]


def test_intervals_of_a_literal_text_to_eight_digits() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    found = report(metrics=["bleu", "chrf", "ter"]).scores
    assert [f"{score.interval[0]:.8f} {score.interval[1]:.8f}" for score in found] == [
        "49.18280189 16.55602552",
        "68.51821136 14.32380295",
        "38.64923477 19.54545403",
    ]
    assert all("|bs:1000|seed:12345|" in score.signature for score in found)


@pytest.mark.parametrize("width", [1, 10])
def test_text_equals_the_sacrebleu_command(width: int, tmp_path: Path) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    options = ["-m", "bleu", "chrf", "ter", "--confidence", "-f", "text", "-w", str(width)]
    printed = sacrebleu_command(tmp_path, *options)
    assert report().text(width).split("\n")[1:4] == printed.split("\n")


def test_json_equals_the_sacrebleu_command(tmp_path: Path) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    options = ["-m", "bleu", "chrf", "ter", "--confidence", "-f", "json", "-w", "8"]
    printed = json.loads(sacrebleu_command(tmp_path, *options))
    assert json.loads(report().json())["scores"] == printed


def test_several_references_equal_the_sacrebleu_command(tmp_path: Path) -> None:
    options = ["-m", "bleu", "chrf", "ter", "--confidence", "-f", "json", "-w", "8"]
    printed = json.loads(sacrebleu_command(tmp_path, *options, num_refs=2))
    found = scores.score(HYPS, [REFS, OTHER_REFS], "de", test_set="toy", system="s")
    assert json.loads(found.json())["scores"] == printed


def test_bleu_of_validation_equals_the_report() -> None:
    found = scores.bleu(HYPS, REFS, "de")
    [reported] = report(metrics=["bleu"], num_resamples=1).scores
    assert found == reported


def test_the_text_names_test_set_system_and_checkpoint() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    found = scores.score(
        ["ein Hund"],
        [["Ein Hund"]],
        "de",
        test_set="toy",
        system="run",
        checkpoint="runs/run/checkpoints/update-00000500",
        metrics=["chrf", "bleu-lc"],
        num_resamples=1,
    )
    assert found.text() == (
        "toy: 1 segments, run, checkpoint runs/run/checkpoints/update-00000500\n"
        f"chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{V} = 73.5\n"
        f"lower-cased: BLEU|nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|{V} = 0.0 "
        "100.0/100.0/0.0/0.0 (BP = 1.000 ratio = 1.000 hyp_len = 2 ref_len = 2)"
    )


def test_json_separates_extras_from_scores() -> None:
    found = json.loads(report(metrics=["ter", "bleu-lc"], num_resamples=1).json())
    assert [score["name"] for score in found["scores"]] == ["TER"]
    assert [(score["label"], score["case"]) for score in found["extras"]] == [("lower-cased", "lc")]
    assert (found["test_set"], found["system"], found["segments"]) == ("toy", "s", 6)


def test_a_score_of_zero_has_no_interval() -> None:
    found = scores.score(["a"], [["b"]], "de", test_set="t", system="s", metrics=["bleu"])
    assert found.scores[0].interval is None


@pytest.mark.parametrize("metric", ["chrf", "ter"])
def test_resamples_of_only_blank_lines_have_a_mean(metric: str) -> None:
    found = scores.score(["a", ""], [["a b", ""]], "de", test_set="t", system="s", metrics=[metric])
    assert found.scores[0].interval is not None


def test_resampling_uses_the_seed_of_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    [score] = report(metrics=["bleu"]).scores
    assert "|seed:7|" in score.signature


@pytest.mark.parametrize(
    ("tokenizer", "codes"),
    [
        ("13a", "de deu_Latn vie_Latn zh-Latn nan_Latn hin_Deva arb_Arab en-US"),
        ("zh", "zh zh-Hans zh_CN zho zho_Hans zho_Hant cmn chi yue yue_Hant zh-cmn-Hans-CN ZH"),
        ("ja-mecab", "ja ja_JP jpn jpn_Jpan"),
        ("ko-mecab", "ko kor kor_Hang"),
        ("char", "th tha_Thai lo lao_Laoo km khm_Khmr my mya_Mymr shn_Mymr bo bod_Tibt dzo_Tibt"),
    ],
)
def test_the_target_language_selects_the_tokenizer(tokenizer: str, codes: str) -> None:
    assert {code: bleu_tokenizer(code) for code in codes.split()} == dict.fromkeys(
        codes.split(), tokenizer
    )


def test_bleu_uses_the_tokenizer_of_the_language() -> None:
    assert "|tok:zh|" in scores.bleu(["你好"], ["你好"], "zho_Hans").signature
    found = scores.bleu(["แมวนอนบนเตียง"], ["แมวนอนบนเสื่อ"], "tha_Thai")
    assert "|tok:char|" in found.signature
    assert found.value == pytest.approx(
        sacrebleu.BLEU(tokenize="char").corpus_score(["แมวนอนบนเตียง"], [["แมวนอนบนเสื่อ"]]).score
    )


@pytest.mark.parametrize(
    ("text", "lang", "is_wrong"),
    [
        ("我在北京大学学习。", "xx", True),
        ("我在北京大学学习。", "", True),
        ("ข้าวอยู่ในนา", "lao-lao", False),
        ("猫が好きです", "zn", True),
        ("我在北京大学学习。", "zho", False),
        ("저는 학생입니다.", "xx", False),
        ("Ein Hund.", "xx", False),
    ],
)
def test_references_without_spaces_need_a_known_code(text: str, lang: str, is_wrong: bool) -> None:
    assert bool(find_wrong_tokenizer(lang, [text])) == is_wrong


def test_mixed_unicode_forms_give_a_warning() -> None:
    nfc = "Er läuft früh."
    nfd = unicodedata.normalize("NFD", nfc)
    texts = {"test_set": "t", "system": "s", "metrics": ["bleu"]}
    found = scores.score(["a", nfc], [["a", nfd]], "de", **texts)
    assert found.warnings == (
        "translation and reference differ in Unicode normalisation (NFC or NFD) in 1 of 2 lines, "
        "first in line 2, and equal letters do not match: convert both files to NFC (uconv -x "
        "any-nfc)",
    )
    assert not scores.score([nfc], [[nfc]], "de", **texts).warnings
    assert not scores.score([nfd], [[nfd]], "de", **texts).warnings


@pytest.mark.parametrize("lang", ["ja", "ko"])
def test_a_missing_tokenizer_is_refused(lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{lang}_mecab.MeCab", None)
    with pytest.raises(ConfigError) as error:
        check_metrics(["chrf", "bleu"], lang)
    assert str(error.value) == (
        f"BLEU for corpus.tgt {lang} needs the tokenizer MeCab, which is not installed: "
        f"run pip install 'sacrebleu[{lang}]'"
    )


def test_line_counts_must_be_equal() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        scores.score(HYPS[:5], [REFS], "de", test_set="toy", system="s")
    assert str(error.value) == (
        "toy: the translation has 5 lines, the reference 6: both need one line per segment"
    )


def test_an_empty_test_set_is_refused() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        scores.score([], [[]], "de", test_set="toy", system="s")
    assert str(error.value) == "toy is empty: a score needs at least one segment"


def test_a_seed_that_is_not_a_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setenv("SACREBLEU_SEED", "x")
    with pytest.raises(ConfigError) as error:
        report()
    assert str(error.value) == "SACREBLEU_SEED is 'x', but it must be a whole number or none"


def test_tokenised_text_gives_a_warning() -> None:
    hyps = ["Ein Hund .", "Zwei Hunde", "Er sagt , ja", "Nein."]
    refs = ["Ein Hund.", "Zwei Hunde", "Er sagt, ja", "Nein."]
    found = scores.score(hyps, [refs], "de", test_set="t", system="s", metrics=["bleu"])
    assert found.warnings == (
        "the translation looks tokenised in 2 of 4 lines, first in line 1; "
        "scores need detokenised text",
    )
    assert found.text().endswith(f"\nwarning: {found.warnings[0]}")


@pytest.mark.parametrize(
    "line",
    ["Sub@@ wort", "E @-@ Mail", "Rock &apos;n Roll", "▁Ein ▁Hund", "你好 。", "Hund , Katze"],
)
def test_marks_of_tokenised_text(line: str) -> None:
    found = scores.score(["a"], [[line]], "de", test_set="t", system="s", metrics=["bleu"])
    assert found.warnings[0].startswith("the reference looks tokenised")


@pytest.mark.parametrize("line", ["Um 10,5 Uhr ...", "Quoi ?", "A.B., C", "3.5 , no"])
def test_few_lines_with_marks_give_no_warning(line: str) -> None:
    lines = [line, *["Plain text."] * 19]
    found = scores.score(lines, [lines], "de", test_set="t", system="s", metrics=["bleu"])
    assert found.warnings == ()


def test_blank_lines_are_counted() -> None:
    found = scores.score(["", "b"], [["a", "b"]], "de", test_set="t", system="s", metrics=["bleu"])
    assert found.warnings == ("1 of 2 lines of the translation are blank",)


def test_lines_that_make_ter_slow_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    lines = ["a " * 149 + "a", "a " * 148 + "a"]
    scores.score(lines, [lines], "de", test_set="toy", system="s", metrics=["ter"])
    assert caplog.messages == [
        "toy: 1 translations have 150 words or more; TER can take seconds for each; to omit it, "
        "leave ter out of --metrics"
    ]


@pytest.mark.parametrize("lang", ["zh", "zho_Hant", "tha_Thai"])
def test_ter_without_spaces_gives_a_warning(lang: str) -> None:
    found = scores.score(["你好"], [["你好"]], lang, test_set="t", system="s", metrics=["ter"])
    assert found.warnings == (f"TER counts space-separated words, and {lang} has no spaces",)
