"""Bundles: round trips, every kind of damage, what is kept, and one of an old format.

`python tests/test_checkpoint.py` writes the golden bundle anew; do that for a new format only.
"""

import errno
import json
import logging
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from nmt import checkpoint
from nmt.checkpoint import TrainingState
from nmt.config.experiment import CorpusConfig, Experiment, ModelConfig, ParallelText, SubwordConfig
from nmt.corpus.subword import Subword
from nmt.errors import BundleError
from nmt.model import seq2seq

GOLDEN = Path(__file__).parent / "golden" / "run-of-format-1"
LINES = ["the dog sees the cat", "der Hund sieht die Katze", "the cats see the dogs"] * 2
MODEL = ModelConfig(width=4, heads=2, encoder_layers=1, decoder_layers=1, ffn_width=4)
CORPUS = CorpusConfig(
    train=[ParallelText(name="toy", src="train.en", tgt="train.de")],
    dev=ParallelText(name="dev", src="dev.en", tgt="dev.de"),
)
EXPERIMENT = Experiment(name="toy", corpus=CORPUS, model=MODEL)
SUBWORD = Subword.train(LINES, SubwordConfig(vocab_size=300))
FILES = [
    "bundle.json",
    "config.yaml",
    "tokenizer.json",
    "weights.safetensors",
    "training/optimizer.safetensors",
    "training/state.json",
    "training/weights.safetensors",
]


def state(update: int = 500, has_average: bool = True) -> TrainingState:
    torch.manual_seed(update)
    model = seq2seq.build(MODEL, SUBWORD.num_pieces)
    parameters = dict(model.named_parameters())
    return TrainingState(
        update=update,
        weights=model.state_dict(),
        average={name: torch.randn_like(one) for name, one in parameters.items()}
        if has_average
        else None,
        optimizer={
            **{f"{name}.exp_avg": torch.randn_like(one) for name, one in parameters.items()},
            "step": torch.tensor(float(update)),
        },
        counters={"best_bleu": 31.25, "bad_validations": 2, "epochs": [0.1 + 0.2, None]},
    )


