"""Examination of a corpus: lengths, languages and encoding of its lines, and findings of each rule.

The stages of preparing that read and clean run beside the prepared corpus, with all rules on and
adequacy scores, and nothing is encoded. A further stage counts and takes samples, chunk by chunk.
"""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmt.config.corpus import CleaningConfig
from nmt.config.experiment import Experiment
from nmt.corpus import drop_stages, prepare, prepared, task_cache
from nmt.corpus.adequacy import FEW_PAIRS, SUGGESTED_MINIMUM
from nmt.corpus.detect import are_swapped
from nmt.corpus.folder_lock import sibling
from nmt.corpus.language_id import identify, language_codes
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.prepare_tasks import Chunk, Later
from nmt.corpus.rules import DROP_REASONS, REPAIRS, near_key
from nmt.corpus.task_cache import ProgressCallback, RunTasks, Stages, Task, Tree
from nmt.corpus.verdicts import Verdict, read_verdicts

_DIGIT = re.compile(r"\d")
NUM_SAMPLES = 10
"""Samples of each rule."""
LANGUAGE_LINES = 4_000
"""Lines of a chunk whose language is identified, evenly spaced."""
MAX_SAMPLE_CHARS = 400
MIN_TEMPLATE = 5
"""Minimum number of pairs of a chunk that are equal except for digits, to count as a template."""
DOCTOR_VERSION = 3
"""Increased when the results of the last stage change."""
SUGGEST_SHARE = 0.001
"""Share of pairs above which a rule that is off is suggested."""
SUGGEST_ADEQUACY_SHARE = 0.01
"""The same for min_adequacy, which drops some clean pairs of every corpus."""
LENGTH_EDGES = (0, 1, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""Lower edges of the bins of characters."""
RATIO_EDGES = (0.0, 0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
"""Lower edges of the bins of target characters per source character."""
ADEQUACY_EDGES = (-math.inf, -40.0, -20.0, -10.0, -5.0, -3.0, 0.0, 5.0, 10.0, 20.0, 40.0, 80.0)


@dataclass
class Finding:
    """Pairs that one rule drops or repairs."""

    rule: str
    action: str
    """dropped or repaired."""
    is_on: bool
    """True if the rule is on in the experiment."""
    count: int = 0
    samples: list[Tree] = field(default_factory=list)
    """Corpus, line, source and target; for a repair also both after it."""


@dataclass
class Diagnosis:
    """Result of an examination."""

    name: str
    languages: tuple[str, str]
    pairs: int
    kept: int
    corpora: list[Tree]
    """Name, pairs read and pairs kept of each corpus."""
    chars: tuple[int, int]
    words: tuple[int, int]
    lengths: list[Tree]
    """Bins of characters: label, lines of the source, lines of the target."""
    ratios: list[Tree]
    """Bins of target characters per source character: label, pairs."""
    adequacy: list[Tree]
    """Bins of adequacy, in nats: label, pairs; empty for a small corpus."""
    identified: tuple[dict[str, float], dict[str, float]]
    """Share of lines by language, of both sides."""
    encodings: Tree
    """Lines of both sides: ascii, other, invalid."""
    templates: list[Tree]
    """Pairs that are equal except for digits: number, source and target."""
    findings: list[Finding]
    notes: list[str]
    """Warnings for the reader."""
    suggestions: list[str]
    """Settings as on the command line."""

    @property
    def bad_share(self) -> float:
        """Share of pairs that a rule drops."""
        return (self.pairs - self.kept) / max(1, self.pairs)


def examine(
    experiment: Experiment,
    run_tasks: RunTasks = task_cache.run_locally,
    progress: ProgressCallback = task_cache.no_progress,
) -> Diagnosis:
    """Examine the training corpora of an experiment; resume an interrupted examination.

    Raises:
        DataError: raw text is not as expected, or a folder cannot be written.
    """
    prepare.check_raw(experiment)
    folder = sibling(prepared.prepared_folder(experiment), "doctor")
    cleaning = _all_rules(experiment.corpus.cleaning)
    full = experiment.with_settings("corpus", cleaning=cleaning, prepared=str(folder))
    state = prepare.work_state(full) | {"doctor": DOCTOR_VERSION}
    with task_cache.open_work(folder, state) as work:
        stages = Stages(work, run_tasks, progress)
        raw, _ = prepare.read_raw_files(full, stages)
        chunks = prepare.cut_chunks(full, raw)
        _, later = drop_stages.drop_pairs(full, stages, chunks, keeps_raw=True)
        tasks: dict[str, Task] = {c.key: (examine_chunk, (work, c, later)) for c in chunks}
        results = stages.run("examining", dict[str, Any], tasks, used="raw/{}.*")
        diagnosis = _merge(experiment, [results[chunk.key] for chunk in chunks])
    for text in (experiment.corpus.dev, *experiment.corpus.tests):
        if are_swapped(PairFiles.of(text, experiment.corpus)):
            diagnosis.notes.append(
                f"{text.name}: the text looks like {diagnosis.languages[1]} to "
                f"{diagnosis.languages[0]}: check the order of the sides"
            )
    shutil.rmtree(folder, ignore_errors=True)
    return diagnosis


def examine_chunk(work: Path, chunk: Chunk, later: Later) -> Tree:
    """Count and sample the lines of a chunk and the decisions about them."""
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("rules", "lengths", "ratios", "adequacy", "encodings", "sums")
    }
    languages: list[Counter[str]] = [Counter(), Counter()]
    samples: dict[str, list[Tree]] = {}
    templates: dict[str, Tree] = {}
    stride = max(1, chunk.num_lines // LANGUAGE_LINES)
    for number, each in enumerate(read_verdicts(work, chunk, later)):
        counts["sums"].update(read=1, kept=not each.reason)
        for rule in [each.reason] if each.reason else each.repairs:
            counts["rules"][rule] += 1
            if len(samples.setdefault(rule, [])) < NUM_SAMPLES:
                samples[rule].append(_sample(chunk.text.name, each))
        text = tuple(side.decode("utf-8", errors="replace") for side in each.raw)
        _measure(counts, each, text)
        if number % stride == 0:
            for side, line in enumerate(text):
                if not line.strip():
                    continue
                # A line of a large chunk stands for more lines than one of a small chunk.
                languages[side][next(iter(identify(line)), "unknown")] += stride
        if not each.reason and any(map(str.isdigit, text[0])):
            _add_template(templates, text)
    found = sorted(templates.items(), key=lambda item: -item[1]["pairs"])[:5]
    return {
        "corpus": chunk.text.name,
        "languages": languages,
        "samples": samples,
        "templates": {key: each for key, each in found if each["pairs"] >= MIN_TEMPLATE},
        **counts,
    }


def _measure(counts: dict[str, Counter[str]], each: Verdict, text: tuple[str, ...]) -> None:
    for side, name in enumerate(("src", "tgt")):
        counts["lengths"][f"{name} {_bin(len(text[side]), LENGTH_EDGES)}"] += 1
        counts["sums"][f"chars {name}"] += len(text[side])
        counts["sums"][f"words {name}"] += len(text[side].split())
        counts["encodings"][_encoding(each.raw[side], text[side])] += 1
    if all(text):
        counts["ratios"][str(_bin(len(text[1]) / len(text[0]), RATIO_EDGES))] += 1
    if not math.isnan(each.adequacy):
        counts["adequacy"][str(_bin(each.adequacy, ADEQUACY_EDGES))] += 1


def _encoding(raw: bytes, text: str) -> str:
    if raw.isascii():
        return "ascii"
    # U+FFFD can also be in the file itself.
    return "other" if text.encode() == raw else "invalid"


def _add_template(templates: dict[str, Tree], text: tuple[str, ...]) -> None:
    key = "\n".join(_DIGIT.sub("0", near_key(line).decode()) for line in text)
    first = templates.setdefault(key, {"pairs": 0, "src": _cut(text[0]), "tgt": _cut(text[1])})
    first["pairs"] += 1


def _sample(corpus: str, each: Verdict) -> Tree:
    src, tgt = (_cut(side.decode("utf-8", errors="backslashreplace")) for side in each.raw)
    sample = {"corpus": corpus, "line": each.line, "src": src, "tgt": tgt}
    if each.clean is not None and each.repairs:
        sample |= {"new_src": _cut(each.clean[0]), "new_tgt": _cut(each.clean[1])}
    return sample


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SAMPLE_CHARS else f"{text[:MAX_SAMPLE_CHARS]}…"


def _bin(value: float, edges: Iterable[float]) -> int:
    """Return the number of the bin of a value."""
    return sum(value >= edge for edge in edges) - 1


def _all_rules(cleaning: CleaningConfig) -> CleaningConfig:
    """Turn on the rules that are off, and the adequacy scores."""
    defaults = CleaningConfig(min_adequacy=SUGGESTED_MINIMUM)
    rules = (*DROP_REASONS, *REPAIRS)
    off = {rule: getattr(defaults, rule) for rule in rules if not _is_on(cleaning, rule)}
    return cleaning.model_copy(update=off)


def _is_on(cleaning: CleaningConfig, rule: str) -> bool:
    # 0 is no limit, but an adequacy like any other.
    value = getattr(cleaning, rule)
    return value is not None if rule == "min_adequacy" else bool(value)


def _merge(experiment: Experiment, results: list[Tree]) -> Diagnosis:
    def add(key: str) -> Counter[str]:
        return sum((Counter(result[key]) for result in results), Counter())

    sums, rules, encodings = add("sums"), add("rules"), add("encodings")
    cleaning = experiment.corpus.cleaning
    findings = []
    for rule in (*DROP_REASONS, *REPAIRS):
        action = "dropped" if rule in DROP_REASONS else "repaired"
        samples = [each for result in results for each in result["samples"].get(rule, [])]
        finding = Finding(rule, action, _is_on(cleaning, rule), rules[rule], samples[:NUM_SAMPLES])
        findings.append(finding)
    corpora: dict[str, Counter[str]] = {}
    for result in results:
        corpora.setdefault(result["corpus"], Counter()).update(result["sums"])
    lengths, ratios, scores = add("lengths"), add("ratios"), add("adequacy")
    templates: dict[str, Tree] = {}
    for result in results:
        for key, each in result["templates"].items():
            pairs = each["pairs"] + templates.get(key, {"pairs": 0})["pairs"]
            templates[key] = each | {"pairs": pairs}
    diagnosis = Diagnosis(
        name=experiment.name,
        languages=(experiment.corpus.src, experiment.corpus.tgt),
        pairs=sums["read"],
        kept=sums["kept"],
        corpora=[
            {"name": name, "read": each["read"], "kept": each["kept"]}
            for name, each in corpora.items()
        ],
        chars=(sums["chars src"], sums["chars tgt"]),
        words=(sums["words src"], sums["words tgt"]),
        lengths=[
            {"label": label, "src": lengths[f"src {n}"], "tgt": lengths[f"tgt {n}"]}
            for n, label in enumerate(_labels(LENGTH_EDGES))
        ],
        ratios=_histogram(RATIO_EDGES, ratios),
        adequacy=_histogram(ADEQUACY_EDGES, scores) if scores else [],
        identified=(_shares(results, 0), _shares(results, 1)),
        encodings={kind: encodings[kind] for kind in ("ascii", "other", "invalid")},
        templates=sorted(templates.values(), key=lambda each: -each["pairs"])[:NUM_SAMPLES],
        findings=findings,
        notes=[],
        suggestions=[],
    )
    _advise(diagnosis, cleaning)
    return diagnosis


def _advise(diagnosis: Diagnosis, cleaning: CleaningConfig) -> None:
    """Add notes and suggested settings."""
    for each in diagnosis.findings:
        least = SUGGEST_ADEQUACY_SHARE if each.rule == "min_adequacy" else SUGGEST_SHARE
        if not each.is_on and each.count > least * diagnosis.pairs:
            value = json.dumps(getattr(_all_rules(cleaning), each.rule))
            diagnosis.suggestions.append(f"corpus.cleaning.{each.rule}={value}")
        if each.count > 0.2 * diagnosis.pairs and each.rule in ("language", "script", "swapped"):
            diagnosis.notes.append(
                f"rule {each.rule} applies to {each.count / diagnosis.pairs:.0%} of the pairs: "
                f"check that corpus.src is {diagnosis.languages[0]} and corpus.tgt is "
                f"{diagnosis.languages[1]}"
            )
    if diagnosis.bad_share > cleaning.max_dropped:
        limit = math.ceil(100 * diagnosis.bad_share) / 100
        diagnosis.suggestions.append(f"corpus.cleaning.max_dropped={limit}")
    if diagnosis.encodings["invalid"]:
        diagnosis.notes.append(f"{diagnosis.encodings['invalid']:,} lines are not UTF-8")
    if diagnosis.kept < FEW_PAIRS:
        diagnosis.notes.append(
            f"{diagnosis.kept:,} pairs are left: adequacy is unreliable below {FEW_PAIRS:,}"
        )
    for side, language in enumerate(diagnosis.languages):
        found = diagnosis.identified[side]
        best = next(iter(found), "")
        codes = language_codes(language)
        # A language that the model does not know looks like another one.
        if codes and best not in ("", "unknown", *codes) and found[best] > 0.5:
            key = ("corpus.src", "corpus.tgt")[side]
            diagnosis.notes.append(
                f"{key} is {language}, but most lines of that side look like {best}"
            )


def _shares(results: list[Tree], side: int) -> dict[str, float]:
    counts = sum((Counter(result["languages"][side]) for result in results), Counter())
    # By share, ties by code.
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {language: count / counts.total() for language, count in ordered[:8]}


def _histogram(edges: tuple[float, ...], counts: Counter[str]) -> list[Tree]:
    return [{"label": each, "pairs": counts[str(n)]} for n, each in enumerate(_labels(edges))]


def _labels(edges: tuple[float, ...]) -> list[str]:
    """Return a label for each bin, by its edges."""
    labels = []
    for low, high in zip(edges, [*edges[1:], math.inf], strict=True):
        if low == -math.inf:
            labels.append(f"below {high:g}")
        elif high == math.inf:
            labels.append(f"{low:g} and more")
        elif isinstance(low, int) and isinstance(high, int) and low >= 0:
            labels.append(f"{low}" if high == low + 1 else f"{low} to {high - 1}")
        else:
            labels.append(f"{low:g} to {high:g}")
    return labels
