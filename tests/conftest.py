"""What tests of several rooms share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt.config import Experiment

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text for tests: NMT_TEST_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("NMT_TEST_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; set NMT_TEST_DATA")
    return folder


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Experiment]:
    """Writes pairs as raw files below tmp_path/raw, and returns an experiment about them."""

    def make(
        train: dict[str, list[tuple[str, str]]],
        dev: list[tuple[str, str]] | None = None,
        prepared: str = "prepared",
        **corpus: Any,
    ) -> Experiment:
        raw = tmp_path / "raw"
        raw.mkdir(exist_ok=True)
        sets = {**train, "dev": dev or [("A dog runs.", "Ein Hund rennt.")]}
        for name, pairs in sets.items():
            for side, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
                text = "".join(line + "\n" for line in lines)
                (raw / f"{name}.{side}").write_text(text, encoding="utf-8", newline="\n")
        texts = {name: {"name": name, "src": f"{name}.en", "tgt": f"{name}.de"} for name in sets}
        settings = {
            "root": str(raw),
            "prepared": str(tmp_path / prepared),
            "train": [texts[name] for name in train],
            "dev": texts["dev"],
            "subword": {"vocab_size": 400},
            **corpus,
        }
        return Experiment.model_validate({"name": "tiny", "corpus": settings})

    return make
