import time

import pytest

from nmt.corpus.numerals import has_other_numbers

SAME = [
    ("en", "two dogs", "de", "2 Hunde"),
    ("en", "1,500 or 2.5", "de", "1.500 oder 2,5"),
    ("en", "1.5 million in 2015", "fr", "1 500 000 en 2015"),
    ("en", "100 crimes in 2015", "de", "Im Jahr 2015 100 Verbrechen"),
    ("en", "at 6:30", "de", "um 6 Uhr 30"),
    ("en", "at 3:30 pm", "de", "um 15:30 Uhr"),
    ("en", "in the 1990s", "de", "in den 90ern"),
    ("en", "in the 1880's", "de", "in den achtziger Jahren des 19. Jahrhunderts"),
    ("en", "on August 25th", "de", "am 25.8."),
    ("en", "on 8/25/2024", "de", "am 25.08.2024"),
    ("en", "12 dogs and twenty-one cats", "de", "zwölf Hunde und 21 Katzen"),
    ("en", "the 12th of the twentieth", "de", "der zwölfte vom 20."),
    ("en", "100 men, a thousand dogs", "de", "hundert Männer, 1000 Hunde"),
    ("fr", "12 chiens et vingt-et-un chats", "ru", "двенадцать собак и 21 кошка"),
    ("en", "12 dogs, twenty cats", "ja", "犬が十二匹、猫が20匹"),
    ("en", "12 dogs, 20 cats", "ar", "١٢ كلبا و٢٠ قطة"),
    ("en", "100000 people, twelve dogs", "ru", "100.000 человек, 12 собак"),
    ("zh_Hans", "十二只狗，20只猫", "nb", "12 hunder, tjue katter"),
    ("en", "12,000 people", "ja", "1万2000人"),
    ("en", "35,000 dogs and 120 million", "zh", "3万5千只狗和1亿2000万"),
    ("en", "12,500 people.", "ko", "1만 2천 500명."),
    ("en", "ten million, 2,100", "zh_Hant", "1千萬、2千1百"),
    ("en", "15,000 yen in 2006", "ja", "2006年に1.5万円"),
    ("en", "35,000 at most", "ja", "最大３万５,０００"),
    ("ja", "1億2000万人", "zh", "1亿2000万人"),
    ("en", "in 2006", "th", "ในปี 2549"),
    ("en", "in 2006", "th", "ในปี ค.ศ. 2006"),
    ("en", "in May 2006", "ja", "平成18年5月"),
    ("en", "in Heisei 18", "ja", "平成18年"),
    ("en", "in 1989 or 2019", "ja", "昭和64年か令和1年"),
    ("en", "in 2011", "zh_Hant", "民國100年"),
    ("en", "in 2006", "fa", "در سال ۱۳۸۵"),
]
OTHER = [
    ("en", "12,000 people", "ja", "1万3000人"),
    ("en", "35,000 dogs", "zh", "3万6千只狗"),
    ("en", "in 2006", "th", "ในปี 2551"),
    ("en", "in 2006", "ja", "平成19年"),
    ("en", "in 2006", "fa", "در سال ۱۳۹۰"),
    ("en", "in 2006", "de", "im Jahr 2549 für Öl"),
    ("en", "150 metres", "de", "320 Meter"),
    ("en", "in 1990", "de", "im Jahr 1991"),
    ("en", "7,500", "de", "7.600"),
    ("en", "at 6:30", "de", "um 6 Uhr 45"),
    ("en", "3.5 and 11.3", "de", "3,5 und 12,8"),
    ("en", "60 more", "de", "09 weitere"),
    ("en", "12 dogs, 15 cows, twenty cats", "de", "zwölf Hunde, 13 Kühe, 20 Katzen"),
    ("en", "12 dogs", "ja", "犬が20匹"),
    ("en", "12 dogs", "ar", "٢٠ كلبا"),
    ("en", "100000 people, 12 dogs", "ru", "250000 человек"),
    ("en", "1000000 people, 20 dogs", "nb_NO", "2500000 mennesker"),
    ("en", "30 dogs", "ta", "45 நாய்கள்"),
    ("xx", "12 dogs and twenty cats", "", "zwölf Hunde und 20 Katzen"),
]


@pytest.mark.parametrize(("src_language", "src", "tgt_language", "tgt"), SAME)
def test_same_numbers_in_another_form(
    src_language: str, src: str, tgt_language: str, tgt: str
) -> None:
    assert not has_other_numbers(src, tgt, (src_language, tgt_language))
    assert not has_other_numbers(tgt, src, (tgt_language, src_language))


@pytest.mark.parametrize(("src_language", "src", "tgt_language", "tgt"), OTHER)
def test_other_numbers(src_language: str, src: str, tgt_language: str, tgt: str) -> None:
    assert has_other_numbers(src, tgt, (src_language, tgt_language))
    assert has_other_numbers(tgt, src, (tgt_language, src_language))


@pytest.mark.parametrize("step", [7, 11])
def test_thousands_of_numbers_take_no_minutes(step: int) -> None:
    src = " ".join(f"{7 * n} dogs" for n in range(100, 4100))
    tgt = " ".join(f"{step * n} Hunde" for n in range(100, 4100))
    started = time.process_time()
    assert has_other_numbers(src, tgt, ("en", "de")) == (step != 7)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "text", ["1" * 100_000, ",1" * 50_000, "9" * 5_000 + "万", "万1" * 50_000, "3万" * 50_000]
)
def test_hostile_digits_take_linear_time(text: str) -> None:
    started = time.process_time()
    has_other_numbers(f"{text} ö", "12 dogs", ("ja", "en"))
    assert time.process_time() - started < 2
