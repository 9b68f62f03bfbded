"""The two config files: the experiment says what to train, the cluster says where.

Both are typed, frozen and strict: an unknown key is refused with the nearest known one. A key of
the experiment is set on the command line as `section.key=value`, a key of the cluster as
`cluster.key=value`; values are YAML. Paths stay strings here: what they lead to may lie on another
machine.
"""

import difflib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nmt.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NaturalInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NaturalFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Settings(BaseModel):
    """Frozen, typed, and without a place for a key that nobody reads."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
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
    """File of the source side, below corpus.root; plain text, .gz, .xz or .zst, UTF-8, one segment
    a line."""
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
    """Which pairs are dropped or mended before training, each rule with its own switch and
    tally."""

    nfc: bool = True
    """Mend: write every character in its composed form (Unicode NFC)."""
    control_characters: bool = True
    """Mend: turn control and format characters and odd line separators into a space; runs of spaces
    into one."""
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
    """Drop pairs whose longer side has more than this many times the characters of the shorter; 0:
    no limit."""
    ratio_slack: NaturalInt = 20
    """Characters added to both sides before max_ratio compares them: short pairs vary more."""
    max_dropped: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest share of pairs that cleaning may drop before `nmt prepare` stops and asks."""


class SubwordConfig(Settings):
    """The joint subword vocabulary of both languages."""

    kind: Literal["bpe", "unigram"] = "bpe"
    """Byte-pair encoding (Sennrich et al. 2016) or a unigram language model (Kudo 2018)."""
    vocab_size: Annotated[int, Field(ge=300, le=65535)] = 8000
    """Pieces in all, with 3 special ones and 256 bytes for what no piece covers."""
    max_sentences: PositiveInt = 2_000_000
    """Most lines, both sides counted, that the vocabulary is learnt from: an even sample of a
    larger corpus."""


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
    """Folder that `nmt prepare` writes and `nmt train` reads; empty: prepared/<name of the
    experiment>."""
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


class BatchingConfig(Settings):
    """How pairs become micro-batches and updates."""

    max_tokens: PositiveInt = 1024
    """Most tokens of the longer side in one micro-batch, padding counted."""
    micro_batches: PositiveInt = 2
    """Micro-batches in one update, all workers together; the most workers a run can use."""
    max_length: PositiveInt = 128
    """Longest pair trained on: tokens of its longer side; longer ones are counted and left out."""
    window: PositiveInt = 10_000
    """Pairs that are shuffled together and then sorted by length: larger pads less, smaller mixes
    more."""

    def check(self) -> None:
        if self.max_length > self.max_tokens:
            rule = f"no micro-batch could hold such a pair: set batching.max_tokens ({self.max_tokens}) or less"
            raise ConfigError("batching.max_length", self.max_length, rule)


class ModelConfig(Settings):
    """The network."""

    preset: Literal["residual", "gnmt"] = "residual"
    """residual: pre-norm LSTM blocks with attention in each decoder block. gnmt: the GNMT v2 shape
    (Wu et al. 2016)."""
    width: PositiveInt = 128
    """Size of embeddings, block outputs and LSTM states."""
    encoder_layers: PositiveInt = 3
    """Encoder blocks (residual), or LSTM layers of which the first is bidirectional (gnmt)."""
    decoder_layers: PositiveInt = 3
    """Decoder blocks (residual) or LSTM layers (gnmt)."""
    ffn_width: NaturalInt = 256
    """Hidden size of the feed-forward part of a block; 0: blocks without one. Not used by gnmt."""
    attention: Literal["multi_head", "additive"] = "multi_head"
    """Scaled dot products in several heads (Vaswani et al. 2017), or additive scores (Bahdanau et
    al. 2015)."""
    heads: PositiveInt = 4
    """Heads of multi_head attention."""
    tie_embeddings: bool = True
    """One matrix for source embeddings, target embeddings and output layer (gnmt: the two
    embeddings only)."""
    dropout: Fraction = 0.2
    """Share of values dropped from what each block adds (gnmt: from the input of each LSTM
    layer)."""
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
    """How the learning rate falls after warm-up: a half cosine to the floor at the last update, or
    1/sqrt(update)."""
    learning_rate_floor: Annotated[float, Field(ge=0, le=1)] = 0.01
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
    """Decay, an update, of the moving average of the weights that validation and translation use;
    0: no average."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers of the forward and backward pass; weights, optimizer and loss sums are fp32
    always."""
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
            rule = f"with early stopping one of it and checkpoint_every ({self.checkpoint_every}) must divide the other"
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
    """Where to train: workers, what each has, and where runs are stored. Never ranks, ports or
    addresses of workers."""

    name: Name = "local"
    """What logs call it."""
    workers: PositiveInt = 1
    """Worker processes; each takes its share of every update."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """1: each worker trains on a GPU of its own (NCCL); 0: on CPU cores (gloo)."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores, and so compute threads, of each worker."""
    storage: str = "runs"
    """Folder that every host sees; a run is stored in <storage>/<name of the experiment>."""
    max_failures: NaturalInt = 3
    """Times that lost workers are replaced before the run gives up."""
    address: str = ""
    """Dashboard address of the Ray cluster that cluster/submit.py sends jobs to; empty:
    RAY_ADDRESS."""
    env: dict[str, str] = {}
    """Environment variables of the workers."""


S = TypeVar("S", bound=Settings)


def load_experiment(path: str | Path, overrides: typing.Sequence[str] = ()) -> Experiment:
    """Read an experiment file and set what `section.key=value` overrides say.

    Raises:
        ConfigError: the file or an override is wrong; one line with the key, what it is, and what
            it may be.
    """
    return _load(Experiment, path, overrides)


