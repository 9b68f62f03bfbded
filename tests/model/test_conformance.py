"""Requirements on every attention, encoder, decoder and preset.

Kinds are read from the names that the configuration allows, so that a new one is tested as it is.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nmt.config.experiment import ModelConfig
from nmt.errors import ConfigError
from nmt.model.attention import Attention, make_attention
from nmt.model.seq2seq import Seq2Seq

# torch's own warning about its own attribute, from torch.backends.mkldnn.flags.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")
VOCAB = 13
RATES = [
    name
    for name, field in ModelConfig.model_fields.items()
    if name.endswith("dropout") and isinstance(field.default, float)
]
ZERO = dict.fromkeys(RATES, 0.0)
SRC = torch.tensor([[5, 6, 7, 8, 2], [9, 3, 2, 0, 0]])
SRC_LENGTHS = torch.tensor([5, 3])
TGT_IN = torch.tensor([[1, 4, 3, 9], [1, 8, 0, 0]])
REAL = torch.tensor([0, 1, 2, 3, 4, 5])


def names_of(field: str) -> Sequence[str]:
    names: Sequence[str] = get_args(ModelConfig.model_fields[field].annotation)
    return names


def make_configs() -> dict[str, ModelConfig]:
    """Return a config of every allowed combination of preset and attention."""
    configs = {}
    for preset in names_of("preset"):
        for attention in names_of("attention"):
            for locked in (False, True):
                shape = {"width": 8, "heads": 2, "ffn_width": 12, "locked_dropout": locked}
                layers = {"encoder_layers": 3, "decoder_layers": 3}
                kinds = {"preset": preset, "attention": attention}
                try:
                    config = ModelConfig.model_validate(shape | layers | kinds | ZERO)
                except ConfigError:
                    continue
                configs[f"{preset}, {attention}{', locked' * locked}"] = config
    return configs


CONFIGS = make_configs()
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
every_attention = pytest.mark.parametrize("kind", names_of("attention"))


def make(config: ModelConfig, **settings: Any) -> Seq2Seq:
    torch.manual_seed(1)
    return Seq2Seq(config.model_copy(update=settings), VOCAB)


def logits_of(model: Seq2Seq, seed: int = 2) -> Tensor:
    torch.manual_seed(seed)
    hidden = model(SRC, SRC_LENGTHS, TGT_IN, REAL)
    return hidden @ model.output_weight.T


def count_flops(run: Callable[[], object]) -> int:
    """Count the operations of matrix products as torch runs them."""

    def of_mv(matrix: Sequence[int], *_: object, out_shape: object = None) -> int:
        return 2 * math.prod(matrix)

    # Without oneDNN an LSTM runs as matrix products, which can be counted.
    with (
        torch.backends.mkldnn.flags(enabled=False),
        FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mv: of_mv}) as counter,
    ):
        run()
    return counter.get_total_flops()


def test_every_name_is_in_an_allowed_config() -> None:
    for field in ("preset", "attention"):
        assert {getattr(config, field) for config in CONFIGS.values()} == set(names_of(field))


def test_every_attention_class_has_a_name() -> None:
    made = {type(make_attention(config, 8)) for config in CONFIGS.values()}
    assert made == set(Attention.__subclasses__())


@every_config
def test_gradients_reach_all_parameters(config: ModelConfig) -> None:
    model = make(config)
    logits_of(model).logsumexp(dim=1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("rate", RATES)
@every_config
def test_each_dropout_rate_follows_set_dropout(config: ModelConfig, rate: str) -> None:
    model = make(config)
    exact = logits_of(model)
    changed = config.model_copy(update={rate: 0.5})
    model.set_dropout(changed)
    assert not torch.equal(logits_of(model, seed=3), logits_of(model, seed=2))
    # A module that missed the change would draw other masks than one built with the rate.
    assert torch.equal(logits_of(model), logits_of(make(config, **{rate: 0.5})))
    assert model.config == changed
    assert torch.allclose(logits_of(model.eval()), exact, atol=1e-6)
    model.train().set_dropout(config)
    assert torch.equal(logits_of(model), exact)


@every_attention
def test_attention_dropout_follows_set_dropout(kind: str) -> None:
    config = ModelConfig.model_validate({"attention": kind, "width": 8, "heads": 2})
    attention = make_attention(config, memory_width=8)
    projected = attention.project(torch.randn(2, 5, 8))
    query, is_pad = torch.randn(2, 4, 8), torch.arange(5) >= SRC_LENGTHS[:, None]
    exact = attention(query, *projected, is_pad)
    assert torch.equal(attention(query, *projected, is_pad), exact)
    attention.set_dropout(config.model_copy(update={"attention_dropout": 0.5}))
    assert not torch.equal(attention(query, *projected, is_pad), exact)
    assert torch.equal(attention.eval()(query, *projected, is_pad), exact)


@every_config
def test_step_equals_forward(config: ModelConfig) -> None:
    model = make(config).eval()
    hidden = model(SRC, SRC_LENGTHS, TGT_IN, torch.arange(8))
    whole = (hidden @ model.output_weight.T).view(2, 4, VOCAB)
    memory = model.encode(SRC, SRC_LENGTHS)
    state = model.start(memory, beam=2)
    for t in range(4):
        tokens = TGT_IN[:, t].repeat_interleave(2)
        logits, state, weights = model.step(tokens, state, memory)
        assert (logits - whole[:, t].repeat_interleave(2, dim=0)).abs().max() <= 1e-5
        assert torch.allclose(weights.sum(dim=1), torch.ones(4))
        assert not weights[2:, 3:].any()


@every_config
def test_padding_has_no_effect(config: ModelConfig) -> None:
    results = []
    for filling, num_more in ((0, 0), (11, 0), (11, 3)):
        src = torch.nn.functional.pad(SRC, (0, num_more), value=filling)
        src[1, 3:] = filling
        tgt_in = torch.nn.functional.pad(TGT_IN, (0, num_more), value=filling)
        tgt_in[1, 2:] = filling
        real = torch.tensor([0, 1, 2, 3, 4 + num_more, 5 + num_more])
        model = make(config)
        logits = model(src, SRC_LENGTHS, tgt_in, real) @ model.output_weight.T
        logits.square().mean().backward()
        results.append([logits, *(parameter.grad for parameter in model.parameters())])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.allclose(one, two, rtol=1e-4, atol=1e-5)


@every_config
def test_flops_equal_a_counted_forward(config: ModelConfig) -> None:
    model = make(config)
    src, tgt_in = SRC[[0, 0, 0]], TGT_IN[[0, 0, 0]]  # without padding, which torch computes too
    src_lengths, tgt_lengths = torch.tensor([5, 5, 5]), torch.tensor([4, 4, 4])

    def forward() -> Tensor:
        hidden: Tensor = model(src, src_lengths, tgt_in, torch.arange(12))
        return hidden @ model.output_weight.T

    assert model.flops().forward(src_lengths, tgt_lengths) == count_flops(forward)


def test_backward_costs_twice_the_forward() -> None:
    model = make(CONFIGS["residual, multi_head"])

    def forward() -> Tensor:
        hidden: Tensor = model(SRC, SRC_LENGTHS, TGT_IN, torch.arange(8))
        return (hidden @ model.output_weight.T).sum()

    once = count_flops(forward)
    both = count_flops(lambda: forward().backward())  # type: ignore[no-untyped-call]
    assert both == pytest.approx(3 * once, rel=0.02)  # the initial states have no gradient
