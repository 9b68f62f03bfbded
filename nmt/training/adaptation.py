"""Text and settings of fine-tuning on a new domain; training itself is that of any run.

The experiment starts from the weights of another run (training.init_from) and mixes new pairs with
a sample of the old ones (Chu et al. 2017). On the old pairs the model learns to keep the
distribution that it had, by distillation from its initial weights (Dakwale & Monz 2017).
"""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from nmt.checkpoint.load import Checkpoint, load_counters
from nmt.config.corpus import ROBUST_NOISE, NoiseConfig, ParallelText
from nmt.config.experiment import BatchingConfig, Experiment, TrainingConfig
from nmt.config.files import build_experiment, build_text, override
from nmt.config.settings import is_address
from nmt.console import Console
from nmt.corpus import hold_out, old_pairs
from nmt.corpus.detect import make_name, plain_name
from nmt.corpus.io import atomic_write, lock_work
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.prepare_tasks import TOKENIZER
from nmt.errors import CheckpointError, ConfigError, DataError
from nmt.training.run_manifest import find_prepared
from nmt.training.warm_start import PARAMETER_SETTINGS

EPOCHS, PLAIN_EPOCHS = 12, 8
"""Epochs over new and old pairs together, and over new ones alone, unless early stopping ends the
run."""
DISTILLATION = 5.0
"""Weight of distillation of old tokens where there are as many new ones."""
MIN_UPDATES = 100
COUNTED_PAIRS = 2000
"""Pairs of a corpus, evenly spaced, whose tokens are counted."""
PLAIN_RATE_SHARE = 0.5
"""Peak learning rate as a share of the earlier one, without its optimizer state."""
FULL_RATE_UPDATES, MIN_RATE_SHARE = 200, 0.3
"""With its optimizer state: most updates at the whole rate, and the share with many more updates.
The old domain loses with what the weights change, which is about rate times updates."""
INIT_SHARES = {(False, False): 0.35, (False, True): 0.1, (True, False): 0.5, (True, True): 0.15}
"""Share of the earlier weights in the adapted ones: with the optimizer state of the earlier run,
where it differs by weight; with distillation. Measured: configs/EXPERIMENTS.md, Adaptation."""
NUM_VALIDATIONS, PATIENCE = 5, 3
"""Few validations, because dev BLEU of few pairs is noisy: the best of many came before the
learning rate had fallen, and was 1 BLEU worse on 500 other pairs."""
HELD_OUT_SHARE = 0.1
"""Share of the new pairs in a held-out set, up to `hold_out.MAX_PAIRS`."""
SAMPLE_FACTOR = 10
"""Old pairs in the sample per old pair of an epoch: each epoch draws others."""
OLD = "old_sample"
"""Name of the corpus of old pairs."""
OUTPUT = "output"
"""File with the run that the text is for: its name alone decides about the folder."""
_OWN_FILES = rf"(train|dev|test|{OLD})\.(src|tgt)|{OUTPUT}|{re.escape(TOKENIZER)}"
FILL = 0.8
"""Share of the token budget of an update that is not padding."""

Files = tuple[str | Path, str | Path]


@dataclass(frozen=True)
class NewFiles:
    """Files of the new domain, source and target each."""

    train: Files
    dev: Files | None
    """Dev set; None: a tenth of the pairs, held out."""
    test: Files | None
    """Test set; None: another tenth."""


@dataclass
class _NewText:
    """Text of the new domain."""

    train: list[ParallelText]
    dev: ParallelText
    tests: list[ParallelText]
    root: str
    facts: list[str] = field(default_factory=list)
    """Parts of a log line."""


@contextmanager
def plan_adaptation(
    source: Checkpoint, run: str, output: str, new: NewFiles | Experiment, mix: float, folder: Path,
    overrides: Sequence[str], console: Console,
) -> Iterator[Experiment]:  # fmt: skip
    """Write the text of a fine-tuning run, and yield its experiment.

    Args:
        source: model to start from.
        run: its run, as the user named it.
        output: new run, as a path or an address; it ends with the name of the run.
        new: files of the new domain, or an experiment with its corpora and settings.
        mix: old tokens per new token in an epoch; 0: none.
        folder: directory for the text, locked until the end of the context.
        overrides: settings `section.key=value`, which replace all others.
        console: gets progress and a log line.

    Raises:
        ConfigError: a setting is invalid, or the languages are not those of the model.
        DataError: a file cannot be read, has too few pairs to hold out a set, or the folder has
            the text of another run, or is locked by another process.
    """
    name = output.rpartition("/")[2]
    with lock_work(folder, _OWN_FILES, "name another output"):
        _check_owner(folder, output)
        chosen: dict[str, Any] = {}
        if isinstance(new, Experiment):
            corpus = new.corpus
            _check_languages(source, new)
            text = _NewText(corpus.train, corpus.dev, corpus.tests, corpus.root)
            chosen = new.model_dump(mode="json", exclude_unset=True)
        else:
            text = _split_text(source.experiment, new, folder, console)
        # Not the settings that the earlier run began with.
        last = replace(source, experiment=_at_stage(source.experiment, source.info.update))
        tree, num_tokens = _make_tree(last, run, name, text, mix, folder, console)
        experiment = _finish(last, tree, num_tokens, chosen, overrides)
        limit = f"{_count(experiment.training.updates, 'update')} at most"
        console.log(" | ".join([limit, *text.facts]))
        yield experiment


