"""`nmt serve`: translation over HTTP."""

import ipaddress
from pathlib import Path
from typing import Any

import click

from nmt.cli import options
from nmt.console import Console
from nmt.corpus.io import check_files
from nmt.decoding.loading import make_translator, open_ensemble, open_model
from nmt.errors import NmtError


@click.command()
@click.argument("run")
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", type=options.Integer(min=0, max=65535), default=8080,
              help="Port; 0: a free one.")  # fmt: skip
@options.request_options
@options.search_options
def serve(
    run: str, host: str, port: int, terms: str | None, avoid: tuple[str, ...],
    ensemble: tuple[str, ...], **search: Any,
) -> None:  # fmt: skip
    """Translate over HTTP.

    POST /translate takes {"lines": ["A dog runs."]} and returns an object per line; GET / is a page
    for the browser. The lines of all clients are translated in common batches. RUN is as of `nmt
    translate`. SIGTERM and Ctrl-C end the server after the running requests. There is no
    authentication.
    """
    check_files([terms] if terms else [])
    try:
        from nmt.serving.http_server import make_app, open_socket, serve_http
    except ModuleNotFoundError as error:
        rule = "install the extra `serve`: pip install -e '.[serve]'"
        raise NmtError(f"nmt serve needs the package {error.name}: {rule}") from None
    from nmt.serving.batcher import Batcher

    # Before gigabytes are read.
    with open_socket(host, port) as listening, Console() as console:
        model = open_model(run)
        others = open_ensemble(model, ensemble)
        translator = make_translator(model, others, **search)
        constrain = options.constraints_of(translator, terms, avoid)
        translator.build_engine()
        corpus = model.experiment.corpus
        facts = {"model": Path(run).name, "src": corpus.src, "tgt": corpus.tgt}
        batcher = Batcher(translator)
        app = make_app(batcher, facts, constrain)
        for each in (model, *others):
            console.print(options.describe(each))
        address, number = listening.getsockname()[:2]
        name = f"[{address}]" if ":" in address else address
        console.log(f"listening on http://{name}:{number} | Ctrl-C ends")
        if not ipaddress.ip_address(address).is_loopback:
            console.print("warning: other machines can use the server; it has no authentication")
        serve_http(app, listening)
        console.log(f"ended after {batcher.num_translated:,} lines")
