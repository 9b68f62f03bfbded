"""Runs that start from the weights of another: training.init_from and training.freeze."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import PAIRS, Run, corpus_of, go, go_on_gloo

from nmt.checkpoint.load import Checkpoint, load_checkpoint, load_training_state
from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.corpus.subword import NUM_RESERVED, Subword
from nmt.errors import ConfigError, TrainingError
from nmt.model.layers import FeedForward
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.optimizer import optimizer_tensors
from nmt.training.run_manifest import WarmStart, read_run_manifest
from nmt.training.state import Learner
from nmt.training.warm_start import (
    FFN_UNITS,
    check_warm_start,
    describe_warm_start,
    mean_rows,
    warm_start,
    with_absolute_source,
)

Started = tuple[Learner, WarmStart, Checkpoint]


@pytest.fixture(scope="module")
def source(one: Path) -> Checkpoint:
    return load_checkpoint(one)


def experiment_of(toy_file: Path, source: Path, *overrides: str) -> Experiment:
    return load_experiment(toy_file, [f"training.init_from={source}", *overrides])


def start(
    toy_file: Path, source: Path, overrides: Sequence[str] = (), subword: Subword | None = None
) -> Started:
    experiment = experiment_of(toy_file, source, *overrides)
    subword = subword or corpus_of(experiment).subword
    learner = Learner(experiment, subword.num_pieces, World())
    found = warm_start(learner, subword, World())
    assert found is not None
    return learner, found, load_checkpoint(source)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    state = load_training_state(run)
    return {**state.weights, **{f"mean {key}": each for key, each in (state.average or {}).items()}}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_weights_for_translation_are_taken(toy_file: Path, one: Path) -> None:
    learner, found, source = start(toy_file, one)
    assert_equal(learner.model.state_dict(), source.weights)
    assert learner.average is not None
    assert_equal(learner.average.state_dict(), source.weights)
    assert optimizer_tensors(learner.optimizer, learner.model) == {}
    assert (found.new, found.unused, found.new_pieces, found.dropped_pieces) == ([], [], 0, 0)
    assert describe_warm_start(found) == [
        f"weights from {source.path} | {found.taken} of {found.taken} parameters | same vocabulary "
        "| new optimizer"
    ]


def test_new_pieces_are_means_of_their_spelling(toy_file: Path, one: Path) -> None:
    lines = [line.replace("dog", "zoo zoo") for pair in PAIRS for line in pair]
    subword = Subword.train(lines, SubwordConfig(vocab_size=330))
    learner, found, source = start(toy_file, one, subword=subword)
    old, rows = source.weights["src_embedding.weight"], learner.model.src_embedding.weight
    assert rows.shape == (subword.num_pieces, old.size(1))
    mine, theirs = subword.learnt_pieces, source.subword.learnt_pieces
    kept, new = mine.keys() & theirs.keys(), mine.keys() - theirs.keys()
    assert torch.equal(rows[:NUM_RESERVED], old[:NUM_RESERVED])
    assert all(torch.equal(rows[mine[each]], old[theirs[each]]) for each in kept)
    for piece in new:
        spelling = source.subword.spell(piece)
        assert b"".join(source.subword.token_bytes[each] for each in spelling) == piece.encode()
        torch.testing.assert_close(rows[mine[piece]], old[spelling].mean(dim=0))
    assert " zoo" in new
    counts = found.kept_pieces, found.new_pieces, found.dropped_pieces
    assert counts == (NUM_RESERVED + len(kept), len(new), len(theirs.keys() - mine.keys()))
    assert f"{len(new)} new (mean of old pieces)" in describe_warm_start(found)[0]


def test_mean_of_rows() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 6.0], [0.1, 0.7]])
    assert mean_rows(weight, [[2], [0, 1], [0]]).tolist() == [
        weight[2].tolist(), [2.0, 4.0], [1.0, 2.0]
    ]  # fmt: skip


def test_another_depth_takes_parameters_by_name(toy_file: Path, one: Path) -> None:
    depth = ["model.encoder_layers=2", "model.decoder_layers=1"]
    learner, found, source = start(toy_file, one, depth)
    state = learner.model.state_dict()
    assert all(name.startswith("encoder.blocks.1.") for name in found.new)
    assert all(name.startswith("decoder.blocks.1.") for name in found.unused)
    taken = [name for name in state if name not in found.new]
    assert all(torch.equal(state[name], source.weights[name]) for name in taken)
    assert describe_warm_start(found)[1:] == [
        "initialised at random: encoder.blocks.1.*", "not taken: decoder.blocks.1.*"
    ]  # fmt: skip


def test_wider_feed_forward_layers_compute_the_same(toy_file: Path, one: Path) -> None:
    learner, found, source = start(toy_file, one, ["model.ffn_width=24"])
    units = source.experiment.model.ffn_width
    assert units < 24
    assert (found.new, found.unused) == ([], [])
    assert all(each.endswith(FFN_UNITS) for each in found.resized)
    assert describe_warm_start(found)[1:] == [
        "fitted to model.ffn_width: encoder.blocks.0.*, decoder.blocks.0.*, decoder.blocks.1.*"
    ]
    old = Seq2Seq(source.experiment.model, source.subword.num_pieces)
    old.load_state_dict(source.weights)
    src, tgt_in = torch.tensor([[40, 41, 42]]), torch.tensor([[1, 50, 51, 52]])
    inputs = src, torch.tensor([3]), tgt_in, torch.arange(4)
    before, after = (model.eval()(*inputs).detach() for model in (old, learner.model))
    torch.testing.assert_close(after, before)
    # The new units are random and learn: their output has a gradient at once.
    layer = learner.model.get_submodule("encoder.blocks.0.ffn")
    assert isinstance(layer, FeedForward)
    assert layer.expand.weight[units:].abs().min() > 0
    assert layer.contract.weight[:, units:].abs().max() == 0
    learner.model(*inputs).square().sum().backward()
    assert layer.contract.weight.grad is not None
    assert layer.contract.weight.grad[:, units:].abs().max() > 0


def test_narrower_feed_forward_layers_take_the_first_units(toy_file: Path, one: Path) -> None:
    learner, found, source = start(toy_file, one, ["model.ffn_width=3"])
    state = learner.model.state_dict()
    assert len(found.resized) == 9
    for name in found.resized:
        shared = tuple(slice(size) for size in state[name].shape)
        assert torch.equal(state[name], source.weights[name][shared])


def test_layers_without_feed_forward_part_start_at_random(toy_file: Path, one: Path) -> None:
    _, without, source = start(toy_file, one, ["model.ffn_width=0"])
    assert (without.new, without.resized) == ([], [])
    assert all("ffn" in name for name in without.unused)
    assert len(without.unused) == sum("ffn" in name for name in source.weights)


def test_untied_embeddings_start_from_the_shared_one(toy_file: Path, one: Path) -> None:
    learner, found, source = start(toy_file, one, ["model.tie_embeddings=false"])
    assert found.new == []
    for layer in (learner.model.src_embedding, learner.model.output_layer):
        assert torch.equal(layer.weight, source.weights["src_embedding.weight"])


def test_optimizer_state_is_taken(toy_file: Path, one: Path) -> None:
    learner, found, source = start(toy_file, one, ["training.init_optimizer=true"])
    stored = load_training_state(source.path)
    assert_equal(learner.model.state_dict(), stored.weights)
    assert_equal(optimizer_tensors(learner.optimizer, learner.model), stored.optimizer)
    assert found.optimizer
    assert describe_warm_start(found)[0].endswith(" | same vocabulary | optimizer taken")


BY_IMPORTANCE = ["training.init_optimizer=true", "training.init_share=0.3"]
DISTILLED = [*BY_IMPORTANCE, "corpus.train.0.distillation=3"]


def test_importance_is_that_of_the_source(toy_file: Path, one: Path) -> None:
    adapted = Run("adapted", overrides=[f"training.init_from={one}", *BY_IMPORTANCE])
    go(toy_file, adapted)
    first, second = load_training_state(one), load_training_state(toy_file.parent / "adapted")
    for name in (key.partition("/")[2] for key in first.optimizer if key.startswith("step/")):
        importance = second.optimizer[f"importance/{name}"]
        assert torch.equal(importance, first.optimizer[f"moment2/{name}"])
    # A run that starts from this one has its own.
    learner, _, _ = start(toy_file, toy_file.parent / "adapted", BY_IMPORTANCE)
    for state in learner.optimizer.state.values():
        assert torch.equal(state["importance"], state["exp_avg_sq"])
    learner, _, _ = start(toy_file, toy_file.parent / "adapted", BY_IMPORTANCE[:1])
    assert not any("importance" in state for state in learner.optimizer.state.values())


@pytest.mark.parametrize(
    "settings", [["training.freeze=['*_embedding.*']"], BY_IMPORTANCE, DISTILLED]
)
def test_resume_does_not_read_the_source_again(
    toy_file: Path, one: Path, settings: list[str]
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    folder, name = toy_file.parent, f"warm-{len(settings)}"
    shutil.copytree(one, folder / "source")
    overrides = [f"training.init_from={folder}/source", *settings]
    go(toy_file, Run(name, overrides=overrides))
    go(toy_file, Run(f"{name}-stopped", overrides=overrides, stop_after=7))
    shutil.rmtree(folder / "source")
    go(toy_file, Run(f"{name}-stopped", overrides=overrides))
    assert_equal(weights_of(folder / name), weights_of(folder / f"{name}-stopped"))
    manifest = read_run_manifest(folder / f"{name}-stopped")
    assert [each.reason for each in manifest.starts] == ["begun", "continued"]
    assert manifest.warm_start is not None
    assert manifest.warm_start.checkpoint.startswith(f"{folder}/source/checkpoints/update-")


def test_frozen_parameters_stay_bit_equal(toy_file: Path, toy: Experiment, one: Path) -> None:
    frozen = ["training.freeze=['encoder.*', tgt_embedding.weight]"]
    go(toy_file, Run("frozen", overrides=[*frozen, "training.updates=6"]))
    before = Learner(toy, corpus_of(toy).subword.num_pieces, World()).model.state_dict()
    stored = load_training_state(toy_file.parent / "frozen")
    assert stored.average is not None
    for weights in (stored.weights, stored.average):
        same = {name for name in before if torch.equal(before[name], weights[name])}
        # The three embeddings are tied.
        rows = {"src_embedding.weight", "tgt_embedding.weight", "output_layer.weight"}
        assert same == {name for name in before if name.startswith("encoder.")} | rows
    trained = {key.partition("/")[2] for key in stored.optimizer}
    assert trained == before.keys() - same


def test_moments_of_frozen_parameters_are_missed_early(toy_file: Path) -> None:
    frozen = "training.freeze=['encoder.*', tgt_embedding.weight]"
    short = ["training.updates=1", "training.warmup_updates=1"]
    go(toy_file, Run("unfit", overrides=[frozen, *short]))
    folder = toy_file.parent / "unfit"
    check_warm_start(experiment_of(toy_file, folder, "training.init_optimizer=true", frozen))
    with pytest.raises(ConfigError) as error:
        check_warm_start(experiment_of(toy_file, folder, "training.init_optimizer=true"))
    assert str(error.value).endswith(
        "/update-00000001 froze encoder.blocks.0.*, encoder.norm.weight, encoder.norm.bias, "
        "src_embedding.weight: set it to false, or freeze them too"
    )


CASES: dict[str, tuple[list[str], str]] = {
    "missing": (
        ["training.init_from=nowhere"],
        "training.init_from: nowhere: no such directory; name a run or one of its checkpoints",
    ),
    "width": (
        ["model.width=16"],
        "model.width is 16, but the source SOURCE has 8: use the same",
    ),
    "preset": (
        ["model.preset=gnmt", "model.attention=additive", "model.encoder_layers=2"],
        "model.preset is gnmt, but the source SOURCE has residual: use the same",
    ),
    "depth": (
        ["training.init_optimizer=true", "model.encoder_layers=2"],
        "model.encoder_layers is 2, but the source SOURCE has 1: use the same for "
        "training.init_optimizer",
    ),
    "units": (
        ["training.init_optimizer=true", "model.ffn_width=3"],
        "model.ffn_width is 3, but the source SOURCE has 12: use the same for "
        "training.init_optimizer",
    ),
    "share": (
        ["training.init_share=0.2", "model.encoder_layers=2"],
        "model.encoder_layers is 2, but the source SOURCE has 1: use the same for "
        "training.init_share",
    ),
    "distillation, depth": (
        ["corpus.train.0.distillation=1", "model.decoder_layers=3"],
        "model.decoder_layers is 3, but the source SOURCE has 2: use the same for distillation",
    ),
    "distillation, units": (
        ["corpus.train.0.distillation=1", "model.ffn_width=0"],
        "model.ffn_width is 0, but the source SOURCE has 12: use the same for distillation",
    ),
    "pattern": (
        ["training.freeze=[encodr.*]"],
        "training.freeze is encodr.*, but it matches no parameter; the parts of the model are "
        "encoder.*, decoder.*, src_embedding.*, tgt_embedding.*, output_layer.*",
    ),
    "all": (
        ["training.freeze=['*']"],
        "training.freeze is *, but it freezes all parameters: leave some to train",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_errors(case: str, toy_file: Path, one: Path, source: Checkpoint) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    overrides, message = CASES[case]
    with pytest.raises(ConfigError) as error:
        check_warm_start(experiment_of(toy_file, one, *overrides))
    assert str(error.value) == message.replace("SOURCE", str(source.path))


def test_distillation_needs_the_same_vocabulary(
    toy_file: Path, one: Path, source: Checkpoint
) -> None:
    experiment = experiment_of(toy_file, one, "corpus.train.0.distillation=1")
    check_warm_start(experiment, source.subword)
    other = Subword.train(["a b c d e f g h"] * 9, SubwordConfig(vocab_size=300))
    with pytest.raises(ConfigError) as error:
        check_warm_start(experiment, other)
    assert str(error.value) == (
        f"corpus.train.0.distillation is 1, but {source.path} has another vocabulary: set it to 0"
    )


def test_corrupt_source_is_refused(toy_file: Path, one: Path, tmp_path: Path) -> None:
    folder = tmp_path / load_checkpoint(one).path.name
    shutil.copytree(load_checkpoint(one).path, folder)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    message = (
        f"training.init_from: {weights} is corrupt: its SHA-256 does not match bundle.json; "
        "restore it from a copy, or train again"
    )
    experiment = experiment_of(toy_file, folder)
    with pytest.raises(ConfigError) as error:
        check_warm_start(experiment)
    assert str(error.value) == message
    subword = corpus_of(experiment).subword
    with pytest.raises(TrainingError) as in_run:
        warm_start(Learner(experiment, subword.num_pieces, World()), subword, World())
    assert str(in_run.value) == message


@pytest.mark.slow
@pytest.mark.parametrize("settings", [BY_IMPORTANCE, DISTILLED])
def test_two_workers_start_from_the_same_state(
    settings: list[str], toy_file: Path, one: Path
) -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    overrides = [f"training.init_from={one}", *settings, "training.updates=6"]
    alone, two = f"warm-one-{len(settings)}", f"warm-two-{len(settings)}"
    go(toy_file, Run(alone, overrides=overrides))
    runs = go_on_gloo(toy_file, [Run(two, 2, overrides)], num_processes=2)
    first, second = weights_of(toy_file.parent / alone), weights_of(runs / two)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    seen: list[Any] = [json.loads(path.read_text()) for path in (runs / two).glob("seen-*")]
    assert len(seen) == 2


def test_workers_get_an_absolute_path_of_the_source(
    toy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, expected in (
        ("runs/a", f"{tmp_path}/runs/a"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("", ""),
    ):
        experiment = load_experiment(toy_file, [f"training.init_from={given}"])
        assert with_absolute_source(experiment).training.init_from == expected
