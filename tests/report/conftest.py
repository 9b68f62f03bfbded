"""Run directories for reports."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_files import comparison, evaluation, records


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a run directory without a model."""

    def make(
        name: str, bleu: float = 39.0, signature: str = "nrefs:1|case:mixed", **more: Any
    ) -> Path:
        results = tmp_path / name / "evaluation"
        results.mkdir(parents=True)
        lines = [json.dumps(each) + "\n" for each in records(bleu)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines) + '{"kind": "tr')
        (results / "flickr.metrics.json").write_text(json.dumps(evaluation(signature, **more)))
        (results / "flickr.comparison.json").write_text(json.dumps(comparison()))
        return tmp_path / name

    return make
