"""Corpus settings: files, cleaning rules and subwords."""

from typing import Annotated, Literal

from pydantic import Field

from nmt.config.settings import (
    Name,
    NaturalFloat,
    NaturalInt,
    PathText,
    PositiveInt,
    Settings,
    Share,
    added_setting,
    check_folder,
)
from nmt.errors import ConfigError

Case = Literal["as_is", "upper", "title"]


class ParallelText(Settings):
    """Corpus of pairs: two line-parallel files, or a TSV file."""

    name: Name
    """Name of the corpus in logs, statistics and shards."""
    src: PathText = ""
    """Source file below corpus.root: UTF-8, a segment per line; plain, .gz, .xz or .zst."""
    tgt: PathText = ""
    """Target file, line-parallel to src."""
    tsv: PathText = ""
    """TSV file instead of src and tgt: source, tab, target; further columns are ignored."""
    weight: Annotated[NaturalFloat, Field(le=1000)] = 1.0
    """Occurrences of a pair per epoch; 0.5: half of the pairs, redrawn every epoch; 0: none."""
    tag: Annotated[int, Field(ge=0, le=8, strict=True)] = added_setting(0, before=0)
    """Tag (1 to 8) prepended to each source as a reserved piece; 0: none."""
    src_case: Case = added_setting("as_is", before="as_is")
    """Case of the source of a training corpus: as_is, upper or title."""
    tgt_case: Case = added_setting("as_is", before="as_is")
    """Case of the target of a training corpus: as_is, upper or title."""

    def check(self) -> None:
        if bool(self.tsv) == bool(self.src or self.tgt) or bool(self.src) != bool(self.tgt):
            raise ConfigError.from_message(
                f"corpus {self.name!r} needs either src and tgt, or tsv: "
                f"src is {self.src!r}, tgt is {self.tgt!r}, tsv is {self.tsv!r}"
            )

    @property
    def is_recased(self) -> bool:
        """True if the case of the text is changed."""
        return (self.src_case, self.tgt_case) != ("as_is", "as_is")


class CleaningConfig(Settings):
    """Cleaning rules, which normalise text or drop pairs; each has a switch and a count."""

    nfc: bool = True
    """Normalise to Unicode NFC."""
    control_characters: bool = True
    """Normalise control characters, separators and runs of spaces; remove invisible characters."""
    invalid_utf8: bool = True
    """Drop pairs that are not UTF-8; off: the first one is an error."""
    empty: bool = True
    """Drop pairs with an empty side."""
    no_letters: bool = True
    """Drop pairs with a side without letters."""
    copies: bool = True
    """Drop pairs with identical sides."""
    duplicates: bool = True
    """Drop repeated pairs, across all corpora of the experiment."""
    max_chars: NaturalInt = 2000
    """Maximum characters of a side; 0: no limit."""
    max_ratio: NaturalFloat = 4.0
    """Maximum ratio of the lengths of the two sides, in characters; 0: no limit."""
    ratio_slack: NaturalInt = 20
    """Characters added to both lengths before max_ratio applies, as short pairs vary more."""
    max_dropped: Share = 0.5
    """Maximum share of pairs that cleaning may drop before `nmt prepare` fails."""


class SubwordConfig(Settings):
    """The joint subword vocabulary of both languages."""

    kind: Literal["bpe", "unigram"] = "bpe"
    """Byte-pair encoding (Sennrich et al. 2016) or a unigram language model (Kudo 2018)."""
    vocab_size: Annotated[int, Field(ge=300, le=65535, strict=True)] = 8000
    """Vocabulary size, including 3 special pieces and 256 bytes for unknown characters."""
    max_sentences: PositiveInt = 2_000_000
    """Maximum lines of both sides used to learn the vocabulary; a larger corpus is sampled."""


class CorpusConfig(Settings):
    """Corpora, cleaning and subwords."""

    src: Name = "en"
    """Source language, ISO 639-1."""
    tgt: Name = "de"
    """Target language, ISO 639-1."""
    root: PathText = "."
    """Directory of the files below."""
    train: Annotated[list[ParallelText], Field(min_length=1)]
    """Training corpora."""
    dev: ParallelText
    """Dev set for validation; never cleaned."""
    tests: list[ParallelText] = []
    """Test sets that `nmt evaluate` scores by default; never cleaned."""
    prepared: PathText = ""
    """Directory of the prepared corpus; empty: prepared/<name>."""
    shard_pairs: Annotated[PositiveInt, Field(le=10**9)] = 100_000
    """Maximum pairs per shard, and lines per preparation task."""
    cleaning: CleaningConfig = CleaningConfig()
    """Cleaning rules."""
    subword: SubwordConfig = SubwordConfig()
    """Subword vocabulary."""

    def check(self) -> None:
        names = [text.name for text in self.train]
        if len(set(names)) < len(names):
            raise ConfigError("corpus.train", names, "names must be unique")
        tests = [text.name for text in self.tests]
        if len(set(tests)) < len(tests):
            raise ConfigError("corpus.tests", tests, "names must be unique")
        # Scores are those of the references as they are.
        for text in (self.dev, *self.tests):
            if text.is_recased:
                rule = "only training corpora can change case: remove it"
                side = "src_case" if text.src_case != "as_is" else "tgt_case"
                raise ConfigError(f"{side} of corpus {text.name!r}", getattr(text, side), rule)
        check_folder("corpus.root", self.root)
        check_folder("corpus.prepared", self.prepared)
