"""A prepared corpus and the experiments that can use it: opening, checking and summarising it.

An experiment can use it if their settings give the same pairs and tokens (`corpus_settings`);
`nmt.corpus.prepare` makes one.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nmt.config.experiment import Experiment
from nmt.config.preset import explain_choice, resolve
from nmt.config.settings import (
    add_legacy_values,
    drop_legacy_values,
    has_legacy_value,
    legacy_value,
)
from nmt.corpus import clean
from nmt.corpus.manifest import MANIFEST, Manifest, read_manifest, unusable
from nmt.corpus.prepare_tasks import TOKENIZER
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.corpus.task_cache import WORK
from nmt.corpus.text import read_lines
from nmt.errors import DataError


def prepared_folder(experiment: Experiment) -> Path:
    """Return the absolute path of the prepared corpus, without symbolic links."""
    # Preparing again renames the folder, which must not be a link.
    return Path(os.path.realpath(experiment.prepared))


def is_prepared(experiment: Experiment) -> bool:
    """Return True if the prepared corpus is complete; its settings are not compared."""
    return (prepared_folder(experiment) / MANIFEST).exists()


def resolve_by_prepared(
    experiment: Experiment, log: Callable[[str], None] = lambda line: None
) -> Experiment:
    """Complete an experiment by its prepared corpus.

    `preset: auto` gets its sizes by the number of pairs. Cleaning rules that were added after the
    corpus was prepared stay off, unless the experiment sets them.

    Args:
        experiment: returned as it is if it has no preset and the corpus is not prepared.
        log: called with a line per choice that explains it.

    Raises:
        DataError: the preset is auto and the corpus is not prepared.
    """
    if experiment.preset == "none" and not is_prepared(experiment):
        return experiment
    manifest = read_manifest(prepared_folder(experiment))
    experiment = _keep_rules_off(experiment, manifest, log)
    if experiment.preset == "none":
        return experiment
    num_pairs = count_original_pairs(
        experiment, {info.name: info.kept for info in manifest.corpora}
    )
    log(explain_choice(experiment, num_pairs))
    return resolve(experiment, num_pairs)


def _keep_rules_off(
    experiment: Experiment, manifest: Manifest, log: Callable[[str], None]
) -> Experiment:
    """Turn off the rules that neither the experiment sets nor the prepared corpus has."""
    cleaning = experiment.corpus.cleaning
    later = {
        name: legacy_value(field)
        for name, field in type(cleaning).model_fields.items()
        if has_legacy_value(field)
    }
    # A corpus with one of the rules was prepared by a version that has them all.
    if any(f"corpus.cleaning.{name}" in manifest.settings for name in later):
        return experiment
    off = {name: value for name, value in later.items() if name not in cleaning.model_fields_set}
    if all(getattr(cleaning, name) == value for name, value in off.items()):
        return experiment
    log(
        f"{prepared_folder(experiment)} was prepared without {len(off)} later cleaning rules: they "
        f"stay off; `nmt prepare --force` applies them"
    )
    return experiment.with_settings("corpus", cleaning=cleaning.model_copy(update=off))


def count_original_pairs(experiment: Experiment, kept: Mapping[str, int]) -> int:
    """Count the pairs kept, without corpora that repeat others in another letter case."""
    recased = {text.name for text in experiment.corpus.train if text.is_recased}
    return sum(count for name, count in kept.items() if name not in recased)


def open_prepared(experiment: Experiment) -> tuple[Shards, Subword]:
    """Open the prepared corpus of an experiment.

    Raises:
        DataError: it is missing, incomplete or damaged, or was prepared with settings that give
            other pairs or tokens.
    """
    folder = prepared_folder(experiment)
    # A missing manifest alone would read as not prepared at all.
    if (folder / WORK).exists() and not (folder / MANIFEST).exists():
        raise DataError(f"{folder}: not completely prepared; run `nmt prepare` again to resume")
    shards = Shards.open(folder)
    # Training does not read the test sets: `nmt evaluate` reports one that is missing.
    check_settings(experiment, folder, shards.manifest, ignore="tests")
    listed = {info.name for info in shards.manifest.files}
    if missing := {TOKENIZER, "dev.src", "dev.tgt"} - listed:
        raise unusable(folder / MANIFEST, f"damaged: {min(missing)} is not listed")
    # A vocabulary copied from elsewhere would decode the shards to other text.
    try:
        subword = Subword.read(folder / TOKENIZER)
    except DataError:
        raise unusable(folder / TOKENIZER, "not the vocabulary of the shards") from None
    found = (subword.fingerprint, subword.num_pieces)
    if found != (shards.manifest.tokenizer_fingerprint, shards.manifest.num_pieces):
        raise unusable(folder / TOKENIZER, "not the vocabulary of the shards")
    return shards, subword


def read_dev(folder: str | Path) -> tuple[list[str], list[str]]:
    """Read source and reference lines of the dev set in a prepared corpus."""
    return list(read_lines(Path(folder, "dev.src"))), list(read_lines(Path(folder, "dev.tgt")))


def format_counts(counts: Mapping[str, int]) -> str:
    """Format the counts above 0 of a tally: `1 empty, 3 duplicates`."""
    return ", ".join(f"{count:,} {rule}" for rule, count in counts.items() if count)


def format_summary(manifest: Manifest) -> list[str]:
    """Format the counts of a prepared corpus as lines for the terminal."""
    lines = []
    for info in manifest.corpora:
        dropped, normalised = format_counts(info.dropped), format_counts(info.normalised)
        lines += [
            f"{info.name}: {info.read:,} pairs read = {info.kept:,} kept + "
            f"{info.read - info.kept:,} dropped{f' ({dropped})' if dropped else ''}; "
            f"normalised: {normalised or 'none'}",
            f"{info.name}: {_format_tokens(info.src_tokens, info.kept, manifest.src)}, "
            f"{_format_tokens(info.tgt_tokens, info.kept, manifest.tgt)}",
        ]
        if info.leaked:
            lines.append(
                f"warning: {info.name}: {info.leaked:,} pairs kept are also in the dev or a test "
                "set: scores on it are too high; remove them from the training text"
            )
    kind, size = (manifest.settings[f"corpus.subword.{key}"] for key in ("kind", "vocab_size"))
    requested = f", {size:,} requested" if manifest.num_pieces < size else ""
    return [
        *lines,
        f"vocabulary: {manifest.num_pieces:,} pieces ({kind}{requested}); "
        f"longest pair: {manifest.longest:,} tokens",
    ]


def count_left_out(experiment: Experiment, manifest: Manifest) -> int:
    """Count the prepared pairs that training leaves out: longer than batching.max_length."""
    limit = experiment.batching.max_length
    # Lengths of the corpus are without EOS, the limit counts it.
    if manifest.longest < limit:
        return 0
    shards = Shards(prepared_folder(experiment), manifest)
    return int(np.sum(np.maximum(shards.src_lengths, shards.tgt_lengths) >= limit))


def corpus_settings(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that decide the pairs and tokens of a prepared corpus, by dotted key."""
    tree = experiment.corpus.model_dump(
        mode="json",
        exclude={"root": True, "prepared": True, "shard_pairs": True, "cleaning": {"max_dropped"}},
    )
    for text in (*tree["train"], tree["dev"], *tree["tests"]):
        # They decide how pairs are trained on, not what is prepared.
        del text["weight"], text["noise"], text["distillation"]
    settings: dict[str, Any] = {}
    for key, value in drop_legacy_values(type(experiment.corpus), tree).items():
        if key in ("cleaning", "subword"):
            settings |= {f"corpus.{key}.{inner}": leaf for inner, leaf in value.items()}
        else:
            settings[f"corpus.{key}"] = value
    return settings


