"""`nmt init`: write the experiment file of a corpus, with held-out dev and test sets."""

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from nmt.cli.options import display_path, next_command, unpaired
from nmt.config.corpus import RECORD_FORMATS, ParallelText
from nmt.config.files import build_text, format_value, load_experiment
from nmt.console import Console
from nmt.corpus import detect, hold_out
from nmt.corpus.formats.record_file import ColumnError, format_names
from nmt.corpus.io import check_regular_files, is_writable, name_write_errors
from nmt.corpus.languages import describe_language
from nmt.corpus.pair_files import FORMATS, PairFiles
from nmt.errors import ConfigError, DataError, shorten

TEMPLATE = """\
# {languages}, {num_pairs:,} pairs; written by `nmt init`.
# Any setting of `nmt config explain` can be added here, or given on the command line.
name: {name}
preset: auto  # width, layers, vocabulary, dropout and updates by the number of pairs
corpus:
  src: {src}
  tgt: {tgt}
  # Paths are relative to the folder of this file.
  train:
{train}
  dev: {dev}
  tests:
{test}
"""
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
FORMAT_HELP = {
    "tsv": "TSV file, with or without a header line.",
    "tmx": "Translation memory.",
    "parquet": "Parquet file.",
    "jsonl": "File of JSON lines.",
    "zip": "Archive of OPUS in the Moses format.",
}


@dataclass(frozen=True)
class Inputs:
    """Corpora and given sets of a new experiment."""

    train: list[PairFiles]
    sets: dict[str, list[PairFiles]]
    """Given dev and test sets; empty: to be held out."""

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language."""
        return self.train[0].languages

    @property
    def missing(self) -> list[str]:
        """Kinds of sets to hold out."""
        return [kind for kind, given in self.sets.items() if not given]


def record_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each format of a file of pairs."""
    for key in reversed(RECORD_FORMATS):
        text = FORMAT_HELP[key]
        command = click.option(f"--{key}", multiple=True, metavar="FILE", help=text)(command)
    return command


@click.command()
@click.argument("name")
@click.option("--src", multiple=True, metavar="FILE", help="Source text, a segment per line.")
@click.option("--tgt", multiple=True, metavar="FILE", help="Its translation, line by line.")
@record_options
@click.option("--dev", multiple=True, metavar="FILE", help="Dev set; default: held-out pairs.")
@click.option("--test", multiple=True, metavar="FILE", help="Test set; default: held-out pairs.")
@click.option("--languages", metavar="SRC,TGT", help="Language codes; default: detected.")
@click.option("--columns", metavar="SRC,TGT",
              help="Columns of a file of pairs: names, or numbers in a TSV.")  # fmt: skip
def init(
    name: str, src: tuple[str, ...], tgt: tuple[str, ...], dev: tuple[str, ...],
    test: tuple[str, ...], languages: str | None, columns: str | None, **records: tuple[str, ...],
) -> None:  # fmt: skip
    """Write the experiment file of your own corpus.

    Writes NAME.yaml and overwrites nothing. Options for files can be repeated; files may end in
    .gz, .xz, .zst or .bz2. A set of --dev or --test is one file of pairs, or both sides: --dev
    dev.en --dev dev.de. Without --dev or --test, up to 2,000 pairs (5 %) are held out: the folder
    NAME.data then has them and the training pairs, none of which shares a side with a held-out
    pair, compared without case, digits and punctuation.
    """
    file = _experiment_file(name)
    corpora = _make_corpora(src, tgt, records, columns)
    pair = detect.parse_languages(languages) if languages else None
    here = os.getcwd()
    with Console() as console, _name_options():
        for text in corpora:
            _check_columns(text)
        corpora = [detect.detect_columns(text, here, pair) for text in corpora]
        pair = pair or detect.detect_languages(PairFiles(corpora[0], here, ("", "")))
        train = [_check_sides(PairFiles(text, here, pair), console) for text in corpora]
        sets = {
            kind: [_check_sides(each, console) for each in _find_sets(kind, names, pair)]
            for kind, names in (("dev", dev), ("test", test))
        }
        for line in _create(file, Inputs(train, sets), console):
            console.print(line)
        commands = [f"{next_command(verb)} {display_path(file)}" for verb in ("doctor", "train")]
        console.print(f"next: {' && '.join(commands)}")


