"""Corpus settings: files, cleaning rules and subwords."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nmt.config.settings import (
    Name,
    NaturalFloat,
    NaturalInt,
    Number,
    PathText,
    PositiveInt,
    Settings,
    Share,
    Text,
    added_setting,
    check_folder,
)
from nmt.errors import ConfigError

Case = Literal["as_is", "upper", "title"]


def _number_as_text(value: Any) -> Any:
    """Return a column number, which YAML reads as an integer, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Column = Annotated[Text, BeforeValidator(_number_as_text)]
"""Column of a file of pairs: name or number."""
Weight = Annotated[NaturalFloat, Field(le=1000)]
RECORD_FORMATS = ("tsv", "tmx", "parquet", "jsonl", "zip")
"""Keys of `ParallelText` that name a file of pairs."""


class NoiseConfig(Settings):
    """Noise in the source of a training corpus, redrawn every epoch; 0: none of that kind."""

    upper_case: Share = added_setting(0.0, before=0.0)
    """Share of lines in upper case."""
    title_case: Share = added_setting(0.0, before=0.0)
    """Share of lines with a capital at the start of each word."""
    final_punctuation: Share = added_setting(0.0, before=0.0)
    """Share of lines that lose their final punctuation."""
    accents: Share = added_setting(0.0, before=0.0)
    """Share of lines that lose the accents of Latin letters."""
    typography: Share = added_setting(0.0, before=0.0)
    """Share of lines with typographic quotes, apostrophes, dashes and spaces."""
    typos: Share = added_setting(0.0, before=0.0)
    """Share of words with a letter replaced by its neighbour on the keyboard."""
    dropped_letters: Share = added_setting(0.0, before=0.0)
    """Share of words that lose a letter."""
    doubled_letters: Share = added_setting(0.0, before=0.0)
    """Share of words with a doubled letter."""
    swapped_letters: Share = added_setting(0.0, before=0.0)
    """Share of words with two letters swapped."""
    merged_words: Share = added_setting(0.0, before=0.0)
    """Share of spaces between words that are lost."""
    split_words: Share = added_setting(0.0, before=0.0)
    """Share of words that are split by a space."""

    @property
    def is_on(self) -> bool:
        """True if a rate is above 0."""
        return any(self.model_dump().values())

    def check(self) -> None:
        if self.upper_case + self.title_case > 1:
            rule = f"with upper_case ({self.upper_case:g}) it exceeds 1"
            raise ConfigError("noise.title_case", f"{self.title_case:g}", rule)


ROBUST_NOISE = NoiseConfig(
    upper_case=0.05, title_case=0.05, final_punctuation=0.05, accents=0.05, typography=0.05,
    typos=0.02, dropped_letters=0.02, doubled_letters=0.01, swapped_letters=0.02,
    merged_words=0.01, split_words=0.01,
)  # fmt: skip
"""Rates of training.robust: half of the lines of 12 words have a misspelt word."""


