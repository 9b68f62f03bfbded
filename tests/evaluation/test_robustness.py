"""Variants of a test set: which text changes, and which does not."""

import random

from nmt.evaluation import robustness, test_sets

PLAIN = test_sets.TestSet(
    "flickr", ("Don't stop, said the man.", "", "état-major"), (("A", "", "C"),)
)


def made(seed: int = 1) -> dict[str, tuple[str, ...]]:
    return {each.name: each.src for each in robustness.make_variants(PLAIN, seed)}


def test_variants_change_only_the_source() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    variants = list(robustness.make_variants(PLAIN))
    assert all(each.references == PLAIN.references for each in variants)
    assert all(len(each.src) == 3 and each.src[1] == "" for each in variants)


def test_case_and_punctuation() -> None:
    variants = made()
    assert variants["flickr+upper-case"] == ("DON'T STOP, SAID THE MAN.", "", "ÉTAT-MAJOR")
    assert variants["flickr+title-case"] == ("Don't Stop, Said The Man.", "", "État-major")
    assert variants["flickr+no-punctuation"] == ("Don t stop said the man", "", "état major")


def test_typos_depend_on_seed_number_and_text_only() -> None:
    src = tuple(f"some longer words stand here {n}" for n in range(50))
    whole, part = (
        {
            each.name: each.src
            for each in robustness.make_variants(test_sets.TestSet("t", lines, (lines,)))
        }
        for lines in (src, src[:7])
    )
    assert whole["t+typos"][:7] == part["t+typos"]
    other = {
        each.name: each.src
        for each in robustness.make_variants(test_sets.TestSet("t", src, (src,)), seed=2)
    }
    assert whole["t+typos"] != other["t+typos"]


def test_a_typo_changes_one_letter_of_a_word() -> None:
    words = ["word"] * 2000 + ["the"] * 100 + ["1,500"] * 100
    found = robustness.add_typos(" ".join(words), random.Random(1)).split(" ")
    typos = [new for old, new in zip(words, found, strict=True) if old != new]
    assert found[2000:] == words[2000:]
    assert set(typos) == {
        "owrd", "wrod", "wodr", "wrd", "wod", "wor", "wword", "woord", "worrd",
    } & set(typos)  # fmt: skip
    assert 0.07 * 2000 < len(typos) < 0.13 * 2000


def test_each_kind_of_noise_has_a_set() -> None:
    line = "He said the words Déjà vu - isn't it strange."
    test_set = test_sets.TestSet("t", (line,) * 40, ((line,) * 40,))
    variants = {
        each.name.removeprefix("t+"): each.src for each in robustness.make_variants(test_set)
    }
    assert list(variants) == [*robustness.VARIANTS, *robustness.NOISE]
    assert variants["no-final-punctuation"][0] == line[:-1]
    assert variants["no-accents"][0] == line.replace("Déjà", "Deja")
    assert all(any(new != line for new in lines) for lines in variants.values())


def test_noise_that_changes_nothing_is_left_out() -> None:
    assert "flickr+no-accents" in made()
    plain = test_sets.TestSet("t", ("No accents.",), (("A",),))
    assert "t+no-accents" not in {each.name for each in robustness.make_variants(plain)}
