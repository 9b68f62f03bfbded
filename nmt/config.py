"""The two config files: the experiment says what to train, the cluster says where.

Both are typed, frozen and strict: an unknown key is refused with the nearest known one, a key that
stands twice is refused too. A key of the experiment is set on the command line as
`section.key=value`, a key of the cluster as `cluster.key=value`; values are YAML. Paths stay
strings here: what they lead to may lie on another machine.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from nmt.errors import ConfigError


def _no_truth_value(value: Any) -> Any:
    """Refuse true, which pydantic takes for 1; text may be a number: YAML takes 3e-4 for text."""
    if isinstance(value, bool):
        raise ValueError("it must be a number")
    return value


Number = Annotated[float, BeforeValidator(_no_truth_value), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
PositiveFloat = Annotated[Number, Field(gt=0)]
NaturalFloat = Annotated[Number, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
NaturalInt = Annotated[int, Field(ge=0, strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Settings(BaseModel):
    """Frozen, typed, and without a place for a key that nobody reads."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raise ConfigError where two settings contradict each other."""


class ParallelText(Settings):
    """One corpus of pairs: two line-parallel files, or one TSV file."""

    name: Name
    """What logs, tallies and shards call it."""
    src: str = ""
    """File of the source side below corpus.root: UTF-8, a segment a line; plain, .gz, .xz, .zst."""
    tgt: str = ""
    """File of the target side, parallel to src line by line."""
    tsv: str = ""
    """Instead of src and tgt: a file of source, tab, target; further columns are not read."""

    def check(self) -> None:
        if bool(self.tsv) == bool(self.src or self.tgt) or bool(self.src) != bool(self.tgt):
            raise ConfigError.saying(
                f"corpus {self.name!r} needs either both src and tgt or tsv alone: "
                f"src is {self.src!r}, tgt is {self.tgt!r}, tsv is {self.tsv!r}"
            )


class CleaningConfig(Settings):
    """Which pairs are dropped or mended before training, each rule with a switch and a tally."""

    nfc: bool = True
    """Mend: write every character in its composed form (Unicode NFC)."""
    control_characters: bool = True
    """Mend: control characters, odd separators, runs of spaces to a space, invisible ones away."""
    invalid_utf8: bool = True
    """Drop pairs with bytes that are not UTF-8; off: the first such line is an error."""
    empty: bool = True
    """Drop pairs with nothing on one side."""
    no_letters: bool = True
    """Drop pairs without a letter on one side."""
    copies: bool = True
    """Drop pairs whose two sides are the same."""
    duplicates: bool = True
    """Drop pairs that stood before, in any corpus of the experiment."""
    max_chars: NaturalInt = 2000
    """Drop pairs with more characters than this on one side; 0: no limit."""
    max_ratio: NaturalFloat = 4.0
    """Most times the characters of the shorter side that the longer may have; 0: no limit."""
    ratio_slack: NaturalInt = 20
    """Characters added to both sides before max_ratio compares them: short pairs vary more."""
    max_dropped: Share = 0.5
    """Largest share of pairs that cleaning may drop before `nmt prepare` stops and asks."""


class SubwordConfig(Settings):
    """The joint subword vocabulary of both languages."""

    kind: Literal["bpe", "unigram"] = "bpe"
    """Byte-pair encoding (Sennrich et al. 2016) or a unigram language model (Kudo 2018)."""
    vocab_size: Annotated[int, Field(ge=300, le=65535, strict=True)] = 8000
    """Pieces in all, with 3 special ones and 256 bytes for what no piece covers."""
    max_sentences: PositiveInt = 2_000_000
    """Most lines, of both sides, that the vocabulary is learnt from; of more, an even sample."""


class CorpusConfig(Settings):
    """Text in: where it lies, how it is cleaned and cut into subwords."""

    src: Name = "en"
    """Source language, ISO 639-1."""
    tgt: Name = "de"
    """Target language, ISO 639-1."""
    root: str = "."
    """Folder that the file names below start from."""
    train: Annotated[list[ParallelText], Field(min_length=1)]
    """Corpora to train on."""
    dev: ParallelText
    """Pairs that validation translates; never cleaned."""
    tests: list[ParallelText] = []
    """Test sets that `nmt evaluate` scores by default; never cleaned."""
    prepared: str = ""
    """Folder that `nmt prepare` writes and `nmt train` reads; empty: prepared/<name>."""
    shard_pairs: PositiveInt = 100_000
    """Lines in one chunk of work and pairs, at most, in one shard."""
    cleaning: CleaningConfig = CleaningConfig()
    """Which pairs are dropped or mended."""
    subword: SubwordConfig = SubwordConfig()
    """How text is cut into tokens."""

    def check(self) -> None:
        names = [text.name for text in self.train]
        if len(set(names)) < len(names):
            raise ConfigError("corpus.train", names, "each corpus needs a name of its own")
        tests = [text.name for text in self.tests]
        if len(set(tests)) < len(tests):
            raise ConfigError("corpus.tests", tests, "each test set needs a name of its own")
        _check_folder("corpus.root", self.root)
        _check_folder("corpus.prepared", self.prepared)


