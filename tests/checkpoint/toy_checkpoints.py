"""Small checkpoints and ways to corrupt them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.checkpoint import write
from nmt.checkpoint.format import CheckpointState
from nmt.config.corpus import CorpusConfig, ParallelText, SubwordConfig
from nmt.config.experiment import Experiment, ModelConfig
from nmt.corpus.subword import Subword
from nmt.errors import CheckpointError
from nmt.model import seq2seq

GOLDEN = Path(__file__).parents[1] / "golden" / "run-of-format-1"
LINES = ["the dog sees the cat", "der Hund sieht die Katze", "the cats see the dogs"] * 2
MODEL = ModelConfig(width=4, heads=2, encoder_layers=1, decoder_layers=1, ffn_width=4)
CORPUS = CorpusConfig(
    src="en",
    tgt="de",
    train=[ParallelText(name="toy", src="train.en", tgt="train.de")],
    dev=ParallelText(name="dev", src="dev.en", tgt="dev.de"),
)
EXPERIMENT = Experiment(name="toy", corpus=CORPUS, model=MODEL)
SUBWORD = Subword.train(LINES, SubwordConfig(vocab_size=300))
FILES = [
    "bundle.json",
    "config.yaml",
    "tokenizer.json",
    "weights.safetensors",
    "training/optimizer.safetensors",
    "training/state.json",
    "training/weights.safetensors",
]


def state(update: int = 500, has_average: bool = True) -> CheckpointState:
    torch.manual_seed(update)
    model = seq2seq.Seq2Seq(MODEL, SUBWORD.num_pieces)
    parameters = dict(model.named_parameters())
    return CheckpointState(
        update=update,
        weights=model.state_dict(),
        average={name: torch.randn_like(one) for name, one in parameters.items()}
        if has_average
        else None,
        optimizer={
            **{f"{name}.exp_avg": torch.randn_like(one) for name, one in parameters.items()},
            "step": torch.tensor(float(update)),
        },
        counters={"best_bleu": 31.25, "bad_validations": 2, "epochs": [0.1 + 0.2, None]},
    )


def save(run: Path, update: int = 500, bleu: float | None = None, **options: Any) -> Path:
    signature = "" if bleu is None else "nrefs:1|tok:13a"
    return write.save_checkpoint(
        run, EXPERIMENT, SUBWORD.to_json(), state(update, **options), bleu, signature
    )


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def message_of(act: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as error:
        act()
    return str(error.value)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:123])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
