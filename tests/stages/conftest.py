import pytest


@pytest.fixture(autouse=True)
def checkpoints(monkeypatch, tmp_path):
    """Checkpoints of a test's own."""
    monkeypatch.setenv("SIDFLOW_CHECKPOINTS", str(tmp_path / "checkpoints"))
