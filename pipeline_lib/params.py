"""params.yaml -> frozen, typed parameters. Unknown keys and wrong types are refused, naming what is known.

Which kinds exist and which of them fit together is the registry's knowledge: `pipeline_lib.variants.load_params`
reads with this module and then checks the combination.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
INDEX_KINDS = ("flat", "ivf", "hnsw")  # values of decode.index


@dataclass(frozen=True)
class KCore:
    user: int = 0
    item: int = 0


@dataclass(frozen=True)
class IngestParams:
    path: str
    format: str
    columns: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    title: str | None = "title"
    text: tuple[str, ...] = ()
    order: str = "time"
    min_rating: float | None = None
    after: float | None = None
    before: float | None = None
    k_core: KCore = KCore()
    max_bad_rows: int = 0


@dataclass(frozen=True)
class CandidateParams:
    source: str | None = None
    negatives: int = 10
    users: int | None = None


@dataclass(frozen=True)
class SplitParams:
    kind: str
    file: str | None = None
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    by: str = "time"
    test_users: float = 0.1
    valid_users: float = 0.1
    max_history: int | None = None
    unseen_user_share: float = 0.0
    min_history: int = 1
    candidates: CandidateParams = CandidateParams()


@dataclass(frozen=True)
class SequencesParams:
    max_items: int = 20
    train_targets: str = "prefixes"
    user_buckets: int = 0


@dataclass(frozen=True)
class TrainingParams:
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup_share: float = 0.05
    clip_norm: float = 1.0
    precision: str = "fp32"
    bucket_batches: int = 50
    validate_every: int = 1
    validate_users: int | None = None
    patience: int = 10
    early_stopping: str = "ndcg@10"


@dataclass(frozen=True)
class DecodeParams:
    kind: str
    beam_size: int = 20
    top_k: int = 30
    filter_history: bool = False
    candidate_sets: bool = False
    batch_size: int = 256
    prompt: str = "seen"
    index: str | None = None
    beta: float | None = None


@dataclass(frozen=True)
class EvaluateParams:
    ks: tuple[int, ...] = (1, 5, 10, 20, 30)


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
    collisions: str
    max_collision_rate: float
    min_utilisation: float
    options: Options


@dataclass(frozen=True)
class RecommenderParams:
    kind: str
    options: Options


@dataclass(frozen=True)
class Params:
    seed: int
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

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that dvc.yaml makes of these parameters."""
        embed = (f"embed@{source}" for source in self.embed.sources)
        return "ingest", "split", *embed, "quantize", "build_sequences", "finetune", "decode", "evaluate"


def read_params(path: Path) -> Params:
    """Read a params.yaml.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the first key that is unknown, missing or of another type.
    """
    return params_from_tree(read_tree(path))


def read_tree(path: Path) -> Mapping[str, Any]:
    """The mapping that a params.yaml holds, not looked into."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no parameters; run `sidflow params` to compose them from conf/")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path}: expected a mapping of parameters, found {type(tree).__name__}")
    return tree


def compose_tree(conf: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What `dvc exp run -S` would compose from a folder conf/, interpolations resolved, as a nested mapping.

    Args:
        overrides: as after -S, e.g. ``paper=tiger``, ``seed=7``.

    Raises:
        ValueError: if a group, preset or key does not exist, in one line.
    """
    from hydra import compose, initialize_config_dir  # a GPU worker has no Hydra, and reads params.yaml alone
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(conf.resolve()), version_base=None):
            return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        said = " ".join(str(error).split()).split(" Config search path")[0]
        raise ValueError(f"conf/: {said}") from error


