"""What the gateway's settings accept, and what they refuse in one line."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ragline.errors import ConfigurationError, InvalidArgument
from services.generate.admission import Question
from services.generate.settings import GenerateSettings


def test_without_any_setting_the_extractive_model_answers_at_its_own_price() -> None:
    settings = GenerateSettings.load(_env_file=None)

    assert settings.policy().admit(Question(" Why? ")).model == "ragline/extractive"
    assert settings.price_list().price("ragline/extractive").version


def test_a_price_in_the_settings_is_used_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "RAGLINE_GENERATE__PRICES",
        '{"ragline/extractive": {"input_usd_per_token": 0.0000001, "output_usd_per_token": 0.0000004}}',
    )

    price = GenerateSettings.load(_env_file=None).price_list().price("ragline/extractive")

    assert price.output_usd_per_token == Decimal("0.0000004")
    assert price.version.startswith("settings")


def test_a_model_without_a_known_price_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGLINE_GENERATE__ALLOWED_MODELS", "acme/oracle, ragline/extractive")

    with pytest.raises(ConfigurationError, match=r"acme/oracle has no known price: set RAGLINE_GENERATE__PRICES"):
        GenerateSettings.load(_env_file=None).price_list()


def test_a_request_may_ask_for_an_allowed_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGLINE_GENERATE__ALLOWED_MODELS", "acme/oracle")
    policy = GenerateSettings.load(_env_file=None).policy()

    assert policy.admit(Question("Why?", model="acme/oracle")).model == "acme/oracle"
    with pytest.raises(InvalidArgument, match=r"use one of acme/oracle, ragline/extractive"):
        policy.admit(Question("Why?", model="acme/seer"))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MAX_TOKENS", "0", "RAGLINE_GENERATE__MAX_TOKENS: Input should be greater"),
        ("MODEL_TIMEOUT_S", "120", "HOLD_LEASE_S must exceed MODEL_TIMEOUT_S"),
        ("PRICES", "{not json", 'RAGLINE_GENERATE__.*"prices".*JSON'),
    ],
)
def test_a_broken_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"RAGLINE_GENERATE__{variable}", value)

    with pytest.raises(ConfigurationError, match=message) as refused:
        GenerateSettings.load(_env_file=None)
    assert "\n" not in str(refused.value)
