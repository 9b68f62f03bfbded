import torch

from nmt.batching.batch import Batch
from nmt.bench.baselines import PAIRS, InputFeedingRNN, PlainLearner, random_batches
from nmt.bench.workloads import Workload, without_dropout
from nmt.model.flops import Flops
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.loss import compute_loss
from nmt.training.state import Learner

LossAndGradients = tuple[float, list[torch.Tensor]]


def gradients_of(workload: Workload, precision: str, batch: Batch) -> LossAndGradients:
    training = workload.experiment.training.model_copy(update={"precision": precision})
    model = without_dropout(workload.experiment.model)
    experiment = workload.experiment.model_copy(update={"training": training, "model": model})
    learner = Learner(experiment, workload.subword.num_pieces, World())
    loss = compute_loss(learner.model, learner.model, batch, learner.settings, learner.dtype)
    (loss.smoothed / len(batch.tgt_out)).backward()  # type: ignore[no-untyped-call]
    return loss.smoothed.item() / len(batch.tgt_out), [p.grad for p in learner.model.parameters()]


def plain_gradients(workload: Workload, batch: Batch) -> LossAndGradients:
    torch.manual_seed(workload.experiment.seed)
    model = Seq2Seq(without_dropout(workload.experiment.model), workload.subword.num_pieces)
    learner = PlainLearner(model, workload.experiment.training.label_smoothing)
    loss = learner.backward(batch)
    by_name = {name: parameter.grad for name, parameter in learner.model.named_parameters()}
    for name in [name for name in by_name if ".lstm.lstm." in name]:
        ours = "backwards" if name.endswith("_reverse") else "forwards"
        kind = name.rpartition(".")[2].removesuffix("_reverse").removesuffix("_l0")
        layer = name.partition(".lstm.lstm.")[0]
        by_name[f"{layer}.lstm.{ours}.{kind.replace('bias_ih', 'bias')}"] = by_name[name]
    return loss, [by_name[name] for name, _ in model.named_parameters()]


def test_fp32_gradients_equal_those_of_the_plain_version(tiny_workload: Workload) -> None:
    """Unpacked bidirectional layers, rows without padding, loss in chunks."""
    [batch] = random_batches(tiny_workload, 1)
    loss, gradients = gradients_of(tiny_workload, "fp32", batch)
    plain_loss, plain = plain_gradients(tiny_workload, batch)
    assert abs(loss - plain_loss) <= 1e-5 * plain_loss
    for ours, expected in zip(gradients, plain, strict=True):
        assert (ours - expected).norm() <= 1e-4 * expected.norm()


def test_bf16_gradient_is_near_that_of_the_plain_version(tiny_workload: Workload) -> None:
    [batch] = random_batches(tiny_workload, 1)
    loss, gradients = gradients_of(tiny_workload, "bf16", batch)
    plain_loss, plain = plain_gradients(tiny_workload, batch)
    assert abs(loss - plain_loss) <= 0.01 * plain_loss
    ours, expected = (torch.cat([x.flatten() for x in side]) for side in (gradients, plain))
    assert torch.nn.functional.cosine_similarity(ours, expected, dim=0) > 0.995


def test_random_batches_are_not_sorted_by_length(tiny_workload: Workload) -> None:
    lengths = torch.cat([batch.src_lengths for batch in random_batches(tiny_workload, 3)])
    assert len(lengths) == 3 * PAIRS
    assert (lengths.diff() < 0).sum() > PAIRS


def test_flops_of_the_peer_equal_a_count_by_hand() -> None:
    """Embeddings 256, width 512, 2 + 2 layers, 300 pieces."""
    encoder = 2 * 4 * 256 * (256 + 256) + 2 * 4 * 256 * (512 + 256)
    decoder = 4 * 512 * (256 + 512 + 512) + 4 * 512 * (512 + 512) + 2 * 512 * 512 + 300 * 512
    expected = Flops(2 * (encoder + 512 * 512), 2 * decoder, 2 * 2 * 512)
    assert InputFeedingRNN(300).flops() == expected
