"""What a model call costs, by the model that was requested and a price list whose version is recorded.

Three lists, the first that knows a model wins: the settings, Ragline's own (`prices.json`) and LiteLLM's
map as it lies in the installed package (read as a file: nothing is imported and no network asked).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ragline.errors import ConfigurationError
from services.generate.model import Usage

SETTING: Final = "RAGLINE_GENERATE__PRICES"
"""The setting that prices a model: a JSON object from model to prices."""

_LITELLM_MAP: Final = "model_prices_and_context_window_backup.json"


class ModelPrice(BaseModel):
    """The price of a model. `version` names the list that it comes from; a `PriceList` fills it in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd_per_token: Decimal = Field(ge=0, description="US dollars a prompt token")
    output_usd_per_token: Decimal = Field(ge=0, description="US dollars a completion token")
    version: str = Field("", description="The price list")


class PriceList:
    """Prices by model, in exact decimal arithmetic. Make one with `load`."""

    def __init__(self, prices: Mapping[str, ModelPrice]) -> None:
        self._prices = prices

    @classmethod
    def load(cls, overrides: Mapping[str, ModelPrice]) -> PriceList:
        """The price list of this installation; `overrides` are the prices that the settings give."""
        own = json.loads(Path(__file__).with_name("prices.json").read_text(encoding="utf-8"))
        prices = {model: ModelPrice(**price, version=own["version"]) for model, price in own["models"].items()}
        for model, price in overrides.items():
            version = f"settings:{price.input_usd_per_token:f}/{price.output_usd_per_token:f}"
            prices[model] = price.model_copy(update={"version": version})
        return cls(prices)

    def price(self, model: str) -> ModelPrice:
        """The price of a model; raises ConfigurationError, which names the setting, when there is none."""
        price = self._prices.get(model) or _litellm_price(model)
        if price is None:
            example = f'{{"{model}": {{"input_usd_per_token": 0.000001, "output_usd_per_token": 0.000002}}}}'
            raise ConfigurationError(f"{model} has no known price: set {SETTING}='{example}' with its prices")
        return price

    def cost_usd(self, model: str, usage: Usage) -> Decimal:
        """What a call that used these tokens costs, in US dollars."""
        return self.worst_case_usd(model, usage.prompt_tokens, usage.completion_tokens)

    def worst_case_usd(self, model: str, prompt_tokens: int, max_tokens: int) -> Decimal:
        """The most that a call with this prompt and this limit on the output can cost, in US dollars."""
        price = self.price(model)
        return prompt_tokens * price.input_usd_per_token + max_tokens * price.output_usd_per_token


def _litellm_price(model: str) -> ModelPrice | None:
    """LiteLLM's price, with or without the provider's name in front; None if it has none by the token.

    The base price: dearer tiers begin at prompts of 100,000 tokens and more, which the gateway never
    sends. Reasoning tokens, which count as output, may cost more than other output: all are priced so.
    """
    entry = _litellm_map().get(model)
    provider, _, name = model.partition("/")
    if entry is None and name:
        bare = _litellm_map().get(name, {})
        entry = bare if bare.get("litellm_provider") == provider else None
    if entry is None or "input_cost_per_token" not in entry or "output_cost_per_token" not in entry:
        return None
    output = max(entry["output_cost_per_token"], entry.get("output_cost_per_reasoning_token") or 0)
    return ModelPrice(
        input_usd_per_token=Decimal(entry["input_cost_per_token"]),
        output_usd_per_token=Decimal(output),
        version=f"litellm/{metadata.version('litellm')}",
    )


@lru_cache(maxsize=1)
def _litellm_map() -> Mapping[str, dict[str, Any]]:
    package = util.find_spec("litellm")
    if package is None or not package.submodule_search_locations:
        raise ConfigurationError("LiteLLM is not installed: install ragline[generate]")
    path = Path(package.submodule_search_locations[0]) / _LITELLM_MAP
    try:
        prices: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError(f"{path}: LiteLLM's price map cannot be read; reinstall litellm") from error
    return prices
