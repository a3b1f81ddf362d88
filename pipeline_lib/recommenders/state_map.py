"""Two sets of vectors on one plane, to see whether they lie in the same places.

Shapes: n users, D dimensions. Source of the plot: Liu et al. 2025 (ETEGRec), figure 3.
"""

import numpy as np
from sklearn.manifold import TSNE

PERPLEXITY = 30.0


def state_map(preferences: np.ndarray, semantics: np.ndarray, seed: int) -> list[dict[str, float | str]]:
    """t-SNE (van der Maaten & Hinton 2008) of both sets together, by cosine distance.

    Args:
        preferences: ``(n, D)``, a state of each user.
        semantics: ``(n, D)``, the user's target as the tokenizer reconstructs it.

    Returns:
        Rows ``kind`` (preference or semantics), ``user`` (0 to n - 1), ``x``, ``y``.
    """
    both = np.concatenate([preferences, semantics])
    both = both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    perplexity = min(PERPLEXITY, (len(both) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(both)  # unit length: as cosine
    kinds = ["preference"] * len(preferences) + ["semantics"] * len(semantics)
    users = [*range(len(preferences)), *range(len(semantics))]
    return [{"kind": kind, "user": user, "x": round(float(x), 4), "y": round(float(y), 4)}
            for kind, user, (x, y) in zip(kinds, users, places, strict=True)]
