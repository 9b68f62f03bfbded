#!/usr/bin/env python3
"""Checks of a machine with a GPU, without Ray: `gpu_check.py PART [ARGUMENT]...`.

`tools/gpu_check.sh` runs all parts with time limits. Every part also runs on a CPU, where its
figures mean little. Files go to the folder $OUT, corpora and runs to $WORK. Run it from the root of
a checkout.
"""

import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from nmt.batching.batch import make_batch
from nmt.batching.loader import Loader, MicroBatch
from nmt.batching.schedule import Update
from nmt.bench.figures import BenchReport, format_figure
from nmt.bench.gpu import BATCH_SIZES, SIDE, measure_device
from nmt.bench.timing import machine_facts
from nmt.bench.workloads import Bench
from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.run_directory import newest_complete
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.corpus.builtin import generator
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.corpus.text import read_lines
from nmt.decoding.loading import make_translator, open_model
from nmt.evaluation.scores import bleu
from nmt.model.lstm import LSTM
from nmt.training.data import TrainingData, make_schedule
from nmt.training.distributed import World
from nmt.training.loop import make_update, train
from nmt.training.memory import configure_memory
from nmt.training.precision import resolve_precision
from nmt.training.state import Learner, TrainState

OUT = Path(os.environ.get("OUT", "out"))
WORK = Path(os.environ.get("WORK", "work/gpu_check"))
HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda:0" if HAS_GPU else "cpu")
SHORT = ("training.updates=24", "training.warmup_updates=5", "training.validate_every=24",
         "training.checkpoint_every=12", "training.log_every=12", "training.precision=fp32",
         "stages=[]")  # fmt: skip
"""A run that is repeated by the checks of determinism."""
TIMEOUT_S = 60
"""Timeout of the collectives of two ranks."""


def log(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def write_json(name: str, values: object) -> None:
    """Write the values of a part to $OUT."""
    (OUT / f"{name}.json").write_text(json.dumps(values, indent=1, default=str) + "\n")


def synchronize() -> None:
    """Wait for the GPU."""
    if HAS_GPU:
        torch.cuda.synchronize()


def median_s(work: Callable[[], object], times: int) -> float:
    """Return the median time of a function until the GPU has finished, after one warm-up call."""
    seconds = []
    for _ in range(times + 1):
        synchronize()
        start_s = time.perf_counter()
        work()
        synchronize()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds[1:])


# facts: versions, and the LSTM layers of cuDNN.


def check_facts() -> None:
    """Print versions and flags; compare LSTM layers of many shapes with the cell written out."""
    facts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    facts |= {"cudnn": torch.backends.cudnn.version(), "cpus": os.cpu_count()}
    if HAS_GPU:
        facts |= {
            "name": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "free and total memory": torch.cuda.mem_get_info(),
            "nccl": torch.cuda.nccl.version(),
        }
    log(json.dumps(facts, default=str))
    layers: dict[str, Any] = {}
    for hidden in (64, 128, 160, 192, 256, 512, 1024) if HAS_GPU else (64,):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for rows in (1, 7, 128, 511) if HAS_GPU else (7,):
                name = f"lstm {hidden} {str(dtype).removeprefix('torch.')} B{rows}"
                with reported(name, layers):
                    layers[name] = _describe_layer(hidden, dtype, rows)
    write_json("facts", {**facts, "layers": layers})
    found = {name: layer for name, layer in layers.items() if isinstance(layer, dict)}
    slow = [name for name, layer in found.items() if "Cudnn" not in layer["nodes"]]
    worst = max((layer["gradient error"] for layer in found.values()), default=0.0)
    log(f"{len(found)} layers | largest relative error of a gradient norm {worst:.4f}")
    log(f"not in one cuDNN call: {', '.join(slow) or 'none'}")


