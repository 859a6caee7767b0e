"""How often chance does as well."""

import numpy as np
from jaxtyping import Float

#: Null means drawn per head. With 19,999 the smallest p is 5e-5: one head among 1,000 can still be found.
DRAWS = 19_999


def p_values(
    observed: Float[np.ndarray, " head"], null: Float[np.ndarray, "head sequence layout"], *, seed: int = 0
) -> Float[np.ndarray, " head"]:
    """p = (C + 1) / (n + 1) per head: how often a null mean reaches the observed one; never 0.

    A null mean averages a head's scores on the sequences of ``null``, each under a layout drawn at random: what the
    head would score if it paid no heed to which tokens repeat. It rules out that attention at the right places is
    owed to positions alone. NaN where the observed score is.
    """
    generator = np.random.default_rng(seed)
    sequences, layouts = null.shape[1:]
    chosen = generator.integers(0, layouts, (DRAWS, sequences))
    found = np.full(len(observed), np.nan)
    for part in np.array_split(np.arange(len(observed)), max(1, len(observed) // 64)):
        means = sum(null[part, sequence][:, chosen[:, sequence]] for sequence in range(sequences)) / sequences
        found[part] = (1 + (means >= observed[part, None]).sum(1)) / (1 + DRAWS)
    return np.where(np.isfinite(observed), found, np.nan)


def false_discovery(p: Float[np.ndarray, " head"]) -> Float[np.ndarray, " head"]:
    """Benjamini and Hochberg's q per head, over all heads of a model; NaN where p is."""
    from scipy import stats

    q = np.full(len(p), np.nan)
    defined = np.isfinite(p)
    if defined.any():
        q[defined] = stats.false_discovery_control(p[defined], method="bh")
    return q