@contextmanager
def _name_options() -> Iterator[None]:
    """Name the options in the error about a column: there is no experiment to change yet."""
    try:
        yield
    except ColumnError as error:
        raise DataError(f"{error.problem}: check --languages and --columns") from None


def _experiment_file(name: str) -> Path:
    """Return the path of the experiment file; ConfigError if it cannot be written."""
    path = Path(name)
    if not path.name:
        raise ConfigError("NAME", repr(name), "the name of a file is expected")
    file = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
    if not NAME.fullmatch(file.stem):
        rule = "it must be 1 to 100 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        raise ConfigError("NAME", repr(shorten(file.stem)), rule)
    for existing in (file, _data_folder(file)):
        if os.path.lexists(existing):
            problem = "exists already; choose another name, or remove it"
            raise ConfigError.from_message(f"{existing}: {problem}")
    if not file.parent.is_dir():
        rule = f"directory {file.parent} does not exist: create it first"
        raise ConfigError("NAME", name, rule)
    if not is_writable(file.parent):
        raise ConfigError("NAME", name, f"{file.parent} is not writable: use another directory")
    return file


def _data_folder(file: Path) -> Path:
    return file.with_name(f"{file.stem}.data")


def _make_corpora(
    src: Sequence[str],
    tgt: Sequence[str],
    records: Mapping[str, Sequence[str]],
    columns: str | None,
) -> list[ParallelText]:
    """Return the training corpora of the options, each with a name of its own."""
    if len(src) != len(tgt):
        raise unpaired("--tgt", len(tgt), len(src))
    chosen: dict[str, str] = {}
    if columns is not None:
        parts = [part.strip() for part in columns.split(",")]
        if len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
            raise ConfigError(
                "--columns", columns, "two columns are expected, such as 2,4 or en,de"
            )
        chosen = {"src_column": parts[0], "tgt_column": parts[1]}
    entries = [{"src": one, "tgt": other} for one, other in zip(src, tgt, strict=True)]
    entries += [{key: name, **chosen} for key in RECORD_FORMATS for name in records[key]]
    if not entries:
        options = ", ".join(f"--{key}" for key in RECORD_FORMATS)
        raise ConfigError.from_message(f"no corpus is given: use --src and --tgt, or {options}")
    if chosen and src:
        rule = "the files of --src and --tgt have no columns: omit it"
        raise ConfigError("--columns", columns, rule)
    corpora: list[ParallelText] = []
    for entry in entries:
        _check_inputs([entry[key] for key in ("src", "tgt", *RECORD_FORMATS) if key in entry])
        name = _corpus_name(next(iter(entry.values())))
        used = [text.name for text in corpora]
        free = (f"{name}-{number}" for number in range(2, len(used) + 3))
        name = name if name not in used else next(each for each in free if each not in used)
        corpora.append(build_text({"name": name, **entry}))
    return corpora


def _check_inputs(files: Sequence[str]) -> None:
    for file in files:
        path = Path(file).expanduser()
        if not path.exists():
            raise DataError(f"{file}: file not found; check the path")
        if path.is_dir():
            raise DataError(f"{file}: is a folder; name a file in it")
        check_regular_files([path])


def _check_columns(text: ParallelText) -> None:
    """Raise ConfigError if --columns names a column that a file does not have."""
    if not text.src_column or text.format not in ("tsv", "parquet", "jsonl"):
        return
    [file] = text.files
    names = FORMATS[text.format].list_columns(Path(file))
    numbers = list(map(str, range(1, len(names) + 1))) if text.format == "tsv" else []
    for column in (text.src_column, text.tgt_column):
        if column not in names and column not in numbers:
            is_number = numbers and column.isdecimal()
            found = f"{len(names)} columns" if is_number else format_names(names)
            rule = f"{file} has {shorten(found, 200)}: choose two of them"
            raise ConfigError("--columns", column, rule)


