import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF

from nmt.decoding.mbr import pairwise_chrf

texts = st.text(alphabet="ab c\u00e4\u3000", max_size=12)


@settings(deadline=None)
@given(sentences=st.lists(texts, min_size=1, max_size=5))
@example(sentences=["", "a", "ab", "Ein Mann reitet.", "Ein Hund rennt am Strand."])
def test_it_is_the_chrf_of_sacrebleu_for_every_pair(sentences: list[str]) -> None:
    scores = pairwise_chrf(sentences)
    for row, hyp in enumerate(sentences):
        for column, ref in enumerate(sentences):
            expected = CHRF().sentence_score(hyp, [ref]).score
            assert scores[row, column] == pytest.approx(expected, abs=1e-9)
