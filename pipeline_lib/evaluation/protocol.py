"""The protocol of a run in one line: figures may stand in one row only where this line is the same."""

from pathlib import PurePath

from pipeline_lib.params import CandidateParams, IngestParams, Params, SplitParams

USUAL_LENGTH = 30  # of the lists that are scored, which mrr depends on


def describe_protocol(params: Params) -> str:
    """Everything that decides which users are asked for, with which histories, targets and candidates.

    Options that are off are left out, e.g. ``beauty | leave_one_out, one target | full ranking | history kept``.
    """
    parts = [PurePath(params.ingest.path).name, *_filters(params.ingest), ", ".join(_split(params.split))]
    if params.decode.kind == "score":
        return " | ".join([*parts, _candidates(params.split.candidates)])
    parts += ["full ranking", "history filtered" if params.decode.filter_history else "history kept"]
    if max(params.evaluate.ks) != USUAL_LENGTH:
        parts.append(f"lists of {max(params.evaluate.ks)}")
    return " | ".join(parts)


def _candidates(candidates: CandidateParams) -> str:
    rule = f"{candidates.negatives} sampled negatives" if candidates.source == "sampled" else (
        f"shown candidates, {candidates.negatives} negatives at most")
    return rule if candidates.users is None else f"{rule}, {candidates.users} users"


def _filters(ingest: IngestParams) -> list[str]:
    limits = {"rating from": ingest.min_rating, "time from": ingest.after, "time before": ingest.before}
    filters = [f"{name} {value:.15g}" for name, value in limits.items() if value is not None]
    cores = (ingest.k_core.user, ingest.k_core.item)
    if max(cores) > 0:
        filters.append(f"{cores[0]}-core" if cores[0] == cores[1] else f"user {cores[0]}-core, item {cores[1]}-core")
    return [", ".join(filters)] if filters else []


def _split(split: SplitParams) -> list[str]:
    kinds = {
        "leave_one_out": ["leave_one_out", "one target"],
        "ratio": [f"ratio {':'.join(f'{ratio:g}' for ratio in split.ratios)} by {split.by}", "all held-out targets"],
        "by_user": [f"by_user {split.valid_users:g} valid {split.test_users:g} test", "one target"],
        "given": [f"given {split.file}", "all held-out targets"],
    }
    details = list(kinds.get(split.kind, [split.kind]))
    if split.max_history is not None:
        details.append(f"last {split.max_history} interactions")
    if split.unseen_user_share > 0:
        details.append(f"unseen users {split.unseen_user_share:g}")
    if split.min_history > 1:
        details.append(f"history from {split.min_history}")
    if split.refit:
        details.append("refitted on validation")
    return details