class BatchingConfig(Settings):
    """How pairs become micro-batches and updates."""

    max_tokens: PositiveInt = 1024
    """Most tokens of the longer side in one micro-batch, padding counted."""
    micro_batches: PositiveInt = 2
    """Micro-batches in one update, all workers together; the most workers a run can use."""
    max_length: PositiveInt = 128
    """Most tokens of a pair's longer side, EOS counted; longer pairs are counted and left out."""
    window: PositiveInt = 10_000
    """Pairs shuffled together, then sorted by length: a larger one pads less and mixes less."""

    def check(self) -> None:
        if self.max_length > self.max_tokens:
            limit = f"set batching.max_tokens ({self.max_tokens}) or less"
            rule = f"no micro-batch could hold such a pair: {limit}"
            raise ConfigError("batching.max_length", self.max_length, rule)


class ModelConfig(Settings):
    """The network."""

    preset: Literal["residual", "gnmt"] = "residual"
    """residual: LSTM blocks with attention in each of the decoder. gnmt: the shape of GNMT v2."""
    width: PositiveInt = 128
    """Size of embeddings, block outputs and LSTM states."""
    encoder_layers: PositiveInt = 3
    """Encoder blocks (residual), or LSTM layers of which the first is bidirectional (gnmt)."""
    decoder_layers: PositiveInt = 3
    """Decoder blocks (residual) or LSTM layers (gnmt)."""
    ffn_width: NaturalInt = 256
    """Hidden size of the feed-forward part of a block; 0: blocks without one. Not used by gnmt."""
    attention: Literal["multi_head", "additive"] = "multi_head"
    """Dot products in heads (Vaswani et al. 2017) or additive scores (Bahdanau et al. 2015)."""
    heads: PositiveInt = 4
    """Heads of multi_head attention."""
    tie_embeddings: bool = True
    """One matrix for both embeddings and, but in gnmt, the output layer."""
    dropout: Fraction = 0.2
    """Share of values dropped from what a block adds (gnmt: from what an LSTM layer reads)."""
    embedding_dropout: Fraction = 0.1
    """Share of values dropped from embedded tokens."""
    attention_dropout: Fraction = 0.0
    """Share of attention weights dropped."""
    word_dropout: Fraction = 0.0
    """Share of source and of target input tokens whose whole embedding is dropped."""

    def check(self) -> None:
        if self.preset == "residual" and self.width % 2:
            raise ConfigError(
                "model.width", self.width, "it must be even: each encoder direction has half of it"
            )
        if self.preset == "residual" and self.attention == "multi_head" and self.width % self.heads:
            raise ConfigError(
                "model.width", self.width, f"it must be a multiple of model.heads ({self.heads})"
            )
        if self.preset == "gnmt" and self.attention != "additive":
            raise ConfigError(
                "model.attention",
                self.attention,
                "the gnmt preset is defined with additive attention",
            )
        if self.preset == "gnmt" and min(self.encoder_layers, self.decoder_layers) < 2:
            layers = f"{self.encoder_layers} and {self.decoder_layers}"
            raise ConfigError(
                "model.encoder_layers and decoder_layers", layers, "the gnmt preset needs 2 or more"
            )


