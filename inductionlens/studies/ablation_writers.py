"""Which earlier heads do the removed induction heads read?"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from inductionlens.errors import InputError
from inductionlens.heads import Head
from inductionlens.models import Model
from inductionlens.models.vocabulary import choose_bos
from inductionlens.paths import PathEffects, measure_paths
from inductionlens.studies.ablation_groups import Group
from inductionlens.studies.ablation_options import AblationOptions
from inductionlens.studies.ablation_stimuli import random_blocks
from inductionlens.studies.pool import make_pool

#: A reader reads a head if it loses this share without it.
READ = 0.1
#: Sequences the shares are measured on: what counts is the order of magnitude.
SEQUENCES = 4
#: Reader -> the heads it reads, with the share that is lost without each.
Writers = Mapping[Head, Mapping[Head, float]]


def measure_writers(model: Model, groups: Sequence[Group], options: AblationOptions) -> tuple[Writers, str]:
    """The heads of random sets that each removed induction head reads, and why that could not be measured, if so.

    A head of an earlier layer is read if the reader loses at least 10% without it: of its prefix matching, with the
    head ablated altogether or taken out of the reader's queries or keys; or of its effect on the right logit, with the
    head taken out of the reader's values. See `measure_paths`; on 4 sequences of a random block repeated once. A head
    that is read is called a writer.
    """
    readers = max((group.heads for group in groups if group.set == "induction"), key=len, default=())
    deepest = max((reader.layer for reader in readers), default=0)
    drawn = sorted({head for group in groups if group.set == "random" for head in group.heads if head.layer < deepest})
    if not drawn:
        return {reader: {} for reader in readers}, ""
    try:
        bos = choose_bos(model, options.bos)
        period = min(options.period, (model.cfg.n_ctx - int(bos is not None)) // 2)
        pool = make_pool(model, bos, options.pool, options.text)
        probe = random_blocks(pool, bos, period, 2, SEQUENCES, seed=options.seed, purpose="writers")
        paths = measure_paths(model, probe, drawn, readers, batch_size=options.batch_size)
    except InputError as error:
        return {}, str(error)
    lost = largest_share_lost(paths)
    return {
        reader: {head: float(lost[row, column]) for row, head in enumerate(drawn) if lost[row, column] >= READ}
        for column, reader in enumerate(readers)
    }, ""


def largest_share_lost(paths: PathEffects) -> Float[np.ndarray, "writer reader"]:
    """The largest share a reader loses without a writer: of prefix matching with the writer ablated, or taken out of
    queries or keys; of the logit effect with it taken out of values. NaN where the writer is in no earlier layer."""
    prefix = [paths.prefix_ablated, paths.prefix_without["total", "q"], paths.prefix_without["total", "k"]]
    shares = [_share_lost(without, paths.prefix_matching) for without in prefix]
    shares.append(_share_lost(paths.logit_without["total", "v"], paths.induction_logit))
    return np.fmax.reduce(shares)


def _share_lost(
    without: Float[np.ndarray, "writer reader sequence"], clean: Float[np.ndarray, "reader sequence"]
) -> Float[np.ndarray, "writer reader"]:
    """Which share of the mean over sequences is gone; NaN where there is nothing to lose."""
    whole = clean.mean(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, 1 - without.mean(-1) / whole, np.nan)


def holds_writer(groups: Sequence[Group], writers: Writers) -> list[str]:
    """``yes`` or ``no`` for each random set: does it hold a head that the induction heads of the same number read?

    Empty for other sets, and where ``writers`` is, because paths could not be measured.
    """
    readers = {len(group.heads): group.heads for group in groups if group.set == "induction"}
    answers = []
    for group in groups:
        if group.set != "random" or not writers:
            answers.append("")
            continue
        read = {head for reader in readers[len(group.heads)] for head in writers[reader]}
        answers.append("yes" if read & set(group.heads) else "no")
    return answers