def _corpus_name(file: str) -> str:
    """Return a name for a corpus: train for data/train.en.gz."""
    path = detect.plain_name(file)
    is_known = detect.suffix_language(file) or detect.format_of(file) != "lines"
    return detect.make_name(path.stem if is_known else path.name)


def _check_sides(files: PairFiles, console: Console) -> PairFiles:
    """Return a corpus with its sides exchanged if its columns have no names and are reversed."""
    if not detect.are_swapped(files):
        return files
    text = files.text
    if text.format == "tsv" and not text.src_column:
        return replace(files, text=detect.swap_columns(text))
    shown = " to ".join(map(describe_language, reversed(files.languages)))
    names = " and ".join(text.files)
    console.print(f"warning: {names}: the text looks like {shown}: check the order of the sides")
    return files


def _find_sets(kind: str, names: Sequence[str], languages: tuple[str, str]) -> list[PairFiles]:
    """Return the sets of --dev or --test."""
    _check_inputs(names)
    sets: list[PairFiles] = []
    waiting = list(names)
    while waiting:
        first = waiting.pop(0)
        form = detect.format_of(first)
        entry = {form: first}
        if form == "lines":
            is_pair = waiting and detect.format_of(waiting[0]) == "lines"
            if not is_pair:
                rule = f"it has one side: name both, --{kind} SOURCE --{kind} TARGET"
                raise ConfigError(f"--{kind}", first, rule)
            entry = {"src": first, "tgt": waiting.pop(0)}
        name = kind if kind == "dev" else _corpus_name(first)
        if name in [each.text.name for each in sets]:
            name += f"-{len(sets) + 1}"
        text = build_text({"name": name, **entry})
        text = detect.detect_columns(text, os.getcwd(), languages)
        sets.append(PairFiles(text, os.getcwd(), languages))
    if kind == "dev" and len(sets) > 1:
        raise ConfigError("--dev", f"{len(sets)} sets", "there can be only one")
    return sets


