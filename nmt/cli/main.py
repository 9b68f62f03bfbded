"""The program `nmt`: its verbs in the order in which people need them.

Logs and progress go to standard error, results (translations, scores, settings) to standard output.
Rooms are imported inside the verbs that need them, so that `nmt --help` does not wait for torch.
"""

import click

from nmt.cli.audit import audit
from nmt.cli.backtranslate import backtranslate
from nmt.cli.bench import bench
from nmt.cli.compare import compare
from nmt.cli.demo import demo
from nmt.cli.evaluate import evaluate
from nmt.cli.options import Verbs
from nmt.cli.plan import plan
from nmt.cli.report import report
from nmt.cli.score import score
from nmt.cli.settings import config
from nmt.cli.train import average, export, prepare, train
from nmt.cli.translate import translate
from nmt.cli.tune import tune
from nmt.model.mkl import set_strict_mode


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nmt")
def main() -> None:
    """Train LSTM translation models on Ray, translate with them, and score them.

    Settings stand in a YAML file for what to train and one for where. Any of them can be set on the
    command line: section.key=value for the experiment, cluster.key=value for the cluster.
    """
    set_strict_mode()


for _verb in (
    demo, prepare, train, translate, tune, backtranslate, score, evaluate, compare, report, average,
    export, audit, plan, bench, config,
):  # fmt: skip
    main.add_command(_verb)