@contextlib.contextmanager
def reported(name: str, results: dict[str, Any]) -> Iterator[None]:
    """Record and print an error, so that the other checks of the part still run."""
    try:
        yield
    except Exception as error:
        results[name] = f"{type(error).__name__}: {str(error)[:300]}"
        log(f"{name}: {results[name]}")


def _describe_layer(hidden: int, dtype: torch.dtype, rows: int) -> dict[str, Any]:
    """Return autograd nodes, warnings, time, and the error of the gradients of one layer."""
    layer = LSTM(hidden, hidden).to(DEVICE)
    x = torch.randn(rows, 28, hidden, device=DEVICE, requires_grad=True)

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
            return layer(x)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = forward(x)
        out.float().pow(2).sum().backward()
        synchronize()
    error = 0.0
    if hidden * rows <= 256 * 128:  # the reference is slow
        norms = zip(_gradient_norms(x, layer), _exact_norms(x, layer), strict=True)
        error = max(abs(found / exact - 1) for found, exact in norms)
    nodes, node = [], out.grad_fn
    while node is not None and len(nodes) < 6:
        nodes.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return {
        "nodes": " ".join(nodes),
        "gradient error": error,
        "forward ms": 1e3 * median_s(lambda: forward(x.detach()), 5),
        "warnings": [str(each.message)[:80] for each in caught],
    }


def _gradient_norms(x: torch.Tensor, layer: LSTM) -> tuple[float, ...]:
    """Return the gradient norms of inputs and recurrent weights."""
    return tuple(each.grad.double().norm().item() for each in (x, layer.weight_hh))


def _exact_norms(x: torch.Tensor, layer: LSTM) -> tuple[float, ...]:
    """Return the same norms of the layer written out step by step, in fp64."""
    exact = copy.deepcopy(layer).cpu().double()
    exact.zero_grad(set_to_none=True)
    inputs = x.detach().cpu().double().requires_grad_()
    h = c = inputs.new_zeros(len(inputs), layer.hidden_size)
    total = inputs.new_zeros(())
    for position in range(inputs.size(1)):
        (h, c), _ = exact.step_with_gates(inputs[:, position], (h, c))
        total = total + h.pow(2).sum()
    total.backward()
    return _gradient_norms(inputs, exact)


# fit: training for some time.


def load(config: str, *overrides: str) -> Experiment:
    """Load an experiment whose files are below $WORK and $MULTI30K."""
    name = Path(config).stem
    places = [f"corpus.prepared={WORK}/prepared/{name}"]
    if name == "demo":
        places.append(f"corpus.root={WORK}/demo")
        generator.write(WORK / "demo")
    elif "multi30k" in name:
        places.append(f"corpus.root={os.environ['MULTI30K']}")
    return load_experiment(config, [*places, *overrides])


def open_data(experiment: Experiment) -> TrainingData:
    """Prepare the corpus of an experiment, unless that is done, and open it."""
    prepare(experiment)
    shards, subword = open_prepared(experiment)
    return TrainingData(shards, subword, read_dev(experiment.prepared))


def fit(config: str, seconds: str, *overrides: str) -> None:
    """Train until the time is over; the run has a checkpoint then."""
    experiment = load(config, *overrides)
    data, deadline = open_data(experiment), time.monotonic() + float(seconds)
    run_dir = WORK / "runs" / experiment.name
    reason, state = train(
        experiment, data, World(device=DEVICE), run_dir, log,
        should_stop=lambda done: time.monotonic() > deadline,
    )  # fmt: skip
    peak = torch.cuda.max_memory_allocated() / 2**30 if HAS_GPU else 0.0
    log(f"{experiment.name}: {reason} after {state.update:,} updates | {peak:.2f} GiB at the peak")
    (OUT / f"{experiment.name}.metrics.jsonl").write_bytes((run_dir / "metrics.jsonl").read_bytes())


# checks: guarantees that depend on the device.