class ParallelText(Settings):
    """Corpus of pairs: two line-parallel files, or one file of pairs."""

    name: Name
    """Name of the corpus in logs, statistics and shards."""
    src: PathText = ""
    """Source file below corpus.root: UTF-8, a segment per line; plain, .gz, .xz, .zst or .bz2."""
    tgt: PathText = ""
    """Target file, line-parallel to src."""
    tsv: PathText = ""
    """TSV file instead of src and tgt: source, tab, target; further columns are ignored."""
    tmx: PathText = added_setting("", before="")
    """TMX file (translation memory) instead of src and tgt."""
    parquet: PathText = added_setting("", before="")
    """Parquet file instead of src and tgt: struct `translation`, or two columns of text."""
    jsonl: PathText = added_setting("", before="")
    """JSON lines instead of src and tgt: object `translation`, or two keys of text."""
    zip: PathText = added_setting("", before="")
    """Zip archive of OPUS (Moses format) instead of src and tgt."""
    src_column: Column = added_setting("", before="")
    """Source in a file of pairs: column, key, language tag or member; empty: by language."""
    tgt_column: Column = added_setting("", before="")
    """Target in a file of pairs. In a TSV: number from 1, or name in its header line."""
    refs: list[PathText] = added_setting([], before=[])
    """Further reference files of a test set, line-parallel to src."""
    weight: Weight = 1.0
    """Occurrences of a pair per epoch; 0.5: half of the pairs, redrawn every epoch; 0: none."""
    tag: Annotated[int, Field(ge=0, le=8, strict=True)] = added_setting(0, before=0)
    """Tag (1 to 8) prepended to each source as a reserved piece; 0: none."""
    src_case: Case = added_setting("as_is", before="as_is")
    """Case of the source of a training corpus: as_is, upper or title."""
    tgt_case: Case = added_setting("as_is", before="as_is")
    """Case of the target of a training corpus: as_is, upper or title."""
    noise: NoiseConfig = added_setting(NoiseConfig(), before=NoiseConfig().model_dump())
    """Noise in the source of a training corpus; needs no new preparation."""
    distillation: Weight = added_setting(0.0, before=0.0)
    """Weight of distillation from training.init_from, in place of the references; 0: none."""

    def check(self) -> None:
        given = [key for key in ("src", "tgt", *RECORD_FORMATS) if getattr(self, key)]
        if given != ["src", "tgt"] and (len(given) != 1 or given[0] not in RECORD_FORMATS):
            raise ConfigError.from_message(
                f"corpus {self.name!r} needs either src and tgt, or one of "
                f"{', '.join(RECORD_FORMATS)}: it has {', '.join(given) or 'none'}"
            )
        for key in ("src_column", "tgt_column"):
            if getattr(self, key) and self.format == "lines":
                rule = "src and tgt have no columns: remove it"
                raise ConfigError(f"{key} of corpus {self.name!r}", getattr(self, key), rule)

    @property
    def format(self) -> str:
        """Format of the files: lines, or one of RECORD_FORMATS."""
        return next((key for key in RECORD_FORMATS if getattr(self, key)), "lines")

    @property
    def files(self) -> tuple[str, ...]:
        """Files of the pairs: source and target, or one."""
        return (self.src, self.tgt) if self.src else (getattr(self, self.format),)

    @property
    def is_recased(self) -> bool:
        """True if the case of the text is changed."""
        return (self.src_case, self.tgt_case) != ("as_is", "as_is")

    @property
    def is_reversible(self) -> bool:
        """True if training.reverse applies: tags and changed case belong to one side.

        Distillation keeps the direction of the earlier model.
        """
        return not (self.tag or self.is_recased or self.distillation)


