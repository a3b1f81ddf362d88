"""The one registry: which kinds there are on each axis, where each lives, and which fit together.

A row is plain text until its module is asked for, so reading parameters imports neither torch nor transformers.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pipeline_lib.params import INDEX_KINDS, Params, SplitParams
from pipeline_lib.params_file import check_ablation, read_params
from pipeline_lib.parsing import known_names


@dataclass(frozen=True)
class Embedding:
    """``users``: whether the source models users, so that it can rank by itself; ``fitted``: whether those that it was
    trained on have vectors of their own, in place of states that their histories give.
    """

    module: str
    users: bool
    fitted: bool = False


@dataclass(frozen=True)
class Tokenizer:
    """``identifiers``: what items are known by afterwards: ``codes``, ``sets`` or ``none``.

    ``unique``: whether codes never collide as they are made, so that no last level is there to be reassigned.
    """

    module: str
    identifiers: str
    unique: bool = False


@dataclass(frozen=True)
class Recommender:
    """``reads``: the identifiers it can work with; ``decoders``: the values of decode.kind that fit.

    ``tokenizers``: the only ones that it can go on training, where it does so; None for all that yield what it reads;
    ``texts``: whether it reads the items' texts; ``collisions``: the only values of tokenizer.collisions that fit, None
    for all.
    """

    module: str
    sequences: str
    reads: tuple[str, ...]
    decoders: tuple[str, ...]
    tokenizers: tuple[str, ...] | None = None
    texts: bool = False
    collisions: tuple[str, ...] | None = None

    def fits(self, kind: str) -> bool:
        return TOKENIZERS[kind].identifiers in self.reads and (self.tokenizers is None or kind in self.tokenizers)


EMBEDDINGS: Mapping[str, Embedding] = {
    "dense": Embedding("pipeline_lib.embeddings.dense", users=False),
    "lightgcn": Embedding("pipeline_lib.embeddings.lightgcn", users=True, fitted=True),
    "mf": Embedding("pipeline_lib.embeddings.mf", users=True, fitted=True),
    "popularity": Embedding("pipeline_lib.embeddings.popularity", users=True),
    "sasrec": Embedding("pipeline_lib.embeddings.sasrec", users=True),
    "text": Embedding("pipeline_lib.embeddings.text", users=False),
}
TOKENIZERS: Mapping[str, Tokenizer] = {
    "rqvae": Tokenizer("pipeline_lib.tokenizers.rqvae", "codes"),
    "rqkmeans": Tokenizer("pipeline_lib.tokenizers.rqkmeans", "codes"),
    "opq": Tokenizer("pipeline_lib.tokenizers.opq", "codes"),
    "random": Tokenizer("pipeline_lib.tokenizers.random", "codes"),
    "random_id": Tokenizer("pipeline_lib.tokenizers.random_id", "codes", unique=True),
    "sequential": Tokenizer("pipeline_lib.tokenizers.sequential", "codes", unique=True),
    "cid": Tokenizer("pipeline_lib.tokenizers.cid", "codes", unique=True),
    "semantic": Tokenizer("pipeline_lib.tokenizers.semantic", "codes", unique=True),
    "kmeans": Tokenizer("pipeline_lib.tokenizers.kmeans", "codes"),
    "letter": Tokenizer("pipeline_lib.tokenizers.letter", "codes"),
    "mq": Tokenizer("pipeline_lib.tokenizers.mq", "codes"),
    "set": Tokenizer("pipeline_lib.tokenizers.set", "sets"),
    "none": Tokenizer("pipeline_lib.tokenizers.none", "none"),
}
RECOMMENDERS: Mapping[str, Recommender] = {
    "seq2seq": Recommender("pipeline_lib.recommenders.seq2seq", "pipeline_lib.sequences.code_examples",
                           reads=("codes",), decoders=("beam", "soft_beam")),
    "joint_seq2seq": Recommender("pipeline_lib.recommenders.joint_seq2seq", "pipeline_lib.sequences.code_examples",
                                 reads=("codes",), decoders=("beam", "soft_beam"), tokenizers=("rqvae",),
                                 collisions=("suffix",)),
    "retrieval_lm": Recommender("pipeline_lib.recommenders.retrieval_lm", "pipeline_lib.sequences.item_examples",
                                reads=("codes",), decoders=("ground",)),
    "instruction_lm": Recommender("pipeline_lib.recommenders.instruction_lm", "pipeline_lib.sequences.instruction_examples",
                                  reads=("codes",), decoders=("beam", "soft_beam"), texts=True),
    "scoring_lm": Recommender("pipeline_lib.recommenders.scoring_lm", "pipeline_lib.sequences.item_examples",
                              reads=("codes",), decoders=("score",), texts=True),
    "set_query": Recommender("pipeline_lib.recommenders.set_query", "pipeline_lib.sequences.item_examples",
                             reads=("sets",), decoders=("ground",)),
    "dot": Recommender("pipeline_lib.recommenders.dot", "pipeline_lib.sequences.item_examples",
                       reads=("none",), decoders=("ground",)),
}
KINDS: Mapping[str, Mapping] = {"embed": EMBEDDINGS, "tokenizer": TOKENIZERS, "recommender": RECOMMENDERS}


def embedding_for(source: str) -> ModuleType:
    """The module of an embedding source: ``Config``, ``embed_items`` and, where it models users, ``embed_users``."""
    return importlib.import_module(_row(EMBEDDINGS, source, "embed.sources").module)


def tokenizer_for(kind: str) -> ModuleType:
    """The module of a tokenizer: ``Config`` and ``tokenize_items``."""
    return importlib.import_module(_row(TOKENIZERS, kind, "tokenizer.kind").module)


def recommender_for(kind: str) -> ModuleType:
    """The module of a recommender: ``Config``, ``train`` and ``load_ranker``."""
    return importlib.import_module(_row(RECOMMENDERS, kind, "recommender.kind").module)


def sequences_for(kind: str) -> ModuleType:
    """The module that builds a recommender's examples: ``build_examples``."""
    return importlib.import_module(_row(RECOMMENDERS, kind, "recommender.kind").sequences)


