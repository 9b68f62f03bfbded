"""How a translation is searched for: the `decoding` section of an experiment.

All of it can be set again for each translation; nothing here changes what is learnt.
"""

from typing import Annotated, Literal

from pydantic import Field

from nmt.config.settings import (
    NaturalFloat,
    NaturalInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Settings,
)
from nmt.errors import ConfigError

Protected = Literal["tags", "urls", "numbers", "placeholders"]


class DecodingConfig(Settings):
    """How a translation is searched for."""

    method: Literal["beam", "sample", "mbr"] = "beam"
    """Beam search; a sample; or of many samples the one most like the others (mbr, by chrF)."""
    beam: PositiveInt = 5
    """Hypotheses kept at each step; 1: greedy."""
    length_norm: Literal["gnmt", "average"] = "gnmt"
    """What divides a score: ((5 + length) / 6)^length_penalty, or length^length_penalty."""
    length_penalty: NaturalFloat = 1.0
    """Exponent alpha of length_norm; 0: none."""
    coverage_penalty: NaturalFloat = 0.0
    """Weight beta of the coverage penalty (Wu et al. 2016, equation 14); 0: none."""
    min_length: NaturalInt = 0
    """Fewest tokens of a translation, its end counted, where the limits below allow it."""
    max_length: NaturalInt = 0
    """Most tokens of any translation, its end counted; 0: only the limit that its source sets."""
    max_length_ratio: PositiveFloat = 2.0
    """Longest translation, in tokens for each source token."""
    max_length_extra: NaturalInt = 20
    """Tokens that any translation may have beyond max_length_ratio."""
    diverse_groups: PositiveInt = 1
    """Groups that share the beam and avoid each other's tokens (Vijayakumar et al. 2018)."""
    diversity: NaturalFloat = 0.5
    """What a token costs for each earlier group that says it at the same step, in nats."""
    temperature: PositiveFloat = 1.0
    """Of samples: what logits are divided by; less than 1 is nearer to greedy."""
    top_k: NaturalInt = 0
    """Of samples: draw from so many likeliest tokens (Fan et al. 2018); 0: from all."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Of samples: draw from the likeliest tokens that have this probability together; 1: all."""
    samples: PositiveInt = 32
    """Samples of each line that mbr compares."""
    seed: NaturalInt = 1
    """Of samples: with the text of a line it decides what is drawn."""
    max_source_length: NaturalInt = 0
    """Longer lines, in tokens, are cut at sentence ends; 0: those longer than in training."""
    protect: list[Protected] = []
    """Parts of a line that pass through untouched; only with a beam of one group."""
    batch_sentences: PositiveInt = 64
    """Sentences translated together; speed and memory alone, never the result."""
    validation_beam: PositiveInt = 1
    """Beam of the validations during training."""

    def check(self) -> None:
        if self.beam % self.diverse_groups:
            rule = f"the groups share decoding.beam ({self.beam}) evenly: it must divide that"
            raise ConfigError("decoding.diverse_groups", self.diverse_groups, rule)
        if 0 < self.max_length < self.min_length:
            rule = f"decoding.max_length is less ({self.max_length})"
            raise ConfigError("decoding.min_length", self.min_length, rule)
        if self.protect and (self.method != "beam" or self.diverse_groups > 1):
            rule = "only a beam of one group can make them appear"
            raise ConfigError("decoding.protect", ", ".join(self.protect), rule)
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        of_beam = ("coverage_penalty", "diverse_groups")
        of_samples = ("temperature", "top_k", "top_p")
        for name in of_samples if self.method == "beam" else of_beam:
            if (value := getattr(self, name)) != defaults[name]:
                rule = f"decoding.method {self.method} does not use it"
                if self.method == "beam":
                    rule += "; set that to sample or mbr"
                raise ConfigError(f"decoding.{name}", value, rule)

    def for_validation(self) -> "DecodingConfig":
        """The plain search of the validations during training."""
        return DecodingConfig(
            beam=self.validation_beam,
            length_norm=self.length_norm,
            length_penalty=self.length_penalty,
            max_length_ratio=self.max_length_ratio,
            max_length_extra=self.max_length_extra,
            batch_sentences=self.batch_sentences,
        )
