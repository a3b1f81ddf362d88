from pathlib import Path
from types import SimpleNamespace

from pipeline_lib.decoding.ranking import RankedUsers
from stages.decode import rank_users


def test_each_part_is_ranked_by_its_own_examples_and_by_what_was_known_before_its_targets():
    asked = []

    class Recording:
        def rank(self, examples, cases, part="test"):
            asked.append((examples, cases, part))
            return RankedUsers([])

    split = SimpleNamespace(held_out={"test": "test cases", "valid": "valid cases"})
    inputs = SimpleNamespace(split=split, examples={"valid": "valid examples", "test": "test examples"})
    rank_users(Recording(), inputs, Path("nowhere"), writes=False)
    assert asked == [(f"{part} examples", f"{part} cases", part) for part in ("test", "valid")]
