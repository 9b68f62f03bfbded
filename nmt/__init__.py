"""Distributed training of LSTM translation models on Ray.

>>> import nmt
>>> translator = nmt.load("runs/multi30k_en_de")
>>> translator.translate(["A dog runs."])
['Ein Hund rennt.']

Importing nmt is cheap: the functions import torch and ray when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmt.api import adapt, evaluate, load, prepare, train
    from nmt.decoding.translation import Translation
    from nmt.decoding.translator import Translator
    from nmt.errors import NmtError

__all__ = [
    "NmtError",
    "Translation",
    "Translator",
    "__version__",
    "adapt",
    "evaluate",
    "load",
    "prepare",
    "train",
]

_MODULES = {
    "NmtError": "nmt.errors",
    "Translation": "nmt.decoding.translation",
    "Translator": "nmt.decoding.translator",
    "adapt": "nmt.api",
    "evaluate": "nmt.api",
    "load": "nmt.api",
    "prepare": "nmt.api",
    "train": "nmt.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nmt")
    if name not in _MODULES:
        raise AttributeError(f"module 'nmt' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
