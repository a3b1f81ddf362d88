"""Item vectors from item texts: TF-IDF with truncated SVD (`lsa`), or any sentence-transformers model.

Shapes: N items, D dimensions.
Source of `lsa`: Deerwester et al. 1990, "Indexing by Latent Semantic Analysis".
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import PositiveInt
from pipeline_lib.records import Catalogue, Embedding, Split
from pipeline_lib.training.checkpoints import Checkpoints

log = logging.getLogger(__name__)
CHUNK = 32  # encoder batches between two checkpoints


@dataclass(frozen=True)
class Config:
    """Options under ``embed.text``; see conf/config.yaml."""

    encoder: str = "lsa"
    dimensions: PositiveInt = 256
    ngram_max: PositiveInt = 2
    min_count: PositiveInt = 2
    batch_size: PositiveInt = 64
    normalise: bool = True


def embed_items(catalogue: Catalogue, split: Split, config: Config, *, checkpoints: Checkpoints,
                accelerator: Accelerator, seed: int) -> Embedding:
    """Embed every item's text; an item without text gets the zero vector under `lsa`.

    Args:
        split: not used; here since every embedding source takes the same arguments.
        accelerator: the device that an encoder runs on.

    Raises:
        ValueError: if no item has a text, or the encoder cannot be loaded.
    """
    filled = sum(bool(text.strip()) for text in catalogue.texts)
    if not filled:
        raise ValueError("embed.sources names text, but no item of this data has any: set ingest.text to attributes of "
                         "the item file, or take a source that needs no text")
    if filled < len(catalogue):
        log.warning("%d of %d items have no text", len(catalogue) - filled, len(catalogue))
    if config.encoder == "lsa":
        vectors, model, model_json = _fit_lsa(catalogue.texts, config, seed)
    else:
        vectors, model = _encode(catalogue.texts, config, checkpoints, accelerator), {}
        model_json = {"encoder": config.encoder, "batch_size": config.batch_size}
    if config.normalise:
        vectors = _normalised(vectors)
    meta = {"source": "text", "encoder": config.encoder, "dimensions": vectors.shape[1], "normalise": config.normalise,
            "items_with_text": filled}
    return Embedding(vectors, meta, model=model, model_json={**model_json, "normalise": config.normalise})


def embed_new_items(catalogue: Catalogue, takers: Ragged, tensors: Mapping[str, np.ndarray],
                    model_json: Mapping[str, Any]) -> np.ndarray:
    """Vectors ``(n, D)`` float32 of new items, from their texts alone, as `embed_items` would have made them.

    Args:
        takers: not used; here since every source that embeds new items takes the same arguments.
    """
    if "encoder" in model_json:
        vectors = _load_encoder(model_json["encoder"], torch.device("cpu")).encode(
            catalogue.texts, batch_size=model_json["batch_size"], show_progress_bar=False)
    else:
        terms = {term: place for place, term in enumerate(model_json["terms"])}
        vectorizer = _vectorizer(model_json["ngram_max"], min_count=1, terms=terms)
        vectorizer.idf_ = tensors["idf"]
        vectors = (vectorizer.transform(catalogue.texts) @ tensors["components"].T).astype(np.float32)
    return _normalised(vectors) if model_json["normalise"] else vectors


def _fit_lsa(texts: Sequence[str], config: Config, seed: int) -> tuple[np.ndarray, dict, dict]:
    vectorizer = _vectorizer(config.ngram_max, config.min_count)
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise ValueError(f"embed.text: no term occurs in {config.min_count} items; lower "
                         "embed.text.min_count") from error
    dimensions = min(config.dimensions, min(weights.shape) - 1)
    if dimensions < config.dimensions:
        log.warning("embed.text.dimensions=%d is more than these texts allow; taking %d", config.dimensions, dimensions)
    svd = TruncatedSVD(dimensions, random_state=seed, n_iter=7).fit(weights)
    log.info("lsa: %d items, %d terms, %d dimensions, %.0f %% of the variance", *weights.shape, dimensions,
             100 * svd.explained_variance_ratio_.sum())
    components = svd.components_.astype(np.float32)
    tensors = {"idf": vectorizer.idf_.astype(np.float32), "components": components}
    terms = vectorizer.get_feature_names_out().tolist()
    return (weights @ components.T).astype(np.float32), tensors, {"terms": terms, "ngram_max": config.ngram_max}


def _vectorizer(ngram_max: int, min_count: int, terms: Mapping[str, int] | None = None) -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, ngram_max), min_df=min_count, sublinear_tf=True, stop_words="english",
                           vocabulary=terms, dtype=np.float32)


def _encode(texts: Sequence[str], config: Config, checkpoints: Checkpoints, accelerator: Accelerator) -> np.ndarray:
    """Encode in chunks, each with a checkpoint of its own; a killed run goes on after the last whole one."""
    encoder = _load_encoder(config.encoder, accelerator.device)
    step, parts = config.batch_size * CHUNK, []
    for start in tqdm(range(0, len(texts), step), desc="encoding", unit="chunk", leave=False, mininterval=1.0,
                      disable=None):
        chunk = checkpoints.part(f"items-{start}")
        found = chunk.load()
        if found:
            parts.append(found[0]["vectors"])
            continue
        vectors = encoder.encode(list(texts[start : start + step]), batch_size=config.batch_size,
                                 convert_to_tensor=True, show_progress_bar=False)
        parts.append(vectors.float().cpu())
        if accelerator.is_main_process:
            chunk.save({"vectors": parts[-1]}, {})
    return torch.cat(parts).numpy()


def _load_encoder(name: str, device: torch.device):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(f"embed.text.encoder is {name}, which needs sentence-transformers: "
                          "run `pip install -c constraints.txt -e '.[encoders]'`, or set "
                          "embed.text.encoder=lsa") from error
    try:
        return SentenceTransformer(name, device=str(device), trust_remote_code=False,
                                   model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"embed.text.encoder: cannot load {name} ({str(error).splitlines()[0]}); give a local folder, "
                         "connect to the hub, or set embed.text.encoder=lsa") from error


def _normalised(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
