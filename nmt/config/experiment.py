"""Experiment file: corpus, model and training settings, without anything about machines.

Any key can be set on the command line as `section.key=value`; values are YAML.
"""

from collections import ChainMap
from typing import Annotated, Any, Literal

from pydantic import Field

from nmt.config.corpus import CorpusConfig, Weight
from nmt.config.decoding import DecodingConfig
from nmt.config.settings import (
    Fraction,
    Name,
    NaturalFloat,
    NaturalInt,
    PathText,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
    Text,
    added_setting,
    check_address,
)
from nmt.errors import ConfigError


class BatchingConfig(Settings):
    """Batch construction."""

    max_tokens: Annotated[PositiveInt, Field(le=1 << 24)] = 1024
    """Token budget of a micro-batch, on its longer side, padding included."""
    micro_batches: Annotated[PositiveInt, Field(le=1 << 16)] = 2
    """Micro-batches per update over all workers; also the largest number of workers."""
    max_length: Annotated[PositiveInt, Field(le=1 << 16)] = 128
    """Length limit of a pair: tokens of its longer side, EOS included; longer ones are skipped."""
    window: Annotated[PositiveInt, Field(le=10**9)] = 10_000
    """Pairs per window, sorted by length, cut into updates; larger: less padding, less mixing."""

    def check(self) -> None:
        if self.max_length > self.max_tokens:
            rule = f"a micro-batch holds at most batching.max_tokens ({self.max_tokens})"
            raise ConfigError("batching.max_length", self.max_length, rule)


class ModelConfig(Settings):
    """Network architecture."""

    preset: Literal["residual", "gnmt"] = "residual"
    """Architecture: residual (pre-norm LSTM blocks, attention in each) or gnmt (GNMT v2)."""
    width: Annotated[PositiveInt, Field(le=16384)] = 128
    """Size of embeddings, block outputs and LSTM states."""
    encoder_layers: Annotated[PositiveInt, Field(le=128)] = 3
    """Number of encoder blocks (residual) or LSTM layers, the first bidirectional (gnmt)."""
    decoder_layers: Annotated[PositiveInt, Field(le=128)] = 3
    """Number of decoder blocks (residual) or LSTM layers (gnmt)."""
    ffn_width: Annotated[NaturalInt, Field(le=65536)] = 256
    """Hidden size of the feed-forward layer of a block; 0: no feed-forward. Ignored by gnmt."""
    attention: Literal["multi_head", "additive"] = "multi_head"
    """Attention: multi_head (Vaswani et al. 2017) or additive (Bahdanau et al. 2015)."""
    heads: Annotated[PositiveInt, Field(le=1024)] = 4
    """Number of heads of multi_head attention."""
    tie_embeddings: bool = True
    """Weight tying: one matrix for both embeddings and, except in gnmt, the output layer."""
    dropout: Fraction = 0.2
    """Dropout on the output of each sublayer (residual) or the input of each LSTM layer (gnmt)."""
    embedding_dropout: Fraction = 0.1
    """Dropout on token embeddings."""
    attention_dropout: Fraction = 0.0
    """Dropout on attention weights."""
    word_dropout: Fraction = 0.0
    """Share of source and target input tokens whose embedding is set to zero."""
    locked_dropout: bool = False
    """Locked dropout: dropout and embedding_dropout use one mask for all positions of a row."""
    weight_dropout: Fraction = 0.0
    """Dropout on recurrent LSTM weights, one mask per micro-batch (Merity et al. 2018)."""

    def check(self) -> None:
        if self.preset == "residual" and self.width % 2:
            rule = "it must be even: each encoder direction uses half of it"
            raise ConfigError("model.width", self.width, rule)
        if self.preset == "residual" and self.attention == "multi_head" and self.width % self.heads:
            rule = f"it must be a multiple of model.heads ({self.heads})"
            raise ConfigError("model.width", self.width, rule)
        if self.preset == "gnmt" and self.attention != "additive":
            rule = "the gnmt preset uses additive attention: set model.attention=additive"
            raise ConfigError("model.attention", self.attention, rule)
        if self.preset == "gnmt" and min(self.encoder_layers, self.decoder_layers) < 2:
            key, layers = "model.encoder_layers and decoder_layers", "{} and {}"
            layers = layers.format(self.encoder_layers, self.decoder_layers)
            raise ConfigError(key, layers, "the gnmt preset needs 2 or more")

    def without_dropout(self) -> "ModelConfig":
        """Return the same model without dropout of any kind."""
        rates = [key for key in type(self).model_fields if key.endswith("_dropout")]
        changes = {key: 0.0 for key in ("dropout", *rates) if key != "locked_dropout"}
        return self.model_copy(update=changes)


