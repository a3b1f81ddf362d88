"""What a decoder's states say of the next code, for models of either kind.

Shapes: D width, R rows that probabilities are normalised over, K codes of a level.
"""

import torch
from torch import Tensor
from torch.nn import functional


def code_log_probs(states: Tensor, classifier: Tensor, wanted: slice, end_token: int | None = None,
                   over_level: bool = False) -> Tensor:
    """Log-probabilities ``(..., K)`` of the ``wanted`` rows of ``classifier (R, D)``, then of the end.

    In float32, also under autocast: codes that differ by less than bf16's 8 bits would tie, and a beam drop the better.

    Args:
        states: ``(..., D)``.
        end_token: the row of the end, where identifiers vary in length.
        over_level: normalise over what is returned, not over all R rows.
    """
    with torch.autocast(states.device.type, enabled=False):
        if over_level:
            rows = classifier[wanted]
            if end_token is not None:
                rows = torch.cat([rows, classifier[end_token, None]])
            return functional.linear(states.float(), rows.float()).log_softmax(dim=-1)
        logits = functional.linear(states.float(), classifier.float())
    chosen = logits[..., wanted]
    if end_token is not None:
        chosen = torch.cat([chosen, logits[..., end_token, None]], dim=-1)
    return chosen - logits.logsumexp(dim=-1, keepdim=True)