def save(run: Path, update: int = 500, bleu: float | None = None, **options: Any) -> Path:
    signature = "" if bleu is None else "nrefs:1|tok:13a"
    return checkpoint.save(
        run, EXPERIMENT, SUBWORD.to_json(), state(update, **options), bleu, signature
    )


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def message_of(act: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as error:
        act()
    return str(error.value)


# What is written comes back.


def test_a_bundle_has_its_files_under_the_number_of_its_update(tmp_path: Path) -> None:
    """P5."""
    folder = save(tmp_path)
    assert folder == tmp_path / "checkpoints" / "update-00000500"
    assert files_below(folder) == sorted(FILES)
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("has_average", [True, False])
def test_training_state_comes_back_bit_for_bit(has_average: bool, tmp_path: Path) -> None:
    """P4, P5."""
    written = state(has_average=has_average)
    found = checkpoint.load_training_state(save(tmp_path, has_average=has_average))
    assert found.update == 500
    assert found.counters == written.counters
    assert_same(found.weights, written.weights)
    assert_same(found.optimizer, written.optimizer)
    if written.average is None:
        assert found.average is None
    else:
        assert_same({name: found.average[name] for name in written.average}, written.average)


def test_values_that_are_no_numbers_come_back(tmp_path: Path) -> None:
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    written = TrainingState(1, {"a": odd}, None, {"empty": torch.zeros(0, 3)}, {})
    folder = checkpoint.save(tmp_path, EXPERIMENT, SUBWORD.to_json(), written)
    found = checkpoint.load_training_state(folder)
    assert found.weights["a"].view(torch.int32).tolist() == odd.view(torch.int32).tolist()
    assert found.optimizer["empty"].shape == (0, 3)


def test_the_average_translates_and_stays_tied(tmp_path: Path) -> None:
    """P5."""
    average = state().average
    assert average is not None
    model = checkpoint.load(save(tmp_path)).model()
    assert_same(dict(model.named_parameters()), average)
    assert model.tgt_embedding.weight is model.src_embedding.weight
    assert not model.training


def test_without_an_average_the_weights_translate_and_are_stored_once(tmp_path: Path) -> None:
    folder = save(tmp_path, has_average=False)
    assert_same(checkpoint.load(folder).model().state_dict(), state().weights)
    assert "training/weights.safetensors" not in files_below(folder)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    tied = torch.randn(1000, 100)
    written = TrainingState(1, {"a": tied, "b": tied, "c": tied.clone()}, None, {}, {})
    folder = checkpoint.save(tmp_path, EXPERIMENT, SUBWORD.to_json(), written)
    assert (folder / "weights.safetensors").stat().st_size < 2.1 * tied.nbytes
    found = checkpoint.load_training_state(folder).weights
    assert_same(found, written.weights)
    assert found["a"] is found["b"]


def test_an_averaged_tied_weight_stands_under_all_its_names(tmp_path: Path) -> None:
    tied = torch.zeros(2)
    written = TrainingState(1, {"a": tied, "b": tied}, {"a": torch.ones(2)}, {}, {})
    folder = checkpoint.save(tmp_path, EXPERIMENT, SUBWORD.to_json(), written)
    assert checkpoint.load(folder).weights["b"].tolist() == [1, 1]


def test_config_tokenizer_and_score_come_back(tmp_path: Path) -> None:
    """P5, P11."""
    bundle = checkpoint.load(save(tmp_path, bleu=30.5))
    assert bundle.experiment == EXPERIMENT
    assert bundle.subword.fingerprint == SUBWORD.fingerprint
    info = bundle.info
    assert (info.update, info.bleu, info.bleu_signature) == (500, 30.5, "nrefs:1|tok:13a")


def test_the_same_state_makes_the_same_bytes(tmp_path: Path) -> None:
    folders = [save(tmp_path / run) for run in ("a", "b")]
    first, second = ([(folder / name).read_bytes() for name in FILES] for folder in folders)
    assert first == second


def test_a_checkpoint_of_the_same_update_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, bleu=1.0)
    folder = save(tmp_path, bleu=2.0)
    checkpoint.verify(folder)
    assert checkpoint.read_info(folder).bleu == 2.0
    assert list(folder.parent.iterdir()) == [folder]


def test_nothing_in_a_bundle_is_pickled(tmp_path: Path) -> None:
    """P10."""
    folder = save(tmp_path)
    for name in FILES:
        data = (folder / name).read_bytes()
        assert not data.startswith((b"\x80", b"PK"))


# Writing is whole or nothing.


def test_every_file_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5."""
    events: list[str] = []
    handles: list[int] = []
    rename, sync = Path.rename, checkpoint._sync

    def spy_sync(path: Path) -> None:
        events.append(path.name)
        sync(path)

    def spy_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", handles.append)
    monkeypatch.setattr(checkpoint, "_sync", spy_sync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    save(tmp_path / "run")
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    new_folders, before = before[:2], before[2:]
    assert new_folders == ["run", tmp_path.name]
    assert sorted(before[:-1]) == sorted([*(Path(name).name for name in FILES), "training"])
    assert before[-1].endswith(".writing")
    assert after == ["checkpoints"]
    assert len(handles) == len(events) - 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_halfway_leaves_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5, P9."""
    before = save(tmp_path, 400)
    write_tensors = checkpoint.save_file

    def fill_up(tensors: Any, file: Path, metadata: Any) -> None:
        write_tensors(tensors, file, metadata)
        if file.name == "optimizer.safetensors":
            file.write_bytes(b"half")
            raise error

    monkeypatch.setattr(checkpoint, "save_file", fill_up)
    message = message_of(lambda: save(tmp_path))
    assert message == (
        f"{tmp_path}/checkpoints/update-00000500 was not written: the disk filled up before its "
        "0.1 MB were on it; make room, or keep fewer checkpoints (training.keep_last)"
    )
    assert list(before.parent.iterdir()) == [before]