def reads_texts(kind: str) -> bool:
    """Whether a recommender reads the items' texts."""
    return _row(RECOMMENDERS, kind, "recommender.kind").texts


def load_params(path: Path) -> Params:
    """Read params.yaml and refuse what cannot be a pipeline (design.md, section 1)."""
    params = read_params(path)
    check_pipeline(params)
    return params


def check_pipeline(params: Params) -> None:
    """Refuse an impossible combination in one line that names both sides and what would fit.

    Raises:
        ValueError: for an unknown kind or block of options, a pair that does not fit, a source that is not embedded,
            a list too short, an ablation of another paper.
    """
    check_ablation(params)
    for where in params.blocks:
        axis, kind = where.split(".")
        if kind not in KINDS[axis]:
            raise ValueError(f"params: {where} is not known; {known_names(kind, KINDS[axis])}")
    for source in params.embed.sources:
        _row(EMBEDDINGS, source, "embed.sources")
    _row(TOKENIZERS, params.tokenizer.kind, "tokenizer.kind")
    recommender = _row(RECOMMENDERS, params.recommender.kind, "recommender.kind")
    if not recommender.fits(params.tokenizer.kind):
        fitting = [kind for kind in TOKENIZERS if recommender.fits(kind)]
        works = "trains on with" if recommender.tokenizers else "reads"
        what = recommender.tokenizers or recommender.reads
        raise ValueError(f"params: tokenizer.kind={params.tokenizer.kind} does not fit recommender.kind="
                         f"{params.recommender.kind}, which {works} {' or '.join(what)}; "
                         f"tokenizers that fit: {', '.join(fitting)}")
    if params.decode.kind not in recommender.decoders:
        raise ValueError(f"params: decode.kind={params.decode.kind} does not fit recommender.kind="
                         f"{params.recommender.kind}; decoders that fit: {', '.join(recommender.decoders)}")
    for key in ("source", "cf_source"):
        source = getattr(params.tokenizer, key)
        if source not in params.embed.sources:
            raise ValueError(f"params: tokenizer.{key}={source} is not in embed.sources "
                             f"({', '.join(params.embed.sources)}); add it there or take one of these")
    if params.recommender.kind == "dot" and not EMBEDDINGS[params.tokenizer.source].users:
        modelling = [source for source, row in EMBEDDINGS.items() if row.users]
        raise ValueError(f"params: tokenizer.source={params.tokenizer.source} has no vectors of users, which "
                         f"recommender.kind=dot ranks for; sources that have: {', '.join(modelling)}")
    _check_collisions(params, recommender)
    _check_options(params)
    if params.recommender.kind == "joint_seq2seq" and params.sequences.user_buckets:
        raise ValueError("params: recommender.kind=joint_seq2seq has no user tokens; set sequences.user_buckets=0")
    _check_split(params.split, params.ingest.order)
    if params.decode.kind == "score" and params.split.candidates.source is None:
        raise ValueError("params: decode.kind=score scores candidates, but split.candidates.source is null; set it to "
                         "sampled, or to impressions where the data has them (ingest.format=mind)")
    if params.split.candidates.source == "impressions" and params.ingest.format != "mind":
        raise ValueError(f"params: split.candidates.source=impressions does not fit ingest.format={params.ingest.format}, "
                         "which has none; formats that have: mind; or set it to sampled")
    _check_refit(params)
    _check_decode(params)


