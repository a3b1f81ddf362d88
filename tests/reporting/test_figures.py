import xml.etree.ElementTree as ElementTree

from pipeline_lib.reporting.figures import draw_figures

TRAINING = [{"epoch": "1", "train_loss": "3.0", "sia_loss": "", "changed_codes": "0.5"},
            {"epoch": "2", "train_loss": "2.0", "sia_loss": "0.3", "changed_codes": ""}]
STATES = [{"kind": kind, "user": "0", "x": "1.5", "y": "-2"} for kind in ("preference", "semantics")]


def text_of(image):
    return " ".join(ElementTree.fromstring(image).itertext())


def test_a_model_without_tables_of_its_own_has_no_figures():
    assert draw_figures({"training": [{"epoch": "1", "train_loss": "3.0"}]}) == {}


def test_states_and_losses_are_drawn_with_their_labels():
    figures = draw_figures({"training": TRAINING, "alignment": STATES})
    assert set(figures) == {"states.svg", "alignment_losses.svg"}
    assert "preference states" in text_of(figures["states.svg"])
    losses = text_of(figures["alignment_losses.svg"])
    assert "divergence" in losses and "changed code" in losses and "preference-semantic" not in losses


def test_equal_tables_give_equal_bytes():
    tables = {"training": TRAINING, "alignment": STATES}
    assert draw_figures(tables) == draw_figures(tables)
