"""The corpus of an experiment: where text lies, how it is cleaned and cut into subwords."""

from typing import Annotated, Literal

from pydantic import Field

from nmt.config.settings import (
    Name,
    NaturalFloat,
    NaturalInt,
    PositiveInt,
    Settings,
    Share,
    added_setting,
    check_folder,
)
from nmt.errors import ConfigError

Case = Literal["as_is", "upper", "title"]


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

    weight: NaturalFloat = 1.0
    """How often a pair is in an epoch; 0.5: half are, drawn anew each epoch; 0: none."""
    tag: Annotated[int, Field(ge=0, le=8, strict=True)] = added_setting(0, before=0)
    """1 to 8: each source begins with that one of 8 pieces that no text has; 0: with none."""
    src_case: Case = added_setting("as_is", before="as_is")
    """Of a corpus to train on: its source as it is, in upper case, or in title case."""
    tgt_case: Case = added_setting("as_is", before="as_is")
    """The same of its target."""

    def check(self) -> None:
        if bool(self.tsv) == bool(self.src or self.tgt) or bool(self.src) != bool(self.tgt):
            raise ConfigError.from_message(
                f"corpus {self.name!r} needs either both src and tgt or tsv alone: "
                f"src is {self.src!r}, tgt is {self.tgt!r}, tsv is {self.tsv!r}"
            )

    @property
    def is_recased(self) -> bool:
        """Whether it is another corpus in other letters."""
        return (self.src_case, self.tgt_case) != ("as_is", "as_is")


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
        for text in (self.dev, *self.tests):
            if text.is_recased:
                rule = "dev and test sets stay as they are: only a corpus to train on has a case"
                side = "src_case" if text.src_case != "as_is" else "tgt_case"
                raise ConfigError(f"{side} of corpus {text.name!r}", getattr(text, side), rule)
        check_folder("corpus.root", self.root)
        check_folder("corpus.prepared", self.prepared)