def _create(file: Path, inputs: Inputs, console: Console) -> list[str]:
    """Write the experiment file and the data folder, or nothing; return lines about them."""
    scratch = file.with_name(f".{file.stem}.{secrets.token_hex(4)}.tmp")
    with name_write_errors(_data_folder(file)):
        scratch.mkdir()
    progress = partial(console.progress, unit="pairs")
    try:
        given = {kind: _read_all(sets) for kind, sets in inputs.sets.items()}
        lines_given = (line.encode() for lines in given.values() for line in lines)
        entries = {
            kind: [_entry(each.text, file) for each in files]
            for kind, files in {"train": inputs.train, **inputs.sets}.items()
        }
        sizes = {kind: len(lines) // 2 for kind, lines in given.items()}
        lost = 0
        if inputs.missing:
            taken = frozenset(map(hold_out.line_key, lines_given))
            split = hold_out.choose(inputs.train, len(inputs.missing), taken, progress)
            with name_write_errors(_data_folder(file)):
                entries |= _write_split(file, scratch, inputs, split, progress)
            sizes |= dict(zip(inputs.missing, map(len, split.sets), strict=True))
            num_pairs, lost = split.num_pairs, split.num_lost
        else:
            num_pairs = hold_out.count_pairs(inputs.train, progress)
        console.clear()
        _publish(file, scratch, _format(file, inputs.languages, num_pairs, entries))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    lines = _summary(file, inputs, num_pairs, sizes, lost)
    if num_empty := len(inputs.train) - len(entries["train"]):
        lines.append(f"left out: {num_empty:,} of {len(inputs.train):,} corpora: no pair is left")
    return lines


def _read_all(sets: list[PairFiles]) -> list[str]:
    """Return all lines of given sets, source and target in turns."""
    lines = [line for files in sets for pair in files.read() for line in pair]
    if sets and not lines:
        raise DataError(f"{sets[0].paths()[0]}: no pairs; expected a set of pairs")
    return lines


def _write_split(
    file: Path, scratch: Path, inputs: Inputs, split: hold_out.HeldOut, progress: hold_out.Progress
) -> dict[str, list[str]]:
    """Write the held-out sets and the training pairs; return their entries."""
    src, tgt = inputs.languages
    folder = _data_folder(file).name
    entries: dict[str, list[str]] = {}

    def add(kind: str, name: str, suffix: str) -> tuple[Path, Path]:
        names = f"{name}.{src}{suffix}", f"{name}.{tgt}{suffix}"
        paths = {"src": f"{folder}/{names[0]}", "tgt": f"{folder}/{names[1]}"}
        entries.setdefault(kind, []).append(format_value({"name": name, **paths}))
        return scratch / names[0], scratch / names[1]

    for kind, pairs in zip(inputs.missing, split.sets, strict=True):
        for side, path in enumerate(add(kind, kind, "")):
            path.write_bytes(hold_out.join_lines([pair[side] for pair in pairs]))
    # Compressed, so that they do not collide with the sets and take less space.
    paths = [add("train", files.text.name, ".zst") for files in inputs.train]
    counts = hold_out.write_training(inputs.train, split, paths, progress)
    for number in reversed(range(len(counts))):
        # An empty corpus cannot be prepared.
        if not counts[number]:
            del entries["train"][number]
            for path in paths[number]:
                path.unlink()
    return entries


def _entry(text: ParallelText, file: Path) -> str:
    """Return the YAML of a corpus with paths as seen from the experiment file."""
    folder = Path(os.path.abspath(file.parent))
    fields = text.model_dump(exclude_defaults=True)
    for key in ("src", "tgt", *RECORD_FORMATS):
        if key in fields:
            path = _absolute(fields[key])
            fields[key] = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    return format_value(fields)


def _absolute(name: str) -> Path:
    """Return an absolute path, without `..` unless that follows a symbolic link."""
    path = os.path.abspath(name)
    # `..` behind a symbolic link is the folder above its target.
    is_same = os.path.realpath(path) == os.path.realpath(name)
    return Path(path) if is_same else Path(os.getcwd(), name)


def _format(
    file: Path, languages: tuple[str, str], num_pairs: int, entries: dict[str, list[str]]
) -> str:
    """Return the text of the experiment file."""
    lists = {
        kind: "\n".join(f"    - {entry}" for entry in entries[kind]) for kind in ("train", "test")
    }
    src, tgt = map(format_value, languages)
    return TEMPLATE.format(
        languages=" to ".join(map(describe_language, languages)), num_pairs=num_pairs,
        name=format_value(file.stem), src=src, tgt=tgt, dev=entries["dev"][0], **lists,
    )  # fmt: skip


def _publish(file: Path, scratch: Path, content: str) -> None:
    """Move the data folder to its place and write the experiment file, which must be valid."""
    folder = _data_folder(file)
    has_data = any(scratch.iterdir())
    if has_data:
        scratch.rename(folder)
    try:
        with name_write_errors(file), file.open("x", encoding="utf-8") as stream:
            stream.write(content)
        load_experiment(file)
    except BaseException as error:
        if has_data:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, FileExistsError):
            file.unlink(missing_ok=True)
        raise


def _summary(
    file: Path, inputs: Inputs, num_pairs: int, sizes: dict[str, int], num_lost: int
) -> list[str]:
    """Return lines about a new experiment."""
    facts = []
    for how, is_held_out in (("held out", True), ("given", False)):
        kinds = [kind for kind in sizes if (kind in inputs.missing) == is_held_out]
        if kinds:
            facts.append(f"{' and '.join(f'{kind} {sizes[kind]:,}' for kind in kinds)} pairs {how}")
    languages = " to ".join(map(describe_language, inputs.languages))
    lines = [f"{file}: {num_pairs:,} pairs, {languages}; {', '.join(facts)}; preset auto"]
    if num_lost:
        lines.append(
            f"left out of training: {num_lost:,} more pairs that share a side with a held-out pair"
        )
    return lines
