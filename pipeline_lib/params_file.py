"""params.yaml, or a composition of conf/ -> `Params`.

Which kinds exist and which of them fit together is the registry's knowledge: `pipeline_lib.variants.load_params`
reads with this module and then checks the combination.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline_lib.params import EmbedParams, Options, Params, RecommenderParams, TokenizerParams
from pipeline_lib.parsing import convert, known_names, parse, refuse_missing, refuse_unknown
from pipeline_lib.ranges import NonNegativeInt

T = TypeVar("T")


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
    tree = _read_yaml(path)
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path}: expected a mapping of parameters, found {type(tree).__name__}")
    return tree


def compose_tree(conf: Path, overrides: Sequence[str], *, resolve: bool = True) -> dict[str, Any]:
    """What `dvc exp run -S` would compose from a folder conf/, as a nested mapping.

    Args:
        overrides: as after -S, e.g. ``paper=tiger``, ``seed=7``.
        resolve: whether a value that follows another key is that key's value, not its name in ``${...}``.

    Raises:
        ValueError: if a group, preset or key does not exist, in one line.
    """
    from hydra import compose, initialize_config_dir  # a GPU worker has no Hydra, and reads params.yaml alone
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(conf.resolve()), version_base=None):
            return OmegaConf.to_container(compose("config", list(overrides)), resolve=resolve)
    except yaml.YAMLError as error:
        raise ValueError(f"conf/: not valid YAML ({' '.join(str(error).split())})") from error
    except UnicodeDecodeError:
        for path in sorted(conf.rglob("*.yaml")):
            _read_yaml(path)  # the error does not say which of them it is
        raise
    except (HydraException, OmegaConfBaseException) as error:
        said = " ".join(str(error).split()).split(" Config search path")[0]
        raise ValueError(f"conf/: {said}") from error


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error


def params_from_tree(tree: Mapping[str, Any]) -> Params:
    """The same from a nested mapping, e.g. a Hydra composition."""
    refuse_unknown(tree, {f.name for f in dataclasses.fields(Params)} - {"blocks"}, "")
    missing = [f.name for f in dataclasses.fields(Params)
               if f.default is dataclasses.MISSING and f.name not in ("blocks", *tree)]
    if missing:
        raise ValueError(f"params: {missing[0]} is missing; run `sidflow params` to compose params.yaml anew")
    plain = {name: parse(typing.get_type_hints(Params)[name], tree[name], name)
             for name in ("ingest", "split", "sequences", "training", "decode", "evaluate")}
    blocks = [_blocks(tree[axis], config, axis) for axis, config in
              (("embed", EmbedParams), ("tokenizer", TokenizerParams), ("recommender", RecommenderParams))]
    params = Params(
        seed=convert(NonNegativeInt, tree["seed"], "seed"),
        preset=convert(Mapping[str, str], tree["preset"], "preset"),
        ablations=convert(tuple[str, ...], tree.get("ablations", ()), "ablations"),
        embed=_embed_params(tree["embed"], blocks[0]),
        tokenizer=_kind_params(TokenizerParams, tree["tokenizer"], blocks[1], "tokenizer"),
        recommender=_kind_params(RecommenderParams, tree["recommender"], blocks[2], "recommender"),
        blocks={options.where: options for axis in blocks for options in axis.values()},
        **plain,
    )
    if not params.evaluate.ks:
        raise ValueError("params: evaluate.ks is empty; expected lengths of lists, e.g. [5, 10]")
    return params


def check_ablation(params: Params) -> None:
    """Refuse an ablation of another paper: it would set options that this one's kinds do not read.

    Raises:
        ValueError: naming the ablations of this paper.
    """
    paper, ablation = (params.preset.get(group, "none") for group in ("paper", "ablation"))
    if ablation not in ("none", *params.ablations):
        raise ValueError(f"params: ablation={ablation} is not one of paper={paper}, whose ablations are "
                         f"{', '.join(('none', *params.ablations))}; `ablations` in conf/paper/{paper}.yaml lists them")


def _blocks(tree: Any, config: type, where: str) -> dict[str, Options]:
    """The blocks of options of an axis, one a kind, beside the keys that its kinds share."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"params: {where} is {tree!r}, expected a mapping")
    shared = {f.name for f in dataclasses.fields(config)} - {"options"}
    blocks = {name: values for name, values in tree.items() if name not in shared}
    for name, values in blocks.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"params: {where}.{name} is not known; {known_names(name, sorted(shared))}")
    return {name: Options(name, f"{where}.{name}", values) for name, values in blocks.items()}


def _embed_params(tree: Mapping[str, Any], blocks: Mapping[str, Options]) -> EmbedParams:
    sources = convert(tuple[str, ...], tree.get("sources"), "embed.sources")
    for source in sources:
        if source not in blocks:
            raise ValueError(f"params: embed.sources names {source}, which has no options; "
                             f"{known_names(source, blocks)}")
    return EmbedParams(sources, blocks)


def _kind_params(config: type[T], tree: Mapping[str, Any], blocks: Mapping[str, Options], where: str) -> T:
    kind = tree.get("kind")
    if not isinstance(kind, str) or kind not in blocks:
        raise ValueError(f"params: {where}.kind is {kind}; {known_names(str(kind), sorted(blocks))}")
    plain = {name: value for name, value in tree.items() if name not in blocks}
    hints = typing.get_type_hints(config, include_extras=True)
    refuse_missing(plain, hints.keys() - {"options"}, where)
    return config(options=blocks[kind],
                  **{name: convert(hints[name], value, f"{where}.{name}") for name, value in plain.items()})
