"""Prices: by the requested model, exactly, and never unknown."""

from __future__ import annotations

from decimal import Decimal
from importlib.metadata import version

import pytest
from pydantic import ValidationError

from ragline.errors import ConfigurationError
from services.generate.extractive import MODEL as EXTRACTIVE
from services.generate.model import Usage
from services.generate.pricing import SETTING, ModelPrice, PriceList


def price(input_usd: str, output_usd: str) -> ModelPrice:
    return ModelPrice(input_usd_per_token=Decimal(input_usd), output_usd_per_token=Decimal(output_usd))


def test_the_extractive_model_is_free_unless_the_settings_price_it():
    usage = Usage(1000, 100, reported=True)
    assert PriceList.load({}).cost_usd(EXTRACTIVE, usage) == 0
    priced = PriceList.load({EXTRACTIVE: price("0.000001", "0.00002")})
    assert priced.cost_usd(EXTRACTIVE, usage) == Decimal("0.003")


def test_a_remote_model_costs_what_litellms_installed_map_says():
    prices = PriceList.load({})
    found = prices.price("openai/gpt-4o-mini")
    assert found == prices.price("gpt-4o-mini")
    assert found.output_usd_per_token > found.input_usd_per_token > 0
    assert found.version == f"litellm/{version('litellm')}"


def test_a_provider_does_not_lend_its_price_to_another_ones_model_of_that_name():
    with pytest.raises(ConfigurationError):
        PriceList.load({}).price("somebody/gpt-4o-mini")


def test_a_models_own_entry_wins_over_the_one_without_its_provider():
    assert PriceList.load({}).price("azure/gpt-4o").version.startswith("litellm/")


def test_the_settings_win_and_the_version_tells_their_prices():
    found = PriceList.load({"openai/gpt-4o-mini": price("0.5", "0.25")}).price("openai/gpt-4o-mini")
    assert (found.input_usd_per_token, found.output_usd_per_token) == (Decimal("0.5"), Decimal("0.25"))
    assert found.version == "settings:0.5/0.25"


def test_a_model_without_a_price_is_refused_and_the_message_says_which_setting_prices_it():
    with pytest.raises(ConfigurationError, match=SETTING) as caught:
        PriceList.load({}).price("openai/my-own-model")
    assert "openai/my-own-model" in str(caught.value) and "\n" not in str(caught.value)


def test_the_worst_case_is_the_whole_prompt_and_the_longest_answer():
    prices = PriceList.load({"a/b": price("0.000003", "0.000015")})
    assert prices.worst_case_usd("a/b", 2000, 500) == Decimal("0.0135")


def test_small_amounts_add_up_without_rounding():
    prices = PriceList.load({"a/b": price("0.0000001", "0.0000003")})
    total = sum((prices.cost_usd("a/b", Usage(1, 1, reported=True)) for _ in range(10)), Decimal(0))
    assert total == Decimal("0.000004")


def test_a_negative_price_is_no_price():
    with pytest.raises(ValidationError):
        price("-1", "0")