def _check_split(split: SplitParams, order: str) -> None:
    """What no split can be made by, whatever the data."""
    if order == "none" and split.kind != "given":
        raise ValueError(f"params: split.kind={split.kind} needs an order, but ingest.order=none says that this data has "
                         "none; use split.kind=given with a split file")
    if split.kind == "given" and split.file is None:
        raise ValueError("params: split.kind=given needs a table; set split.file to a file inside ingest.path")
    if split.kind == "by_user" and split.unseen_user_share > 0:
        raise ValueError("params: split.unseen_user_share does not go with split.kind=by_user, where no test user is "
                         "trained on; set it to 0")
    if split.kind == "ratio" and split.by == "time" and order == "position":
        raise ValueError("params: split.by=time needs real times, but with ingest.order=position a timestamp is a place in "
                         "the user's own history; use split.by=history")
    ratios = split.ratios
    if split.kind == "ratio" and (len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6):
        raise ValueError(f"params: split.ratios is {list(ratios)}, expected shares for train, valid and test that sum to 1")


def _check_collisions(params: Params, recommender: Recommender) -> None:
    chosen, kind = params.tokenizer.collisions, params.tokenizer.kind
    if recommender.collisions is not None and chosen not in recommender.collisions:
        raise ValueError(f"params: tokenizer.collisions={chosen} does not fit recommender.kind="
                         f"{params.recommender.kind}, whose codes change; set tokenizer.collisions="
                         f"{' or '.join(recommender.collisions)}")
    if TOKENIZERS[kind].unique and chosen == "sinkhorn":
        raise ValueError(f"params: tokenizer.collisions=sinkhorn does not fit tokenizer.kind={kind}, whose identifiers "
                         "never collide; set tokenizer.collisions=none")


def _check_options(params: Params) -> None:
    """Options that do not fit each other, which the modules that read them would refuse, but long stages later."""
    kind, options, tokens = params.recommender.kind, params.recommender.options.values, params.tokenizer.options.values
    if params.tokenizer.kind == "kmeans":
        _check_positions(params.tokenizer.source, tokens.get("positions"),
                         params.embed.options[params.tokenizer.source].values.get("tokens"))
    if kind == "set_query" and tokens.get("tokens") == 0 and options.get("use_cf") is False:
        raise ValueError("params: tokenizer.set.tokens is 0 and recommender.set_query.use_cf is false, so items have no "
                         "token at all; change one of them")
    if kind == "set_query" and options.get("pretrained") is None:  # a pretrained backbone has a width of its own
        widths = tokens.get("width"), options.get("width")
        if None not in widths and widths[0] != widths[1]:
            raise ValueError(f"params: tokenizer.set.width={widths[0]} does not fit recommender.set_query.width="
                             f"{widths[1]}; set tokenizer.set.width={widths[1]}")
    if kind == "retrieval_lm" and (options.get("loss"), options.get("similarity")) == ("cosine_margin", "dot"):
        raise ValueError("params: recommender.retrieval_lm.similarity=dot does not fit loss=cosine_margin; set "
                         "recommender.retrieval_lm.loss=full_softmax or in_batch, or similarity=cosine")
    if kind == "retrieval_lm" and params.training.early_stopping == "loss":
        raise ValueError("params: training.early_stopping=loss does not fit recommender.kind=retrieval_lm, which validates by "
                         "ranking alone; set it to ndcg@10 or recall@10")
    if params.sequences.train_targets == "windows" and (kind, options.get("loss_on", "all")) != ("instruction_lm", "all"):
        raise ValueError(f"params: sequences.train_targets=windows does not fit recommender.kind={kind}, which would learn "
                         "from the last item of a window alone; set it to prefixes, or take recommender.kind="
                         "instruction_lm with recommender.instruction_lm.loss_on=all, which learns from all of them")
    pretrained = isinstance(options.get("backbone"), Mapping) and options["backbone"].get("pretrained")
    if options.get("start") == "merged" and pretrained and params.tokenizer.source != "dense":
        raise ValueError(f"params: recommender.{kind}.start=merged needs the language model of source dense, but "
                         f"tokenizer.source={params.tokenizer.source}; set recommender.{kind}.start=fresh")