def check_settings(
    experiment: Experiment, folder: Path, manifest: Manifest, ignore: str = ""
) -> None:
    """Compare the settings of an experiment with those of a prepared corpus.

    A setting that was added after the corpus was prepared counts with its legacy value.

    Args:
        experiment: the experiment.
        folder: of the prepared corpus, for messages.
        manifest: its manifest.
        ignore: a key of CorpusConfig that may differ.

    Raises:
        DataError: a setting differs that decides about pairs or tokens.
    """
    # Both sides completed: an old corpus lacks new keys, a new one omits legacy values.
    try:
        before, after = (
            add_legacy_values(type(experiment.corpus), _nest(settings))
            for settings in (manifest.settings, corpus_settings(experiment))
        )
    except (ValueError, TypeError, AttributeError):
        raise unusable(folder / MANIFEST, "damaged: its settings are not dotted keys") from None
    for key in after | before:
        if before.get(key) == after.get(key) or key == ignore:
            continue
        if key == "cleaning":
            _check_later_rules(folder, manifest, before[key], after[key])
        place, was, now = _first_difference(f"corpus.{key}", before.get(key), after.get(key))
        # A list index is a difference; a key is a setting of a later version.
        section, _, name = place.rpartition(".")
        is_item = name.isdecimal()
        if section == "corpus.train" and None in (was, now):
            difference = (
                f"without {place} ({now['name']}), which the experiment has"
                if was is None
                else f"with {place} ({was['name']}), not in the experiment"
            )
            raise DataError(
                f"{folder}: prepared {difference}; set another folder as corpus.prepared, or run "
                "`nmt prepare --force`"
            )
        if now is None and not is_item:
            raise DataError(
                f"{folder}: prepared with {place} {_format(was)}, a setting that this version "
                "of nmt does not have; use the version that prepared it, or remove the folder "
                "and run `nmt prepare` again"
            )
        raise DataError(
            f"{folder}: prepared with {place} {_format(was)}, but the experiment has "
            f"{_format(now)}; set it back, or remove the folder and run `nmt prepare` again"
        )
    # Equal settings, but a rule changed its result (RULES_VERSION).
    if manifest.cleaning_fingerprint != clean.fingerprint(experiment.corpus.cleaning):
        raise unusable(folder, "prepared with the cleaning rules of another version of nmt")


def _check_later_rules(
    folder: Path, manifest: Manifest, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Raise one DataError for all rules that were added after a corpus was prepared."""
    changed = [rule for rule in after if before.get(rule) != after[rule]]
    # Typical after an update: the defaults of the new version, the corpus of the old one.
    if len(changed) > 1 and not any(f"corpus.cleaning.{r}" in manifest.settings for r in changed):
        raise DataError(
            f"{folder}: prepared without the cleaning rules {', '.join(changed)}; run `nmt prepare "
            f"--force`, or turn them off, as the cleaning section of configs/multi30k_en_de.yaml "
            f"does"
        )


def _format_tokens(tokens: int, pairs: int, language: str) -> str:
    return f"{tokens:,} {language} tokens ({tokens / max(pairs, 1):.1f} per pair)"


def _nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as a tree, without `corpus`: the reverse of `corpus_settings`."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        _, *sections, name = key.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return tree


def _first_difference(key: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """Return the dotted key of the first setting below `key` that differs, and both values."""
    if isinstance(was, list) and isinstance(now, list):
        was, now = dict(enumerate(was)), dict(enumerate(now))
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return key, was, now
    inner = next(name for name in {**was, **now} if was.get(name) != now.get(name))
    return _first_difference(f"{key}.{inner}", was.get(inner), now.get(inner))


def _format(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