def check_guarantees(config: str, *overrides: str) -> None:
    """Compare repeated, resumed and split runs and those of two ranks; list synchronisations."""
    results: dict[str, Any] = {}
    experiment = resolve_precision(load(config, *SHORT, *overrides), World(device=DEVICE))
    data = open_data(experiment)

    def run(name: str, stop_after: int | None = None) -> torch.Tensor:
        folder = WORK / "checks" / name
        world = World(device=DEVICE)
        train(experiment, data, world, folder, should_stop=lambda done: done == stop_after)
        return weights_of(folder)

    whole = run("whole")
    checks: dict[str, Callable[[], object]] = {
        "repeated run, largest difference": lambda: _difference(run("again"), whole),
        "resumed run, largest difference": lambda: [
            run("resumed", stop_after=7), _difference(run("resumed"), whole)
        ][1],
        "two ranks with gloo on one device, largest difference": lambda: _difference(
            _run_two_ranks(config, *overrides), whole
        ),
        "synchronisations of an update": lambda: _find_synchronisations(experiment, data),
    }  # fmt: skip
    if HAS_GPU:
        checks["run in 0.7 of the memory, largest difference"] = lambda: _difference(
            _run_split(lambda: run("split")), whole
        )
    for name, check in checks.items():
        with reported(name, results):
            results[name] = check()
            log(f"{name}: {results[name]}")
    write_json("checks", results)


