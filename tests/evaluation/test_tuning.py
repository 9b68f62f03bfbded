import pytest

from nmt.config.decoding import DecodingConfig
from nmt.errors import ConfigError
from nmt.evaluation.tuning import table, tune

REFS = ["the cat sits on the mat now", "a dog runs through the old park"]


def translate(decoding: DecodingConfig) -> list[str]:
    """Return the references with a penalty of 1; otherwise omit their last word."""
    if decoding.length_penalty == 1:
        return REFS
    return [ref.rsplit(" ", 1)[0] for ref in REFS]


def test_all_settings_are_tried_and_ranked() -> None:
    progress: list[tuple[int, int]] = []
    trials = tune(
        translate, DecodingConfig(beam=4), [4, 2, 4], [0.5, 1.0], ["none"], REFS, "en",
        lambda *counts: progress.append(counts),
    )  # fmt: skip
    settings = [(trial.beam, trial.length_penalty) for trial in trials]
    assert settings == [(2, 1.0), (4, 1.0), (2, 0.5), (4, 0.5)]
    assert trials[0].bleu.value > 99.9 > trials[2].bleu.value
    assert progress == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_greedy_search_is_tried_without_rerank_only() -> None:
    trials = tune(translate, DecodingConfig(), [1, 2], [1.0], ["none", "bleu"], REFS, "en")
    tried = {(trial.beam, trial.rerank) for trial in trials}
    assert tried == {(1, "none"), (2, "none"), (2, "bleu")}


@pytest.mark.parametrize("scale", [0.0, 2.0, 4.0])
def test_a_reranking_run_is_tuned_with_greedy_search_too(scale: float) -> None:
    decoding = DecodingConfig(rerank="chrf", rerank_scale=scale)
    trials = tune(translate, decoding, [1, 2], [1.0], ["chrf"], REFS, "en")
    assert {(trial.beam, trial.rerank) for trial in trials} == {(1, "none"), (2, "chrf")}


def test_settings_are_checked_before_the_first_search() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    searches: list[DecodingConfig] = []

    def search(decoding: DecodingConfig) -> list[str]:
        searches.append(decoding)
        return REFS

    with pytest.raises(ConfigError) as error:
        tune(search, DecodingConfig(diverse_groups=2, beam=4), [4, 5], [1.0], ["none"], REFS, "en")
    assert str(error.value) == (
        "decoding.diverse_groups is 2, but it must divide decoding.beam (5)"
    )
    assert searches == []


def test_the_table_marks_the_current_settings() -> None:
    trials = tune(translate, DecodingConfig(beam=4), [2, 4], [1.0], ["none", "bleu"], REFS, "en")
    assert table(trials, DecodingConfig(beam=4)).splitlines() == [
        "beam  length_penalty  rerank  dev BLEU",
        "   2               1    none    100.00",
        "   2               1    bleu    100.00",
        "   4               1    none    100.00  current",
        "   4               1    bleu    100.00",
    ]
