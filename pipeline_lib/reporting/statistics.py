"""Is one method better than another for these users? Tests and intervals over paired differences, one value a user.

Only how often each value occurs matters to a mean, so both draw counts of the distinct values, not users one by one:
ten thousand draws for twenty thousand users take well under a second.
"""

from collections.abc import Mapping

import numpy as np

UserValues = tuple[np.ndarray, np.ndarray]


def paired_permutation_test(differences: np.ndarray, generator: np.random.Generator, flips: int = 10_000) -> float:
    """Two-sided p of the hypothesis that a user's difference is as likely to have either sign.

    Source: Smucker, Allan and Carterette 2007, "A comparison of statistical significance tests for information
    retrieval evaluation"; the observed signs count as one draw (Phipson and Smyth 2010), so p is never 0.

    Args:
        differences: ``(n,)`` float, method minus reference.
        flips: draws of random signs.

    Raises:
        ValueError: if there is no difference to look at.
    """
    _refuse_empty(differences)
    sizes, counts = np.unique(np.abs(differences[differences != 0]).round(12), return_counts=True)
    positive = generator.binomial(counts, 0.5, size=(flips, len(counts)))  # how many of each size come out positive
    sums = np.abs((2 * positive - counts) @ sizes)
    observed = abs(float(differences.sum()))
    return float((1 + (sums >= observed - 1e-9 * max(1.0, observed)).sum()) / (flips + 1))


def bootstrap_interval(values: np.ndarray, generator: np.random.Generator, level: float = 0.95,
                       resamples: int = 10_000) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron 1979), users drawn with replacement.

    Args:
        values: ``(n,)`` float, e.g. paired differences.
        level: the share of resampled means inside.

    Raises:
        ValueError: if there is no value.
    """
    _refuse_empty(values)
    distinct, counts = np.unique(values.round(12), return_counts=True)
    means = generator.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_and_spread(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and sample standard deviation over seeds; None where there is one seed only."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_differences(method: Mapping[int, UserValues], reference: Mapping[int, UserValues]) -> np.ndarray:
    """One difference a user, averaged over the seeds for which both have that user.

    Args:
        method, reference: a seed -> users ``(m,)``, none twice, and their values ``(m,)``.

    Returns:
        ``(n,)`` float64, of the users that some common seed shares, in order; empty where there is none.
    """
    users, differences = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for seed in sorted(method.keys() & reference.keys()):
        (ours, values), (theirs, others) = method[seed], reference[seed]
        both, place, other_place = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
        users.append(both)
        differences.append(np.asarray(values, np.float64)[place] - np.asarray(others, np.float64)[other_place])
    _, user_of, counts = np.unique(np.concatenate(users), return_inverse=True, return_counts=True)
    return np.bincount(user_of, np.concatenate(differences), minlength=len(counts)) / np.maximum(counts, 1)


def _refuse_empty(values: np.ndarray) -> None:
    if len(values) == 0:
        raise ValueError("no user has a value for both methods; compare runs of one protocol")
