"""Plan of a run: memory, disk and scaling estimates, and their text."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.corpus.noise import MAX_GROWTH
from nmt.corpus.prepared import open_prepared
from nmt.planning import memory_estimate, scaling
from nmt.planning.probe import UPDATES, Probe, run_probe
from nmt.planning.scaling import ON_CPUS, ON_GPUS, Hosts, Links, ScalingRow
from nmt.training.data import TrainingData, check_workers, make_schedule, planned_lengths
from nmt.training.distributed import World
from nmt.training.precision import resolve_precision

GPUS_PER_NODE = 8
"""Default for clusters with GPUs."""
PROBE_S = 12.0
"""CPU seconds for the twenty updates of the probe."""


@dataclass(frozen=True)
class PlanOptions:
    """Command-line options of `nmt plan`; None for the default."""

    workers_per_node: int | None = None
    between_gbit: float | None = None
    inside_gbit: float | None = None
    tflops: float | None = None
    """TFLOP/s of a worker without padding; None for the speed of the probe."""


@dataclass(frozen=True)
class Plan:
    """Estimates of a run."""

    experiment: Experiment
    threads: int
    """Threads of the probe."""
    parameters: int
    num_pairs: int
    updates_per_epoch: int
    epochs: float
    """Epochs of all updates."""
    memory: memory_estimate.MemoryEstimate
    largest: float
    """Positions of the largest sampled micro-batch, padding included."""
    checkpoint_bytes: int
    corpus_bytes: int
    probe: Probe
    links: Links
    gradient_bytes: int
    """Bytes that each worker sends per update."""
    has_cpu_times: bool
    """True if workers with GPUs are planned with the speed of a CPU."""
    rows: list[ScalingRow]


def make_plan(
    experiment: Experiment, cluster: Cluster, options: PlanOptions, probe_s: float = PROBE_S
) -> Plan:
    """Count parameters, run the probe and predict memory and time.

    Args:
        experiment: its corpus is prepared.
        cluster: workers, their CPUs and GPUs.
        options: overrides of bandwidths, speed and workers per node.
        probe_s: time limit of the probe.

    Raises:
        DataError: the corpus is not prepared.
        TrainingError: the workers of one node exceed the micro-batches of an update.
    """
    cluster = cluster.resolve(torch.cuda.device_count(), experiment.batching.micro_batches)
    has_gpus = bool(cluster.num_gpus)
    if experiment.training.precision == "auto" and has_gpus and not torch.cuda.is_available():
        # What auto chooses on GPUs with bf16 units.
        experiment = experiment.with_settings("training", precision="bf16")
    experiment = resolve_precision(experiment, World())
    num_workers = cluster.workers.max
    default_per_node = min(GPUS_PER_NODE, num_workers) if has_gpus else num_workers
    per_node = options.workers_per_node or default_per_node
    check_workers(experiment, per_node)
    shards, subword = open_prepared(experiment)
    # The dev set does not influence the schedule.
    sampler_at, schedule = make_schedule(experiment, TrainingData(shards, subword, ([], [])))
    cores = os.cpu_count() or 1
    # More threads than cores would only wait for each other.
    threads = min(cluster.cpus_per_worker, cores)
    torch.set_num_threads(threads)
    parameters, trained = (
        memory_estimate.count_parameters(experiment, subword.num_pieces, trained_only=is_trained)
        for is_trained in (False, True)
    )
    probe = run_probe(experiment, shards, schedule, subword.num_pieces, probe_s)
    lengths = planned_lengths(experiment, shards, sampler_at(0))
    sizes = scaling.sample_positions(lengths, schedule)
    largest = float(sizes[0].max())
    if experiment.changes_sources:
        largest *= (1 + MAX_GROWTH) / 2  # only the source side grows
    num_updates = min(memory_estimate.SUSTAINED_UPDATES, experiment.training.updates)
    _, num_shapes = memory_estimate.updates_with_new_shapes(shards, schedule, num_updates)
    memory = memory_estimate.estimate_memory(
        experiment, parameters, trained, subword.num_pieces, probe.micro_batch_bytes(largest),
        "cuda" if has_gpus else "cpu", num_shapes,
    )  # fmt: skip
    defaults = ON_GPUS if has_gpus else ON_CPUS
    between = options.between_gbit or defaults.between_gbit
    links = Links(between, options.inside_gbit or defaults.inside_gbit, defaults.latency_us)
    # The cores of a GPU node are not known; on CPUs a node is assumed to equal this machine.
    hosts = Hosts(per_node, threads, 0 if has_gpus else cores, has_gpus)
    gradient_bytes = memory_estimate.gradient_bytes(cluster, trained)
    # A given speed replaces the measured times, including optimizer step and noise.
    speed = probe
    if options.tflops is not None:
        passes = max(experiment.num_passes().values())
        position_s = passes * probe.position_flops / (options.tflops * 1e12)
        speed = replace(probe, fixed_s=0.0, spread_s=0.0, step_s=0.0, position_s=position_s)
    rows = scaling.predict_scaling(experiment, gradient_bytes, sizes, speed, links, hosts)
    return Plan(
        experiment, threads, parameters, schedule.num_pairs,
        schedule.updates_per_epoch, schedule.epochs_at(experiment.training.updates), memory,
        largest, memory_estimate.checkpoint_bytes(experiment, parameters, trained),
        memory_estimate.corpus_bytes(shards.manifest), probe, links, gradient_bytes,
        has_gpus and options.tflops is None, list(rows),
    )  # fmt: skip


def format_plan(plan: Plan) -> Iterator[str]:
    """Yield the lines that `nmt plan` prints."""
    training, epoch, memory = plan.experiment.training, plan.updates_per_epoch, plan.memory
    yield (
        f"{plan.parameters:,} parameters | {plan.num_pairs:,} pairs in {epoch:,} updates per epoch "
        f"| {training.updates:,} updates = {plan.epochs:.1f} epochs"
    )
    yield (
        f"memory per worker (estimate, {training.precision}): {_mib(memory.total)} = "
        f"{_mib(memory.weights)} weights, average, gradients, moments + "
        f"{_mib(memory.activations)} activations of {plan.largest:,.0f} positions + "
        f"{_mib(memory.loss)} loss + {_mib(memory.kernels)} kernels + "
        f"{_mib(memory_estimate.TORCH_BYTES)} torch"
    )
    num_kept = training.keep_last + 2
    yield (
        f"disk: {_mib(num_kept * plan.checkpoint_bytes)} for {num_kept} checkpoints of "
        f"{_mib(plan.checkpoint_bytes)} ({training.keep_last} newest, best, one being written) | "
        f"prepared corpus {_mib(plan.corpus_bytes)}"
    )
    probe = plan.probe
    reduced = "" if probe.share == 1 else f" reduced to {probe.share:.0%}"
    yield (
        f"probe on this machine: {UPDATES} micro-batches{reduced}, {plan.threads} "
        f"thread{'s' * (plan.threads > 1)}: {probe.fixed_s * 1e3:.1f} ms + "
        f"{probe.position_s * 1e6:.1f} us per position, ± {probe.spread_s * 1e3:.1f} ms | "
        f"optimizer step {probe.step_s * 1e3:.1f} ms"
    )
    passes = set(plan.experiment.num_passes().values())
    if len(passes) > 1:
        start = plan.experiment.costliest_update()
        stage = f"stage from update {start:,}" if start else "first stage"
        yield (
            f"memory and times are those of the {stage}, which computes each pair "
            f"{max(passes)} times; updates of other stages take less"
        )
    if plan.experiment.distils:
        yield "times leave out the teacher: a pair that is distilled takes about a third longer"
    if plan.has_cpu_times:
        yield "times are those of a worker on this machine's CPU: give --tflops for one on a GPU"
    yield (
        f"links: {plan.links.between_gbit:g} Gbit/s between nodes | {plan.links.inside_gbit:g} "
        f"Gbit/s within a node | {plan.links.latency_us:g} us per ring step | gradients "
        f"{_mib(plan.gradient_bytes)} per update"
    )
    yield from _format_scaling(plan)


def _format_scaling(plan: Plan) -> Iterator[str]:
    head = ("nodes", "workers", "ms/update", "compute", "wait", "all-reduce", "step", "tgt tok/s",
            "efficiency", "total h")  # fmt: skip
    yield "  ".join([*head, "limit"])
    for row in plan.rows:
        parts_s = (row.update_s, row.compute_s, row.waiting_s, row.all_reduce_s, row.step_s)
        total_h = row.update_s * plan.experiment.training.updates / 3600
        cells = (
            f"{row.nodes}", f"{row.workers}", *(f"{seconds * 1e3:,.0f}" for seconds in parts_s),
            f"{row.tgt_tokens_per_s:,.0f}", f"{row.efficiency:.2f}", f"{total_h:,.2f}",
        )  # fmt: skip
        aligned = [cell.rjust(len(name)) for cell, name in zip(cells, head, strict=True)]
        yield "  ".join([*aligned, row.limit])
    num_parts = plan.experiment.batching.micro_batches
    yield f"at most {num_parts} workers: an update has batching.micro_batches={num_parts}"


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
