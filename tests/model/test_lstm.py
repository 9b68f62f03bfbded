import pytest
import torch
from torch import Tensor, nn

from nmt.model.layers import drop
from nmt.model.lstm import LSTM, BiLSTM, reversal_of

LENGTHS = [5, 3, 1]
X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))


def run_reference(lstm: LSTM, row: Tensor) -> Tensor:
    """Run the reference cell over one sequence without padding, [T, I] to [T, H]."""
    state = (row.new_zeros(1, lstm.hidden_size), row.new_zeros(1, lstm.hidden_size))
    hidden = []
    for x in row:
        state, _ = lstm.step_with_gates(x[None], state)
        hidden.append(state[0])
    return torch.cat(hidden)


def outputs_of(layer: nn.Module, x: Tensor, is_reference: bool) -> list[Tensor]:
    """Hidden states of the real positions of each row."""
    if isinstance(layer, LSTM):
        if is_reference:
            return [run_reference(layer, x[b, :n]) for b, n in enumerate(LENGTHS)]
        return [layer(x)[b, :n] for b, n in enumerate(LENGTHS)]
    assert isinstance(layer, BiLSTM)
    if not is_reference:
        out = layer(x, reversal_of(torch.tensor(LENGTHS), 5))
        return [out[b, :n] for b, n in enumerate(LENGTHS)]
    rows = [x[b, :n] for b, n in enumerate(LENGTHS)]
    reversed_rows = [run_reference(layer.backwards, row.flip(0)) for row in rows]
    return [
        torch.cat([run_reference(layer.forwards, row), backwards.flip(0)], dim=-1)
        for row, backwards in zip(rows, reversed_rows, strict=True)
    ]


def results(layer: nn.Module, is_reference: bool) -> dict[str, Tensor]:
    """Return outputs and all gradients by name."""
    x = X.clone().requires_grad_()
    layer.zero_grad()
    out = torch.cat(outputs_of(layer, x, is_reference))
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out * weights).sum().backward()
    actual = {"outputs": out.detach(), "inputs": x.grad}
    actual |= {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    return actual


@pytest.mark.parametrize("kind", [LSTM, BiLSTM])
def test_fused_layer_equals_gate_by_gate_reference(kind: type[LSTM] | type[BiLSTM]) -> None:
    torch.manual_seed(2)
    layer = kind(6, 4)
    fused, reference = results(layer, is_reference=False), results(layer, is_reference=True)
    assert fused.keys() == reference.keys()
    for name in fused:
        assert (fused[name] - reference[name]).abs().max() <= 1e-6, name


def test_step_equals_reference_and_fused_layer() -> None:
    torch.manual_seed(3)
    lstm = LSTM(6, 4)
    fused = lstm(X)
    state = reference = (torch.zeros(3, 4), torch.zeros(3, 4))
    for t in range(5):
        state = lstm.step(X[:, t], state)
        reference, _ = lstm.step_with_gates(X[:, t], reference)
        assert (state[0] - reference[0]).abs().max() <= 1e-6
        assert (state[1] - reference[1]).abs().max() <= 1e-6
        assert (state[0] - fused[:, t]).abs().max() <= 1e-6


def test_forward_continues_from_a_state() -> None:
    torch.manual_seed(4)
    lstm = LSTM(6, 4)
    state = (torch.zeros(3, 4), torch.zeros(3, 4))
    for t in range(2):
        state = lstm.step(X[:, t], state)
    assert (lstm(X[:, 2:], state) - lstm(X)[:, 2:]).abs().max() <= 1e-6


def test_gates_act_as_named() -> None:
    lstm = LSTM(1, 1)
    for parameter in lstm.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        lstm.bias.copy_(torch.tensor([-50.0, 50.0, 1.0, 0.0]))  # input, forget, candidate, output
    (h, c), gates = lstm.step_with_gates(
        torch.ones(1, 1), (torch.ones(1, 1), torch.full((1, 1), 2.0))
    )
    assert gates.input.item() == pytest.approx(0)
    assert gates.forget.item() == pytest.approx(1)
    assert gates.candidate.item() == pytest.approx(0.7615942)
    assert gates.output.item() == pytest.approx(0.5)
    assert c.item() == pytest.approx(2)
    assert h.item() == pytest.approx(0.5 * 0.9640276)


def test_forget_gate_bias_starts_at_1() -> None:
    assert LSTM(3, 2).bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_recurrent_matrices_start_orthogonal() -> None:
    for matrix in LSTM(3, 8).weight_hh.chunk(4):
        assert torch.allclose(matrix @ matrix.T, torch.eye(8), atol=1e-6)


def test_one_bias_is_trained_and_the_other_not_stored() -> None:
    lstm = LSTM(3, 2)
    assert [name for name, _ in lstm.named_parameters()] == ["weight_ih", "weight_hh", "bias"]
    assert list(lstm.state_dict()) == ["weight_ih", "weight_hh", "bias"]
    assert not lstm.bias_hh.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_output_dtype_is_that_of_autocast(dtype: torch.dtype) -> None:
    lengths = torch.tensor(LENGTHS)
    with torch.autocast("cpu", dtype):
        assert LSTM(6, 4)(X).dtype == dtype
        assert BiLSTM(6, 4)(X, reversal_of(lengths, 5)).dtype == dtype
    assert LSTM(6, 4)(X).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_near_fp32_with_fp32_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    lstm = LSTM(6, 4)
    with torch.autocast("cpu", dtype):
        out = lstm(X)
    assert (out.float() - lstm(X)).abs().max() < 0.02
    out.float().sum().backward()
    assert {parameter.grad.dtype for parameter in lstm.parameters()} == {torch.float32}


def test_the_state_of_a_step_stays_fp32_in_bf16() -> None:
    lstm = LSTM(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        h, c = lstm.step(X[:, 0], (torch.zeros(3, 4), torch.zeros(3, 4)))
    assert (h.dtype, c.dtype) == (torch.float32, torch.float32)


def test_rows_are_reversed_within_their_length() -> None:
    assert reversal_of(torch.tensor([4, 2, 1]), 4).tolist() == [
        [3, 2, 1, 0],
        [1, 0, 2, 3],
        [0, 1, 2, 3],
    ]


def test_dropped_weights_are_the_same_at_all_positions() -> None:
    """The fused call with a mask equals the reference cell with the same weights at 0."""
    lstm = LSTM(3, 4, weight_dropout=0.5)
    x = torch.randn(2, 6, 3)
    torch.manual_seed(5)
    actual = lstm(x)
    torch.manual_seed(5)
    dropped = drop(lstm.weight_hh, 0.5, is_training=True).detach()
    assert 0 < (dropped == 0).sum() < dropped.numel()
    reference = LSTM(3, 4)
    reference.load_state_dict({**lstm.state_dict(), "weight_hh": dropped})
    assert torch.allclose(
        actual, torch.stack([run_reference(reference, row) for row in x]), atol=1e-6
    )
    actual.sum().backward()
    assert lstm.weight_hh.grad is not None
    assert not lstm.weight_hh.grad[dropped == 0].any()


def test_no_weight_is_dropped_outside_training() -> None:
    lstm, x = LSTM(3, 4, weight_dropout=0.5).eval(), torch.randn(2, 6, 3)
    assert torch.equal(lstm(x), lstm(x))
    assert torch.allclose(lstm(x), torch.stack([run_reference(lstm, row) for row in x]), atol=1e-6)
