import numpy as np

from pipeline_lib.embeddings.popularity import Config, embed_items
from tests.embeddings.test_mf import block_split, with_unseen_users


def test_every_user_ranks_items_by_their_training_count():
    split = with_unseen_users(block_split(), [[1], []], [[2], [3]])
    embedding = embed_items(None, split, Config(), checkpoints=None, accelerator=None, seed=0)
    assert embedding.items.shape == (32, 1) and embedding.users_test.shape == (62, 1)
    for scores in embedding.users_test @ embedding.items.T:
        assert np.array_equal(scores, split.train_count)
    assert np.array_equal(embedding.users_valid, embedding.users_test)
