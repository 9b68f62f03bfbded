"""Opening a prepared corpus and comparing its settings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_corpora import CLEAN, Make, error_of, write

from nmt.config.corpus import CleaningConfig, CorpusConfig
from nmt.config.experiment import Experiment
from nmt.config.settings import added_setting
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, prepared_folder, resolve_by_prepared
from nmt.errors import DataError


def test_a_missing_corpus_is_reported(make_corpus: Make) -> None:
    assert error_of(make_corpus({"train": CLEAN}), open_prepared) == (
        "prepared: no prepared corpus here (manifest.json is missing); "
        "run `nmt prepare` with this experiment first"
    )


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("cleaning", "max_ratio", 3.0, "cleaning.max_ratio 4.0, but the experiment has 3.0"),
        ("cleaning", "nfc", False, "cleaning.nfc true, but the experiment has false"),
        ("subword", "kind", "unigram", 'subword.kind "bpe", but the experiment has "unigram"'),
        ("subword", "vocab_size", 500, "subword.vocab_size 400, but the experiment has 500"),
        (None, "tgt", "fr", 'tgt "de", but the experiment has "fr"'),
    ],
)
@pytest.mark.parametrize("call", [prepare, open_prepared])
def test_a_different_setting_is_reported(
    make_corpus: Make,
    call: Callable[[Experiment], Any],
    section: str | None,
    key: str,
    value: object,
    message: str,
) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    settings = experiment.model_dump()
    tree = settings["corpus"][section] if section else settings["corpus"]
    tree[key] = value
    assert error_of(Experiment.model_validate(settings), call) == (
        f"prepared: prepared with corpus.{message}; "
        "set it back, or remove the folder and run `nmt prepare` again"
    )


@pytest.mark.parametrize("call", [prepare, open_prepared])
def test_one_corpus_more_or_fewer_is_reported(
    make_corpus: Make, call: Callable[[Experiment], Any]
) -> None:
    few, many = [make_corpus({"one": CLEAN[:9]}), make_corpus({"one": CLEAN[:9], "two": CLEAN[9:]})]
    advice = "set another folder as corpus.prepared, or run `nmt prepare --force`"
    prepare(few)
    assert error_of(many, call) == (
        f"prepared: prepared without corpus.train.1 (two), which the experiment has; {advice}"
    )
    shutil.rmtree(prepared_folder(few))
    prepare(many)
    assert error_of(few, call) == (
        f"prepared: prepared with corpus.train.1 (two), not in the experiment; {advice}"
    )


@pytest.mark.parametrize("key", ["root", "shard_pairs"])
def test_settings_without_effect_on_pairs_may_differ(make_corpus: Make, key: str) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    settings = experiment.model_dump()
    settings["corpus"][key] = {"root": "/nowhere", "shard_pairs": 5}[key]
    open_prepared(Experiment.model_validate(settings))


def test_a_new_test_set_does_not_stop_training(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    settings = experiment.model_dump()
    settings["corpus"]["tests"] = [{"name": "new", "tsv": "new.tsv"}]
    open_prepared(Experiment.model_validate(settings))


def test_changed_raw_files_are_reported(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    write(experiment, "train.de", "".join(f"{tgt}\n" for _, tgt in reversed(CLEAN[:9])))
    assert error_of(experiment) == (
        "raw/train.de: not the file that prepared was prepared from; "
        "remove the folder and run `nmt prepare` again, or set corpus.prepared to another"
    )


@pytest.mark.parametrize(
    "name", ["dev.en", "dev.de", "news.en", "news.de", "news.2.de", "talk.tsv"]
)
def test_changed_dev_and_test_sets_are_reported(make_corpus: Make, name: str) -> None:
    experiment = corpus_with_sets(make_corpus)
    prepare(experiment)
    raw = Path(experiment.corpus.root)
    # The same lines in another form.
    for side in ("en", "de"):
        path = raw / f"dev.{side}"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    prepare(experiment)
    (raw / name).write_text("Another line.\tEine andere Zeile.\n")
    assert error_of(experiment) == (
        f"raw/{name}: not the text that prepared was prepared from; run `nmt prepare --force`, or "
        f"set corpus.prepared to another folder"
    )
    open_prepared(experiment)


@pytest.mark.parametrize("name", ["dev.en", "news.en", "news.2.de", "talk.tsv"])
def test_missing_dev_and_test_sets_are_accepted(make_corpus: Make, name: str) -> None:
    experiment = corpus_with_sets(make_corpus)
    manifest = prepare(experiment)
    Path(experiment.corpus.root, name).unlink()
    assert prepare(experiment) == manifest


def corpus_with_sets(make_corpus: Make) -> Experiment:
    news = {"name": "news", "src": "news.en", "tgt": "news.de", "refs": ["news.2.de"]}
    tests = [news, {"name": "talk", "tsv": "talk.tsv"}]
    experiment = make_corpus({"train": CLEAN[:9]}, tests=tests)
    for name, text in (
        ("news.en", "A"),
        ("news.de", "B"),
        ("news.2.de", "C"),
        ("talk.tsv", "D\tE"),
    ):
        write(experiment, name, f"{text}\n")
    return experiment


def test_a_foreign_vocabulary_is_refused(make_corpus: Make, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    path = tmp_path / "prepared" / "tokenizer.json"
    path.write_text(path.read_text().replace("  ", "").replace('"dropout":null', '"dropout":0.1'))
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text())
    manifest["files"][0]["size"] = path.stat().st_size
    (tmp_path / "prepared" / "manifest.json").write_text(json.dumps(manifest))
    assert error_of(experiment, open_prepared) == (
        "prepared/tokenizer.json: not the vocabulary of the shards; remove the folder and run "
        "`nmt prepare` again"
    )


def test_preset_auto_uses_the_number_of_kept_pairs(
    make_corpus: Make,
) -> None:
    tree = make_corpus({"a": CLEAN[:60]}).model_dump(mode="json", exclude_unset=True)
    del tree["corpus"]["subword"]
    auto = Experiment.model_validate({**tree, "preset": "auto"})
    with pytest.raises(DataError, match="run `nmt prepare` with this experiment first"):
        resolve_by_prepared(auto)
    prepare(auto)
    lines: list[str] = []
    found = resolve_by_prepared(auto, lines.append)
    assert found.corpus.subword.vocab_size == 2000
    assert lines[0].startswith("preset auto: 60 pairs -> width 128, 2 + 2 layers, dropout 0.4")
    shards, _ = open_prepared(found)
    assert shards.manifest.settings["corpus.subword.vocab_size"] == 2000
    assert prepare(auto) == shards.manifest


# --- settings of other versions ---


class LaterCleaning(CleaningConfig):
    later_rule: bool = added_setting(True, before=False)


class LaterCorpus(CorpusConfig):
    cleaning: LaterCleaning = LaterCleaning()


class LaterExperiment(Experiment):
    corpus: LaterCorpus


def later(experiment: Experiment, **cleaning: bool) -> Experiment:
    """Return the experiment as a version with one more cleaning rule reads it."""
    tree = experiment.model_dump()
    tree["corpus"]["cleaning"] |= cleaning
    return LaterExperiment.model_validate(tree)


def test_an_old_corpus_means_new_rules_are_off(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    open_prepared(later(experiment, later_rule=False))
    assert error_of(later(experiment), open_prepared) == (
        "prepared: prepared with corpus.cleaning.later_rule false, but the experiment has true; "
        "set it back, or remove the folder and run `nmt prepare` again"
    )


def test_an_experiment_that_sets_no_new_rule_uses_an_old_corpus(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    settings = experiment.model_dump()
    names = ("numbers", "language")
    settings["corpus"]["cleaning"] = {"duplicates": True}
    lines: list[str] = []
    found = resolve_by_prepared(Experiment.model_validate(settings), lines.append)
    assert [getattr(found.corpus.cleaning, name) for name in names] == [False, False]
    assert lines == [
        f"{prepared_folder(experiment)} was prepared without 18 later cleaning rules: they stay "
        "off; `nmt prepare --force` applies them"
    ]
    open_prepared(found)
    settings["corpus"]["cleaning"] = {"numbers": True}
    found = resolve_by_prepared(Experiment.model_validate(settings))
    assert [getattr(found.corpus.cleaning, name) for name in names] == [True, False]


def test_all_new_rules_are_one_error(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    settings = experiment.model_dump()
    settings["corpus"]["cleaning"] |= {"numbers": True, "max_token_chars": 50}
    assert error_of(Experiment.model_validate(settings), open_prepared) == (
        "prepared: prepared without the cleaning rules max_token_chars, numbers; run `nmt prepare "
        "--force`, or turn them off, as the cleaning section of configs/multi30k_en_de.yaml does"
    )


def test_a_new_rule_that_is_off_changes_no_manifest(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    manifest = prepare(experiment)
    other = make_corpus({"train": CLEAN[:9]}, prepared="again")
    assert prepare(later(other, later_rule=False)) == manifest


def test_a_corpus_of_a_later_version_is_refused(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(later(experiment))
    assert error_of(experiment, open_prepared) == (
        "prepared: prepared with corpus.cleaning.later_rule true, a setting that this version of "
        "nmt does not have; use the version that prepared it, or remove the folder and run `nmt "
        "prepare` again"
    )


def test_a_section_of_a_later_version_is_refused(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    prepare(experiment)
    path = prepared_folder(experiment) / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["settings"]["corpus.train"][0]["later"] = {"rate": 0.5}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert error_of(experiment, open_prepared).startswith(
        'prepared: prepared with corpus.train.0.later {"rate": 0.5}, a setting that this '
    )