class TrainingConfig(Settings):
    """How the weights are learnt."""

    updates: PositiveInt = 10_000
    """Optimizer steps in all."""
    learning_rate: PositiveFloat = 3e-3
    """Highest learning rate, reached after warm-up."""
    warmup_updates: NaturalInt = 500
    """Updates over which the learning rate rises linearly from 0."""
    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    """How it falls after warm-up: half a cosine down to the last update, or as 1/sqrt(update)."""
    learning_rate_floor: Share = 0.01
    """Lowest learning rate after warm-up, as a share of the highest."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    """Decay of AdamW's first and second moment."""
    epsilon: PositiveFloat = 1e-8
    """AdamW's guard against division by zero."""
    weight_decay: NaturalFloat = 0.01
    """Decoupled weight decay of matrices; biases and norms have none."""
    clip_norm: NaturalFloat = 1.0
    """Largest norm of the gradient of an update; 0: not clipped."""
    label_smoothing: Fraction = 0.1
    """Share of each target's probability spread over the vocabulary (Szegedy et al. 2016)."""
    ema_decay: Fraction = 0.999
    """Decay, an update, of the moving average of the weights, which translates; 0: no average."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers of forward and backward; weights, optimizer and loss sums are always fp32."""
    log_every: PositiveInt = 50
    """Updates between two log lines."""
    validate_every: PositiveInt = 500
    """Updates between two translations of the dev set; the last update has one too."""
    checkpoint_every: PositiveInt = 500
    """Updates between two checkpoints; the last update has one too."""
    keep_last: PositiveInt = 2
    """Newest checkpoints that are kept, besides the best on dev BLEU."""
    patience: NaturalInt = 0
    """Validations in a row without a better dev BLEU after which training stops; 0: never."""
    max_skipped: PositiveInt = 5
    """Updates in a row with a loss or gradient that is not finite after which the run stops."""

    def check(self) -> None:
        if self.warmup_updates > self.updates:
            rule = f"training has fewer updates ({self.updates})"
            raise ConfigError("training.warmup_updates", self.warmup_updates, rule)
        if (
            self.patience
            and self.validate_every % self.checkpoint_every
            and self.checkpoint_every % self.validate_every
        ):
            other = f"checkpoint_every ({self.checkpoint_every})"
            rule = f"with early stopping one of it and {other} must divide the other"
            raise ConfigError("training.validate_every", self.validate_every, rule)


class DecodingConfig(Settings):
    """How a translation is searched for."""

    beam: PositiveInt = 5
    """Hypotheses kept at each step; 1: greedy."""
    length_penalty: NaturalFloat = 1.0
    """Exponent alpha of the GNMT length penalty ((5 + length) / 6)^alpha; 0: none."""
    max_length_ratio: PositiveFloat = 2.0
    """Longest translation, in tokens for each source token."""
    max_length_extra: NaturalInt = 20
    """Tokens that any translation may have beyond max_length_ratio."""
    batch_sentences: PositiveInt = 64
    """Sentences translated together; speed and memory alone, never the result."""
    validation_beam: PositiveInt = 1
    """Beam of the validations during training."""


class Experiment(Settings):
    """What to train: the same file on a laptop and on eight nodes."""

    name: Name
    """Name of the run: it is stored in <storage>/<name>, and the same name goes on where it was."""
    seed: NaturalInt = 1
    """Seed of everything random: initial weights, order of pairs, dropout."""
    corpus: CorpusConfig
    """Text in."""
    batching: BatchingConfig = BatchingConfig()
    """How pairs become micro-batches and updates."""
    model: ModelConfig = ModelConfig()
    """The network."""
    training: TrainingConfig = TrainingConfig()
    """How the weights are learnt."""
    decoding: DecodingConfig = DecodingConfig()
    """How a translation is searched for."""

    @property
    def prepared(self) -> str:
        """Folder of the prepared corpus."""
        return self.corpus.prepared or f"prepared/{self.name}"


class Cluster(Settings):
    """Where to train: workers, what each has, where runs are stored. Never ranks or ports."""

    name: Name = "local"
    """What logs call it."""
    workers: PositiveInt = 1
    """Worker processes; each takes its share of every update."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1, strict=True)] = 0
    """1: each worker trains on a GPU of its own (NCCL); 0: on CPU cores (gloo)."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores, and so compute threads, of each worker."""
    storage: str = "runs"
    """Folder that every host sees; a run is stored in <storage>/<name of the experiment>."""
    max_failures: NaturalInt = 3
    """Times that lost workers are replaced before the run gives up."""
    address: str = ""
    """Dashboard of the Ray cluster that cluster/submit.py sends jobs to; empty: RAY_ADDRESS."""
    env: dict[str, str] = {}
    """Environment variables of the workers."""

    def check(self) -> None:
        _check_folder("cluster.storage", self.storage)


