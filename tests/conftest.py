"""Fixtures shared by several test packages."""

import contextlib
import io
import logging
import os
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from nmt.config.corpus import CleaningConfig
from nmt.config.experiment import Experiment
from nmt.config.settings import add_legacy_values
from nmt.model.mkl import set_strict_mode

# Before torch is imported: on a busy machine threads that wait for each other cost 10x.
os.environ.setdefault("OMP_NUM_THREADS", "1")
set_strict_mode()

# Deadlines fail on a busy machine.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for `pytest -n 2 --dist loadgroup` so that they share their fixtures.

    A group is the tests of a package that start Ray, or its other tests.
    """
    places = {}
    for item in items:
        package = item.path.relative_to(ROOT / "tests").parts[0]
        is_on_ray = item.get_closest_marker("ray") is not None
        item.add_marker(pytest.mark.xdist_group(f"{package}-ray" if is_on_ray else package))
        # Tests on Ray mostly wait: the longest group runs first, beside packages that compute.
        if not is_on_ray:
            places[item] = 1
        else:
            places[item] = 0 if package == "jobs" else 2
    items.sort(key=lambda item: places[item])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real corpora: NMT_TEST_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("NMT_TEST_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; set NMT_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Query string of addresses on an S3-compatible server on loopback.

    The server has one bucket called "bucket"; credentials are in the environment.
    """
    from moto.server import ThreadedMotoServer

    # Set before pyarrow reads them: without credentials it asks the EC2 metadata service.
    secrets = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    os.environ.update({**secrets, "AWS_EC2_METADATA_DISABLED": "true"})
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    make = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
    urllib.request.urlopen(make).close()
    yield f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium that keeps the messages of its console."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    service = shutil.which("chromedriver")
    if not (program and service):
        pytest.skip("no browser: install chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(service))
    yield driver
    driver.quit()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if it starts or connects to a Ray cluster."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("ray.init was called")

    monkeypatch.setattr("ray.init", refuse)


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Experiment]:
    """Function that writes pairs as raw files and returns an experiment that names them."""

    def make(
        train: dict[str, list[tuple[str, str]]],
        dev: list[tuple[str, str]] | None = None,
        prepared: str = "prepared",
        **corpus: Any,
    ) -> Experiment:
        raw = tmp_path / "raw"
        raw.mkdir(exist_ok=True)
        sets = {**train, "dev": dev or [("A dog runs.", "Ein Hund rennt.")]}
        for name, pairs in sets.items():
            for side, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
                text = "".join(line + "\n" for line in lines)
                (raw / f"{name}.{side}").write_text(text, encoding="utf-8", newline="\n")
        texts = {name: {"name": name, "src": f"{name}.en", "tgt": f"{name}.de"} for name in sets}
        # Toy sentences repeat each other: only the rules of the first version apply.
        cleaning = add_legacy_values(CleaningConfig, corpus.pop("cleaning", {}))
        settings = {
            "src": "en",
            "tgt": "de",
            "root": str(raw),
            "cleaning": cleaning,
            "prepared": str(tmp_path / prepared),
            "train": [texts[name] for name in train],
            "dev": texts["dev"],
            "subword": {"vocab_size": 400},
            **corpus,
        }
        return Experiment.model_validate({"name": "tiny", "corpus": settings})

    return make


TINY_EN = ("a dog runs", "two dogs run", "a cat sleeps", "two cats sleep", "my dog sees a cat")
TINY_DE = ("ein Hund rennt", "zwei Hunde rennen", "eine Katze schläft", "zwei Katzen schlafen",
           "mein Hund sieht eine Katze")  # fmt: skip
TINY = """\
name: tiny
corpus:
  src: en
  tgt: de
  root: raw
  train: [{name: train, src: train.en, tgt: train.de}]
  dev: {name: dev, src: dev.en, tgt: dev.de}
  tests: [{name: news, src: news.en, tgt: news.de}, {name: talks, src: talks.en, tgt: talks.de}]
  cleaning: {leaks: false, source_leaks: false, numbers: false}
  subword: {vocab_size: 320}
batching: {max_tokens: 512, max_length: 32}
model: {width: 32, encoder_layers: 1, decoder_layers: 1, ffn_width: 0, heads: 2, dropout: 0.0}
training:
  updates: 60
  learning_rate: 0.02
  warmup_updates: 5
  ema_decay: 0.5
  log_every: 10
  validate_every: 30
  checkpoint_every: 30
decoding: {beam: 2, max_length_extra: 4}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small trained model: tiny.yaml, raw/, prepared/tiny/ and runs/tiny/.

    The run has checkpoints after 30 and 60 updates. Tests that change files use a copy: `here`.
    """
    from nmt.config.files import load_experiment
    from nmt.corpus.prepare import prepare
    from nmt.corpus.prepared import open_prepared, read_dev
    from nmt.training.data import TrainingData
    from nmt.training.distributed import World
    from nmt.training.loop import train

    root = tmp_path_factory.mktemp("tiny")
    (root / "raw").mkdir()
    lines = {"en": TINY_EN, "de": TINY_DE}
    for side, texts in lines.items():
        many = [f"{number} {text}." for number in range(20) for text in texts]
        sets = {"train": many, "dev": many[:8], "news": many[8:13], "talks": many[13:16]}
        for name, of_set in sets.items():
            (root / f"raw/{name}.{side}").write_text("\n".join(of_set) + "\n", encoding="utf-8")
    (root / "tiny.yaml").write_text(TINY, encoding="utf-8")
    with contextlib.chdir(root):
        experiment = load_experiment("tiny.yaml")
        prepare(experiment)
        shards, subword = open_prepared(experiment)
        corpus = TrainingData(shards, subword, read_dev("prepared/tiny"))
        train(experiment, corpus, World(), root / "runs/tiny")
    return root


@pytest.fixture
def here(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of the folder of the tiny model; the working folder of the test."""
    folder = tmp_path / "here"
    shutil.copytree(tiny, folder)
    monkeypatch.chdir(folder)
    return folder


@dataclass(frozen=True)
class Answer:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def nmt(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Answer]:
    """Function that runs `nmt ARGUMENTS`, separated by spaces, in this process."""
    from nmt.cli.main import main

    def call(arguments: str, stdin: bytes = b"") -> Answer:
        monkeypatch.setattr(sys, "argv", ["nmt", *arguments.split()])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = (text.decode() for text in capfdbinary.readouterr())
        return Answer(ended.value.code or 0, out, err)

    return call
