"""Settings of eval (`RAGLINE_EVAL__*`)."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ragline.settings import SettingsGroup
from services.eval.scoring import Thresholds

_DEFAULTS = Thresholds()


class EvalSettings(SettingsGroup):
    """Where a score becomes a flag; all are in [0, 1] and hold for answers evaluated from then on."""

    model_config = SettingsConfigDict(env_prefix="RAGLINE_EVAL__", env_file=".env", extra="ignore")

    ungrounded_below: float = Field(
        _DEFAULTS.ungrounded_below, ge=0, le=1, description="Groundedness below this is flagged `ungrounded`"
    )
    unsupported_below: float = Field(
        _DEFAULTS.unsupported_below,
        ge=0,
        le=1,
        description="A claim's support below this is flagged `unsupported_claim`; groundedness below it, bad",
    )
    off_topic_below: float = Field(
        _DEFAULTS.off_topic_below,
        ge=0,
        le=1,
        description="Question relevance below this is flagged `off_topic`",
    )
    doubtful_refusal_below: float = Field(
        _DEFAULTS.doubtful_refusal_below,
        ge=0,
        le=1,
        description="A refusal's score below this is flagged `doubtful_refusal`",
    )

    def thresholds(self) -> Thresholds:
        """As the scorer takes them."""
        return Thresholds(**self.model_dump())
