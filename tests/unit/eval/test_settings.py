"""Settings of eval."""

from __future__ import annotations

import pytest

from ragline.errors import ConfigurationError
from services.eval.scoring import Thresholds
from services.eval.settings import EvalSettings


def test_settings_become_the_scorers_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGLINE_EVAL__UNGROUNDED_BELOW", "0.7")
    assert EvalSettings.load().thresholds() == Thresholds(ungrounded_below=0.7)


def test_a_threshold_that_is_no_share_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGLINE_EVAL__OFF_TOPIC_BELOW", "10")
    with pytest.raises(ConfigurationError, match="RAGLINE_EVAL__OFF_TOPIC_BELOW"):
        EvalSettings.load()
