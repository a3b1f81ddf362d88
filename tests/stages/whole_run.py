"""All stages one after the other, in this process."""

from pathlib import Path

import yaml

from pipeline_lib.cli import compose
from stages import build_sequences, decode, embed, evaluate, finetune, ingest, quantize, split


def run_stages(folder: Path, overrides: list[str], raw: Path, done: Path | None = None) -> None:
    """From raw files to metrics.json in ``folder``.

    Args:
        done: a ``data/`` folder whose ingest, and split where no candidates are drawn, are taken as they are.
    """
    tree = yaml.safe_load(compose(overrides))
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    data = folder / "data"
    data.mkdir()
    common = {"timing": folder / "timing.json", "params": folder / "params.yaml"}
    tables = [data / "ingest" / f"{name}.parquet" for name in ("interactions", "items", "users")]
    if done is None:
        ingest.main(raw, *tables, **common)
    else:
        (data / "ingest").symlink_to(done / "ingest")
    if done is None or tree["split"]["candidates"]["source"] is not None:
        split.main(*tables, raw, data / "split", **common)
    else:
        (data / "split").symlink_to(done / "split")
    items, cases = data / "ingest/items.parquet", data / "split"
    for source in tree["embed"]["sources"]:
        embed.main(source, items, cases, data / "embed" / source, **common)
    vectors, cf_vectors = (data / "embed" / tree["tokenizer"][key] for key in ("source", "cf_source"))
    quantize.main(vectors, cf_vectors, cases, items, data / "tokens", folder / "tokenizer.json", folder / "usage.csv",
                  **common)
    build_sequences.main(cases, items, data / "tokens", data / "sequences", **common)
    inputs = (data / "sequences", data / "tokens", vectors, cf_vectors, cases)
    finetune.main(*inputs, data / "model", **common)
    decode.main(data / "model", *inputs, data / "predictions", **common)
    evaluate.main(data / "predictions", cases, data / "tokens", data / "model", folder / "metrics.json",
                  folder / "popularity.csv", folder / "history.csv", folder / "alignment.csv", folder / "figures",
                  **common)