class TrainingConfig(Settings):
    """Optimisation."""

    updates: Annotated[PositiveInt, Field(le=10**9)] = 10_000
    """Number of optimizer steps."""
    learning_rate: Annotated[PositiveFloat, Field(le=100)] = 3e-3
    """Peak learning rate, reached after warm-up."""
    warmup_updates: NaturalInt = 500
    """Updates of linear warm-up from 0."""
    schedule: Literal["cosine", "inverse_sqrt", "plateau"] = "cosine"
    """Decay after warm-up: cosine, inverse_sqrt, or plateau (halved, see plateau_patience)."""
    plateau_patience: PositiveInt = 3
    """Consecutive validations without a better dev BLEU before plateau halves the learning rate."""
    learning_rate_floor: Share = 0.01
    """Lowest learning rate after warm-up, as a share of the peak."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    """Decay rates of the first and second moment of AdamW."""
    epsilon: PositiveFloat = 1e-8
    """Epsilon of AdamW, added to the denominator."""
    weight_decay: NaturalFloat = 0.01
    """Decoupled weight decay of matrices; biases and layer norms are not decayed."""
    clip_norm: NaturalFloat = 1.0
    """Maximum norm of the gradient of an update; 0: no clipping."""
    label_smoothing: Fraction = 0.1
    """Probability mass spread over the vocabulary (Szegedy et al. 2016)."""
    rdrop: NaturalFloat = 0.0
    """Weight alpha of R-Drop (Liang et al. 2021), which runs each pair twice; 0: off."""
    cutoff: Fraction = added_setting(0.0, before=0.0)
    """Share of the input that Cutoff (Shen et al. 2020) erases in a second pass; 0: off."""
    cutoff_kind: Literal["token", "feature", "span"] = added_setting("token", before="token")
    """Erased by Cutoff: embeddings of tokens, features of all tokens, or one span of tokens."""
    cutoff_weight: NaturalFloat = added_setting(5.0, before=5.0)
    """Weight of the Jensen-Shannon divergence between the passes of Cutoff."""
    risk: NaturalFloat = added_setting(0.0, before=0.0)
    """Weight of the risk, 1 - BLEU, of sampled translations (Shen et al. 2016); 0: off."""
    risk_samples: Annotated[int, Field(ge=2, le=1000)] = added_setting(8, before=8)
    """Translations that minimum risk training samples per pair."""
    switchout: NaturalFloat = added_setting(0.0, before=0.0)
    """Temperature of SwitchOut (Wang et al. 2018): random tokens on both sides; 0: off."""
    reverse: Share = added_setting(0.0, before=0.0)
    """Share of pairs reversed in an epoch (Ding et al. 2021); none of tagged or recased corpora."""
    subword_dropout: Fraction = 0.0
    """BPE-dropout: probability of skipping a merge, redrawn every epoch (Provilkov et al. 2020)."""
    subword_sampling: NaturalFloat = 0.0
    """Alpha of unigram subword sampling, redrawn every epoch (Kudo 2018); 0: best split only."""
    ema_decay: Fraction = 0.999
    """Decay per update of the weight average used for validation and translation; 0: none."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "auto"] = "fp32"
    """Dtype of forward and backward; tf32, fp16: for GPUs; auto: bf16 if faster, else fp32."""
    log_every: PositiveInt = 50
    """Updates between log lines."""
    validate_every: PositiveInt = 500
    """Updates between validations; the last update is always validated."""
    checkpoint_every: PositiveInt = 500
    """Updates between checkpoints; the last update always has one."""
    keep_last: PositiveInt = 2
    """Number of newest checkpoints kept, besides the one with the best dev BLEU."""
    patience: NaturalInt = 0
    """Early stopping: consecutive validations without a better dev BLEU before the end; 0: off."""
    max_skipped: PositiveInt = 5
    """Consecutive updates with a non-finite loss or gradient before the run stops."""
    init_from: PathText = added_setting("", before="")
    """Run, checkpoint or address whose weights a new run starts from; empty: random weights."""
    init_optimizer: bool = added_setting(False, before=False)
    """Also take the optimizer state of init_from; needs the same model and vocabulary."""
    init_share: Fraction = added_setting(0.0, before=0.0)
    """Share of init_from in the final average, by importance with init_optimizer; 0: ema_decay."""
    freeze: list[Text] = added_setting([], before=[])
    """Parameters that stay as they start, as patterns of their names: `encoder.*`, for example."""
    robust: bool = added_setting(False, before=False)
    """Noise of all kinds, at small rates, in the source of corpora without noise of their own."""

    case_marks: bool | None = added_setting(None, before=False)
    """Read sources in upper or title case as a mark and lower case; null: if noise changes case."""

    @property
    def num_passes(self) -> int:
        """Targets of each pair that the decoder runs over."""
        return 1 + self.risk_samples if self.risk else 2 if self.rdrop or self.cutoff else 1

    @property
    def keeps_importance(self) -> bool:
        """True if init_share differs by weight, which needs another copy of the moments."""
        return self.init_optimizer and self.init_share > 0

    def check(self) -> None:
        # The best checkpoint must be one that was validated.
        if (
            self.patience
            and self.validate_every % self.checkpoint_every
            and self.checkpoint_every % self.validate_every
        ):
            other = f"training.checkpoint_every ({self.checkpoint_every})"
            rule = f"early stopping needs it to be a multiple or a divisor of {other}"
            raise ConfigError("training.validate_every", self.validate_every, rule)
        if self.init_optimizer and not self.init_from:
            rule = "training.init_from is empty: there is no optimizer state to take"
            raise ConfigError("training.init_optimizer", "true", rule)
        if self.init_share and not (self.init_from and self.ema_decay):
            rule = "it needs training.init_from, and an average: training.ema_decay above 0"
            raise ConfigError("training.init_share", f"{self.init_share:g}", rule)
        check_address("training.init_from", self.init_from)


