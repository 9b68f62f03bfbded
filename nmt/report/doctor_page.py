"""Page of `nmt doctor`: one self-contained HTML file in the style of the report of runs.

No script, no network, and every text is escaped: lines of a corpus can be hostile.
"""

from importlib import metadata

from nmt.corpus.adequacy import SUGGESTED_MINIMUM
from nmt.corpus.doctor import Diagnosis
from nmt.report.templates import load_template

MAX_BAR = 160
"""Width of the longest bar, in pixels."""


def render_diagnosis(diagnosis: Diagnosis) -> str:
    """Return the HTML page."""
    return load_template("doctor.html", percent=_percent).render(
        d=diagnosis,
        found=[each for each in diagnosis.findings if each.count],
        clear=[each.rule for each in diagnosis.findings if not each.count],
        max_bar=MAX_BAR,
        suggested=SUGGESTED_MINIMUM,
        version=metadata.version("nmt"),
    )


def summary_lines(diagnosis: Diagnosis) -> list[str]:
    """Return the diagnosis as lines for the terminal."""
    src, tgt = diagnosis.languages
    chars, words = diagnosis.chars, diagnosis.words
    pairs = max(1, diagnosis.pairs)
    lines = [
        f"{diagnosis.name}: {diagnosis.pairs:,} pairs, {src} to {tgt} | "
        f"{chars[0] / pairs:.1f} and {chars[1] / pairs:.1f} characters, "
        f"{words[0] / pairs:.1f} and {words[1] / pairs:.1f} words per line",
    ]
    for language, found in zip(diagnosis.languages, diagnosis.identified, strict=True):
        shares = ", ".join(f"{name} {_percent(share)}" for name, share in list(found.items())[:4])
        lines.append(f"languages of the {language} side: {shares}")
    for each in diagnosis.findings:
        if each.count:
            state = "" if each.is_on else " (off in the experiment)"
            share = _percent(each.count / pairs)
            lines.append(f"{each.action:>8} {each.count:>9,}  {share:>6}  {each.rule}{state}")
    lines.append(
        f"estimated clean share: {_percent(1 - diagnosis.bad_share)} ({diagnosis.kept:,} of "
        f"{diagnosis.pairs:,} pairs pass all rules)"
    )
    lines += [f"note: {note}" for note in diagnosis.notes]
    if diagnosis.suggestions:
        lines.append(f"suggested settings: {' '.join(diagnosis.suggestions)}")
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.1f} %"
