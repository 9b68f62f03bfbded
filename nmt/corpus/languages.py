"""Language codes and names: ISO 639-1 with the codes of ISO 639-2 and 639-3."""

import re

Languages = tuple[str, str]
"""Source and target language; "" where it is unknown."""
_TABLE = """
af afr Afrikaans|am amh Amharic|ar ara,arb Arabic|as asm Assamese|az aze,azj Azerbaijani
be bel Belarusian|bg bul Bulgarian|bn ben Bengali|bo bod,tib Tibetan|br bre Breton
bs bos Bosnian|ca cat Catalan|ceb ceb Cebuano|co cos Corsican|cs ces,cze Czech|cy cym,wel Welsh
da dan Danish|de deu,ger German|dv div Dhivehi|dz dzo Dzongkha|ee ewe Ewe
el ell,gre Greek|en eng English|eo epo Esperanto|es spa Spanish|et est,ekk Estonian
eu eus,baq Basque|fa fas,per,pes Persian|ff ful Fula|fi fin Finnish|fj fij Fijian
fo fao Faroese|fr fra,fre French|fy fry Frisian|ga gle Irish|gd gla Gaelic|gl glg Galician
gn grn Guarani|gu guj Gujarati|gv glv Manx|ha hau Hausa|haw haw Hawaiian|he heb Hebrew
hi hin Hindi|hr hrv Croatian|ht hat Haitian|hu hun Hungarian|hy hye,arm Armenian
ia ina Interlingua|id ind Indonesian|ig ibo Igbo|io ido Ido|is isl,ice Icelandic|it ita Italian
iu iku Inuktitut|ja jpn Japanese|jv jav Javanese|ka kat,geo Georgian|kk kaz Kazakh
kl kal Greenlandic|km khm Khmer|kn kan Kannada|ko kor Korean|ku kur,kmr Kurdish|kw cor Cornish
ky kir Kyrgyz|la lat Latin|lb ltz Luxembourgish|lg lug Ganda|li lim Limburgish|ln lin Lingala
lo lao Lao|lt lit Lithuanian|lv lav,lvs Latvian|mg mlg Malagasy|mi mri,mao Maori
mk mkd,mac Macedonian|ml mal Malayalam|mn mon,khk Mongolian|mr mar Marathi|ms msa,may,zsm Malay
mt mlt Maltese|my mya,bur Burmese|nb nob Bokmål|ne nep,npi Nepali|nl nld,dut Dutch
nn nno Nynorsk|no nor Norwegian|ny nya Chichewa|oc oci Occitan|om orm Oromo|or ori,ory Odia
pa pan Punjabi|pl pol Polish|ps pus,pbt Pashto|pt por Portuguese|qu que Quechua|rm roh Romansh
ro ron,rum Romanian|ru rus Russian|rw kin Kinyarwanda|sa san Sanskrit|sc srd Sardinian
sd snd Sindhi|se sme Sami|si sin Sinhala|sk slk,slo Slovak|sl slv Slovenian|sm smo Samoan
sn sna Shona|so som Somali|sq sqi,alb,als Albanian|sr srp Serbian|st sot Sotho|su sun Sundanese
sv swe Swedish|sw swa,swh Swahili|ta tam Tamil|te tel Telugu|tg tgk Tajik|th tha Thai
ti tir Tigrinya|tk tuk Turkmen|tl tgl,fil Filipino|tn tsn Tswana|to ton Tongan|tr tur Turkish
ts tso Tsonga|tt tat Tatar|ug uig Uyghur|uk ukr Ukrainian|ur urd Urdu|uz uzb,uzn Uzbek
vi vie Vietnamese|wa wln Walloon|wo wol Wolof|xh xho Xhosa|yi yid,ydd Yiddish|yo yor Yoruba
zh zho,chi,cmn Chinese|zu zul Zulu
"""
"""Code, longer codes and English name; the longer ones of ISO 639-3 and of ISO 639-2/B."""
_ENTRIES = [entry.split(maxsplit=2) for entry in _TABLE.strip().replace("\n", "|").split("|")]
_NAMES = {code: name for code, _, name in _ENTRIES}
_SHORT = {long: code for code, longs, _ in _ENTRIES for long in longs.split(",")}
_BY_NAME = {name.lower(): code for code, name in _NAMES.items()}
SCRIPT_LANGUAGES = {
    "Latin": "af als an ast az bar bs br ca ceb co cs cy da de en eo es et eu fi fr frr fy ga gd "
    "gl hr hsb ht hu ia id io is it jv ku la lb li lmo lt lv mg min ms mt nah nds nl nn no oc pam "
    "pl pms pt qu rm ro scn sco sh sk sl so sq sr su sv sw tk tl tr uz vec vi vls vo wa war yo diq",
    "Cyrillic": "av az ba be bg bxr ce cv kk ky krc kv mhr mk mn mrj myv os ru rue sah sh sr tg tt "
    "tyv uk uz xal",
    "Greek": "el",
    "Armenian": "hy",
    "Hebrew": "he yi",
    "Arabic": "ar arz az azb ckb fa kk ku lrc mzn pnb ps sd ug ur",
    "Thaana": "dv",
    "Devanagari": "bh gom hi mai mr ne new sa",
    "Bengali": "as bn bpy",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Tibetan": "bo",
    "Burmese": "my",
    "Georgian": "ka xmf",
    "Hangul": "ko",
    "Ethiopic": "am",
    "Khmer": "km",
    "Kana": "ja",
    "Han": "ja ko wuu yue zh",
}
"""Languages of each script; a language may have several."""
_SCRIPT_CODES = {
    "Arab": "Arabic", "Armn": "Armenian", "Beng": "Bengali", "Cyrl": "Cyrillic",
    "Deva": "Devanagari", "Ethi": "Ethiopic", "Geor": "Georgian", "Grek": "Greek",
    "Gujr": "Gujarati", "Guru": "Gurmukhi", "Hang": "Hangul", "Hani": "Han", "Hans": "Han",
    "Hant": "Han", "Hebr": "Hebrew", "Jpan": "Kana", "Khmr": "Khmer", "Knda": "Kannada",
    "Kore": "Hangul", "Laoo": "Lao", "Latn": "Latin", "Mlym": "Malayalam", "Mymr": "Burmese",
    "Orya": "Oriya", "Sinh": "Sinhala", "Taml": "Tamil", "Telu": "Telugu", "Thaa": "Thaana",
    "Tibt": "Tibetan",
}  # fmt: skip
"""Scripts by their codes of ISO 15924."""
_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")