class StageConfig(Settings):
    """Settings that change at an update and stay until a later stage changes them again."""

    from_update: PositiveInt
    """Number of updates done before the stage starts."""
    rdrop: NaturalFloat | None = None
    """New value of training.rdrop."""
    cutoff: Fraction | None = added_setting(None, before=None)
    """New value of training.cutoff."""
    risk: NaturalFloat | None = added_setting(None, before=None)
    """New value of training.risk."""
    switchout: NaturalFloat | None = added_setting(None, before=None)
    """New value of training.switchout."""
    reverse: Share | None = added_setting(None, before=None)
    """New value of training.reverse."""
    label_smoothing: Fraction | None = None
    """New value of training.label_smoothing."""
    learning_rate: Annotated[PositiveFloat, Field(le=100)] | None = None
    """New peak learning rate; the schedule keeps its shape."""
    subword_dropout: Fraction | None = None
    """New value of training.subword_dropout; starts a new epoch."""
    subword_sampling: NaturalFloat | None = None
    """New value of training.subword_sampling; starts a new epoch."""
    dropout: Fraction | None = None
    """New value of model.dropout."""
    embedding_dropout: Fraction | None = None
    """New value of model.embedding_dropout."""
    attention_dropout: Fraction | None = None
    """New value of model.attention_dropout."""
    word_dropout: Fraction | None = None
    """New value of model.word_dropout."""
    weight_dropout: Fraction | None = None
    """New value of model.weight_dropout."""
    weights: dict[Name, Weight] = {}
    """New corpus weights by name, 0: unused; starts a new epoch."""

    def check(self) -> None:
        if not any(self.changes(of) for of in (TrainingConfig, ModelConfig)) and not self.weights:
            rule = f"it changes nothing: set one of {', '.join(list(type(self).model_fields)[1:])}"
            raise ConfigError("stages.from_update", self.from_update, rule)

    def changes(self, of: type[Settings]) -> dict[str, Any]:
        """Return the settings of a section (training or model) that the stage sets."""
        return self.model_dump(exclude_none=True, include=set(of.model_fields))

    @property
    def has_own_epochs(self) -> bool:
        """True if the stage starts a new epoch plan."""
        cuts = (self.subword_dropout, self.subword_sampling)
        return bool(self.weights) or any(cut is not None for cut in cuts)


