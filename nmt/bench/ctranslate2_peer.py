"""Peer for translation speed: a Transformer in CTranslate2, where that package is installed.

It has random weights, as many parameters as our model, its width and feed-forward width, and
forced output lengths, so that both systems decode the same number of tokens.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmt.config.experiment import ModelConfig
from nmt.model.seq2seq import Seq2Seq, num_parameters

Search = Callable[[Sequence[Sequence[int]], int], None]
"""Translates a batch of sources of one length with a beam."""


def num_peer_layers(model: Seq2Seq) -> int:
    """Return the number of encoder and of decoder layers with about as many parameters."""
    width, ffn = model.config.width, model.config.ffn_width
    per_pair = (4 * width**2 + 2 * width * ffn) + (8 * width**2 + 2 * width * ffn)
    return max(1, round((num_parameters(model) - model.vocab_size * width) / per_pair))


def ctranslate2_search(model: Seq2Seq, precision: str, scratch: Path) -> Search | None:
    """Return the search of a Transformer as large as `model`; None: CTranslate2 is missing.

    Args:
        model: our model.
        precision: fp32 or int8.
        scratch: directory for the model.
    """
    try:
        import ctranslate2
    except ImportError:
        return None
    layers = num_peer_layers(model)
    folder = scratch / f"ctranslate2-{model.config.width}-{layers}-{precision}"
    if not folder.exists():
        _write_model(folder, ctranslate2.specs, model.config, model.vocab_size, layers, precision)
    kind = "float32" if precision == "fp32" else precision
    translator = ctranslate2.Translator(
        str(folder), device="cpu", compute_type=kind, intra_threads=1, inter_threads=1
    )

    def search(sources: Sequence[Sequence[int]], beam: int) -> None:
        length = len(sources[0])
        translator.translate_batch(
            [[str(token) for token in source] for source in sources], beam_size=beam,
            min_decoding_length=length, max_decoding_length=length, max_batch_size=len(sources),
        )  # fmt: skip

    return search


def _write_model(
    folder: Path, specs: Any, config: ModelConfig, vocab_size: int, layers: int, precision: str
) -> None:
    spec = specs.TransformerSpec.from_config((layers, layers), config.heads)
    random = np.random.default_rng(1)
    embedding = random.normal(0, config.width**-0.5, (vocab_size, config.width))
    outputs = {"self_attention/linear_0": 3, "attention/linear_1": 2}
    for name, value in spec.variables().items():
        if value is not None:
            continue
        scope, _, kind = name.rpartition("/")
        width = config.width
        if "embeddings" in scope or scope.endswith("projection"):
            array = embedding
        elif kind == "gamma" or kind == "beta":
            array = np.full(width, float(kind == "gamma"))
        elif "/ffn/" in scope:
            shape = (config.ffn_width, width) if "linear_0" in scope else (width, config.ffn_width)
            array = random.normal(0, width**-0.5, shape)
        else:
            parts = [count for end, count in outputs.items() if scope.endswith("/" + end)]
            array = random.normal(0, width**-0.5, (width * (parts or [1])[0], width))
        layer = specs.model_spec.index_spec(spec, scope)
        setattr(layer, kind, array.astype(np.float32))
        if kind == "weight" and "embeddings" not in scope:
            layer.bias = np.zeros(len(array), np.float32)
    tokens = ["<unk>", "<s>", "</s>", *map(str, range(3, vocab_size))]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    spec.optimize(quantization=None if precision == "fp32" else precision)
    folder.mkdir(parents=True)
    spec.save(str(folder))
