"""Starting a run from the weights of another one: training.init_from.

Parameters are matched by name, so that another number of layers takes those that both models have.
Feed-forward layers of another width take the units that both have. Rows of the embeddings and of
the output layer are matched by the text of their pieces; a piece that is new starts as the mean of
the old pieces that spell it. Rank 0 reads the source and sends what it took to the others.
A resumed run never reads the source again.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nmt.checkpoint.format import WEIGHTS, CheckpointState
from nmt.checkpoint.load import Checkpoint, load_checkpoint, load_counters, load_training_state
from nmt.checkpoint.remote import fetch_checkpoint
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.settings import absolute_path, is_address
from nmt.corpus.subword import NUM_RESERVED, Subword
from nmt.errors import CheckpointError, ConfigError, NmtError, TrainingError
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.optimizer import IMPORTANCE, freeze_parameters, keep_importance
from nmt.training.run_manifest import WarmStart
from nmt.training.state import TEACHER, Learner

SAME_SETTINGS = ("preset", "width", "attention", "heads")
"""Settings of the section `model` in which a run and its source must agree."""
PARAMETER_SETTINGS = ("ffn_width", "encoder_layers", "decoder_layers", "tie_embeddings")
"""Further settings that must agree for init_optimizer or init_share, which need all parameters."""
PER_PIECE = ("src_embedding.weight", "tgt_embedding.weight", "output_layer.weight")
"""Parameters with a row per piece of the vocabulary."""
FFN_UNITS = ("ffn.expand.weight", "ffn.expand.bias", "ffn.contract.weight")
"""Ends of the names of the parameters whose size depends on model.ffn_width."""


def check_warm_start(experiment: Experiment, subword: Subword | None = None) -> None:
    """Check training.init_from and training.freeze of a new run; needs no cluster.

    Args:
        experiment: the experiment.
        subword: its vocabulary; None: the corpus is not prepared yet.

    Raises:
        ConfigError: there is no such source, it is corrupt, or does not fit the model; a pattern
            matches no parameter.
    """
    # The sizes of preset auto are known once the corpus is prepared.
    has_sizes = subword is not None or experiment.preset == "none"
    if experiment.training.init_from:
        source = open_source(experiment.training.init_from)
        if has_sizes:
            _check_fit(experiment, source, subword)
    if experiment.training.freeze and has_sizes:
        _trained_parameters(experiment)


def with_absolute_source(experiment: Experiment) -> Experiment:
    """Return the experiment with an absolute path in training.init_from.

    Workers have another working directory than the process that starts them.
    """
    source = absolute_path(experiment.training.init_from)
    return experiment.with_settings("training", init_from=source)


def warm_start(learner: Learner, subword: Subword, world: World) -> WarmStart | None:
    """Fill the learner of a new run from its source. Collective: call on every rank.

    Returns:
        On rank 0, what was taken. The other ranks get the weights in `Learner.share_weights`.

    Raises:
        TrainingError: the source cannot be used.
    """
    found, problem = None, ""
    if world.is_main:
        try:
            found = _take(learner, subword)
        except NmtError as error:
            # Sent to all ranks: if rank 0 raised alone, the others would wait for it.
            problem = str(error)
    if problem := world.all_gather(problem)[0]:
        raise TrainingError(problem)
    if learner.settings.init_optimizer:
        _broadcast_moments(learner, world)
        if learner.settings.init_share:
            keep_importance(learner.optimizer)
    return found


def open_source(location: str) -> Checkpoint:
    """Load the best checkpoint of a run, or a checkpoint; ConfigError names the setting."""
    try:
        if is_address(location):
            return load_checkpoint(fetch_checkpoint(location, Path(Cluster().scratch)))
        return load_checkpoint(Path(location))
    except CheckpointError as error:
        raise ConfigError.from_message(f"training.init_from: {error}") from None


def describe_warm_start(start: WarmStart) -> list[str]:
    """Return the log lines about what a run took from another one."""
    total = start.taken + len(start.new)
    pieces = "same vocabulary"
    if start.new_pieces or start.dropped_pieces:
        pieces = (
            f"{start.kept_pieces:,} pieces kept, {start.new_pieces:,} new (mean of old pieces), "
            f"{start.dropped_pieces:,} dropped"
        )
    optimizer = "optimizer taken" if start.optimizer else "new optimizer"
    lines = [
        f"weights from {start.checkpoint} | {start.taken} of {total} parameters | {pieces} | "
        f"{optimizer}"
    ]
    if start.resized:
        lines.append(f"fitted to model.ffn_width: {_summarise(start.resized)}")
    if start.new:
        lines.append(f"initialised at random: {_summarise(start.new)}")
    if start.unused:
        lines.append(f"not taken: {_summarise(start.unused)}")
    return lines


def _check_fit(experiment: Experiment, source: Checkpoint, subword: Subword | None) -> None:
    """Raise ConfigError if a model cannot start from a source."""
    settings, theirs = experiment.model, source.experiment.model
    takes_optimizer = experiment.training.init_optimizer
    needing = "training.init_optimizer" if takes_optimizer else "training.init_share"
    needs_all = takes_optimizer or experiment.training.init_share > 0
    if experiment.distils and not needs_all:
        needs_all, needing = True, "distillation"
    for key in (*SAME_SETTINGS, *(PARAMETER_SETTINGS if needs_all else ())):
        # The number of heads means nothing to additive attention.
        if key == "heads" and settings.attention == theirs.attention == "additive":
            continue
        mine, found = getattr(settings, key), getattr(theirs, key)
        if mine != found:
            why = "" if key in SAME_SETTINGS else f" for {needing}"
            rule = f"the source {source.path} has {found}: use the same{why}"
            raise ConfigError(f"model.{key}", mine, rule)
    is_other_vocabulary = subword is not None and subword.fingerprint != source.subword.fingerprint
    if experiment.distils and is_other_vocabulary:
        [number, *_] = (n for n, each in enumerate(experiment.corpus.train) if each.distillation)
        weight = f"{experiment.corpus.train[number].distillation:g}"
        rule = f"{source.path} has another vocabulary: set it to 0"
        raise ConfigError(f"corpus.train.{number}.distillation", weight, rule)
    if not takes_optimizer:
        return
    if is_other_vocabulary:
        rule = f"{source.path} has another vocabulary: set it to false"
        raise ConfigError("training.init_optimizer", "true", rule)
    known = _trained_parameters(source.experiment)
    if frozen := [name for name in _trained_parameters(experiment) if name not in known]:
        rule = f"{source.path} froze {_summarise(frozen)}: set it to false, or freeze them too"
        raise ConfigError("training.init_optimizer", "true", rule)
    try:
        load_counters(source.path)
    except CheckpointError as error:
        raise ConfigError.from_message(f"training.init_optimizer: {error}") from None


def _trained_parameters(experiment: Experiment) -> list[str]:
    """Return the names of the parameters that are not frozen."""
    with torch.device("meta"):
        model = Seq2Seq(experiment.model, NUM_RESERVED)
    freeze_parameters(model, experiment.training.freeze)
    return [name for name, each in model.named_parameters() if each.requires_grad]


def _take(learner: Learner, subword: Subword) -> WarmStart:
    """Fill a learner from the source of its experiment, and return what was taken."""
    experiment = learner.experiment
    source = open_source(experiment.training.init_from)
    _check_fit(experiment, source, subword)
    model, weights = learner.model, source.weights
    if experiment.training.init_optimizer:
        stored = load_training_state(source.path)
        learner.load(_moments_for(stored, model), source.path)
    spellings = None
    if subword.fingerprint != source.subword.fingerprint:
        spellings = spell_pieces(subword, source.subword)
    # A tied parameter comes once, under the first of its names: that of the source embedding.
    parameters = dict(model.named_parameters())
    taken = [name for name in parameters if name in weights]
    resized = [
        name
        for name in taken
        if name.endswith(FFN_UNITS) and weights[name].shape != parameters[name].shape
    ]
    for name in taken if not experiment.training.init_optimizer else ():
        given = weights[name]
        if spellings is not None and name in PER_PIECE:
            given = mean_rows(given, spellings)
        if name in resized:
            given = resize_units(name, given, parameters[name].detach())
        parameters[name].data.copy_(given)
        if learner.average is not None:
            learner.average.get_parameter(name).data.copy_(given)
    # Tied weights of the source have several names.
    used = {weights[name].data_ptr() for name in taken}
    mine, theirs = subword.learnt_pieces, source.subword.learnt_pieces
    return WarmStart(
        checkpoint=str(source.path),
        weights_sha256=source.info.files[WEIGHTS].sha256,
        taken=len(taken),
        new=sorted(parameters.keys() - weights.keys()),
        unused=sorted(name for name, each in weights.items() if each.data_ptr() not in used),
        kept_pieces=NUM_RESERVED + len(mine.keys() & theirs.keys()),
        new_pieces=len(mine.keys() - theirs.keys()),
        dropped_pieces=len(theirs.keys() - mine.keys()),
        optimizer=experiment.training.init_optimizer,
        resized=resized,
    )


def spell_pieces(new: Subword, old: Subword) -> list[list[int]]:
    """Return for each piece of a vocabulary the pieces of an old one: itself, or its spelling."""
    known = old.learnt_pieces
    # Special and byte pieces, tags included, have the same ids in every vocabulary.
    spellings = [[token] for token in range(NUM_RESERVED)]
    learnt = new.learnt_pieces
    return spellings + [[known[each]] if each in known else old.spell(each) for each in learnt]


def mean_rows(weight: Tensor, spellings: Sequence[Sequence[int]]) -> Tensor:
    """Return for each list of rows of a matrix their mean, [lists, D]."""
    rows = torch.tensor([row for spelling in spellings for row in spelling])
    lengths = torch.tensor([len(spelling) for spelling in spellings])
    offsets = lengths.cumsum(0) - lengths
    return nn.functional.embedding_bag(rows, weight, offsets, mode="mean")


def resize_units(name: str, given: Tensor, initial: Tensor) -> Tensor:
    """Return a parameter of a feed-forward layer for another number of units.

    The first units are those of the source. Further ones have their random weights, and weight 0 in
    the output: the layer starts with the same output (as in Net2Net, Chen et al. 2016), and learns
    with all units.

    Args:
        name: name of the parameter.
        given: parameter of the source, [F'], [F', D] or [D, F'].
        initial: parameter at random, [F], [F, D] or [D, F].
    """
    resized = initial.clone()
    if name.endswith("contract.weight"):
        resized.zero_()
    shared = tuple(slice(size) for size in given.shape)
    resized[shared] = given[tuple(slice(size) for size in initial.shape)]
    return resized


def _moments_for(state: CheckpointState, model: Seq2Seq) -> CheckpointState:
    """Return a training state with the moments of trained parameters only."""
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    moments = {}
    for key, tensor in state.optimizer.items():
        kind, _, name = key.partition("/")
        # These belong to the weights that the source itself started from.
        if name not in frozen and kind not in (IMPORTANCE, TEACHER):
            moments[key] = tensor
    return replace(state, optimizer=moments)


def _broadcast_moments(learner: Learner, world: World) -> None:
    """Send the optimizer state of rank 0 to all ranks. Collective: call on every rank."""
    state = learner.optimizer.state
    # A source that skipped all its updates has no moments.
    if not world.all_gather(len(state))[0]:
        return
    for parameter in learner.model.parameters():
        if not parameter.requires_grad:
            continue
        if not world.is_main:
            state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        for key in ("step", "exp_avg", "exp_avg_sq"):
            world.broadcast(state[parameter][key])


def _summarise(names: Sequence[str]) -> str:
    """Format names of parameters, those of a layer as one pattern."""
    patterns = [re.sub(r"^(.*?\.\d+)\..*", r"\1.*", name) for name in names]
    return ", ".join(dict.fromkeys(patterns))
