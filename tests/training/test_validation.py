import json
from pathlib import Path

import pytest
import torch
from toy_runs import corpus_of, validate_untrained

from nmt.batching.batch import make_batch
from nmt.config.experiment import Experiment
from nmt.evaluation.scores import bleu
from nmt.model import seq2seq
from nmt.training.distributed import World
from nmt.training.validation import Validation


@pytest.fixture(scope="module")
def alone(toy_file: Path) -> Validation:
    found = validate_untrained(toy_file, World())
    assert isinstance(found, Validation)
    return found


def test_every_dev_line_is_translated_and_scored(alone: Validation, toy: Experiment) -> None:
    """P6."""
    _, refs = corpus_of(toy).dev
    scored = bleu(alone.hyps, refs, toy.corpus.tgt)
    assert len(alone.hyps) == len(refs)
    assert (alone.bleu, alone.signature) == (scored.value, f"BLEU|{scored.signature}")


def test_the_loss_is_that_of_the_references(alone: Validation, toy: Experiment) -> None:
    corpus = corpus_of(toy)
    torch.manual_seed(1)
    model = seq2seq.Seq2Seq(toy.model, corpus.subword.num_pieces).eval()
    total, num_tokens = 0.0, 0
    for src, ref in zip(*corpus.dev, strict=True):
        batch = make_batch([(corpus.subword.encode(src), corpus.subword.encode(ref))])
        logits = model(*batch[:4]) @ model.output_weight.T
        total += torch.nn.functional.cross_entropy(logits, batch.tgt_out, reduction="sum").item()
        num_tokens += len(batch.tgt_out)
    assert alone.nll == pytest.approx(total / num_tokens, rel=1e-5)


def test_several_workers_validate_as_one(alone: Validation, gloo: Path) -> None:
    """P7."""
    for rank in range(3):
        found = json.loads((gloo / f"world-{rank}.json").read_text())["validation"]
        assert found["hyps"] == alone.hyps
        assert found["bleu"] == alone.bleu
        assert found["nll"] == pytest.approx(alone.nll, rel=1e-6)
