"""Which source word a target word comes from, as the attention has it.

Words are what spaces part: of the line as it was read, and of the translation. What a word looks
at is the mean over its pieces, and a source word gets what its pieces get; what goes to the end of
the source is left out.
"""

import torch
from torch import Tensor

from nmt.decoding.translation import Candidate, Translation


def word_attention(attention: Tensor, words: list[int], src_words: list[int]) -> Tensor:
    """How much each target word looked at each source word, [target words, source words].

    Args:
        attention: of pieces, [target pieces, source pieces].
        words: the word of each target piece; -1: of none.
        src_words: of each source piece.
    """
    num_tgt, num_src = (max(each, default=-1) + 1 for each in (words, src_words))
    from_pieces = _membership(words, num_tgt)
    from_pieces = from_pieces / from_pieces.sum(dim=1, keepdim=True)
    return from_pieces @ attention.cpu().double() @ _membership(src_words, num_src).T


def links(attention: Tensor, words: list[int], src_words: list[int]) -> list[tuple[int, int]]:
    """Each target word with the source word that it looked at most, in the order of the source."""
    looks = word_attention(attention, words, src_words)
    if not looks.numel():
        return []
    return sorted((src, tgt) for tgt, src in enumerate(looks.argmax(dim=1).tolist()))


def hard(translation: Translation, candidate: Candidate) -> str:
    """The links in Pharaoh's format: `src-tgt`, from 0."""
    if candidate.attention is None:
        return ""
    found = links(candidate.attention, candidate.words, translation.src_words)
    return " ".join(f"{src}-{tgt}" for src, tgt in found)


def soft(translation: Translation, candidate: Candidate) -> str:
    """For each target word, parted by spaces, its weights of all source words, by commas."""
    if candidate.attention is None:
        return ""
    looks = word_attention(candidate.attention, candidate.words, translation.src_words)
    return " ".join(",".join(f"{weight:.4f}" for weight in row) for row in looks.tolist())


def _membership(words: list[int], num_words: int) -> Tensor:
    """1 where a piece belongs to a word, [words, pieces]."""
    return (torch.arange(num_words)[:, None] == torch.tensor(words)).double()
