"""A bundle for translating alone: no optimizer, no raw weights, fewer bytes if asked."""

from dataclasses import replace
from pathlib import Path

from nmt.checkpoint.format import TOKENIZER, read_text, version
from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.checkpoint.packing import pack
from nmt.checkpoint.write import write
from nmt.errors import CheckpointError
from nmt.model.quantise import Precision


def export(folder: Path, out: Path, precision: Precision | None = None) -> Checkpoint:
    """Write what translates of a bundle, or of a run's best one, in numbers of this precision.

    None: in those that it is stored in. The dev BLEU goes along only where the numbers stay.

    Raises:
        BundleError: there is no bundle, it is damaged, or `out` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} is there already; name another folder, or remove it")
    bundle = load_checkpoint(folder)
    precision = precision or bundle.precision
    info = replace(bundle.info, nmt_version=version(), files={})
    if precision != bundle.precision:
        info = replace(info, bleu=None, bleu_signature="")
    text = read_text(bundle.path, bundle.info, TOKENIZER)
    weights = pack(bundle.weights, precision)
    return load_checkpoint(write(out, bundle.experiment, text, weights, info, None))
