"""A prepared folder and the experiments that it serves: opening it, and telling what it holds.

It serves an experiment whose settings mean the same pairs and tokens as those that it was made
with (`corpus_settings`); `nmt.corpus.prepare` makes one.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nmt.config.corpus import CorpusConfig
from nmt.config.experiment import Experiment
from nmt.config.preset import explain_choice, resolve
from nmt.config.settings import add_legacy_values, drop_legacy_values
from nmt.corpus import clean
from nmt.corpus.manifest import MANIFEST, Manifest, read_manifest
from nmt.corpus.prepare_tasks import TOKENIZER
from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.corpus.task_cache import WORK
from nmt.corpus.text import read_lines
from nmt.errors import DataError


def prepared_folder(experiment: Experiment) -> Path:
    """The prepared folder, as an absolute path."""
    return Path(os.path.abspath(experiment.prepared))


def is_prepared(experiment: Experiment) -> bool:
    """Whether the prepared folder is complete; its settings are checked by who opens it."""
    return (prepared_folder(experiment) / MANIFEST).exists()


def resolve_auto_preset(
    experiment: Experiment, log: Callable[[str], None] = lambda line: None
) -> Experiment:
    """The experiment with what `preset: auto` makes of its prepared corpus, which it explains.

    Raises:
        DataError: it says auto, and the corpus is not prepared.
    """
    if experiment.preset == "none":
        return experiment
    corpora = read_manifest(prepared_folder(experiment)).corpora
    num_pairs = count_original_pairs(experiment, {info.name: info.kept for info in corpora})
    log(explain_choice(experiment, num_pairs))
    return resolve(experiment, num_pairs)


def count_original_pairs(experiment: Experiment, kept: Mapping[str, int]) -> int:
    """Pairs kept of all corpora that are not others in other letters."""
    recased = {text.name for text in experiment.corpus.train if text.is_recased}
    return sum(count for name, count in kept.items() if name not in recased)


def open_prepared(experiment: Experiment) -> tuple[Shards, Subword]:
    """Open the prepared folder of an experiment.

    Raises:
        DataError: it is missing, incomplete or damaged, or was prepared with settings that mean
            other pairs or tokens.
    """
    folder = prepared_folder(experiment)
    if (folder / WORK).exists() and not (folder / MANIFEST).exists():
        raise DataError(
            f"{folder}: prepared in part only; run `nmt prepare` again: it goes on where it stopped"
        )
    shards = Shards.open(folder)
    # Training does not touch the test sets: `nmt evaluate` speaks up where one is missing.
    check_settings(experiment, folder, shards.manifest, ignore="corpus.tests")
    subword = Subword.from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
    if subword.fingerprint != shards.manifest.tokenizer_fingerprint:
        raise DataError(
            f"{folder / TOKENIZER}: not the vocabulary that the shards were made with; "
            f"remove the folder and run `nmt prepare` again"
        )
    return shards, subword


def read_dev(folder: str | Path) -> tuple[list[str], list[str]]:
    """Source and reference lines of the dev set of a prepared folder, untouched."""
    return list(read_lines(Path(folder, "dev.src"))), list(read_lines(Path(folder, "dev.tgt")))


def format_summary(manifest: Manifest) -> list[str]:
    """What a person sees at the end, a line each."""
    lines = []
    for info in manifest.corpora:
        dropped = ", ".join(f"{count:,} {why}" for why, count in info.dropped.items() if count)
        normalised = ", ".join(
            f"{count:,} {how}" for how, count in info.normalised.items() if count
        )
        leaked = (
            f"; {info.leaked:,} kept also stand in the dev or a test set" if info.leaked else ""
        )
        lines += [
            f"{info.name}: {info.read:,} pairs read = {info.kept:,} kept + "
            f"{info.read - info.kept:,} dropped{f' ({dropped})' if dropped else ''}; "
            f"normalised: {normalised or 'none'}{leaked}",
            f"{info.name}: {_tokens(info.src_tokens, info.kept, manifest.src)}, "
            f"{_tokens(info.tgt_tokens, info.kept, manifest.tgt)}",
        ]
    kind, asked = (manifest.settings[f"corpus.subword.{key}"] for key in ("kind", "vocab_size"))
    fewer = f" of the {asked:,} asked for" if manifest.num_pieces < asked else ""
    return [
        *lines,
        f"vocabulary: {manifest.num_pieces:,} pieces{fewer} ({kind}); "
        f"longest pair: {manifest.longest:,} tokens",
    ]


def corpus_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that decide which pairs and tokens a folder holds, by their dotted keys."""
    tree = experiment.corpus.model_dump(
        mode="json",
        exclude={"root": True, "prepared": True, "shard_pairs": True, "cleaning": {"max_dropped"}},
    )
    for text in (*tree["train"], tree["dev"], *tree["tests"]):
        del text["weight"]  # decides what is trained on when, not what stands in the folder
    return _flat(drop_legacy_values(type(experiment.corpus), tree))


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a corpus by dotted key; those of a text stay together."""
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        if key in ("cleaning", "subword"):
            settings |= {f"corpus.{key}.{inner}": leaf for inner, leaf in value.items()}
        else:
            settings[f"corpus.{key}"] = value
    return settings


def _complete(kind: type[CorpusConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a prepared corpus with those that were added after it was prepared."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        _, *sections, name = key.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return _flat(add_legacy_values(kind, tree))


def check_settings(
    experiment: Experiment, folder: Path, manifest: Manifest, ignore: str = ""
) -> None:
    """Raise DataError where a folder was made with settings that mean other pairs or tokens.

    Args:
        ignore: a key that may differ.
    """
    next_move = "set it back, or remove the folder and run `nmt prepare` again"
    kind = type(experiment.corpus)
    before, after = _complete(kind, manifest.settings), _complete(kind, corpus_settings(experiment))
    for key in after | before:
        was, now = before.get(key), after.get(key)
        if was != now and key != ignore:
            place, was, now = _first_difference(key, was, now)
            if now is None and not place.rpartition(".")[2].isdecimal():
                raise DataError(
                    f"{folder}: prepared with {place} {_shown(was)}, a setting that this version "
                    "of nmt does not have; use the version that prepared it, or remove the folder "
                    "and run `nmt prepare` again"
                )
            raise DataError(
                f"{folder}: prepared with {place} {_shown(was)}, but the experiment says "
                f"{_shown(now)}; {next_move}"
            )
    if manifest.cleaning_fingerprint != clean.fingerprint(experiment.corpus.cleaning):
        raise DataError(
            f"{folder}: prepared with the cleaning rules of another version of nmt; "
            f"remove the folder and run `nmt prepare` again"
        )


def _tokens(tokens: int, pairs: int, language: str) -> str:
    return f"{tokens:,} {language} tokens ({tokens / max(pairs, 1):.1f} a pair)"


def _first_difference(key: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """The dotted key of the first setting below `key` that differs, and both its values."""
    if isinstance(was, list) and isinstance(now, list):
        was, now = dict(enumerate(was)), dict(enumerate(now))
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return key, was, now
    inner = next(name for name in {**was, **now} if was.get(name) != now.get(name))
    return _first_difference(f"{key}.{inner}", was.get(inner), now.get(inner))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return json.dumps(value, ensure_ascii=False)
