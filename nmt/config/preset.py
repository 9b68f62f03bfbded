"""Sizes chosen by the number of training pairs: `preset: auto`.

Settings that the experiment leaves open come from the first row of `ROWS` with at least as many
pairs. More pairs allow a wider and deeper model, a larger vocabulary and larger updates; fewer need
more dropout. Training ends early after `PATIENCE` validations without gain. Sources of the rows:

    10,000      small vocabulary, strong dropout and word dropout (Sennrich & Zhang 2019: about
                5,000 pairs, 2,000 pieces); sizes estimated from the next row, not measured
    60,000      configs/multi30k_en_de.yaml, 40.76 BLEU in one hour; twice the width was worse
    500,000     configs/tatoeba_en_de.yaml
    2,000,000   between its neighbours, for one GPU; not measured
    more        model of Domhan (2018), the size of Transformer-big, with one cuDNN call per layer;
                updates at least as large as those of GNMT v2; for eight GPUs
"""

import math
from dataclasses import dataclass
from typing import Any

from nmt.config.experiment import Experiment
from nmt.config.files import dump, override, overrides_of
from nmt.config.settings import Settings
from nmt.errors import ConfigError

PATIENCE = 6
"""Validations without a better dev BLEU before the end, of about 20 in a run."""


@dataclass(frozen=True)
class PresetRow:
    """Sizes for corpora of up to `max_pairs` pairs; names as in an experiment."""

    max_pairs: float
    vocab_size: int
    width: int
    layers: int
    ffn_width: int
    heads: int
    dropout: float
    embedding_dropout: float
    word_dropout: float
    max_tokens: int
    micro_batches: int
    updates: int
    warmup_updates: int
    learning_rate: float

    def settings(self, updates: int) -> dict[str, Any]:
        """Return values by dotted key for a run of `updates` updates."""
        return {
            **{key: getattr(self, key.rpartition(".")[2]) for key in _KEYS},
            "model.encoder_layers": self.layers,
            "model.decoder_layers": self.layers,
            "training.warmup_updates": min(self.warmup_updates, updates // 10),
            "training.validate_every": max(1, updates // 20),
            "training.checkpoint_every": max(1, updates // 20),
            "training.patience": PATIENCE,
        }


_KEYS = (
    "corpus.subword.vocab_size", "batching.max_tokens", "batching.micro_batches", "model.width",
    "model.ffn_width", "model.heads", "model.dropout", "model.embedding_dropout",
    "model.word_dropout", "training.updates", "training.learning_rate",
)  # fmt: skip
"""Settings named like a field of PresetRow."""
ROWS = (
    PresetRow(10_000, 2_000, 128, 2, 256, 4, 0.4, 0.3, 0.2, 1024, 2, 8_000, 500, 3e-3),
    PresetRow(60_000, 6_000, 128, 3, 256, 4, 0.3, 0.2, 0.1, 1024, 2, 22_000, 1000, 3e-3),
    PresetRow(500_000, 8_000, 256, 3, 512, 4, 0.2, 0.1, 0.1, 2048, 2, 20_000, 1000, 2e-3),
    PresetRow(2_000_000, 16_000, 512, 4, 1024, 8, 0.2, 0.1, 0.1, 4096, 4, 50_000, 2000, 1e-3),
    PresetRow(math.inf, 32_000, 1024, 6, 4096, 16, 0.2, 0.1, 0.0, 8192, 32, 80_000, 4000, 7e-4),
)


def resolve(experiment: Experiment, num_pairs: int) -> Experiment:
    """Return the experiment with all sizes set for a corpus of `num_pairs` kept pairs.

    Raises:
        ConfigError: a setting of the experiment contradicts its row.
    """
    if experiment.preset == "none":
        return experiment
    settings = _settings_for(experiment, num_pairs)
    unset = {key: value for key, value in settings.items() if not _is_set(experiment, key)}
    return override(experiment, overrides_of(unset), f"preset auto for {num_pairs:,} pairs")


def check_possible(experiment: Experiment, least: int, most: int) -> None:
    """Check the settings before cleaning, which is to keep `least` to `most` pairs.

    Raises:
        ConfigError: they contradict the rows of all these numbers.
    """
    error = None
    for num_pairs in [*(row.max_pairs for row in ROWS if least <= row.max_pairs < most), most]:
        try:
            resolve(experiment, int(num_pairs))
        except ConfigError as contradiction:
            error = contradiction
        else:
            return
    if error is not None:
        raise error


def dump_experiment(experiment: Experiment) -> str:
    """Return an experiment as YAML; settings that `resolve` has still to choose are left out."""
    keys = ROWS[0].settings(updates=1) if experiment.preset == "auto" else {}
    return dump(experiment, [key for key in keys if not _is_set(experiment, key)])


def _settings_for(experiment: Experiment, num_pairs: int) -> dict[str, Any]:
    row = next(row for row in ROWS if num_pairs <= row.max_pairs)
    # Warm-up and intervals scale with the updates of the experiment if it sets them.
    is_set, training = _is_set(experiment, "training.updates"), experiment.training
    settings = row.settings(training.updates if is_set else row.updates)
    # Early stopping needs intervals that fit: where one is set, the other follows.
    intervals = {
        key: getattr(training, key)
        for key in ("validate_every", "checkpoint_every")
        if _is_set(experiment, f"training.{key}")
    }
    if len(intervals) == 1:
        [every] = intervals.values()
        settings |= {"training.validate_every": every, "training.checkpoint_every": every}
    elif intervals and max(intervals.values()) % min(intervals.values()):
        del settings["training.patience"]
    return settings


def explain_choice(experiment: Experiment, num_pairs: int) -> str:
    """Return a line about the sizes that `resolve` sets and those the experiment sets itself."""
    resolved = resolve(experiment, num_pairs)
    model, training, batching = resolved.model, resolved.training, resolved.batching
    keys = [key for key in _settings_for(experiment, num_pairs) if _is_set(experiment, key)]
    kept = f"; set by the experiment: {', '.join(keys)}" if keys else ""
    return (
        f"preset auto: {num_pairs:,} pairs -> width {model.width}, {model.encoder_layers} + "
        f"{model.decoder_layers} layers, dropout {model.dropout:g}, vocabulary "
        f"{resolved.corpus.subword.vocab_size:,}, {training.updates:,} updates of "
        f"{batching.micro_batches} x {batching.max_tokens:,} tokens, learning rate "
        f"{training.learning_rate:g}, patience {training.patience}{kept}"
    )


def _is_set(section: Settings, key: str) -> bool:
    """Return True if the experiment file or an override sets the key."""
    first, _, rest = key.partition(".")
    return first in section.model_fields_set and (
        not rest or _is_set(getattr(section, first), rest)
    )
