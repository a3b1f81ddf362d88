"""What a process answers that gets no row of a batch, as the last one of an epoch may be shorter than there are processes."""

from torch import Tensor, nn


def no_rows(model: nn.Module) -> tuple[Tensor, int]:
    """Loss and count of a model's ``forward``: 0 of 0 terms, with a gradient of 0 for every weight that is trained.

    Processes average their gradients, so that each has to have one of every such weight.
    """
    return 0.0 * sum(weight.sum() for weight in model.parameters() if weight.requires_grad), 0