def _check_owner(folder: Path, output: str) -> None:
    """Raise DataError if a folder has the text of a run of the same name in another place."""
    file = folder / OUTPUT
    owner = file.read_text(encoding="utf-8") if file.exists() else output
    if owner != output:
        raise DataError(
            f"{folder}: holds the text of {owner}; give the output another name, or remove the "
            "folder"
        )
    with atomic_write(file) as temporary:
        temporary.write_text(output, encoding="utf-8")


def _check_languages(source: Checkpoint, new: Experiment) -> None:
    pair, old = new.corpus.language_pair, source.experiment.corpus.language_pair
    if pair != old:
        raise ConfigError.from_message(
            f"{new.name} translates {pair}, {source.path} {old}: adapt a model to text of its own "
            "languages"
        )


def _split_text(old: Experiment, files: NewFiles, folder: Path, console: Console) -> _NewText:
    """Return the new text; sets that are not given are held out."""
    name = make_name(plain_name(str(files.train[0])).stem, "new")
    name = f"new_{name}" if name == OLD else name
    languages = old.corpus.src, old.corpus.tgt

    def text_of(name: str, paths: Sequence[str | Path]) -> ParallelText:
        src, tgt = map(os.path.abspath, paths)
        return build_text({"name": name, "src": src, "tgt": tgt})

    train = PairFiles(text_of(name, files.train), ".", languages)
    given = {"dev": files.dev, "test": files.test}
    sets = {kind: text_of(f"{name}_{kind}", paths) for kind, paths in given.items() if paths}
    missing = [kind for kind in given if kind not in sets]
    facts = []
    if missing:
        progress = partial(console.progress, unit="pairs")
        known = chain.from_iterable(
            PairFiles(each, ".", languages).read() for each in sets.values()
        )
        taken = frozenset(hold_out.line_key(line.encode()) for pair in known for line in pair)
        split = hold_out.choose([train], len(missing), taken, progress, HELD_OUT_SHARE)
        for kind, pairs in zip(missing, split.sets, strict=True):
            paths = [folder / f"{kind}.{side}" for side in ("src", "tgt")]
            for side, path in enumerate(paths):
                path.write_bytes(hold_out.join_lines([pair[side] for pair in pairs]))
            sets[kind] = text_of(f"{name}_{kind}", paths)
        train_paths = folder / "train.src", folder / "train.tgt"
        hold_out.write_training([train], split, [train_paths], progress)
        console.clear()
        train = PairFiles(text_of(name, train_paths), ".", languages)
        facts = [f"{' and '.join(missing)} {_count(len(split.sets[0]), 'pair')} held out"]
    return _NewText([train.text], sets["dev"], [sets["test"]], ".", facts)


def _at_stage(experiment: Experiment, update: int) -> Experiment:
    """Return an experiment with the settings of the last of `update` updates, without stages."""
    last = max(0, update - 1)
    stages = [stage.weights for stage in experiment.stages if stage.from_update <= last]
    weights = {name: weight for stage in stages for name, weight in stage.items()}
    train = [
        text.model_copy(update={"weight": weights.get(text.name, text.weight)})
        for text in experiment.corpus.train
    ]
    return experiment.model_copy(update={
        "training": experiment.training_at(last), "model": experiment.model_at(last),
        "corpus": experiment.corpus.model_copy(update={"train": train}), "stages": [],
    })  # fmt: skip


