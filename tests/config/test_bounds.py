"""Files and values that would exhaust memory or time."""

import json
import resource
import time
from pathlib import Path

import pytest
from toy_settings import TEXT

from nmt.config.files import load_experiment
from nmt.corpus.subword import Subword
from nmt.errors import ConfigError, DataError
from nmt.model.host_memory import check_memory
from nmt.model.seq2seq import check_model_memory

ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


def message_of(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    assert time.monotonic() - started < 5
    return str(caught.value).removeprefix(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ALIASES, "more than 100,000 values, aliases expanded"),
        ("name: &x [*x]", "an alias contains itself"),
        ("name: " + "[" * 60 + "]" * 60, "more than 50 levels"),
        ("name: !!timestamp abc", "a value does not match its tag"),
        ("name: !!bool abc", "a value does not match its tag"),
    ],
)
def test_hostile_yaml_is_an_error(tmp_path: Path, text: str, problem: str) -> None:
    assert message_of(tmp_path, text) == f"toy.yaml: not valid YAML: {problem}"


def test_a_file_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmt.config.files._MAX_BYTES", 1 << 20)
    with pytest.raises(ConfigError) as caught:
        load_experiment("/dev/zero")
    assert str(caught.value) == "/dev/zero: more than 1 MiB; give a YAML file of settings"


def test_small_aliases_still_work(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(TEXT + "stages: [&s {from_update: 5, dropout: 0.1}]\n")
    assert load_experiment(path).stages[0].from_update == 5


@pytest.mark.parametrize("key", ["corpus.train.0.weight", "stages.0.weights.news"])
def test_a_weight_of_millions_is_an_error(tmp_path: Path, key: str) -> None:
    stages = "stages: [{from_update: 5, weights: {news: 1}}]\n"
    message = message_of(tmp_path, f"{TEXT}{stages}", f"{key}=1000000")
    assert message == f"command line: {key} is 1000000, but it must be 1000 or less"


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    message = message_of(tmp_path, f"{TEXT}preset: {'x' * 3_000_000}\n")
    assert message == f"toy.yaml: preset is '{'x' * 56}..., but it must be 'none' or 'auto'"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "model.encoder_layers=100000",
            "model.encoder_layers is 100000, but it must be 128 or less",
        ),
        ("model.width=1000000", "model.width is 1000000, but it must be 16384 or less"),
        ("workers=2", "workers is not a setting; did you mean cluster.workers?"),
        ("beam=2", "beam is not a setting; did you mean decoding.beam?"),
        (
            "stages=[{from_update: 9, learning_rate: 1000}]",
            "stages.0.learning_rate is 1000, but it must be 100 or less",
        ),
        ("decoding.beam=1000000", "decoding.beam is 1000000, but it must be 1000 or less"),
        (
            "decoding.length_penalty=1000",
            "decoding.length_penalty is 1000, but it must be 10 or less",
        ),
        (f"seed={'9' * 400}", f"seed is {'9' * 57}..., but it must be less than 2^63"),
        (
            "corpus.root=" + "x" * 256,
            f"corpus.root is '{'x' * 56}..., but no file system has names this long: 255 bytes, "
            "4,095 with directories",
        ),
        (
            'corpus.root="a\\0b"',
            "corpus.root is 'a\\x00b', but it must be text without NUL bytes and lone surrogates",
        ),
    ],
)
def test_values_have_bounds(tmp_path: Path, override: str, expected: str) -> None:
    assert message_of(tmp_path, TEXT, override) == f"command line: {expected}"


@pytest.mark.parametrize("value", ["&x [*x]", "!!timestamp abc", "[&a [*a]]"])
def test_hostile_overrides_are_errors(tmp_path: Path, value: str) -> None:
    expected = f"'corpus.train={value}': the value is not valid YAML: quote it"
    assert message_of(tmp_path, TEXT, f"corpus.train={value}") == expected


def test_memory_is_estimated_before_building(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(TEXT)
    sizes = ["model.width=16384", "model.encoder_layers=64", "model.ffn_width=65536"]
    model = load_experiment(path, sizes).model
    with pytest.raises(
        ConfigError, match=r"^model.width is 16,384 with 64 \+ .* it needs [\d,.]+ GiB"
    ):
        check_model_memory(model, 1000)
    with pytest.raises(ConfigError, match=r"^beam is 5, but it needs 93,132,"):
        check_memory("beam", 5, 1e20)


def test_memory_is_limited_by_the_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 2**28, -1))
    with pytest.raises(ConfigError) as caught:
        check_memory("beam", 5, 2**30)
    rule = "it needs 1.0 GiB of memory and there are 0.2 GiB: use a smaller value"
    assert str(caught.value).replace("0.3 GiB", "0.2 GiB") == f"beam is 5, but {rule}"


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("normalizer", {"type": "Lowercase"}, "normalizer is not that of nmt"),
        ("padding", {"strategy": "BatchLongest"}, "padding is not that of nmt"),
        ("truncation", {"max_length": 3}, "truncation is not that of nmt"),
        ("model.dropout", 0.5, "dropout is not that of nmt"),
        ("model.merges", [["<0x41>", "<0x42>"]], "a merge has parts that are not learnt pieces"),
        ("model.merges", [["a", ""]], "a merge has parts that are not learnt pieces"),
        ("model.merges", 5, "tokenizers cannot load it"),
    ],
)
def test_foreign_tokenizers_are_refused(key: str, value: object, problem: str) -> None:
    from nmt.config.corpus import SubwordConfig

    tree = json.loads(Subword.train(["a dog"] * 9, SubwordConfig(vocab_size=300)).to_json())
    node = tree["model"] if key.startswith("model.") else tree
    node[key.removeprefix("model.")] = value
    with pytest.raises(DataError) as caught:
        Subword.from_json(json.dumps(tree))
    expected = "expected the file that `nmt prepare` wrote"
    assert str(caught.value) == f"tokenizer.json: not a vocabulary of nmt ({problem}); {expected}"
