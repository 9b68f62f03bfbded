"""Dev loss of the fast paths after some updates, against the plain version."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from nmt.batching.batch import Batch, make_batch
from nmt.batching.loader import Loader
from nmt.bench.baselines import PlainLearner
from nmt.bench.workloads import Updates, Workload
from nmt.config.files import load_experiment
from nmt.corpus.builtin import generator
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.model.seq2seq import Seq2Seq
from nmt.training.loss import cross_entropy
from nmt.training.optimizer import learning_rate, make_optimizer

UPDATES = 300
SETTINGS = [
    "name=quality",
    "model.width=64",
    "model.ffn_width=64",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "model.dropout=0",
    "corpus.subword.vocab_size=1000",
    "batching.micro_batches=1",
    "training.warmup_updates=50",
    "training.ema_decay=0",
]


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """The built-in corpus."""
    folder = tmp_path_factory.mktemp("quality")
    changes = [f"corpus.root={folder}", f"corpus.prepared={folder / 'prepared'}"]
    changes.append(f"training.updates={UPDATES}")
    experiment = load_experiment("configs/demo.yaml", [*SETTINGS, *changes])
    generator.write(folder, num_train=8000, num_dev=300, num_test=10)
    prepare(experiment)
    return Workload("quality", experiment, *open_prepared(experiment), "real")


def dev_nats(workload: Workload, model: Seq2Seq) -> float:
    """Return the loss per target token of the dev set."""
    srcs, refs = read_dev(workload.shards.folder)
    encode = workload.subword.encode
    batch = make_batch([(encode(src), encode(ref)) for src, ref in zip(srcs, refs, strict=True)])
    with torch.no_grad():
        hidden = model.eval()(batch.src, batch.src_lengths, batch.tgt_in, batch.real)
        weight = model.output_weight
        sums = cross_entropy(hidden, weight, batch.tgt_out, 0.0, torch.float32)
    return sums.nll.item() / len(batch.tgt_out)


def train_plain(workload: Workload, batches: Iterable[Batch]) -> float:
    """Train the plain version: fp32, packed, whole logits."""
    settings = workload.experiment.training
    learner = PlainLearner(Updates(workload, "fp32", 0).learner.model, settings.label_smoothing)
    optimizer = make_optimizer(learner.model, settings)
    for number, batch in enumerate(batches):
        learner.backward(batch)
        nn.utils.clip_grad_norm_(learner.model.parameters(), settings.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, settings)
        optimizer.step()
        optimizer.zero_grad()
    return dev_nats(workload, learner.model)


def train_fast(workload: Workload) -> float:
    updates = Updates(workload, "bf16", 0)
    for update, parts in Loader(workload.shards, workload.schedule, range(UPDATES)):
        updates.run(update, parts)
    return dev_nats(workload, updates.learner.model)


def our_batches(workload: Workload) -> Iterator[Batch]:
    """Return the batches of our schedule, sorted by length."""
    for _, [part] in Loader(workload.shards, workload.schedule, range(UPDATES)):
        yield part.batch


def unsorted_batches(workload: Workload) -> Iterator[Batch]:
    """Return batches of random pairs, as many as ours have."""
    num_pairs = round(workload.schedule.num_pairs / workload.schedule.updates_per_epoch)
    random = np.random.default_rng(1)
    for _ in range(UPDATES):
        rows = random.integers(len(workload.shards), size=num_pairs)
        yield make_batch(workload.shards.pairs(rows))


@pytest.mark.slow
def test_fast_paths_reach_the_loss_of_the_plain_version(workload: Workload) -> None:
    """Against the same batches, then against batches that are not sorted."""
    fast = train_fast(workload)
    assert fast < 3.2  # from 6.9 before the first update
    assert fast == pytest.approx(train_plain(workload, our_batches(workload)), rel=0.01)
    assert fast == pytest.approx(train_plain(workload, unsorted_batches(workload)), rel=0.05)
