"""A corpus once more with its source in other letters: corpus.train.N.src_case."""

import pytest
from toy_corpora import CLEAN, Make, error_of, text_of

from nmt.config.experiment import Experiment
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, resolve_auto_preset


def with_cases(experiment: Experiment, **cases: str) -> Experiment:
    """With its first corpus once more for each of these names, its source in that case."""
    texts = list(experiment.corpus.train)
    texts += [
        texts[0].model_copy(update={"name": name, "src_case": case, "weight": 0.1})
        for name, case in cases.items()
    ]
    corpus = experiment.corpus.model_copy(update={"train": texts})
    return experiment.model_copy(update={"corpus": corpus})


def test_a_corpus_stands_beside_itself_in_other_letters(make_corpus: Make) -> None:
    pairs = [("A dog runs.", "Ein Hund rennt."), ("Two cats sleep.", "Zwei Katzen schlafen.")]
    experiment = with_cases(make_corpus({"plain": pairs}), upper="upper", title="title")
    manifest = prepare(experiment)
    assert [info.kept for info in manifest.corpora] == [2, 2, 2]
    assert text_of(experiment)[2:] == [
        ("upper", 1, "A DOG RUNS.", "Ein Hund rennt."),
        ("upper", 2, "TWO CATS SLEEP.", "Zwei Katzen schlafen."),
        ("title", 1, "A Dog Runs.", "Ein Hund rennt."),
        ("title", 2, "Two Cats Sleep.", "Zwei Katzen schlafen."),
    ]
    assert error_of(with_cases(make_corpus({"plain": pairs}), upper="title", title="title")) == (
        'prepared: prepared with corpus.train.1.src_case "upper", but the experiment has '
        '"title"; set it back, or remove the folder and run `nmt prepare` again'
    )


@pytest.mark.parametrize("shard_pairs", [7, 1000])
def test_other_letters_do_not_take_the_vocabulary(make_corpus: Make, shard_pairs: int) -> None:
    plain = make_corpus({"plain": CLEAN}, shard_pairs=shard_pairs)
    sizes = []
    for experiment in (plain, with_cases(plain, upper="upper")):
        settings = experiment.corpus.model_copy(
            update={"prepared": f"{experiment.corpus.prepared}-{len(experiment.corpus.train)}"}
        )
        experiment = experiment.model_copy(update={"corpus": settings})
        prepare(experiment)
        _, subword = open_prepared(experiment)
        pieces = subword.pieces(range(259, subword.num_pieces))
        sizes.append(sum(piece.strip("▁").isupper() and len(piece) > 2 for piece in pieces))
        assert subword.decode(subword.encode("THE DOG")) == "THE DOG"
    assert sizes[0] == 0
    assert 0 < sizes[1] < 40


def test_pairs_in_other_letters_do_not_count_for_the_preset(make_corpus: Make) -> None:
    auto = make_corpus({"plain": CLEAN[:60]}).model_copy(update={"preset": "auto"})
    experiment = with_cases(auto, upper="upper")
    prepare(experiment)
    told: list[str] = []
    resolve_auto_preset(experiment, told.append)
    assert told[0].startswith("preset auto: 60 pairs -> ")
