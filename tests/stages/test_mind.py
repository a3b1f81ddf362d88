"""MIND's files from raw impressions to AUC: STORE's scoring branch, as the paper has it."""

import json

import numpy as np
import pytest

from tests.conftest import TINY
from tests.stages.whole_run import run_stages

TOPICS = {"sports": ("match", "coach", "league"), "food": ("recipe", "oven", "chef"),
          "travel": ("island", "flight", "beach"), "health": ("doctor", "sleep", "diet")}
NEWS_OF_TOPIC, USERS = 12, 160


def write_mind(folder, generator: np.random.Generator) -> None:
    """Every user reads one topic; each of three impressions shows one story of it, which is clicked, beside others."""
    folder.mkdir(parents=True)
    names = list(TOPICS)
    news = [(f"N{topic * NEWS_OF_TOPIC + place}", names[topic], " ".join(generator.permutation(TOPICS[names[topic]])))
            for topic in range(len(names)) for place in range(NEWS_OF_TOPIC)]
    (folder / "news.tsv").write_text("".join(f"{item}\t{topic}\t{topic}\t{words} {item}\t{words}\thttp://x\t[]\t[]\n"
                                             for item, topic, words in news))
    lines = []
    for user in range(USERS):
        topic = user % len(names)
        own = [news[topic * NEWS_OF_TOPIC + place][0] for place in generator.permutation(NEWS_OF_TOPIC)[:7]]
        others = [item for item, name, _ in news if name != names[topic]]
        for day, clicked in enumerate(own[4:], 1):
            shown = [f"{clicked}-1", *(f"{item}-0" for item in generator.permutation(others)[:4])]
            lines.append(f"{len(lines) + 1}\tU{user}\t11/{day}/2019 {1 + user % 11}:00:00 AM\t{' '.join(own[:4])}\t"
                         f"{' '.join(generator.permutation(shown))}\n")
    (folder / "behaviors.tsv").write_text("".join(lines))


@pytest.mark.slow
def test_what_users_read_tells_which_shown_story_they_click(tmp_path):
    raw, folder = tmp_path / "raw", tmp_path / "run"
    write_mind(raw, np.random.default_rng(0))
    folder.mkdir()
    run_stages(folder, [*TINY, "paper=store_scoring", "ingest.format=mind", "ingest.title=title",
                        "ingest.text=[title,category]", "split.candidates.source=impressions",
                        "split.unseen_user_share=0", "embed.dense.epochs=20", "training.epochs=20",
                        "training.patience=20"], raw)
    metrics = json.loads((folder / "metrics.json").read_text())
    test = metrics["scoring"]["test"]
    assert test["users"] == USERS and test["pairs"] == 5 * USERS  # the last click of each beside what it was shown with
    assert test["auc"] > 0.75 > 0.6 > metrics["scoring"]["baseline"]["popularity"]["auc"]
    assert "shown candidates" in metrics["run"]["protocol"]
