"""What the plain version learns in so many updates, the fast paths learn too."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from nmt.batching.batch import Batch, make_batch
from nmt.batching.loader import Loader
from nmt.bench.bench import Updates
from nmt.bench.cases import Case
from nmt.bench.plain import PlainLearner
from nmt.config.files import load_experiment
from nmt.corpus.builtin import generate
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
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The built-in corpus."""
    folder = tmp_path_factory.mktemp("quality")
    changes = [f"corpus.root={folder}", f"corpus.prepared={folder / 'prepared'}"]
    changes.append(f"training.updates={UPDATES}")
    experiment = load_experiment("configs/demo.yaml", [*SETTINGS, *changes])
    generate.write(folder, num_train=8000, num_dev=300, num_test=10)
    prepare(experiment)
    return Case("quality", experiment, *open_prepared(experiment), "real")


def dev_nats(case: Case, model: Seq2Seq) -> float:
    """For each target token of sentences that training does not see."""
    srcs, refs = read_dev(case.shards.folder)
    encode = case.subword.encode
    batch = make_batch([(encode(src), encode(ref)) for src, ref in zip(srcs, refs, strict=True)])
    with torch.no_grad():
        hidden = model.eval()(batch.src, batch.src_lengths, batch.tgt_in, batch.real)
        weight = model.output_weight
        sums = cross_entropy(hidden, weight, batch.tgt_out, 0.0, torch.float32)
    return sums.nll.item() / len(batch.tgt_out)


def by_plain(case: Case, batches: Iterable[Batch]) -> float:
    """fp32, packed, whole logits."""
    settings = case.experiment.training
    learner = PlainLearner(Updates(case, "fp32", 0).learner.model, settings.label_smoothing)
    optimizer = make_optimizer(learner.model, settings)
    for number, batch in enumerate(batches):
        learner.backward(batch)
        nn.utils.clip_grad_norm_(learner.model.parameters(), settings.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, settings)
        optimizer.step()
        optimizer.zero_grad()
    return dev_nats(case, learner.model)


def by_fast(case: Case) -> float:
    updates = Updates(case, "bf16", 0)
    for update, parts in Loader(case.shards, case.schedule, range(UPDATES)):
        updates.make(update, parts)
    return dev_nats(case, updates.learner.model)


def ours(case: Case) -> Iterator[Batch]:
    """Of one length each."""
    for _, [part] in Loader(case.shards, case.schedule, range(UPDATES)):
        yield part.batch


def unsorted(case: Case) -> Iterator[Batch]:
    """Of random pairs, as many as ours have."""
    num_pairs = round(case.schedule.num_pairs / case.schedule.updates_per_epoch)
    random = np.random.default_rng(1)
    for _ in range(UPDATES):
        rows = random.integers(len(case.shards), size=num_pairs)
        yield make_batch(case.shards.pairs(rows))


@pytest.mark.slow
def test_no_quality_is_lost(case: Case) -> None:
    """bf16, unpacked layers and loss in chunks; then batches of one length too."""
    fast = by_fast(case)
    assert fast < 3.2  # from 6.9 before the first update
    assert fast == pytest.approx(by_plain(case, ours(case)), rel=0.01)
    assert fast == pytest.approx(by_plain(case, unsorted(case)), rel=0.05)
