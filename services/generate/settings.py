"""Settings of generate (`RAGLINE_GENERATE__*`)."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from ragline.settings import SettingsGroup
from services.generate.admission import MAX_EVIDENCE, Policy
from services.generate.extractive import MODEL
from services.generate.model import LiteLlmModel
from services.generate.pricing import ModelPrice, PriceList

_RECORDING_MARGIN_S: Final = 15.0
"""Between the end of a model call and the end of its lease, to store the answer and settle."""


class GenerateSettings(SettingsGroup):
    """What the gateway answers with, and what a question may cost."""

    model_config = SettingsConfigDict(env_prefix="RAGLINE_GENERATE__", env_file=".env", extra="ignore")

    model: str = Field(
        MODEL, min_length=1, description="The model: ragline/extractive, or any <provider/model> of LiteLLM"
    )
    allowed_models: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), description="Models that a request may ask for besides, separated by commas"
    )
    api_base: str | None = Field(
        None, description="The address of a provider, where it is not the one that LiteLLM knows"
    )
    api_key: SecretStr | None = Field(
        None, description="The provider's key, where it does not come from the provider's own variable"
    )
    max_tokens: int = Field(512, ge=16, le=32_000, description="The most tokens that an answer may have")
    evidence_limit: int = Field(
        6, ge=1, le=MAX_EVIDENCE, description="Chunks of evidence, where a request does not say how many"
    )
    prompt_tokens: int = Field(
        4000, ge=500, le=100_000, description="The most tokens of a prompt; the weakest evidence gives way"
    )
    model_timeout_s: float = Field(60.0, gt=0, le=600, description="The longest that a model may take, in seconds")
    hold_lease_s: float = Field(
        120.0, description="Seconds after which a budget hold that nobody settled is settled at the hold"
    )
    prices: dict[str, ModelPrice] = Field(
        default_factory=dict,
        description='Prices by model, in US dollars: {"<provider/model>": '
        '{"input_usd_per_token": 1e-7, "output_usd_per_token": 4e-7}}',
    )

    @field_validator("allowed_models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [name.strip() for name in value.split(",") if name.strip()]
        return value

    @model_validator(mode="after")
    def _lease_outlives_a_call(self) -> Self:
        if self.hold_lease_s < self.model_timeout_s + _RECORDING_MARGIN_S:
            raise ValueError(
                f"HOLD_LEASE_S must exceed MODEL_TIMEOUT_S by {_RECORDING_MARGIN_S:.0f} seconds, "
                "or holds would expire under calls that are still running"
            )
        return self

    def policy(self) -> Policy:
        """As the asking takes them."""
        return Policy(
            model=self.model,
            allowed_models=self.allowed_models | {self.model},
            max_tokens=self.max_tokens,
            evidence_limit=self.evidence_limit,
            prompt_tokens=self.prompt_tokens,
            model_timeout_s=self.model_timeout_s,
        )

    def language_model(self) -> LiteLlmModel:
        """The models; nothing is loaded yet."""
        return LiteLlmModel(api_base=self.api_base, api_key=self.api_key.get_secret_value() if self.api_key else None)

    def price_list(self) -> PriceList:
        """The prices; raises ConfigurationError for a model of these settings that has none."""
        prices = PriceList.load(self.prices)
        for model in sorted(self.allowed_models | {self.model}):
            prices.price(model)
        return prices