def primary_language(tag: str) -> str:
    """Return the shortest code of a language tag, or "" if it is not a known language.

    The tag is a code of ISO 639, BCP 47 (en-US) or FLORES (zho_Hans), or an English name.
    """
    if tag.lower() in _BY_NAME:
        return _BY_NAME[tag.lower()]
    if not _TAG.fullmatch(tag):
        return ""
    code = re.split("[-_]", tag.lower())[0]
    code = _SHORT.get(code, code)
    return code if code in _NAMES else ""


def table_code(tag: str) -> str:
    """Return `primary_language`, with Bokmål (nb) as Norwegian (no) as in tables of others."""
    code = primary_language(tag)
    return "no" if code == "nb" else code


def has_unusual_script(tag: str, code: str) -> bool:
    """Return True for a tag such as hi_Latn, with a script that is not one of its language.

    Args:
        tag: a language tag.
        code: its language in `SCRIPT_LANGUAGES`.
    """
    parts = re.split("[-_]", tag)[1:]
    script = next((part.title() for part in parts if len(part) == 4 and part.isalpha()), "")
    languages = SCRIPT_LANGUAGES.get(_SCRIPT_CODES.get(script, ""), "")
    # Tables of others have these two in Latin script only.
    is_rare = script == "Cyrl" and code in ("az", "uz")
    return bool(script) and (is_rare or code not in languages.split())


def describe_language(tag: str) -> str:
    """Return the English name of a language with its tag, such as German (de)."""
    name = _NAMES.get(primary_language(tag))
    return f"{name} ({tag})" if name else tag