S = TypeVar("S", bound=Settings)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and set what `section.key=value` overrides say.

    Raises:
        ConfigError: the file or an override is wrong: the place, the key, what it is and may be.
    """
    return _load(Experiment, path, overrides)


def load_cluster(path: str | Path | None, overrides: Sequence[str] = ()) -> Cluster:
    """Read a cluster file and set `key=value` overrides; None: this machine with one worker."""
    return _load(Cluster, path, overrides)


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides into the experiment's and the cluster's, those without their `cluster.`."""
    ours = [text for text in overrides if not text.startswith("cluster.")]
    theirs = [text.removeprefix("cluster.") for text in overrides if text.startswith("cluster.")]
    return ours, theirs


def dump(settings: Settings) -> str:
    """The resolved settings as YAML that loads again to the same."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse(kind: type[S], text: str, where: str) -> S:
    """Settings from YAML text that stands at `where`."""
    return _build(kind, _read_yaml(text, where), where)


def differences(one: Settings, other: Settings) -> list[tuple[str, Any, Any]]:
    """The settings in which two of a kind differ: dotted key, value in one, value in the other.

    A value is what a file would hold; None where the key is not there.
    """
    ours, theirs = (dict(_leaves(settings.model_dump(mode="json"))) for settings in (one, other))
    return [
        (key, ours.get(key), theirs.get(key))
        for key in ours | theirs
        if ours.get(key) != theirs.get(key)
    ]


def explain(key: str) -> str:
    """What a key means, its type and its default; of a section, that of all its keys.

    Raises:
        ConfigError: there is no such key.
    """
    is_cluster = key.partition(".")[0] == "cluster"
    kind: Any = Cluster if is_cluster else Experiment
    if key == "cluster":
        return _explain_section(Cluster, "cluster.")
    parts = key.split(".")
    field = None
    for depth in range(is_cluster, len(parts)):
        part, section = parts[depth], _section_in(kind)
        if section is None or part not in section.model_fields:
            nearest = _nearest(part, list(section.model_fields) if section else [], parts[:depth])
            raise ConfigError.saying(f"{key!r} is not a setting{nearest}")
        field = section.model_fields[part]
        kind = field.annotation
    assert field is not None
    text = _explain_field(key, field)
    section = _section_in(kind)
    return text if section is None else f"{text}\n{_explain_section(section, f'{key}.')}"


def _load(kind: type[S], path: str | Path | None, overrides: Sequence[str]) -> S:
    tree: Any = {}
    where = "command line"
    if path is not None:
        where = str(path)
        try:
            tree = _read_yaml(Path(path).read_text(encoding="utf-8"), where)
        except FileNotFoundError:
            raise ConfigError.saying(
                f"{path}: there is no such file; configs/ holds the ones that come with nmt"
            ) from None
        except IsADirectoryError:
            raise ConfigError.saying(f"{path} is a folder; name a YAML file in it") from None
        except OSError as error:
            raise ConfigError.saying(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError.saying(
                f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8 text"
            ) from None
    for override in overrides:
        _set(tree, override)
    return _build(kind, tree, where, overrides)


def _read_yaml(text: str, where: str) -> Any:
    try:
        _refuse_doubles(yaml.compose(text, Loader=yaml.SafeLoader), where)
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError.saying(f"{where}{line}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict):
        raise ConfigError.saying(
            f"{where}: settings were expected, `key: value` line by line, but it is {_shown(tree)}"
        )
    return tree


def _refuse_doubles(node: yaml.Node | None, where: str) -> None:
    """Raise ConfigError where a key stands twice: YAML would take the last one in silence."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubles(item, where)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise ConfigError.saying(
                    f"{where}, line {line}: {name} stands twice in its section; keep one of them"
                )
            seen.add(name)
            _refuse_doubles(value, where)


