"""Search settings: the `decoding` section of an experiment.

They do not affect training, and `nmt translate` can override each of them.
"""

import os
from typing import Annotated, Literal

from pydantic import Field

from nmt.config.settings import (
    NaturalFloat,
    NaturalInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Settings,
    added_setting,
)
from nmt.errors import ConfigError

EngineName = Literal["auto", "torch", "onnx"]
Precision = Literal["fp32", "bf16", "int8"]
Protected = Literal["tags", "urls", "numbers", "placeholders"]
# Many more threads than cores only wait for each other; thousands exhaust the address space.
MAX_THREADS = max(16, 4 * (os.cpu_count() or 1))
MAX_SAMPLES = 10_000
"""Most samples of a line, which are drawn at once."""
RERANK_SCALE = 4.0
"""Default of rerank_scale; 2 and 4 differed by 0.1 BLEU on the dev set of Multi30k."""


class DecodingConfig(Settings):
    """Search and sampling."""

    method: Literal["beam", "sample", "mbr"] = "beam"
    """Search: beam, sample, or mbr (minimum Bayes risk over samples, by chrF)."""
    beam: Annotated[PositiveInt, Field(le=1000)] = 5
    """Beam size; 1: greedy search."""
    length_norm: Literal["gnmt", "average"] = "gnmt"
    """Length normalisation: gnmt, ((5 + length) / 6)^alpha, or average, length^alpha."""
    length_penalty: Annotated[NaturalFloat, Field(le=10)] = 1.0
    """Exponent alpha of length_norm; 0: no normalisation."""
    coverage_penalty: Annotated[NaturalFloat, Field(le=100)] = 0.0
    """Weight beta of the coverage penalty (Wu et al. 2016, equation 14); 0: off."""
    min_length: Annotated[NaturalInt, Field(le=100_000)] = 0
    """Minimum tokens of a translation, EOS included; the limits below take precedence."""
    max_length: Annotated[NaturalInt, Field(le=1_000_000)] = 0
    """Maximum tokens of a translation, EOS included; 0: only the limit set by the source."""
    max_length_ratio: Annotated[PositiveFloat, Field(le=1000)] = 2.0
    """Maximum translation tokens per source token."""
    max_length_extra: Annotated[NaturalInt, Field(le=100_000)] = 20
    """Tokens allowed in addition to max_length_ratio."""
    diverse_groups: Annotated[PositiveInt, Field(le=1000)] = 1
    """Number of groups of diverse beam search (Vijayakumar et al. 2018); 1: off."""
    diversity: Annotated[NaturalFloat, Field(le=1000)] = 0.5
    """Diversity penalty in nats per earlier group with the same token at the same step."""
    temperature: Annotated[PositiveFloat, Field(le=1000)] = 1.0
    """Sampling temperature; below 1 is closer to greedy."""
    top_k: Annotated[NaturalInt, Field(le=65536)] = 0
    """Number of most likely tokens to sample from (Fan et al. 2018); 0: all."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: probability mass to sample from (Holtzman et al. 2020); 1: all."""
    samples: Annotated[PositiveInt, Field(le=MAX_SAMPLES)] = 32
    """Number of samples per line for mbr."""
    rerank: Literal["none", "bleu", "chrf"] = added_setting("none", before="none")
    """Choose from the beam by expected sentence BLEU or chrF2 instead of the score (MBR)."""
    rerank_scale: Annotated[NaturalFloat, Field(le=1000)] = added_setting(
        RERANK_SCALE, before=RERANK_SCALE
    )
    """Weight of a candidate in that expectation: exp(rerank_scale * score); 0: all alike."""
    seed: NaturalInt = 1
    """Sampling seed, combined with the text of each line."""
    max_source_length: Annotated[NaturalInt, Field(le=1_000_000)] = 0
    """Source tokens above which lines are split and sentences cut; 0: the longest of training."""
    protect: list[Protected] = []
    """Kinds of text copied unchanged; needs beam search with one group."""
    batch_sentences: Annotated[PositiveInt, Field(le=100_000)] = 64
    """Sentences per batch; affects speed and memory, not the result."""
    validation_beam: Annotated[PositiveInt, Field(le=1000)] = 1
    """Beam size of validation during training."""

    def check(self) -> None:
        if self.beam % self.diverse_groups:
            rule = f"it must divide decoding.beam ({self.beam})"
            raise ConfigError("decoding.diverse_groups", self.diverse_groups, rule)
        if 0 < self.max_length < self.min_length:
            rule = f"it must be at most decoding.max_length ({self.max_length})"
            raise ConfigError("decoding.min_length", self.min_length, rule)
        if self.protect and (self.method != "beam" or self.diverse_groups > 1):
            rule = "it needs beam search with one group"
            raise ConfigError("decoding.protect", ", ".join(self.protect), rule)
        # Settings of another method would be ignored silently.
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        of_beam = ("coverage_penalty", "diverse_groups", "rerank")
        of_samples = ("temperature", "top_k", "top_p")
        for name in of_samples if self.method == "beam" else of_beam:
            if (value := getattr(self, name)) != defaults[name]:
                rule = f"decoding.method {self.method} does not use it"
                if self.method == "beam":
                    rule += "; set that to sample or mbr"
                raise ConfigError(f"decoding.{name}", value, rule)

    def for_validation(self) -> "DecodingConfig":
        """Return the search settings of validation during training."""
        lengths = {"length_norm", "length_penalty", "max_length_ratio", "max_length_extra"}
        kept = self.model_dump(include=lengths | {"batch_sentences", "max_source_length"})
        return DecodingConfig(beam=self.validation_beam, **kept)