def _check_positions(source: str, positions: int | None, vectors: int | None) -> None:
    """k-means gives a code a position: one of the ``vectors`` that ``dense`` has of an item, or a part of the only."""
    if source != "dense" and positions == 1:
        raise ValueError(f"params: tokenizer.kmeans.positions=1 does not fit tokenizer.source={source}, which has one "
                         "vector an item; set tokenizer.kmeans.positions above 1 to cut it into that many parts, or "
                         "tokenizer.source=dense")
    if source == "dense" and None not in (positions, vectors) and positions not in (1, vectors):
        raise ValueError(f"params: tokenizer.kmeans.positions={positions} does not fit embed.dense.tokens={vectors}, "
                         "which are the positions; set tokenizer.kmeans.positions=1")


def _check_refit(params: Params) -> None:
    """What needs validation users, of whom refitting leaves none."""
    if not params.split.refit:
        return
    if params.recommender.kind == "set_query" and params.recommender.options.values.get("beta") is None:
        raise ValueError("params: split.refit=true leaves nobody to choose recommender.set_query.beta on, which is "
                         "null; set it to what the run without refit chose (chosen_beta in data/model/config.json)")
    if params.tokenizer.kind == "mq" and params.tokenizer.source == "sasrec":
        raise ValueError("params: split.refit=true does not fit tokenizer.kind=mq with tokenizer.source=sasrec, whose "
                         "users have vectors as validation users only; set tokenizer.source=lightgcn or mf, or "
                         "split.refit=false")


def _check_decode(params: Params) -> None:
    decode, largest = params.decode, max(params.evaluate.ks)
    if decode.top_k < largest:
        raise ValueError(f"params: decode.top_k={decode.top_k} is shorter than the largest of evaluate.ks ({largest}); "
                         f"set decode.top_k={largest} or more")
    if decode.kind in ("beam", "soft_beam") and decode.beam_size < decode.top_k:
        raise ValueError(f"params: decode.beam_size={decode.beam_size} cannot yield decode.top_k={decode.top_k} items; "
                         f"set decode.beam_size={decode.top_k} or more")
    if decode.index is not None and decode.index not in INDEX_KINDS:
        raise ValueError(f"params: decode.index is {decode.index}; known: {', '.join(INDEX_KINDS)}, or null for none")
    if decode.index is not None and decode.kind != "ground":
        raise ValueError(f"params: decode.index={decode.index} does not fit decode.kind={decode.kind}, which finds items by "
                         "their codes; set decode.index=null, or decode.kind=ground")
    if decode.beta is not None and params.recommender.kind != "set_query":
        raise ValueError(f"params: decode.beta={decode.beta} does not fit recommender.kind={params.recommender.kind}, which "
                         "has no scores to weigh; set decode.beta=null, or recommender.kind=set_query")


def _row(table: Mapping, name: str, where: str):
    if name not in table:
        raise ValueError(f"params: {where} is {name}; {known_names(name, table)}")
    return table[name]
