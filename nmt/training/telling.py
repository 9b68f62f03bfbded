"""What a run says of itself: how it begins and ends, and what went wrong in an update."""

import math

import torch

from nmt.batching.schedule import Schedule, Update
from nmt.config.experiment import Experiment, TrainingConfig
from nmt.errors import TrainingError
from nmt.model.quantise import bf16_gain
from nmt.training.distributed import World
from nmt.training.learner import Learner
from nmt.training.memory import Split
from nmt.training.run_log import AnyRecords
from nmt.training.state import EndReason, TrainState


def opening(
    experiment: Experiment,
    schedule: Schedule,
    learner: Learner,
    progress: TrainState,
    world: World,
) -> str:
    """The first line of a start: what is trained, by whom, on what, for how long."""
    left_out = f", {schedule.num_left_out:,} longer ones left out" if schedule.num_left_out else ""
    start = f"going on after update {progress.update:,}" if progress.update else "from the start"
    is_rough = world.size > 1 and world.gradient_dtype != torch.float32
    wire = " with gradients sent in bf16" if is_rough else ""
    return (
        f"{learner.num_parameters:,} parameters, {experiment.training.precision}, "
        f"{world.size} worker{'s' * (world.size > 1)} on {world.device.type}{wire}; "
        f"{schedule.num_pairs:,} pairs{left_out}; {schedule.updates_per_epoch:,} updates an epoch, "
        f"{experiment.training.updates / schedule.updates_per_epoch:.1f} epochs in all; {start}"
    )


def closing(why: EndReason, progress: TrainState, settings: TrainingConfig) -> str:
    """The last line of a run that ended by itself: how, how far it came, and its best."""
    best = ""
    if progress.best_bleu is not None:
        best = f"; best dev BLEU {progress.best_bleu:.2f} at update {progress.best_update:,}"
    skipped = f"; {progress.num_skipped} updates skipped" if progress.num_skipped else ""
    minutes = progress.train_s / 60
    reason = ""
    if why == "stopped early":
        reason = (
            f"; why: {progress.validations_without_gain} validations in a row brought no better "
            f"dev BLEU (training.patience is {settings.patience})"
        )
    return (
        f"{why} after {progress.update:,} of {settings.updates:,} updates, {minutes:.1f} minutes "
        f"of training{best}{skipped}{reason}"
    )


def tell_precision(settings: TrainingConfig, world: World, records: AnyRecords) -> None:
    """Say so where cheaper numbers cost time: on a CPU without quick instructions for them."""
    if world.device.type != "cpu" or not world.is_main:
        return
    if settings.precision == "fp16":
        records.say(
            "fp16 is for GPUs, on a CPU the LSTM layers stay fp32: training.precision=auto would "
            "be quicker"
        )
    if settings.precision == "bf16":
        gain = bf16_gain()
        if gain < 0.9:
            records.say(
                f"matrix products in bf16 are {gain:.2f} times as fast as in fp32 on this CPU: "
                "training.precision=fp32 would be quicker"
            )


def tell_rehearsal(num_fitting: int, schedule: Schedule, records: AnyRecords) -> None:
    """Say what to expect where the largest micro-batch does not fit into memory."""
    num_pairs, length = schedule.largest
    if num_fitting == num_pairs:
        return
    what = f"{num_pairs:,} pairs of {length:,} tokens a side"
    advice = f"batching.max_tokens={num_fitting * length} would fit"
    if not num_fitting:
        advice = "nor does one pair: lower batching.max_length or the size of the model"
    records.say(
        f"the largest micro-batch that can come, {what}, does not fit into a worker's memory: such "
        f"ones are made in halves, which takes longer; {advice}"
    )


def tell_scale(scale: float, update: Update, records: AnyRecords) -> None:
    """Say that a gradient overflowed, and at which scale of the loss the update is made again."""
    records.write("scale", update.number + 1, {"loss_scale": scale})
    records.say(
        f"update {update.number + 1:,}: a gradient overflowed fp16; the update is made again with "
        f"a loss scale of {scale:,g}"
    )


def tell_skipped(
    norm: float,
    update: Update,
    progress: TrainState,
    experiment: Experiment,
    records: AnyRecords,
) -> None:
    """Count an update that was skipped, name its pairs, and stop the run after a few in a row."""
    if math.isfinite(norm):
        progress.skipped_in_a_row = 0
        return
    progress.num_skipped += 1
    progress.skipped_in_a_row += 1
    rows = sorted(int(row) for part in update.micro_batches for row in part)
    records.write("skipped", progress.update, {"grad_norm": str(norm), "pairs": rows})
    records.say(
        f"update {progress.update:,} skipped: its gradient is not finite ({norm}); "
        f"pairs {rows[0]} to {rows[-1]}, all {len(rows)} in metrics.jsonl"
    )
    limit = experiment.training.max_skipped
    if progress.skipped_in_a_row >= limit:
        raise TrainingError(
            f"{limit} updates in a row had a gradient that is not finite, the last one update "
            f"{progress.update}: lower training.learning_rate "
            f"({experiment.training.learning_rate}) or use training.precision=fp32; "
            "the same command then goes on from the last good checkpoint"
        )


def tell_splits(
    splits: list[Split], update: Update, progress: TrainState, records: AnyRecords
) -> None:
    """Count what was split because memory ran out, and say where."""
    progress.num_split += len(splits)
    for split in splits:
        records.write("split", update.number + 1, split._asdict())
        records.say(
            f"update {update.number + 1:,}: worker {split.worker} ran out of memory over "
            f"micro-batch {split.micro_batch}, {split.num_pairs:,} pairs in {split.positions:,} "
            "positions; the update is made again with it in two halves"
        )