def load_cluster(path: str | Path | None, overrides: typing.Sequence[str] = ()) -> Cluster:
    """Read a cluster file, None for this machine with one worker, and set what `key=value`
    overrides say."""
    return _load(Cluster, path, overrides)


def split_overrides(overrides: typing.Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command line's overrides into the experiment's and the cluster's (`cluster.key=value`,
    prefix taken off)."""
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
    """The settings in which two of a kind differ: dotted key, its value in one, its value in the
    other."""
    return [
        (key, mine, theirs)
        for (key, mine), (_, theirs) in zip(_leaves(one), _leaves(other), strict=True)
        if mine != theirs
    ]


def _leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def explain(key: str) -> str:
    """What a key means, its type, its default: `training.patience`, `cluster.workers`, or a whole
    section."""
    kind: Any = Experiment
    parts = key.split(".")
    if parts[0] == "cluster":
        kind, parts = Cluster, parts[1:]
    for depth, part in enumerate(parts):
        kind = _settings_inside(kind)
        if kind is None or part not in kind.model_fields:
            known = list(kind.model_fields) if kind else []
            raise ConfigError.saying(
                f"{key!r} is not a setting{_nearest(part, known, parts[:depth])}"
            )
        field = kind.model_fields[part]
        kind = field.annotation
    if not parts:
        return _explain_section(Cluster, "cluster.")
    section = _settings_inside(kind)
    if section is not None:
        return f"{key}: {field.description}\n" + _explain_section(section, f"{key}.")
    return _explain_field(key, field)


def _load(kind: type[S], path: str | Path | None, overrides: typing.Sequence[str]) -> S:
    tree: Any = {}
    where = "the defaults"
    if path is not None:
        where = str(path)
        try:
            tree = _read_yaml(Path(path).read_text(encoding="utf-8"), where)
        except FileNotFoundError:
            raise ConfigError.saying(
                f"{path}: there is no such file; configs/ holds the ones that come with nmt"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError.saying(f"{path}: cannot be read as UTF-8 text: {error}") from None
    for override in overrides:
        _set(tree, override)
    return _build(kind, tree, where)


def _read_yaml(text: str, where: str) -> Any:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it does not parse"
        raise ConfigError.saying(f"{where}{line}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict):
        raise ConfigError.saying(
            f"{where}: a mapping of settings was expected, found {type(tree).__name__}"
        )
    return tree


def _set(tree: Any, override: str) -> None:
    """Put the value of one `a.b.c=value` into the tree; list items go by number."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError.saying(f"{override!r} is not an override: write section.key=value")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ConfigError.saying(f"{override!r}: the value is not valid YAML; quote it") from None
    *path, last = key.split(".")
    node = tree
    for part in path:
        if isinstance(node, list):
            node = node[_index(node, part, override)]
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


def _build(kind: type[S], tree: Any, where: str) -> S:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=True)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(kind, first["loc"][:-1])
            nearest = _nearest(str(first["loc"][-1]), known, first["loc"][:-1])
            raise ConfigError.saying(f"{where}: {key} is not a setting{nearest}") from None
        if first["type"] == "missing":
            raise ConfigError.saying(
                f"{where}: {key} is missing; `nmt config explain {_generic(key)}` tells what it is"
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError.saying(
            f"{where}: {key} is {first['input']!r}, but {_lower_first(message)}"
        ) from None
    except ConfigError as error:
        raise ConfigError.saying(f"{where}: {error}") from None


def _generic(key: str) -> str:
    return ".".join(part for part in key.split(".") if not part.isdecimal())


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _known_keys(kind: Any, path: typing.Sequence[str | int]) -> list[str]:
    for part in path:
        section = _settings_inside(kind)
        if isinstance(part, str) and section is not None and part in section.model_fields:
            kind = section.model_fields[part].annotation
    section = _settings_inside(kind)
    return list(section.model_fields) if section is not None else []


def _settings_inside(kind: Any) -> type[Settings] | None:
    """The section that an annotation holds: itself, or the items of its list."""
    if (
        isinstance(kind, type)
        and not isinstance(kind, types.GenericAlias)
        and issubclass(kind, Settings)
    ):
        return kind
    if get_origin(kind) in (list, Annotated, typing.Union, types.UnionType):
        return next((found for inner in get_args(kind) if (found := _settings_inside(inner))), None)
    return None


def _nearest(part: str, known: list[str], path: typing.Sequence[str | int]) -> str:
    matches = difflib.get_close_matches(part, known, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean {'.'.join([*map(str, path), matches[0]])}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _explain_section(section: type[Settings], prefix: str) -> str:
    return "\n".join(
        _explain_field(prefix + name, field) for name, field in section.model_fields.items()
    )


def _explain_field(key: str, field: Any) -> str:
    kind = field.annotation
    shown = getattr(kind, "__name__", str(kind)) if not get_args(kind) else str(kind)
    if get_origin(kind) is Literal:
        shown = " | ".join(map(str, get_args(kind)))
    limits = ", ".join(str(limit) for limit in field.metadata)
    shown = shown.replace("typing.", "").replace("nmt.config.", "")
    default = (
        "required"
        if field.is_required()
        else f"default {field.get_default(call_default_factory=True)!r}"
    )
    if _settings_inside(kind) is not None:
        default = "required" if field.is_required() else "a section"
    return f"{key}: {field.description}  [{shown}{'; ' + limits if limits else ''}; {default}]"