def test_a_disk_without_room_is_seen_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9e9, 9e9, 20_000))
    message = message_of(lambda: save(tmp_path))
    assert message == (
        f"{tmp_path}/checkpoints/update-00000500 was not written: it needs 0.1 MB, but 0.0 MB are "
        "free there; make room, or keep fewer checkpoints (training.keep_last)"
    )
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """P9."""
    (tmp_path / "checkpoints").write_text("a file")
    message = message_of(lambda: save(tmp_path))
    assert message == (
        f"{tmp_path}/checkpoints/update-00000500 was not written: "
        f"[Errno 17] File exists: '{tmp_path}/checkpoints'"
    )


def test_a_write_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(tensors: Any, file: Path, metadata: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("ending", ["writing", "deleting"])
@pytest.mark.parametrize("verb", ["save", "keep"])
def test_leftovers_of_a_killed_writer_are_no_checkpoints_and_go(
    verb: str, ending: str, tmp_path: Path
) -> None:
    """P5."""
    folder = save(tmp_path)
    shutil.copytree(folder, folder.with_name(f".update-00000900.0123abcd.{ending}"))
    mine = folder.with_name(".mine.writing")
    mine.mkdir()
    assert checkpoint.newest_good(tmp_path) == folder
    if verb == "save":
        save(tmp_path)
    else:
        checkpoint.keep(tmp_path, 1)
    assert sorted(folder.parent.iterdir()) == [mine, folder]


# Damage is refused by name.


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:123])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, "is damaged: 123 bytes, but {size:,} were written"),
        (flip, "is damaged: its SHA-256 is not that of what was written"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    damage: Callable[[Path], None], what: str, name: str, tmp_path: Path
) -> None:
    """P5."""
    save(tmp_path, 400)
    folder = save(tmp_path)
    size = (folder / name).stat().st_size
    damage(folder / name)
    expected = (
        f"{folder}/{name} {what.format(size=size)}; "
        f"use another checkpoint, such as {tmp_path}/checkpoints/update-00000400"
    )
    assert message_of(lambda: checkpoint.verify(folder)) == expected
    used_by = checkpoint.load_training_state if name.startswith("training") else checkpoint.load
    assert message_of(lambda: used_by(folder)) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "is missing: this is no whole checkpoint"),
        ("", "is damaged: it is not JSON"),
        ('{"format": 1', "is damaged: it is not JSON"),
        ("\udcff", "is damaged: it is not JSON"),
        ("[" * 100_000, "is damaged: it is not JSON"),
        ("[1]", "is damaged: it is not what was written"),
        ('{"format": 1}', "is damaged: it is not what was written"),
        ('{"format": "1"}', "is damaged: it is not what was written"),
    ],
)
def test_a_damaged_bundle_json(text: str | None, what: str, tmp_path: Path) -> None:
    """P5."""
    folder = save(tmp_path)
    (folder / "bundle.json").unlink()
    if text is not None:
        (folder / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
    assert message_of(lambda: checkpoint.load(folder)) == (
        f"{folder}/bundle.json {what}; restore it from a copy, or train again"
    )


def complaint_about(folder: Path) -> str:
    try:
        checkpoint.verify(folder)
    except BundleError as error:
        return str(error)
    return ""


def test_no_flipped_byte_goes_unseen(tmp_path: Path) -> None:
    """P5."""
    folder = save(tmp_path)
    info = checkpoint.read_info(folder)
    for name in FILES:
        good = (folder / name).read_bytes()
        for place in range(0, len(good), max(1, len(good) // 50)):
            bad = bytearray(good)
            bad[place] ^= 1 << place % 8
            (folder / name).write_bytes(bad)
            complaint = complaint_about(folder)
            if complaint or name != "bundle.json":
                assert complaint.startswith(f"{folder}/{name} "), place
            else:
                # White space may change there: it says the same.
                assert checkpoint.read_info(folder) == info
        (folder / name).write_bytes(good)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"files": 3}, "keys are missing or unknown"),
        ({"extra": 3}, "keys are missing or unknown"),
        (
            {
                "files": {
                    "../a": {"num_bytes": 1, "sha256": ""},
                    "b": {"num_bytes": 1, "sha256": ""},
                }
            },
            "it lists ../a and 1 more",
        ),
    ],
)
def test_a_bundle_json_of_a_stranger(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    """P10."""
    file = save(tmp_path) / "bundle.json"
    tree = json.loads(file.read_text()) | change
    del tree["sha256"]
    file.write_text(json.dumps(tree | {"sha256": checkpoint._own_digest(tree)}))
    assert message_of(lambda: checkpoint.load(file.parent)) == f"{file} is none of ours: {what}"


def test_a_bundle_of_another_format(tmp_path: Path) -> None:
    """P9."""
    folder = save(tmp_path)
    tree = json.loads((folder / "bundle.json").read_text())
    tree |= {"format": 2, "nmt_version": "9.0"}
    (folder / "bundle.json").write_text(json.dumps(tree))
    version = checkpoint._version()
    assert message_of(lambda: checkpoint.load(folder)) == (
        f"{folder}/bundle.json has format 2, but nmt {version} reads format 1; "
        "use nmt 9.0, which wrote it"
    )


def test_a_config_that_this_version_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9."""
    monkeypatch.setattr(checkpoint, "_version", lambda: "9.0")
    text = checkpoint.config.dump(EXPERIMENT)
    monkeypatch.setattr(checkpoint.config, "dump", lambda experiment: text + "nam: toy\n")
    folder = save(tmp_path)
    monkeypatch.setattr(checkpoint, "_version", lambda: "0.1")
    assert message_of(lambda: checkpoint.load(folder)) == (
        f"{folder}/config.yaml: nam is not a setting; did you mean name?; "
        "nmt 9.0 wrote it, this is nmt 0.1: use the one that wrote it"
    )


def test_weights_of_another_shape(tmp_path: Path) -> None:
    """P9."""
    other = EXPERIMENT.model_copy(update={"model": MODEL.model_copy(update={"ffn_width": 8})})
    folder = checkpoint.save(tmp_path, other, SUBWORD.to_json(), state())
    message = message_of(lambda: checkpoint.load(folder).model())
    assert message.startswith(f"{folder}/weights.safetensors: ")
    assert message.endswith(
        " is [4, 4], but the model's is [8, 4]; "
        "the config or the tokenizer beside it is not the one it was trained with"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "w has no bias and 1 more, but the model does; "),
        (
            {"bias": torch.zeros(1), "weight": torch.zeros(1, 2), "wait": torch.zeros(1)},
            "w has wait, but the model does not; ",
        ),
        (
            {"bias": torch.zeros(1), "weight": torch.zeros(2, 1)},
            "w: weight is [2, 1], but the model's is [1, 2]; ",
        ),
    ],
)
def test_weights_of_another_model(given: dict[str, Tensor], message: str) -> None:
    """P9."""
    model = torch.nn.Linear(2, 1)
    assert message_of(lambda: checkpoint.load_weights(model, given, Path("w"))) == (
        message + "the config or the tokenizer beside it is not the one it was trained with"
    )


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda folder: None, ": there is no such folder; name a run or one of its checkpoints"),
        (
            Path.mkdir,
            " is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
        ),
        (
            lambda folder: (folder / "checkpoints").mkdir(parents=True),
            " has no checkpoint yet; `nmt train` with its config writes one",
        ),
        (
            lambda folder: (folder / "checkpoints" / "update-00000001").mkdir(parents=True),
            " has no whole checkpoint; `nmt train` with its config writes one",
        ),
    ],
)
def test_a_folder_without_a_bundle(make: Callable[[Path], None], what: str, tmp_path: Path) -> None:
    """P9."""
    folder = tmp_path / "run"
    make(folder)
    assert message_of(lambda: checkpoint.load(folder)) == f"{folder}{what}"


# Which one is taken, which ones are kept.


def test_resuming_takes_the_newest_good_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """P5."""
    folders = [save(tmp_path, update) for update in (1000, 1500, 99_999_999, 100_000_000)]
    truncate(folders[3] / "training/optimizer.safetensors")
    (folders[2] / "bundle.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_good(tmp_path) == folders[1]
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == [
        f"passing over a checkpoint: {folders[3]}/training/optimizer.safetensors",
        f"passing over a checkpoint: {folders[2]}/bundle.json",
    ]
    assert checkpoint.load_training_state(tmp_path).update == 1500


def test_a_run_without_a_good_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest_good(tmp_path) is None
    assert checkpoint.best(tmp_path) is None
    assert checkpoint.keep(tmp_path, 1) == []


def test_the_best_has_the_highest_bleu_and_is_the_first_of_equals(tmp_path: Path) -> None:
    for update, bleu in [(1, 20.0), (2, 30.0), (3, 30.0), (4, None)]:
        save(tmp_path, update, bleu)
    assert checkpoint.best(tmp_path) == tmp_path / "checkpoints/update-00000002"


def test_a_run_is_loaded_from_its_best_checkpoint_and_resumed_from_its_newest(
    tmp_path: Path,
) -> None:
    for update, bleu in [(1, 20.0), (2, 10.0)]:
        save(tmp_path, update, bleu)
    assert checkpoint.load(tmp_path).info.update == 1
    assert checkpoint.load_training_state(tmp_path).update == 2


def test_a_run_without_scores_is_loaded_from_its_newest_good_checkpoint(tmp_path: Path) -> None:
    for update in (1, 2, 3):
        save(tmp_path, update)
    truncate(tmp_path / "checkpoints/update-00000003/config.yaml")
    assert checkpoint.load(tmp_path).info.update == 2


def test_keeping_spares_the_newest_and_the_best(tmp_path: Path) -> None:
    for update, bleu in [(1, 20.0), (2, 30.0), (3, 10.0), (4, None), (5, 25.0)]:
        save(tmp_path, update, bleu)
    deleted = checkpoint.keep(tmp_path, 2)
    assert [folder.name for folder in deleted] == ["update-00000001", "update-00000003"]
    left = [folder.name for folder in sorted((tmp_path / "checkpoints").iterdir())]
    assert left == ["update-00000002", "update-00000004", "update-00000005"]


def test_keeping_spares_the_newest_good_one(tmp_path: Path) -> None:
    """P5."""
    folders = [save(tmp_path, update) for update in (1, 2, 3)]
    flip(folders[2] / "weights.safetensors")
    assert checkpoint.keep(tmp_path, 1) == [folders[0]]
    assert checkpoint.newest_good(tmp_path) == folders[1]


# Averages.


def test_an_average_is_the_mean_of_the_weights(tmp_path: Path) -> None:
    folders = [save(tmp_path / "run", update) for update in (1, 2, 3)]
    found = checkpoint.average(folders, tmp_path / "mean")
    weights = [checkpoint.load(folder).weights for folder in folders]
    for name, tensor in found.weights.items():
        mean = sum(one[name].double() for one in weights) / 3
        assert torch.equal(tensor, mean.float())
    assert (found.info.update, found.info.bleu) == (3, None)
    assert found.info.averaged == tuple(map(str, folders))
    checkpoint.verify(tmp_path / "mean")
    assert found.model().tgt_embedding.weight is not None


def test_an_average_of_one_is_itself(tmp_path: Path) -> None:
    bundle = checkpoint.load(save(tmp_path / "run"))
    found = checkpoint.average([bundle.path], tmp_path / "mean")
    assert_same(found.weights, bundle.weights)


def test_an_average_only_translates(tmp_path: Path) -> None:
    """P9."""
    mean = checkpoint.average([save(tmp_path / "run")], tmp_path / "mean").path
    assert files_below(mean) == FILES[:4]
    assert message_of(lambda: checkpoint.load_training_state(mean)) == (
        f"{mean} only translates: it has no training/state.json; go on from a checkpoint of a run"
    )


def test_models_that_differ_have_no_average(tmp_path: Path) -> None:
    """P9."""
    one = save(tmp_path / "a")
    wide = EXPERIMENT.model_copy(update={"model": MODEL.model_copy(update={"dropout": 0.5})})
    two = checkpoint.save(tmp_path / "b", wide, SUBWORD.to_json(), state())
    assert message_of(lambda: checkpoint.average([one, two], tmp_path / "mean")) == (
        f"cannot average {one} and {two}: model.dropout is 0.2 and 0.5; "
        "only weights of one model have a mean"
    )
    assert not (tmp_path / "mean").exists()


def test_tokenizers_that_differ_have_no_average(tmp_path: Path) -> None:
    """P9."""
    one = save(tmp_path / "a")
    other = Subword.train(["etwas anderes"] * 4, SubwordConfig(vocab_size=300))
    two = checkpoint.save(tmp_path / "b", EXPERIMENT, other.to_json(), state())
    assert message_of(lambda: checkpoint.average([one, two], tmp_path / "mean")) == (
        f"cannot average {one} and {two}: their tokenizers differ; "
        "only embeddings of the same pieces have a mean"
    )


def test_an_average_does_not_overwrite(tmp_path: Path) -> None:
    """P9."""
    folder = save(tmp_path)
    assert message_of(lambda: checkpoint.average([folder], tmp_path)) == (
        f"{tmp_path} is there already; name another folder, or remove it"
    )


def test_an_average_of_nothing(tmp_path: Path) -> None:
    """P9."""
    assert message_of(lambda: checkpoint.average([], tmp_path / "mean")) == (
        "nothing to average: name one bundle or more"
    )


# A bundle of an old version still loads.


def logits(model: seq2seq.Seq2Seq) -> list[float]:
    """What the model makes of a fixed source after two fixed tokens: four of its logits."""
    src, lengths = torch.tensor([[260, 261, 262, 2]]), torch.tensor([4])
    with torch.no_grad():
        memory = model.encode(src, lengths)
        _, then, _ = model.step(torch.tensor([1]), model.start(memory, 1), memory)
        return model.step(torch.tensor([263]), then, memory)[0][0, 260:264].tolist()


def test_a_bundle_of_format_1_loads_and_translates_as_it_did() -> None:
    """P5."""
    checkpoint.verify(GOLDEN / "checkpoints/update-00000003")
    bundle = checkpoint.load(GOLDEN)
    assert bundle.subword.decode(bundle.subword.encode("der Hund sieht Öl")) == "der Hund sieht Öl"
    assert (bundle.info.update, bundle.info.bleu) == (3, 12.5)
    assert bundle.experiment.model.width == 4
    golden = [-0.548952, -1.358822, 2.430061, -6.458239]
    assert logits(bundle.model()) == pytest.approx(golden, abs=1e-5)


def test_training_goes_on_from_a_bundle_of_format_1() -> None:
    """P4."""
    found = checkpoint.load_training_state(GOLDEN)
    assert found.counters == {"best_bleu": 31.25, "bad_validations": 2, "epochs": [0.1 + 0.2, None]}
    assert found.optimizer["step"].item() == 3


def test_a_damaged_copy_of_the_bundle_of_format_1_is_refused(tmp_path: Path) -> None:
    """P5."""
    shutil.copytree(GOLDEN, tmp_path / "run")
    file = tmp_path / "run/checkpoints/update-00000003/weights.safetensors"
    flip(file)
    assert message_of(lambda: checkpoint.load(tmp_path / "run")) == (
        f"{file} is damaged: its SHA-256 is not that of what was written; "
        "restore it from a copy, or train again"
    )


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    checkpoint._version = lambda: "0.1.0"
    print(save(GOLDEN, 3, 12.5), logits(checkpoint.load(GOLDEN).model()))