def _make_tree(
    source: Checkpoint, run: str, name: str, new: _NewText, mix: float, folder: Path,
    console: Console,
) -> tuple[dict[str, Any], float]:  # fmt: skip
    """Return the settings of the earlier run for the new text, and the tokens to train on.

    Adds facts about the text.
    """
    old = source.experiment
    (folder / TOKENIZER).write_text(source.subword.to_json(), encoding="utf-8", newline="\n")
    prepared = find_prepared(source.path, old)
    languages = old.corpus.src, old.corpus.tgt
    corpora = [PairFiles(text, os.path.abspath(new.root), languages) for text in new.train]
    progress = partial(console.progress, unit="pairs")
    counts = [hold_out.count_pairs([files], progress) for files in corpora]
    console.clear()
    new.facts.insert(0, _count(sum(counts), "new pair"))
    parts = [(files, files.text.weight * n) for files, n in zip(corpora, counts, strict=True)]
    num_new = sum(num_pairs for _, num_pairs in parts)
    num_tokens = sum(
        weighted * _mean_tokens(source, files, n)
        for (files, weighted), n in zip(parts, counts, strict=True)
    )
    sample = []
    if num_new and mix:
        num_sampled = SAMPLE_FACTOR * math.ceil(mix * num_new)
        sample = _sample_old(source, prepared, num_sampled, mix, num_tokens, folder, new.facts)
    tests, missing = old_pairs.find_tests(old.corpus, prepared)
    if missing:
        new.facts.append(f"test sets of {old.name} not found: {', '.join(missing)}")
    tree = old.model_dump(mode="json") | {"name": name, "preset": "none"}
    tree["corpus"] |= {
        "root": new.root, "prepared": "", "dev": new.dev.model_dump(mode="json"),
        "train": [text.model_dump(mode="json") for text in [*new.train, *sample]],
        "tests": [
            text.model_dump(mode="json") for text in [*new.tests, *_rename_old(tests, new.tests)]
        ],
    }  # fmt: skip
    tree["corpus"]["subword"]["tokenizer"] = os.path.abspath(folder / TOKENIZER)
    location = run if is_address(run) else os.path.normpath(run)
    tree["training"] |= {
        "init_from": location, "freeze": [],
        # The earlier run can have been the last step of a recipe; samples take many times longer.
        "risk": 0,
        "ema_decay": old.training.ema_decay or TrainingConfig().ema_decay,
        # Read as before, even if the new corpora have no noise.
        "case_marks": old.marks_case,
    }  # fmt: skip
    return tree, num_tokens * (EPOCHS * (1 + mix) if sample else PLAIN_EPOCHS)


def _rename_old(
    tests: Sequence[ParallelText], new: Sequence[ParallelText]
) -> Iterator[ParallelText]:
    """Yield the old test sets, with old_ before each name that is taken, repeated if need be."""
    taken = {text.name for text in new}
    for text in tests:
        name = text.name
        while name in taken:
            name = f"old_{name}"
        taken.add(name)
        yield text.model_copy(update={"name": name})


def _sample_old(
    source: Checkpoint, prepared: Path, num_sampled: int, mix: float, num_tokens: float,
    folder: Path, facts: list[str],
) -> list[ParallelText]:  # fmt: skip
    """Write a sample of the old pairs and return its corpus; empty: there are none.

    Args:
        source: the earlier run.
        prepared: its prepared corpus.
        num_sampled: number of pairs in the sample.
        mix: old tokens per new token in an epoch.
        num_tokens: new tokens in an epoch.
        folder: folder of the sample.
        facts: gets a fact about the sample.
    """
    old, paths = source.experiment, (folder / f"{OLD}.src", folder / f"{OLD}.tgt")
    try:
        sample = old_pairs.write_sample(old.corpus, prepared, num_sampled, old.seed, paths)
    except DataError as error:
        facts.append(f"no old pairs: {error}")
        return []
    src, tgt = map(os.path.abspath, paths)
    # A model that reads noise keeps reading it.
    own = (each.noise for each in old.corpus.train if each.noise.is_on)
    noise = ROBUST_NOISE if old.training.robust else next(own, NoiseConfig())
    text = build_text({"name": OLD, "src": src, "tgt": tgt})
    files = PairFiles(text, ".", (old.corpus.src, old.corpus.tgt))
    mean_tokens = _mean_tokens(source, files, sample.num_pairs)
    num_old = max(1, round(mix * num_tokens / mean_tokens))
    number = _count(num_old, "old pair")
    facts.append(f"{number} per epoch, of {sample.num_pairs:,} from {sample.origin}")
    # Below 1: each epoch draws another part of the sample, with more variety than a small one.
    weight = min(1000.0, num_old / sample.num_pairs)
    distillation = min(1000.0, DISTILLATION / mix)
    changes = {"weight": weight, "distillation": distillation, "noise": noise}
    return [text.model_copy(update=changes)]


def _count(number: int, unit: str) -> str:
    """Format a number with its unit, in the singular for 1."""
    return f"{number:,} {unit}{'s' * (number != 1)}"


