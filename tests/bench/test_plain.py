"""Every fast path against the plain version: the same loss, the same gradients."""

import torch

from nmt.batching.batch import Batch
from nmt.bench import peer
from nmt.bench.bench import Updates, without_dropout
from nmt.bench.cases import Case
from nmt.bench.plain import PAIRS, PlainLearner, random_batches
from nmt.model.flops import Flops
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.learner import Learner


def gradients_of(case: Case, precision: str, batch: Batch) -> tuple[float, list[torch.Tensor]]:
    training = case.experiment.training.model_copy(update={"precision": precision})
    model = without_dropout(case.experiment.model)
    experiment = case.experiment.model_copy(update={"training": training, "model": model})
    learner = Learner(experiment, case.subword.num_pieces, World())
    loss = learner.backward(batch, len(batch.tgt_out), is_my_last=True)
    return loss.smoothed.item() / len(batch.tgt_out), [p.grad for p in learner.model.parameters()]


def plain_gradients(case: Case, batch: Batch) -> tuple[float, list[torch.Tensor]]:
    torch.manual_seed(case.experiment.seed)
    model = Seq2Seq(without_dropout(case.experiment.model), case.subword.num_pieces)
    learner = PlainLearner(model, case.experiment.training.label_smoothing)
    loss = learner.backward(batch)
    by_name = {name: parameter.grad for name, parameter in learner.model.named_parameters()}
    for name in [name for name in by_name if ".lstm.lstm." in name]:
        ours = "backwards" if name.endswith("_reverse") else "forwards"
        kind = name.rpartition(".")[2].removesuffix("_reverse").removesuffix("_l0")
        layer = name.partition(".lstm.lstm.")[0]
        by_name[f"{layer}.lstm.{ours}.{kind.replace('bias_ih', 'bias')}"] = by_name[name]
    return loss, [by_name[name] for name, _ in model.named_parameters()]


def test_the_fast_version_has_the_loss_and_the_gradients_of_the_plain_one(
    tiny_case: Case,
) -> None:
    """Unpacked two-way layers, rows without padding, loss in chunks: fp32."""
    [batch] = random_batches(tiny_case, 1)
    loss, gradients = gradients_of(tiny_case, "fp32", batch)
    plain_loss, plain = plain_gradients(tiny_case, batch)
    assert abs(loss - plain_loss) <= 1e-5 * plain_loss
    for ours, theirs in zip(gradients, plain, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_bf16_has_nearly_the_gradient_of_the_plain_version(tiny_case: Case) -> None:
    [batch] = random_batches(tiny_case, 1)
    loss, gradients = gradients_of(tiny_case, "bf16", batch)
    plain_loss, plain = plain_gradients(tiny_case, batch)
    assert abs(loss - plain_loss) <= 0.01 * plain_loss
    ours, theirs = (torch.cat([x.flatten() for x in side]) for side in (gradients, plain))
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.995


def test_random_batches_are_not_sorted(tiny_case: Case) -> None:
    lengths = torch.cat([batch.src_lengths for batch in random_batches(tiny_case, 3)])
    assert len(lengths) == 3 * PAIRS
    assert (lengths.diff() < 0).sum() > PAIRS


def test_work_is_counted_as_written_on_paper(tiny_case: Case) -> None:
    """Width 16, 1 + 1 layers, feed-forward 16, 300 pieces."""
    torch.manual_seed(1)
    model = Seq2Seq(tiny_case.experiment.model, 300)
    encoder = 2 * (4 * 8) * (16 + 8) + 2 * 16 * 16
    keys_values = 2 * 16 * 16
    decoder = 4 * 16 * (16 + 16) + 2 * 16 * 16 + 2 * 16 * 16 + 300 * 16
    assert model.flops() == Flops(2 * (encoder + keys_values), 2 * decoder, 2 * 2 * 16)
    updates = Updates(tiny_case, "fp32", 1)
    batch = updates.batches[0]
    num_src, num_tgt = int(batch.src_lengths.sum()), len(batch.tgt_out)
    least = 3 * (2 * (encoder + keys_values) * num_src + 2 * decoder * num_tgt)
    assert least < model.flops().update(batch.src_lengths, batch.tgt_lengths) < 1.5 * least


def test_work_of_the_peer_is_counted_as_written_on_paper() -> None:
    """P11: embeddings 256, width 512, 2 + 2 layers, 300 pieces."""
    encoder = 2 * 4 * 256 * (256 + 256) + 2 * 4 * 256 * (512 + 256)
    decoder = 4 * 512 * (256 + 512 + 512) + 4 * 512 * (512 + 512) + 2 * 512 * 512 + 300 * 512
    expected = Flops(2 * (encoder + 512 * 512), 2 * decoder, 2 * 2 * 512)
    assert peer.InputFeedingRNN(300).flops() == expected
