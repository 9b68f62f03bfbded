"""Minimum risk training."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor

from nmt.batching.batch import make_batch
from nmt.corpus.subword import BOS, EOS, PAD
from nmt.training.risk import _draw, add_samples, sample, sentence_bleu

VOCAB = 20


def padded(lines: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, lines)) + 2
    rows = torch.tensor([line + [PAD] * (width - len(line)) for line in lines])
    return rows, torch.tensor([len(line) for line in lines])


def test_sentence_bleu_is_that_of_sacrebleu() -> None:
    draw = random.Random(1)
    hyps, refs = (
        [[draw.randrange(5, 10) for _ in range(draw.randrange(least, 25))] for _ in range(300)]
        for least in (0, 1)
    )
    found = sentence_bleu(*padded(hyps), *padded(refs))
    metric = BLEU(
        tokenize="none", force=True, smooth_method="add-k", smooth_value=1, effective_order=False
    )
    for hyp, ref, value in zip(hyps, refs, found.tolist(), strict=True):
        expected = metric.sentence_score(" ".join(map(str, hyp)), [" ".join(map(str, ref))]).score
        # sacreBLEU gives no score to a hypothesis without any matching token.
        if set(hyp) & set(ref):
            assert value == pytest.approx(expected / 100, abs=1e-5)
        else:
            assert value == 0


class Scripted:
    """Model that repeats the first source token n times, n the second one less 10, then EOS."""

    training = False

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def encode(self, src: Tensor, lengths: Tensor) -> Any:
        return self.memory(src)

    def memory(self, src: Tensor) -> Any:
        return SimpleNamespace(src=src, select=lambda kept: self.memory(src[kept]))

    def start(self, memory: Any, beam: int) -> Any:
        return self.state(torch.zeros(len(memory.src) * beam, dtype=torch.int64))

    def state(self, done: Tensor) -> Any:
        return SimpleNamespace(done=done, select=lambda kept: self.state(done[kept]))

    def step(self, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any, None]:
        self.batch_sizes.append(len(memory.src))
        src = memory.src.repeat_interleave(len(tokens) // len(memory.src), dim=0)
        next_tokens = torch.where(state.done < src[:, 1] - 10, src[:, 0], EOS)
        assert ((tokens == BOS) == (state.done == 0)).all()
        logits = torch.full((len(tokens), VOCAB), -1e9).scatter_(1, next_tokens[:, None], 0.0)
        return logits, self.state(state.done + 1), None


def test_finished_samples_leave_and_others_go_on() -> None:
    model = Scripted()
    src = torch.tensor([[5, 13], [6, 10], [7, 16], [8, 11], [9, 19]])
    tokens, lengths = sample(model, src, torch.full((5,), 2), 3, torch.tensor([8, 8, 8, 8, 9]))  # type: ignore[arg-type]
    texts = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    expected = [[5, 5, 5, EOS], [EOS], [7] * 6 + [EOS], [8, EOS], [9] * 9]
    assert texts == [text for text in expected for _ in range(3)]
    assert (model.batch_sizes[0], model.batch_sizes[-1]) == (5, 1)


def test_sampling_ends_with_the_last_sample() -> None:
    model = Scripted()
    tokens, _ = sample(model, torch.tensor([[5, 12]]), torch.tensor([2]), 2, torch.tensor([50]))  # type: ignore[arg-type]
    assert tokens.shape == (2, 3)
    assert len(model.batch_sizes) == 3


def test_samples_follow_the_distribution_of_the_model() -> None:
    probs = torch.tensor([0.5, 0.2, 0.0, 0.3])

    class Fixed(Scripted):
        def step(self, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any, None]:
            # PAD and BOS are likely, and must not be drawn.
            logits = torch.cat([torch.tensor([5.0, 5.0, -torch.inf]), probs.log()])
            return logits.expand(len(tokens), -1).clone(), state, None

    torch.manual_seed(1)
    src = torch.tensor([[5, 13]] * 2)
    tokens, _ = sample(Fixed(), src, torch.full((2,), 2), 1000, torch.tensor([5, 5]))  # type: ignore[arg-type]
    shares = tokens.flatten().bincount(minlength=7) / tokens.numel()
    assert shares[:3].tolist() == [0, 0, 0]
    assert torch.allclose(shares[3:], probs, atol=0.02)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_no_impossible_token_is_drawn(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, number))
    logits = torch.full((1, VOCAB), -torch.inf)
    logits[0, [7, 12]] = torch.tensor([1.0, 2.0])
    assert _draw(logits).item() in (7, 12)


BATCH = make_batch([([5, 14, 6], [5, 6, 7, 8]), ([6, 11], [6, 6]), ([7, 12], [7, 9, 8])])


class Varied(Scripted):
    """Model that ends each sample of a pair at another length."""

    def step(self, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any, None]:
        num_samples = len(tokens) // len(memory.src)
        limits = torch.arange(len(tokens)) % num_samples + 1
        src = memory.src.repeat_interleave(num_samples, dim=0)
        next_tokens = torch.where(state.done < limits, src[:, 0], EOS)
        logits = torch.full((len(tokens), VOCAB), -1e9).scatter_(1, next_tokens[:, None], 0.0)
        return logits, self.state(state.done + 1), None

    def eval(self) -> None:
        assert self.training

    def train(self, mode: bool) -> None:
        assert mode

    training = True


@pytest.fixture
def found() -> Any:
    return add_samples(Varied(), BATCH, 3)  # type: ignore[arg-type]


def test_references_come_first_and_samples_follow(found: Any) -> None:
    rows = found.tgt_in.tolist()
    assert len(rows) == 4 * 3
    assert [row[:4] for row in rows[:3]] == [[BOS, 5, 6, 7], [BOS, 6, 6, EOS], [BOS, 7, 9, 8]]
    assert [row[:4] for row in rows[9:]] == [[BOS, n, n, n] for n in (5, 6, 7)]
    num_refs = len(BATCH.tgt_out)
    assert found.tgt_out[:num_refs].equal(BATCH.tgt_out)
    assert found.tgt_out[num_refs:].tolist() == [
        token for length in (1, 2, 3) for word in (5, 6, 7) for token in [word] * length + [EOS]
    ]
    # The input at each real position is the output at the one before it.
    inputs = found.tgt_in.flatten()[found.real]
    starts = inputs == BOS
    assert inputs[1:][~starts[1:]].equal(found.tgt_out[:-1][~starts[1:]])


def test_weights_are_differences_from_the_other_samples(found: Any) -> None:
    num_tokens = BATCH.tgt_lengths
    samples = [[[word] * length for length in (1, 2, 3)] for word in (5, 6, 7)]
    refs = [[5, 6, 7, 8], [6, 6], [7, 9, 8]]
    expected = []
    risk = 0.0
    for of_pair, ref, number in zip(samples, refs, num_tokens.tolist(), strict=True):
        bleu = sentence_bleu(*padded(of_pair), *padded([ref] * 3))
        others = (bleu.sum() - bleu) / 2
        expected.append((bleu - others) / 3 * number)
        risk += float(1 - bleu.mean()) * number
    by_sample = torch.stack(expected).T.flatten()  # [N B]
    lengths = torch.tensor([length + 1 for length in (1, 2, 3) for _ in refs])
    assert torch.allclose(found.weights, by_sample.repeat_interleave(lengths), atol=1e-6)
    assert found.risk.item() == pytest.approx(risk, rel=1e-5)
    assert found.weights.any()


def test_a_batch_without_pairs_has_no_weight() -> None:
    found = add_samples(Varied(), make_batch([]), 2)  # type: ignore[arg-type]
    assert not found.weights.any()
    assert found.risk.item() == 0
