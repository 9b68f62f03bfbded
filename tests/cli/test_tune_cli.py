"""`nmt tune` of a run: beam size and length penalty by dev BLEU."""

import json
from pathlib import Path

from cli_calls import Nmt


def test_best_setting_has_the_best_dev_bleu(here: Path, nmt: Nmt) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    answer = nmt("tune runs/tiny --beams 1,2 --penalties 1")
    assert answer.status == 0, answer.err
    header, first, second = answer.out.splitlines()
    assert header == "beam  length_penalty  dev BLEU"
    beam, penalty, bleu = first.split()[:3]
    assert {first.split()[0], second.split()[0]} == {"1", "2"}
    assert f"--beam {beam} --length-penalty {penalty}" in answer.err
    again = nmt(
        f"evaluate runs/tiny --src raw/dev.en --ref raw/dev.de --beam {beam} "
        f"--length-penalty {penalty} --metrics bleu --json"
    )
    assert f"{json.loads(again.out)['scores'][0]['score']:.2f}" == bleu