def _mean_tokens(source: Checkpoint, files: PairFiles, num_pairs: int) -> float:
    """Return the mean tokens of the longer side of a pair, EOS included: estimate."""
    # From all parts of a file: it can be sorted, or have several corpora one after the other.
    pairs = islice(files.read_raw(), 0, None, max(1, num_pairs // COUNTED_PAIRS))
    # Lines that are not UTF-8 are a matter of cleaning.
    sides = ([side.decode("utf-8", "replace") for side in pair] for pair in pairs)
    lengths = [max(map(len, map(source.subword.encode, pair))) + 1 for pair in sides]
    return sum(lengths) / max(1, len(lengths))


def _num_updates(batching: BatchingConfig, num_tokens: float) -> int:
    """Return the updates over a number of tokens, `MIN_UPDATES` at least."""
    per_update = FILL * batching.max_tokens * batching.micro_batches
    return max(MIN_UPDATES, math.ceil(num_tokens / per_update))


def _finish(
    source: Checkpoint, tree: dict[str, Any], num_tokens: float, chosen: dict[str, Any],
    overrides: Sequence[str],
) -> Experiment:  # fmt: skip
    """Return the experiment: settings of the earlier run, of adaptation, of the file, overrides.

    Args:
        source: the earlier run.
        tree: its settings for the new text.
        num_tokens: tokens of the longer sides to train on, of all epochs.
        chosen: settings of the experiment file.
        overrides: settings of the command line.
    """
    corpus = chosen.get("corpus", {})
    if "subword" in corpus:
        # Another vocabulary: its pieces are matched by text.
        tree["corpus"]["subword"]["tokenizer"] = ""
    # The tree has the corpora of the file already, and the old ones; their folder is another one.
    removed = (
        (chosen, ("name", "preset")), (corpus, ("train", "tests", "prepared")),
        (chosen.get("training", {}), ("init_from",)),
    )  # fmt: skip
    for section, keys in removed:
        for key in keys:
            section.pop(key, None)
    _merge(tree, chosen)
    # Intervals, init_share and init_optimizer depend on the overrides of updates and model.
    takes_optimizer = chosen.get("training", {}).get("init_optimizer", True)
    tree["training"] |= {
        "warmup_updates": 0, "init_optimizer": takes_optimizer, "init_share": 0
    }  # fmt: skip
    resized = [text for text in overrides if text.startswith("batching.")]
    batching = override(build_experiment(tree), resized).batching
    if "updates" not in chosen.get("training", {}):
        tree["training"]["updates"] = _num_updates(batching, num_tokens)
    deciding = (
        "training.updates=", "training.ema_decay=", "training.init_optimizer=", "model.", "corpus."
    )  # fmt: skip
    wanted = [text for text in overrides if text.startswith(deciding)]
    first = override(build_experiment(tree), wanted)
    is_same, has_average = _is_same_model(source, first), first.training.ema_decay > 0
    if first.distils and not is_same:
        # The initial model is not the earlier one: the old references are trained.
        for text in tree["corpus"]["train"]:
            text["distillation"] = 0
        first = override(build_experiment(tree), wanted)
    # Frozen parameters have no moments.
    has_moments = (
        first.training.init_optimizer
        and is_same
        and not source.experiment.training.freeze
        and _has_optimizer(source.path)
    )
    by_importance = has_moments and has_average
    tree["training"] |= _schedule(source.experiment.training, first.training.updates, by_importance)
    tree["training"]["init_optimizer"] = has_moments
    init_share = INIT_SHARES[by_importance, first.distils]
    tree["training"]["init_share"] = init_share if is_same and has_average else 0
    _merge(tree, {"training": chosen.get("training", {})})
    return override(build_experiment(tree), overrides)


def _is_same_model(source: Checkpoint, adapted: Experiment) -> bool:
    """Return True if each parameter of the adapted model is one of the earlier run."""
    if not adapted.corpus.subword.tokenizer:
        return False
    old, new = source.experiment.model, adapted.model
    return all(getattr(old, key) == getattr(new, key) for key in PARAMETER_SETTINGS)


def _has_optimizer(checkpoint: Path) -> bool:
    try:
        load_counters(checkpoint)
    except CheckpointError:
        return False
    return True


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _schedule(old: TrainingConfig, updates: int, by_importance: bool) -> dict[str, Any]:
    """Return the `training` settings of fine-tuning: learning rate, schedule and intervals."""
    share = PLAIN_RATE_SHARE
    if by_importance:
        share = max(MIN_RATE_SHARE, min(1.0, FULL_RATE_UPDATES / updates))
    every = max(1, updates // NUM_VALIDATIONS)
    # Minimum risk training has a tenth of the rate that text of a new domain needs.
    rate = TrainingConfig().learning_rate if old.risk else old.learning_rate
    return {
        "updates": updates, "learning_rate": share * rate,
        "warmup_updates": updates // 10, "schedule": "cosine", "patience": PATIENCE,
        "validate_every": every, "checkpoint_every": every, "log_every": min(old.log_every, every),
    }  # fmt: skip