class CleaningConfig(Settings):
    """Cleaning rules, which repair text or drop pairs; each has a switch and a count."""

    nfc: bool = True
    """Normalise to Unicode NFC."""
    control_characters: bool = True
    """Normalise control characters, separators and runs of spaces; remove invisible characters."""
    encoding: bool = added_setting(True, before=False)
    """Repair text that was decoded with a wrong character set (`fÃ¼r` for `für`)."""
    html_entities: bool = added_setting(True, before=False)
    """Replace HTML entities by their characters."""
    markup: bool = added_setting(True, before=False)
    """Remove HTML tags; off where the model should learn to translate them."""
    swapped: bool = added_setting(True, before=False)
    """Exchange the sides of pairs whose source is in the target language and vice versa."""
    invalid_utf8: bool = True
    """Drop pairs that are not UTF-8; off: the first one is an error."""
    lost_characters: bool = added_setting(True, before=False)
    """Drop pairs with U+FFFD, which stands for characters that were lost in decoding."""
    empty: bool = True
    """Drop pairs with an empty side."""
    no_letters: bool = True
    """Drop pairs with a side without letters."""
    copies: bool = True
    """Drop pairs with identical sides."""
    near_copies: bool = added_setting(True, before=False)
    """Drop longer pairs whose sides differ in a few characters only, or in case or punctuation."""
    duplicates: bool = True
    """Drop repeated pairs, across all corpora of the experiment."""
    near_duplicates: bool = added_setting(True, before=False)
    """Drop pairs that repeat another one except for case, punctuation and spaces."""
    leaks: bool = added_setting(True, before=False)
    """Drop pairs that are also in the dev or a test set, compared without case and punctuation."""
    source_leaks: bool = added_setting(True, before=False)
    """Drop pairs whose source is also in the dev or a test set, short sources aside."""
    max_chars: NaturalInt = 2000
    """Maximum characters of a side; 0: no limit."""
    max_token_chars: NaturalInt = added_setting(100, before=0)
    """Maximum characters between two spaces, in scripts that have them; 0: no limit."""
    max_ratio: NaturalFloat = 4.0
    """Maximum ratio of the lengths of the two sides, in characters; 0: no limit."""
    ratio_slack: NaturalInt = 20
    """Characters added to both lengths before max_ratio applies, as short pairs vary more."""
    repetition: bool = added_setting(True, before=False)
    """Drop pairs in which a character or a few of them are repeated many times in a row."""
    script: bool = added_setting(True, before=False)
    """Drop pairs with a side mostly in a script that its language is not written in."""
    language: bool = added_setting(True, before=False)
    """Drop pairs with a side in another language; languages unknown to the model always stay."""
    numbers: bool = added_setting(True, before=False)
    """Drop pairs where both sides have a number of two or more digits that the other one lacks."""
    length: bool = added_setting(True, before=False)
    """Drop pairs with lengths that are improbable in this corpus, from 1,000 pairs on."""
    truncated: bool = added_setting(True, before=False)
    """Drop pairs with a short side that lacks the punctuation at the end of the other."""
    word_order: bool = added_setting(True, before=False)
    """Drop pairs with shuffled words: the first capital or the last mark of a side has moved."""
    min_adequacy: Number | None = added_setting(None, before=None)
    """Minimum adequacy by IBM Model 1, in nats: -3 drops most misaligned pairs; null: off."""
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
    tokenizer: PathText = added_setting("", before="")
    """Vocabulary to use instead of learning one: tokenizer.json of a checkpoint or a corpus."""


class CorpusConfig(Settings):
    """Corpora, cleaning and subwords."""

    src: Name
    """Source language, ISO 639-1."""
    tgt: Name
    """Target language, ISO 639-1."""
    root: PathText = "."
    """Directory of the files below; relative to the experiment file that sets it."""
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

    @property
    def language_pair(self) -> str:
        """Source and target language, such as "en-de"."""
        return f"{self.src}-{self.tgt}"

    def check(self) -> None:
        names = [text.name for text in self.train]
        if len(set(names)) < len(names):
            raise ConfigError("corpus.train", names, "names must be unique")
        tests = [text.name for text in self.tests]
        if len(set(tests)) < len(tests):
            raise ConfigError("corpus.tests", tests, "names must be unique")
        for text in (*self.train, self.dev):
            if text.refs:
                rule = "only test sets have several references: remove it"
                raise ConfigError(f"refs of corpus {text.name!r}", ", ".join(text.refs), rule)
        # Scores are those of the references as they are.
        for text in (self.dev, *self.tests):
            if text.is_recased:
                rule = "only training corpora can change case: remove it"
                side = "src_case" if text.src_case != "as_is" else "tgt_case"
                raise ConfigError(f"{side} of corpus {text.name!r}", getattr(text, side), rule)
            if text.noise.is_on:
                rate = next(f"{key}: {rate:g}" for key, rate in text.noise if rate)
                rule = "only training corpora can have noise: remove it"
                raise ConfigError(f"noise of corpus {text.name!r}", rate, rule)
            if text.distillation:
                rule = "only training corpora can have it: remove it"
                name = f"distillation of corpus {text.name!r}"
                raise ConfigError(name, f"{text.distillation:g}", rule)
        check_folder("corpus.root", self.root)
        check_folder("corpus.prepared", self.prepared)
