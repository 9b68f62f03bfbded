"""Which source word a target word comes from, as the attention has it.

Words are what spaces part: of the line as it was read, and of the translation. What a word looks
at is the mean over its pieces, and a source word gets what its pieces get; what goes to the end of
the source is left out.
"""

import torch
from torch import Tensor

from nmt.decoding.translation import Candidate, Translation


def word_attention(translation: Translation, candidate: Candidate) -> Tensor:
    """How much each target word looked at each source word, [target words, source words]."""
    assert candidate.attention is not None or not candidate.pieces
    num_src, num_tgt = (
        max(words, default=-1) + 1 for words in (translation.src_words, candidate.words)
    )
    if candidate.attention is None:
        return torch.zeros(num_tgt, num_src)
    from_pieces = _membership(candidate.words, num_tgt)
    from_pieces = from_pieces / from_pieces.sum(dim=1, keepdim=True)
    to_pieces = _membership(translation.src_words, num_src)
    return from_pieces @ candidate.attention.cpu().double() @ to_pieces.T


def hard(translation: Translation, candidate: Candidate) -> str:
    """Each target word with the source word that it looked at most: Pharaoh's `src-tgt`, from 0."""
    looks = word_attention(translation, candidate)
    if not looks.numel():
        return ""
    pairs = sorted((src, tgt) for tgt, src in enumerate(looks.argmax(dim=1).tolist()))
    return " ".join(f"{src}-{tgt}" for src, tgt in pairs)


def soft(translation: Translation, candidate: Candidate) -> str:
    """For each target word, parted by spaces, its weights of all source words, by commas."""
    rows = word_attention(translation, candidate).tolist()
    return " ".join(",".join(f"{weight:.4f}" for weight in row) for row in rows)


def _membership(words: list[int], num_words: int) -> Tensor:
    """1 where a piece belongs to a word, [words, pieces]."""
    return (torch.arange(num_words)[:, None] == torch.tensor(words)).double()