def params_from_tree(tree: Mapping[str, Any]) -> Params:
    """The same from a nested mapping, e.g. a Hydra composition."""
    _refuse_unknown(tree, {f.name for f in dataclasses.fields(Params)}, "params")
    missing = [f.name for f in dataclasses.fields(Params) if f.default is dataclasses.MISSING and f.name not in tree]
    if missing:
        raise ValueError(f"params: {missing[0]} is missing; run `sidflow params` to compose params.yaml anew")
    plain = {name: parse(typing.get_type_hints(Params)[name], tree[name], name)
             for name in ("ingest", "split", "sequences", "training", "decode", "evaluate")}
    return Params(
        seed=_convert(int, tree["seed"], "seed"),
        preset=_convert(Mapping[str, str], tree["preset"], "preset"),
        ablations=_convert(tuple[str, ...], tree.get("ablations", ()), "ablations"),
        embed=_embed_params(tree["embed"]),
        tokenizer=_kind_params(TokenizerParams, tree["tokenizer"], "tokenizer"),
        recommender=_kind_params(RecommenderParams, tree["recommender"], "recommender"),
        **plain,
    )


def check_ablation(params: Params) -> None:
    """Refuse an ablation of another paper: it would set options that this one's kinds do not read.

    Raises:
        ValueError: naming the ablations of this paper.
    """
    paper, ablation = (params.preset.get(group, "none") for group in ("paper", "ablation"))
    if ablation not in ("none", *params.ablations):
        raise ValueError(f"params: ablation={ablation} is not one of paper={paper}, whose ablations are "
                         f"{', '.join(('none', *params.ablations))}; `ablations` in conf/paper/{paper}.yaml lists them")


def parse(config: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a frozen dataclass from a mapping.

    Args:
        config: the dataclass; fields without a default must be there.
        values: what params.yaml holds at ``where``.
        where: dotted path for messages, e.g. ``tokenizer.rqvae``.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"params: {where} is {values!r}, expected a mapping")
    hints = typing.get_type_hints(config)
    _refuse_unknown(values, hints.keys(), where)
    for f in dataclasses.fields(config):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise ValueError(f"params: {where}.{f.name} is missing")
    return config(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _embed_params(tree: Mapping[str, Any]) -> EmbedParams:
    sources = _convert(tuple[str, ...], tree.get("sources"), "embed.sources")
    options = {name: Options(name, f"embed.{name}", values) for name, values in tree.items() if name != "sources"}
    for source in sources:
        if source not in options:
            raise ValueError(f"params: embed.sources names {source}, which has no options; known: {', '.join(options)}")
    return EmbedParams(sources, options)


def _kind_params(config: type[T], tree: Mapping[str, Any], where: str) -> T:
    """Split shared keys from the blocks of options, one block a kind."""
    shared = {f.name for f in dataclasses.fields(config)} - {"options"}
    blocks = {name: values for name, values in tree.items() if name not in shared}
    for name, values in blocks.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"params: {where}.{name} is not known; known: {', '.join(sorted(shared))}")
    kind = tree.get("kind")
    if kind not in blocks:
        raise ValueError(f"params: {where}.kind is {kind}; known: {', '.join(sorted(blocks))}")
    plain = {name: value for name, value in tree.items() if name in shared}
    _refuse_missing(plain, shared, where)
    hints = typing.get_type_hints(config)
    return config(options=Options(kind, f"{where}.{kind}", blocks[kind]),
                  **{name: _convert(hints[name], value, f"{where}.{name}") for name, value in plain.items()})


def _refuse_missing(values: Mapping[str, Any], names: set[str], where: str) -> None:
    for name in sorted(names):
        if name not in values:
            raise ValueError(f"params: {where}.{name} is missing")


def _refuse_unknown(values: Mapping[str, Any], known: typing.Iterable[str], where: str) -> None:
    for name in values:
        if name not in known:
            raise ValueError(f"params: {where}.{name} is not known; known: {', '.join(sorted(known))}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check a YAML value against a type and give it that type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None and type(None) in args else _convert(inner, value, where)
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], element, f"{where}[{place}]") for place, element in enumerate(value))
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, str]):
        if isinstance(value, Mapping):
            return {str(key): _convert(args[1], element, f"{where}.{key}") for key, element in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint in (int, str, bool) and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ValueError(f"params: {where} is {value!r}, expected {expected}")
