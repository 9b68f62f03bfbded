"""A bundle for translating alone: no optimizer, no raw weights, fewer bytes if asked."""

from dataclasses import replace
from pathlib import Path

from nmt.checkpoint.bundle import TOKENIZER, read_text, version
from nmt.checkpoint.loading import Bundle, load
from nmt.checkpoint.packing import pack
from nmt.checkpoint.writing import write
from nmt.errors import BundleError
from nmt.model.precision import Precision


def export(folder: Path, out: Path, precision: Precision | None = None) -> Bundle:
    """Write what translates of a bundle, or of a run's best one, in numbers of this precision.

    None: in those that it is stored in. The dev BLEU goes along only where the numbers stay.

    Raises:
        BundleError: there is no bundle, it is damaged, or `out` exists.
    """
    if out.exists():
        raise BundleError(f"{out} is there already; name another folder, or remove it")
    bundle = load(folder)
    precision = precision or bundle.precision
    info = replace(bundle.info, nmt_version=version(), files={})
    if precision != bundle.precision:
        info = replace(info, bleu=None, bleu_signature="")
    text = read_text(bundle.path, bundle.info, TOKENIZER)
    weights = pack(bundle.weights, precision)
    return load(write(out, bundle.experiment, text, weights, info, None))