def _set(tree: Any, override: str) -> None:
    """Put the value of one `a.b.c=value` into the tree; list items go by number."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError.saying(f"{override!r} is not an override: write section.key=value")
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError.saying(f"{override!r}: the value is not valid YAML; quote it") from None
    *path, last = key.split(".")
    node = tree
    for part in path:
        if isinstance(node, list):
            node = node[_index(node, part, override)]
            if not isinstance(node, dict | list):
                raise ConfigError.saying(f"{override!r}: item {part} has no settings in it")
            continue
        if not isinstance(node.get(part), dict | list):
            node[part] = {}
        node = node[part]
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError.saying(
            f"{override!r}: {part!r} is not an item of a list of {len(items)}; items count from 0"
        )
    return int(part)


def _build(kind: type[S], tree: Any, where: str, overrides: Sequence[str] = ()) -> S:
    try:
        return kind.model_validate(tree)
    except ConfigError as error:
        if overrides and where != "command line":
            where += " and command line"
        raise ConfigError.saying(f"{where}: {error}") from None
    except ValidationError as error:
        # A misspelt key comes before the key that is thereby missing.
        unknown = ("extra_forbidden", "invalid_key")
        errors = error.errors(include_url=False)
        first = min(errors, key=lambda error: error["type"] not in unknown)
    *path, last = map(str, first["loc"])
    key = ".".join([*path, last])
    ours = [override.partition("=")[0] + "." for override in overrides]
    if any(name.startswith(f"{key}.") or f"{key}.".startswith(name) for name in ours):
        where = "command line"
        path = ["cluster", *path] if kind is Cluster else path
        key = ".".join([*path, last])
    match first["type"]:
        case "extra_forbidden" | "invalid_key":
            nearest = _nearest(last, _keys_in(kind, first["loc"][:-1]), path)
            raise ConfigError.saying(f"{where}: {key} is not a setting{nearest}")
        case "missing":
            plain = ".".join(part for part in key.split(".") if not part.isdecimal())
            hint = f"`nmt config explain {plain}` tells what it is"
            raise ConfigError.saying(f"{where}: {key} is missing; {hint}")
    rule = _rule(first["type"], first.get("ctx", {}), first["msg"])
    raise ConfigError.saying(f"{where}: {key} is {_shown(first['input'])}, but {rule}")


def _rule(kind: str, facts: Mapping[str, Any], message: str) -> str:
    """What a value must be, for people; pydantic's kind of error, its facts and its own message."""
    match kind:
        case "int_type" | "int_parsing" | "int_from_float":
            return "it must be a whole number"
        case "float_type" | "float_parsing":
            return "it must be a number"
        case "finite_number":
            return "it must be a finite number"
        case "greater_than_equal":
            return f"it must be {facts['ge']} or more"
        case "greater_than":
            return f"it must be more than {facts['gt']}"
        case "less_than_equal":
            return f"it must be {facts['le']} or less"
        case "less_than":
            return f"it must be less than {facts['lt']}"
        case "bool_type" | "bool_parsing":
            return "it must be true or false"
        case "string_type":
            return "it must be text: put it in quotes"
        case "string_pattern_mismatch":
            return "it must be 1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or a digit"
        case "literal_error":
            return f"it must be {facts['expected']}"
        case "list_type" | "tuple_type":
            return "it must be a list: [first, second]"
        case "model_type" | "dict_type":
            return "it must be a section: `key: value` line by line, or {key: value}"
        case "too_short":
            return f"it must have {facts['min_length']} or more items"
        case "too_long":
            return f"it must have {facts['max_length']} items at most"
    return message.removeprefix("Value error, ")


def _shown(value: Any) -> str:
    """A value as it could stand in a file, shortened."""
    if value is None:
        return "empty"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys_in(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that a section has."""
    for part in path:
        section = _section_in(kind)
        if isinstance(part, str) and section is not None and part in section.model_fields:
            kind = section.model_fields[part].annotation
    section = _section_in(kind)
    return list(section.model_fields) if section is not None else []


def _section_in(kind: Any) -> type[Settings] | None:
    """The section that a type is, or that its items are."""
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def _check_folder(key: str, value: str) -> None:
    """Refuse the address of an object store, which would be taken for a folder called s3:."""
    if "://" in value:
        rule = "object stores are not supported yet: name a folder that every host sees"
        raise ConfigError(key, value, rule)


def _nearest(part: str, known: list[str], path: Sequence[str]) -> str:
    matches = difflib.get_close_matches(part, known, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean {'.'.join([*path, matches[0]])}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _explain_section(section: type[Settings], prefix: str) -> str:
    return "\n".join(
        _explain_field(prefix + name, field) for name, field in section.model_fields.items()
    )


def _explain_field(key: str, field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    facts = ", ".join([_kind_of(field.annotation), *limits])
    if field.is_required():
        facts += "; required"
    elif not isinstance(field.default, Settings):
        facts += f"; default {json.dumps(field.default)}"
    return f"{key}: {field.description}  [{facts}]"


def _kind_of(annotation: Any) -> str:
    """A type, for people."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(inner)
    if origin is Annotated:
        return _kind_of(inner[0])
    if origin is list:
        return f"[{_kind_of(inner[0])}, ...]"
    if origin is tuple:
        return f"[{', '.join(map(_kind_of, inner))}]"
    if origin is dict:
        return ": ".join(map(_kind_of, inner))
    names = {bool: "true | false", int: "whole number", float: "number", str: "text"}
    return names.get(annotation, "section")