def weights_of(run_dir: Path) -> torch.Tensor:
    """Return all weights of the newest checkpoint of a run."""
    newest = newest_complete(run_dir)
    assert newest is not None
    state = load_checkpoint(newest).model().state_dict()
    return torch.cat([tensor.flatten().float() for tensor in state.values()])


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def _run_split(run: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Do a run with 0.7 of the memory that a run needs, so that its micro-batches are split."""
    torch.cuda.empty_cache()
    needed = torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.7 * needed / total)
    try:
        return run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _find_synchronisations(experiment: Experiment, data: TrainingData) -> list[str]:
    """Return the lines at which the last of some updates waits for the GPU."""
    learner = Learner(experiment, data.subword.num_pieces, World(device=DEVICE))
    sampler_at, schedule = make_schedule(experiment, data)
    loader = Loader(data.shards, schedule, range(4), pin=HAS_GPU, sampler_at=sampler_at)
    found: list[str] = []
    for update, micro_batches in loader:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if HAS_GPU:
                torch.cuda.set_sync_debug_mode("warn")
            make_update(learner, TrainState(), update, micro_batches, update.num_tgt_tokens)
            if HAS_GPU:
                torch.cuda.set_sync_debug_mode("default")
        lines = [each for each in caught if "synchroniz" in str(each.message)]
        found = [f"{Path(each.filename).name}:{each.lineno}" for each in lines]
    return found


def _run_two_ranks(config: str, *overrides: str) -> torch.Tensor:
    """Train with two ranks on one device; NCCL refuses that, gloo does not."""
    folder = WORK / "checks" / "two"
    env = os.environ | {"STORE": str(WORK.resolve() / f"store-{os.getpid()}")}
    command = [sys.executable, __file__, "rank", config, str(folder), *overrides]
    ranks = [subprocess.Popen([*command], env=env | {"RANK": str(rank)}) for rank in range(2)]
    for process in ranks:
        if status := process.wait(2 * TIMEOUT_S):
            raise RuntimeError(f"a rank ended with status {status}")
    return weights_of(folder)


def run_rank(config: str, folder: str, *overrides: str) -> None:
    """Train as one of two ranks; started by `_run_two_ranks`."""
    store, rank = os.environ["STORE"], int(os.environ["RANK"])
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timeout
    )
    world = World.from_process_group(DEVICE, TIMEOUT_S)
    experiment = resolve_precision(load(config, *SHORT, *overrides), world)
    train(experiment, open_data(experiment), world, Path(folder))
    dist.destroy_process_group()


# profile, translate, bench: speed.


def profile(sentences: str, precision: str, *overrides: str) -> None:
    """Time updates of GNMT, and list the kernels of one by time."""
    experiment = load_experiment("configs/gnmt_wmt16_en_de.yaml", overrides)
    experiment = experiment.with_settings("training", precision=precision)
    num_pairs, side = int(sentences), [5] * 27
    batch = make_batch([(side, side)] * num_pairs)
    rows = torch.arange(num_pairs).numpy()
    part = MicroBatch(0, batch.pin() if HAS_GPU else batch, rows)
    update, num_tokens = Update(0, 0, (rows,), 28 * num_pairs), 28 * num_pairs
    learner = Learner(experiment, experiment.corpus.subword.vocab_size, World(device=DEVICE))
    state = TrainState()

    def run() -> None:
        make_update(learner, state, update, [part], num_tokens)

    update_s = median_s(run, 5)
    log(
        f"GNMT {precision}, {num_pairs} sentences of 28 tokens: {update_s * 1e3:.1f} ms per update "
        f"| {2 * num_tokens / update_s:,.0f} src + tgt tokens/s"
    )
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if HAS_GPU else []
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        synchronize()
    key = "self_cuda_time_total" if HAS_GPU else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=90)
    (OUT / f"profile_{num_pairs}_{precision}.txt").write_text(table)


def translate(name: str, src: str, ref: str, seconds: str, *batches: str) -> None:
    """Translate the same lines at several batch sizes and precisions; compare the texts."""
    run_dir, deadline = WORK / "runs" / name, time.monotonic() + float(seconds)
    lines, refs = (list(read_lines(Path(path)))[:1000] for path in (src, ref))
    results: dict[str, Any] = {}
    expected: list[str] = []
    cases = [(p, beam, int(b)) for p in ("fp32", "bf16") for beam in (5, 1) for b in batches]
    for precision, beam, batch in cases:
        if time.monotonic() > deadline:
            log("no time left")
            break
        model = open_model(run_dir)
        translator = make_translator(model, precision=precision, beam=beam, batch_sentences=batch)
        some = lines if batch > 1 else lines[:100]
        translator.translate(some[:16])
        synchronize()
        start_s = time.perf_counter()
        found = translator.translate(some)
        synchronize()
        taken_s = time.perf_counter() - start_s
        expected = expected or found
        score = bleu(found, refs[: len(found)], model.experiment.corpus.tgt).value
        num_same = sum(a == b for a, b in zip(found, expected, strict=False))
        key = f"{precision} beam {beam} batch {batch}"
        results[key] = {"lines": len(some), "seconds": taken_s, "bleu": score, "same": num_same}
        log(
            f"{key}: {len(some) / taken_s:,.1f} lines/s | BLEU {score:.2f} | {num_same} of "
            f"{len(some)} lines as in the first case"
        )
    write_json("translate", results)


def bench(seconds: str) -> None:
    """Measure as `nmt bench gpu`; on a CPU the same code with tiny sizes."""
    WORK.mkdir(parents=True, exist_ok=True)
    run = Bench(WORK / "bench", float(seconds), {})
    sizes = (SIDE, BATCH_SIZES) if HAS_GPU else (64, (16,))
    if not HAS_GPU:
        run.__dict__["large"] = run.large.with_settings("model", width=32)
    figures = []
    for figure in measure_device(run, DEVICE, *sizes):
        figures.append(figure)
        log(format_figure(figure))
    BenchReport(machine_facts(), figures).save(OUT / "bench.json")


PARTS: dict[str, Callable[..., None]] = {
    "facts": check_facts, "fit": fit, "checks": check_guarantees, "rank": run_rank,
    "profile": profile, "translate": translate, "bench": bench,
}  # fmt: skip

if __name__ == "__main__":
    if not PARTS.keys() & set(sys.argv[1:2]):
        parts = ", ".join(PARTS)
        print(f"gpu_check.py: usage: gpu_check.py PART, one of {parts}", file=sys.stderr)
        sys.exit(2)
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "4")))
    configure_memory()
    PARTS[sys.argv[1]](*sys.argv[2:])
