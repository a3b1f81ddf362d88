import xml.etree.ElementTree as ElementTree

from pipeline_lib.reporting.figures import alignment_rows, draw_figures

TRAINING = [{"epoch": "1", "train_loss": "3.0", "sia_loss": "", "changed_codes": "0.5"},
            {"epoch": "2", "train_loss": "2.0", "sia_loss": "0.3", "changed_codes": ""}]
POPULARITY = [{"group": 1, "users": 3, "recall@5": 0.25, "recall@10": 0.5},
              {"group": 5, "users": 2, "recall@5": 0.0, "recall@10": 0.125}]
STATES = [{"kind": kind, "user": "0", "x": "1.5", "y": "-2"} for kind in ("preference", "semantics")]


def text_of(image):
    return " ".join(ElementTree.fromstring(image).itertext())


def test_recall_by_popularity_is_always_drawn_with_its_values():
    (image,) = draw_figures(POPULARITY, {"training": [{"epoch": "1", "train_loss": "3.0"}]}).values()
    assert "recall@10" in text_of(image) and "0.500" in text_of(image) and "0.125" in text_of(image)
    (image,) = draw_figures([{"group": 1, "users": 3, "recall@5": 0.25}], {}).values()
    assert "recall@5" in text_of(image)


def test_states_and_losses_are_drawn_with_their_labels():
    figures = draw_figures(POPULARITY, {"training": TRAINING, "alignment": STATES})
    assert set(figures) == {"recall_by_popularity.svg", "states.svg", "alignment_losses.svg"}
    assert "preference states" in text_of(figures["states.svg"])
    losses = text_of(figures["alignment_losses.svg"])
    assert "divergence" in losses and "changed code" in losses and "preference-semantic" not in losses


def test_alignment_losses_are_rows_of_the_epochs_that_have_one():
    assert alignment_rows({"training": TRAINING}) == [{"epoch": "2", "sia_loss": "0.3", "psa_loss": ""}]
    assert alignment_rows({"training": [{"epoch": "1", "train_loss": "3.0"}]}) == alignment_rows({}) == []


def test_the_curve_of_beta_is_drawn_where_it_was_chosen():
    table = [{"beta": "0.0", "ndcg@10": "0.01"}, {"beta": "0.5", "ndcg@10": "0.02"}]
    drawn = text_of(draw_figures(POPULARITY, {"beta": table})["beta.svg"])
    assert "weight of semantic scores" in drawn and "validation ndcg@10" in drawn


def test_equal_tables_give_equal_bytes():
    tables = {"training": TRAINING, "alignment": STATES}
    assert draw_figures(POPULARITY, tables) == draw_figures(POPULARITY, tables)
