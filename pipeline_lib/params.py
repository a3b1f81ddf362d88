"""The typed parameters of a pipeline, as frozen records; `params_file` reads them from params.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pipeline_lib.parsing import parse
from pipeline_lib.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share, ShareBelowOne

T = TypeVar("T")
INDEX_KINDS = ("flat", "ivf", "hnsw")  # values of decode.index


@dataclass(frozen=True)
class KCore:
    user: NonNegativeInt = 0
    item: NonNegativeInt = 0


@dataclass(frozen=True)
class IngestParams:
    path: str
    format: Literal["atomic", "table", "movielens", "amazon", "yelp", "mind", "steam", "hetrec", "demo"]
    columns: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    title: str | None = "title"
    text: tuple[str, ...] = ()
    order: Literal["time", "position", "none"] = "time"
    min_rating: float | None = None
    after: float | None = None
    before: float | None = None
    k_core: KCore = KCore()
    max_bad_rows: NonNegativeInt = 0


@dataclass(frozen=True)
class CandidateParams:
    source: Literal["sampled", "impressions"] | None = None
    negatives: PositiveInt = 10
    users: PositiveInt | None = None


@dataclass(frozen=True)
class SplitParams:
    kind: Literal["leave_one_out", "ratio", "by_user", "given"]
    file: str | None = None
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    by: Literal["time", "history"] = "time"
    test_users: ShareBelowOne = 0.1
    valid_users: ShareBelowOne = 0.1
    max_history: PositiveInt | None = None
    unseen_user_share: ShareBelowOne = 0.0
    min_history: NonNegativeInt = 1
    refit: bool = False
    candidates: CandidateParams = CandidateParams()


@dataclass(frozen=True)
class SequencesParams:
    max_items: PositiveInt = 20
    train_targets: Literal["prefixes", "last", "windows"] = "prefixes"
    user_buckets: NonNegativeInt = 0


@dataclass(frozen=True)
class TrainingParams:
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat = 0.01
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    warmup_share: Share = 0.05
    clip_norm: PositiveFloat = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    bucket_batches: PositiveInt = 50
    validate_every: PositiveInt = 1
    validate_users: PositiveInt | None = None
    patience: PositiveInt = 10
    early_stopping: Literal["ndcg@10", "recall@10", "loss"] = "ndcg@10"


@dataclass(frozen=True)
class DecodeParams:
    kind: str
    beam_size: PositiveInt = 50
    top_k: PositiveInt = 30
    filter_history: bool = True
    candidate_sets: bool = False
    batch_size: PositiveInt = 256
    prompt: Literal["seen", "unseen", "user_only"] = "seen"
    index: str | None = None
    beta: Share | None = None


@dataclass(frozen=True)
class EvaluateParams:
    ks: tuple[PositiveInt, ...] = (1, 5, 10, 20, 30)


@dataclass(frozen=True)
class Options:
    """A kind and its own options, which the kind's module parses into its ``Config``."""

    kind: str
    where: str
    values: Mapping[str, Any]

    def parse(self, config: type[T]) -> T:
        return parse(config, self.values, self.where)


@dataclass(frozen=True)
class EmbedParams:
    sources: tuple[str, ...]
    options: Mapping[str, Options]


@dataclass(frozen=True)
class TokenizerParams:
    kind: str
    source: str
    cf_source: str
    collisions: Literal["suffix", "sinkhorn", "none"]
    max_collision_rate: Share
    min_utilisation: Share
    options: Options


@dataclass(frozen=True)
class RecommenderParams:
    kind: str
    options: Options


@dataclass(frozen=True)
class Params:
    """``blocks``: the options of every kind, chosen or not, by their place, e.g. ``tokenizer.rqvae``."""

    seed: NonNegativeInt
    preset: Mapping[str, str]
    ingest: IngestParams
    split: SplitParams
    embed: EmbedParams
    tokenizer: TokenizerParams
    sequences: SequencesParams
    recommender: RecommenderParams
    training: TrainingParams
    decode: DecodeParams
    evaluate: EvaluateParams
    ablations: tuple[str, ...] = ()
    blocks: Mapping[str, Options] = field(default_factory=dict)

    @property
    def chosen(self) -> tuple[Options, ...]:
        """Those of ``blocks`` that some stage of this run reads."""
        return (*(self.embed.options[source] for source in self.embed.sources), self.tokenizer.options,
                self.recommender.options)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that dvc.yaml makes of these parameters."""
        embed = (f"embed@{source}" for source in self.embed.sources)
        return "ingest", "split", *embed, "quantize", "build_sequences", "finetune", "decode", "evaluate"
