"""Small experiment file for tests of settings, changed by overrides."""

from pathlib import Path

import pytest

from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEXT = """
name: toy
corpus:
  src: en
  tgt: de
  train: [{name: talks, src: talks.en, tgt: talks.de}, {name: news, tsv: news.tsv}]
  dev: {name: dev, src: dev.en, tgt: dev.de}
"""
SECTION = "a mapping: `key: value` per line, or {key: value}"


def load(*overrides: str, text: str = TEXT) -> Experiment:
    Path("toy.yaml").write_text(text, encoding="utf-8")
    return load_experiment("toy.yaml", overrides)


def message_of(*overrides: str, text: str = TEXT) -> str:
    with pytest.raises(ConfigError) as error:
        load(*overrides, text=text)
    return str(error.value)