class Experiment(Settings):
    """Experiment: corpus, model, training and decoding settings; the same on any cluster."""

    name: Name
    """Name of the run, stored in <storage>/<name>; the same name resumes it."""
    seed: NaturalInt = 1
    """Seed of initial weights, data order, dropout and subword sampling."""
    preset: Literal["none", "auto"] = "none"
    """Size preset; auto: sizes, dropout, updates, patience not set here follow the pair count."""
    corpus: CorpusConfig
    """Corpora, cleaning and subwords."""
    batching: BatchingConfig = BatchingConfig()
    """Batch construction."""
    model: ModelConfig = ModelConfig()
    """Network architecture."""
    training: TrainingConfig = TrainingConfig()
    """Optimisation."""
    stages: list[StageConfig] = []
    """Changes of settings during training, in order of their updates."""
    decoding: DecodingConfig = DecodingConfig()
    """Search and sampling."""

    def check(self) -> None:
        warmup, updates = self.training.warmup_updates, self.training.updates
        # The preset shortens a warm-up that is not set.
        is_open = self.preset == "auto" and "warmup_updates" not in self.training.model_fields_set
        if warmup > updates and not is_open:
            rule = f"it must be at most training.updates ({updates})"
            raise ConfigError("training.warmup_updates", warmup, rule)
        if self.distils and not self.training.init_from:
            text = next(text for text in self.corpus.train if text.distillation)
            rule = "training.init_from is empty: there is no model to keep to"
            name = f"distillation of corpus {text.name!r}"
            raise ConfigError(name, f"{text.distillation:g}", rule)
        kind = self.corpus.subword.kind
        sections: list[TrainingConfig | StageConfig] = [self.training, *self.stages]
        for section in sections:
            name = "training" if section is self.training else "stages"
            if section.subword_dropout and kind != "bpe":
                rule = f"corpus.subword.kind is {kind}: BPE-dropout needs bpe"
                raise ConfigError(f"{name}.subword_dropout", section.subword_dropout, rule)
            if section.subword_sampling and kind != "unigram":
                rule = f"corpus.subword.kind is {kind}: subword sampling needs unigram"
                raise ConfigError(f"{name}.subword_sampling", section.subword_sampling, rule)
        starts = [stage.from_update for stage in self.stages]
        if sorted(set(starts)) != starts:
            rule = "each stage must start after the previous one"
            raise ConfigError("stages.from_update", starts, rule)
        for start in (0, *starts):
            training = self.training_at(start)
            _check_one_loss(training, start)
            if training.reverse and not any(text.is_reversible for text in self.corpus.train):
                where = f"stages, from_update {start}: reverse" if start else "training.reverse"
                rule = "it leaves out corpora with tag, changed case or distillation: all have one"
                raise ConfigError(where, f"{training.reverse:g}", rule)
        # Weights hold until a later stage changes them; each period needs a corpus in use.
        weights = {text.name: text.weight for text in self.corpus.train}
        _check_some_weight("corpus.train", weights)
        for stage in self.stages:
            for name in stage.weights:
                if name not in weights:
                    rule = f"corpus.train has no corpus of that name; it has {', '.join(weights)}"
                    raise ConfigError("stages.weights", name, rule)
            weights |= stage.weights
            _check_some_weight(f"stages, from_update {stage.from_update}", weights)

    def with_settings(self, section: str, **settings: Any) -> "Experiment":
        """Return a copy with other settings in one section; they are not checked."""
        changed = getattr(self, section).model_copy(update=settings)
        return self.model_copy(update={section: changed})

    def training_at(self, update: int) -> TrainingConfig:
        """Return the training settings of update `update` (from 0), stages applied."""
        return self.training.model_copy(update=self._changes(update, TrainingConfig))

    def model_at(self, update: int) -> ModelConfig:
        """Return the model settings of update `update` (from 0), stages applied.

        Stages change dropout only, so the parameters are the same for all updates.
        """
        return self.model.model_copy(update=self._changes(update, ModelConfig))

    def num_passes(self, first_update: int = 0) -> dict[int, int]:
        """Return the passes over each pair from `first_update` on, by first update of a stage.

        R-Drop and Cutoff compute every pair twice, minimum risk its reference and its samples.
        """
        later = [each.from_update for each in self.stages if each.from_update > first_update]
        starts = [first_update, *(start for start in later if start < self.training.updates)]
        stages = {start: self.training_at(start) for start in starts}
        return {start: each.num_passes for start, each in stages.items()}

    def costliest_update(self, first_update: int = 0) -> int:
        """Return the first update from `first_update` on that needs most time and memory."""
        passes = self.num_passes(first_update)
        return max(passes, key=lambda start: passes[start])

    def _changes(self, update: int, of: type[Settings]) -> dict[str, Any]:
        changes = [stage.changes(of) for stage in self.stages if stage.from_update <= update]
        # The last stage that sets a key wins.
        return dict(ChainMap(*reversed(changes)))

    @property
    def distils(self) -> bool:
        """True if a corpus is trained by distillation, which needs a copy of the initial model."""
        return any(text.distillation for text in self.corpus.train)

    @property
    def marks_case(self) -> bool:
        """True if sources in upper or title case are read as a mark and lower case."""
        if self.training.case_marks is not None:
            return self.training.case_marks
        noise = [text.noise for text in self.corpus.train]
        return self.training.robust or any(n.upper_case or n.title_case for n in noise)

    @property
    def changes_sources(self) -> bool:
        """True if training sources get noise or case marks, which make some of them longer."""
        noise = [text.noise for text in self.corpus.train]
        return self.marks_case or self.training.robust or any(n.is_on for n in noise)

    @property
    def prepared(self) -> str:
        """Directory of the prepared corpus."""
        return self.corpus.prepared or f"prepared/{self.name}"


def _check_one_loss(training: TrainingConfig, start: int) -> None:
    """Raise ConfigError if two losses for several passes are on, or risk without a model."""
    losses = {"risk": "minimum risk", "rdrop": "R-Drop", "cutoff": "Cutoff"}
    used = {name: value for name in losses if (value := getattr(training, name))}

    def key(name: str) -> str:
        return f"stages, from_update {start}: {name}" if start else f"training.{name}"

    if len(used) > 1:
        (first, value), (name, given), *_ = used.items()
        rule = f"{losses[first]} is on too ({value:g}): set one of them to 0"
        raise ConfigError(key(name), f"{given:g}", rule)
    if "risk" in used and not start and not training.init_from:
        rule = "it needs a trained model: set training.init_from, or risk in a later stage"
        raise ConfigError(key("risk"), f"{training.risk:g}", rule)


def _check_some_weight(where: str, weights: dict[str, float]) -> None:
    if not any(weights.values()):
        raise ConfigError.from_message(
            f"{where}: all corpora have weight 0 ({', '.join(weights)}); set one above 0"
        )
