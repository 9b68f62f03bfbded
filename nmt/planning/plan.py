"""The whole plan of a run, and what a person reads of it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.corpus.prepared import open_prepared
from nmt.planning import size
from nmt.planning.probe import UPDATES, Probe, probe
from nmt.planning.scaling import ON_CPUS, ON_GPUS, Hosts, Links, ScalingRow, positions_of, rows_of
from nmt.training.data import TrainingData, check_workers
from nmt.training.data import make_schedule as plan_updates
from nmt.training.distributed import World
from nmt.training.precision import resolve_precision

GPUS_PER_NODE = 8
"""Where nobody says how many."""
PROBE_S = 12.0
"""Seconds of a core for the twenty updates of the probe."""


@dataclass(frozen=True)
class Wishes:
    """What a person may say besides the two files; None: a default."""

    workers_per_node: int | None = None
    between_gbit: float | None = None
    inside_gbit: float | None = None
    tflops: float | None = None
    """Useful TFLOP/s of a worker; None: what the probe shows."""


@dataclass(frozen=True)
class Plan:
    """What a run will take."""

    experiment: Experiment
    threads: int
    parameters: int
    num_pairs: int
    updates_per_epoch: int
    memory: size.MemoryEstimate
    largest: float
    """Positions of the largest micro-batch that was looked at, padding counted."""
    corpus_bytes: int
    probe: Probe
    links: Links
    gradient_bytes: int
    """That each worker has to send of an update."""
    rows: list[ScalingRow]


def make_plan(
    experiment: Experiment, cluster: Cluster, wishes: Wishes, probe_s: float = PROBE_S
) -> Plan:
    """Count, probe, and put together.

    Raises:
        DataError: the corpus is not prepared.
        TrainingError: not even the workers of one node could share an update.
    """
    experiment = resolve_precision(experiment, World())
    has_gpus = bool(cluster.gpus_per_worker)
    most = cluster.workers.max
    usual = min(GPUS_PER_NODE, most) if has_gpus else most
    per_node = wishes.workers_per_node or usual
    check_workers(experiment, per_node)
    shards, subword = open_prepared(experiment)
    _, schedule = plan_updates(experiment, TrainingData(shards, subword, ([], [])))
    torch.set_num_threads(cluster.cpus_per_worker)
    parameters = size.count_parameters(experiment, subword.num_pieces)
    measured = probe(experiment, shards, schedule, subword.num_pieces, probe_s)
    sizes = positions_of(shards, schedule)
    largest = float(sizes[0].max())
    memory = size.memory_of(
        experiment,
        parameters,
        subword.num_pieces,
        measured.saved_bytes * largest,
        "cuda" if has_gpus else "cpu",
    )
    default = ON_GPUS if has_gpus else ON_CPUS
    links = Links(
        wishes.between_gbit or default.between_gbit,
        wishes.inside_gbit or default.inside_gbit,
        default.latency_us,
    )
    hosts = Hosts(
        per_node, cluster.cpus_per_worker, 0 if has_gpus else os.cpu_count() or 0, has_gpus
    )
    sent = size.gradient_bytes(cluster, parameters)
    pace = measured
    if wishes.tflops is not None:
        position_s = measured.position_flops / (wishes.tflops * 1e12)
        pace = replace(measured, fixed_s=0.0, spread_s=0.0, step_s=0.0, position_s=position_s)
    return Plan(
        experiment,
        cluster.cpus_per_worker,
        parameters,
        schedule.num_pairs,
        schedule.updates_per_epoch,
        memory,
        largest,
        size.corpus_bytes(shards.manifest),
        measured,
        links,
        sent,
        list(rows_of(experiment, sent, sizes, pace, links, hosts)),
    )


def lines_of(plan: Plan) -> Iterator[str]:
    """What a person reads."""
    updates, epoch = plan.experiment.training.updates, plan.updates_per_epoch
    yield (
        f"{plan.parameters:,} parameters; {plan.num_pairs:,} pairs in {epoch:,} updates an epoch; "
        f"{updates:,} updates are {updates / epoch:.1f} epochs"
    )
    memory = plan.memory
    yield (
        f"memory of a worker at the peak, as a model has it: {_mib(memory.total)} = "
        f"{_mib(memory.kept)} for weights, average, gradients and moments + "
        f"{_mib(memory.activations)} for backward of the largest micro-batch "
        f"({plan.largest:,.0f} positions) + {_mib(memory.loss)} for the loss + "
        f"{_mib(size.TORCH_BYTES)} for torch itself"
    )
    disk = size.disk_bytes(plan.experiment, plan.parameters)
    each = size.checkpoint_bytes(plan.experiment, plan.parameters)
    yield (
        f"disk: {_mib(disk)} for checkpoints of {_mib(each)} "
        f"({plan.experiment.training.keep_last} newest, the best, one being written), "
        f"{_mib(plan.corpus_bytes)} for the prepared corpus"
    )
    probe = plan.probe
    cut = "" if probe.share == 1 else f" with {probe.share:.0%} of their pairs"
    yield (
        f"probe: {UPDATES} micro-batches{cut} on this machine, {plan.threads} "
        f"thread{'s' * (plan.threads > 1)}: {probe.fixed_s * 1e3:.1f} ms each + "
        f"{probe.position_s * 1e6:.1f} us a position, padding counted, "
        f"± {probe.spread_s * 1e3:.1f} ms; "
        f"optimizer step {probe.step_s * 1e3:.1f} ms"
    )
    yield (
        f"links: {plan.links.between_gbit:g} Gbit/s between nodes, "
        f"{plan.links.inside_gbit:g} Gbit/s inside, {plan.links.latency_us:g} us a step of a ring; "
        f"{_mib(plan.gradient_bytes)} of gradients an update"
    )
    yield from _table(plan)


def _table(plan: Plan) -> Iterator[str]:
    head = ("nodes", "workers", "ms an update", "compute", "waiting", "all-reduce", "step",
            "tgt tokens/s", "efficiency", "hours in all")  # fmt: skip
    yield "  ".join([*head, "limited by"])
    for row in plan.rows:
        cells = (
            f"{row.nodes}",
            f"{row.workers}",
            *(f"{seconds * 1e3:,.0f}" for seconds in (row.update_s, row.compute_s, row.waiting_s,
                                                      row.all_reduce_s, row.step_s)),
            f"{row.tgt_tokens_per_s:,.0f}",
            f"{row.efficiency:.2f}",
            f"{row.update_s * plan.experiment.training.updates / 3600:,.2f}",
        )  # fmt: skip
        aligned = [cell.rjust(len(name)) for cell, name in zip(cells, head, strict=True)]
        yield "  ".join([*aligned, row.limit])
    parts = plan.experiment.batching.micro_batches
    yield (
        f"more than {parts} workers could not share an update: batching.micro_batches={parts}; "
        "more of them make a larger update"
    )


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
