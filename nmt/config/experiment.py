"""The experiment file: what to train, the same on a laptop and on eight nodes.

A key is set on the command line as `section.key=value`; values are YAML.
"""

from collections import ChainMap
from typing import Any, Literal

from nmt.config.corpus import CorpusConfig
from nmt.config.decoding import DecodingConfig
from nmt.config.settings import (
    Fraction,
    Name,
    NaturalFloat,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
)
from nmt.errors import ConfigError


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
    locked_dropout: bool = False
    """dropout and embedding_dropout drop the same values at all positions of a sentence."""
    weight_dropout: Fraction = 0.0
    """Share of the recurrent weights of LSTM layers dropped, anew in each micro-batch."""

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
    schedule: Literal["cosine", "inverse_sqrt", "plateau"] = "cosine"
    """How it falls after warm-up: half a cosine to the last update; 1/sqrt(update); by halves."""
    plateau_patience: PositiveInt = 3
    """Validations in a row without a better dev BLEU after which schedule plateau halves it."""
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
    rdrop: NaturalFloat = 0.0
    """Weight alpha of R-Drop (Liang et al. 2021): two passes a pair, pulled together; 0: one."""
    subword_dropout: Fraction = 0.0
    """Share of BPE merges left out, drawn anew for each word each epoch (Provilkov et al. 2020)."""
    subword_sampling: NaturalFloat = 0.0
    """Alpha of cuts drawn anew each epoch from a unigram vocabulary (Kudo 2018); 0: the best."""
    ema_decay: Fraction = 0.999
    """Decay, an update, of the moving average of the weights, which translates; 0: no average."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Of forward and backward, all else fp32; auto: bf16 if quicker; fp16: for GPUs without it."""
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


class StageConfig(Settings):
    """What changes in training from an update on; it holds until a later stage changes it again."""

    from_update: PositiveInt
    """Updates done when it begins."""
    rdrop: NaturalFloat | None = None
    """training.rdrop from then on."""
    label_smoothing: Fraction | None = None
    """training.label_smoothing from then on."""
    learning_rate: PositiveFloat | None = None
    """training.learning_rate from then on: the height of the schedule, whose shape stays."""
    subword_dropout: Fraction | None = None
    """training.subword_dropout from then on; epochs begin anew."""
    subword_sampling: NaturalFloat | None = None
    """training.subword_sampling from then on; epochs begin anew."""
    dropout: Fraction | None = None
    """model.dropout from then on."""
    embedding_dropout: Fraction | None = None
    """model.embedding_dropout from then on."""
    attention_dropout: Fraction | None = None
    """model.attention_dropout from then on."""
    word_dropout: Fraction | None = None
    """model.word_dropout from then on."""
    weight_dropout: Fraction | None = None
    """model.weight_dropout from then on."""
    weights: dict[Name, NaturalFloat] = {}
    """Weights of corpora from then on, by name, 0: none of it; their epochs begin anew."""

    def check(self) -> None:
        if not any(self.changes(of) for of in (TrainingConfig, ModelConfig)) and not self.weights:
            rule = f"it changes nothing: set one of {', '.join(list(type(self).model_fields)[1:])}"
            raise ConfigError("stages.from_update", self.from_update, rule)

    def changes(self, of: type[Settings]) -> dict[str, Any]:
        """The settings of a section, training or model, that it sets."""
        return self.model_dump(exclude_none=True, include=set(of.model_fields))

    @property
    def has_own_epochs(self) -> bool:
        """Whether its updates are planned anew."""
        cuts = (self.subword_dropout, self.subword_sampling)
        return bool(self.weights) or any(cut is not None for cut in cuts)


class Experiment(Settings):
    """What to train: the same file on a laptop and on eight nodes."""

    name: Name
    """Name of the run: it is stored in <storage>/<name>, and the same name goes on where it was."""
    seed: NaturalInt = 1
    """Seed of everything random: initial weights, order of pairs, dropout."""
    preset: Literal["none", "auto"] = "none"
    """auto: sizes, dropout and updates that are not set follow from the number of pairs."""
    corpus: CorpusConfig
    """Text in."""
    batching: BatchingConfig = BatchingConfig()
    """How pairs become micro-batches and updates."""
    model: ModelConfig = ModelConfig()
    """The network."""
    training: TrainingConfig = TrainingConfig()
    """How the weights are learnt."""
    stages: list[StageConfig] = []
    """What changes in training on the way, in the order of their updates."""
    decoding: DecodingConfig = DecodingConfig()
    """How a translation is searched for."""

    def check(self) -> None:
        kind = self.corpus.subword.kind
        sections: list[TrainingConfig | StageConfig] = [self.training, *self.stages]
        for section in sections:
            name = "training" if section is self.training else "stages"
            if section.subword_dropout and kind != "bpe":
                rule = f"corpus.subword.kind is {kind}: only bpe has merges"
                raise ConfigError(f"{name}.subword_dropout", section.subword_dropout, rule)
            if section.subword_sampling and kind != "unigram":
                rule = f"corpus.subword.kind is {kind}: only unigram has probabilities"
                raise ConfigError(f"{name}.subword_sampling", section.subword_sampling, rule)
        starts = [stage.from_update for stage in self.stages]
        if sorted(set(starts)) != starts:
            rule = "each stage must begin after the one before it"
            raise ConfigError("stages.from_update", starts, rule)
        weights = {text.name: text.weight for text in self.corpus.train}
        _check_some_weight("corpus.train", weights)
        for stage in self.stages:
            for name in stage.weights:
                if name not in weights:
                    rule = f"no corpus of corpus.train is called so: {', '.join(weights)}"
                    raise ConfigError("stages.weights", name, rule)
            weights |= stage.weights
            _check_some_weight(f"stages, from update {stage.from_update}", weights)

    def training_at(self, update: int) -> TrainingConfig:
        """How update `update`, from 0, is made: the stages that have begun, applied in order."""
        return self.training.model_copy(update=self._changes(update, TrainingConfig))

    def model_at(self, update: int) -> ModelConfig:
        """The network of update `update`, from 0: that of all updates but for what is dropped."""
        return self.model.model_copy(update=self._changes(update, ModelConfig))

    def _changes(self, update: int, of: type[Settings]) -> dict[str, Any]:
        begun = [stage.changes(of) for stage in self.stages if stage.from_update <= update]
        return dict(ChainMap(*reversed(begun)))

    @property
    def prepared(self) -> str:
        """Folder of the prepared corpus."""
        return self.corpus.prepared or f"prepared/{self.name}"


def _check_some_weight(where: str, weights: dict[str, float]) -> None:
    if not any(weights.values()):
        raise ConfigError.from_message(
            f"{where}: every corpus has weight 0 ({', '.join(weights)}); give one a weight above 0"
        )
