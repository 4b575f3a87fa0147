"""Prices: the shipped table, the user's own over it, and no price where none is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inner_loop.errors import UserError
from inner_loop.prices import HOSTS, SHIPPED, Price, Prices
from inner_loop.settings import Usage

NONE_OWN: dict[str, str] = {"METARESEARCH_HOME": "/nowhere"}
MILLION = Usage(calls=1, tokens_in=1_000_000)


def own(tmp_path: Path, text: str) -> Prices:
    (tmp_path / "prices.toml").write_text(text)
    return Prices.load({"METARESEARCH_HOME": str(tmp_path)})


def input_price(model: str, provider: str = "openai", base_url: str = "") -> float | None:
    price = Prices.load(NONE_OWN).find(provider, base_url, model)
    return price.input if price else None


def test_every_shipped_price_has_its_source_and_day() -> None:
    shipped = Prices.load(NONE_OWN).shipped
    assert set(shipped) == set(HOSTS)
    for model, price in [entry for table in shipped.values() for entry in table.items()]:
        assert price.source.startswith("https://"), model
        assert price.as_of is not None, model
        assert 0 < (price.cached or price.input) <= price.input < price.output, model
        assert price.cache_write is None or price.input < price.cache_write, model


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("gpt-4.1", "gpt-4.1"),
        ("gpt-4.1-2025-04-14", "gpt-4.1"),
        ("gpt-4.1-mini", "gpt-4.1-mini"),
        ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("gpt-4o-2024-11-20", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-5", "gpt-5"),
        ("gpt-4.1-turbo", None),
        ("gpt-4.10", None),
        ("gpt-4", None),
        ("gpt-5-pro", None),
        ("gpt-5-chat-latest", None),
        ("gpt-5-2025-08-07-mini", None),
        ("ft:gpt-4o:us::1", None),
        ("GPT-4.1", None),
        ("", None),
    ],
)
def test_a_name_is_priced_as_that_model_or_not_at_all(model: str, entry: str | None) -> None:
    expected = Prices.load(NONE_OWN).shipped["openai"][entry] if entry else None
    assert Prices.load(NONE_OWN).find("openai", "", model) == expected


def test_dates_of_all_styles_keep_the_model() -> None:
    for name in ("claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-haiku-4-5@20251001"):
        assert input_price(name, "anthropic") == 1.0
    assert input_price("claude-haiku-4-5:20251001", "anthropic") == 1.0
    assert input_price("claude-haiku-4-5-latest", "anthropic") == 1.0
    assert input_price("claude-haiku-4-5", "openai") is None


def test_no_word_after_a_shipped_name_has_its_price() -> None:
    prices = Prices.load(NONE_OWN)
    words = ("-mini", "-nano", "-pro", "-x", "2", ".1", "-5", "-20", "-2025")
    for provider, table in prices.shipped.items():
        for name in [entry + word for entry in table for word in words]:
            assert prices.find(provider, "", name) == table.get(name), name


@pytest.mark.parametrize(
    ("base_url", "known"),
    [
        ("", True),
        ("https://api.openai.com/v1", True),
        ("https://API.openai.com:443/v1/", True),
        ("http://localhost:8000/v1", False),
        ("https://openrouter.ai/api/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://eu.api.openai.com/v1", False),
        ("https://example.org/?https://api.openai.com", False),
        ("http://[broken", False),
    ],
)
def test_list_prices_hold_at_the_providers_own_address_only(base_url: str, known: bool) -> None:
    assert (input_price("gpt-4.1", base_url=base_url) is not None) == known
    remark = Prices.load(NONE_OWN).remark("openai", base_url, "gpt-4.1")
    assert bool(remark) != known
    if remark:
        assert "gpt-4.1" in remark
        assert "not known" in remark
        assert "prices.toml" in remark


def test_the_users_own_file_adds_and_replaces_entry_by_entry(tmp_path: Path) -> None:
    prices = own(
        tmp_path,
        '[openai."gpt-4.1"]\ninput = 7\noutput = 9\n[openai."qwen-coder"]\ninput = 0\noutput = 0\n',
    )
    assert prices.cost("openai", "", "gpt-4.1", MILLION) == 7
    assert prices.cost("openai", "", "gpt-4.1-mini", MILLION) == pytest.approx(0.4)
    assert prices.cost("openai", "http://localhost:1/v1", "qwen-coder", MILLION) == 0
    assert prices.cost("openai", "http://localhost:1/v1", "gpt-4.1", MILLION) == 7
    assert prices.cost("openai", "http://localhost:1/v1", "gpt-4.1-mini", MILLION) is None
    assert prices.cost("anthropic", "", "qwen-coder", MILLION) is None
    assert prices.remark("openai", "", "qwen-coder") == ""


def test_a_dated_entry_of_ones_own_does_not_change_the_others(tmp_path: Path) -> None:
    prices = own(tmp_path, '[openai."gpt-4.1-2025-04-14"]\ninput = 7\noutput = 9\n')
    assert prices.cost("openai", "", "gpt-4.1-2025-04-14", MILLION) == 7
    assert prices.cost("openai", "", "gpt-4.1", MILLION) == 2


def test_a_variable_names_another_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[anthropic."claude-x"]\ninput = 1\noutput = 2\n')
    prices = Prices.load({"METARESEARCH_PRICES": str(path)})
    assert prices.cost("anthropic", "", "claude-x", MILLION) == 1
    with pytest.raises(UserError, match=r"Cannot read .*absent\.toml"):
        Prices.load({"METARESEARCH_PRICES": str(tmp_path / "absent.toml")})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[openai", ["not valid TOML"]),
        ('[openia."gpt-x"]\ninput = 1\noutput = 2', ["Unknown provider 'openia'", "openai"]),
        ("openai = 3", ["write prices as"]),
        ("[openai.gpt-4.1]\ninput = 1\noutput = 2", ["'gpt-4'", "quotes"]),
        ('[openai."gpt-x"]\ninput = 1', ['[openai."gpt-x"]', "'output' is missing"]),
        ('[openai."gpt-x"]\ninput = -1\noutput = 2', ["'input' is -1", "greater than or equal"]),
        ('[openai."gpt-x"]\ninput = "two"\noutput = 2', ["'input' is 'two'"]),
        ('[openai."gpt-x"]\ninput = inf\noutput = 2', ["'input'"]),
        ('[openai."gpt-x"]\ninput = 1\noutput = 2\nprice = 3', ["unknown key 'price'"]),
        ('[openai."x"]\ninput = 1\noutput = 2\nlong_input_times = 2', ["need long_above"]),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        own(tmp_path, text)
    assert "\n" not in str(caught.value)
    for word in ["prices.toml", *words]:
        assert word in str(caught.value)


def test_each_kind_of_token_has_its_price() -> None:
    price = Price(input=2, cached=0.5, cache_write=3, output=10)
    used = Usage(
        calls=1, tokens_in=1_000, tokens_cached=600, tokens_written=300, tokens_out=50, usd=None
    )
    assert price.usd(used) == pytest.approx((100 * 2 + 600 * 0.5 + 300 * 3 + 50 * 10) / 1e6)
    plain = Price(input=2, output=10)
    assert plain.usd(used) == pytest.approx((1_000 * 2 + 50 * 10) / 1e6)


def test_a_long_request_costs_more_for_all_its_tokens() -> None:
    haiku = Prices.load(NONE_OWN).shipped["anthropic"]["claude-haiku-5-5"]
    at = Usage(tokens_in=100_000, tokens_out=10)
    above = Usage(tokens_in=100_001, tokens_out=10)
    assert haiku.usd(at) == pytest.approx((100_000 * 0.10 + 10 * 0.50) / 1e6)
    assert haiku.usd(above) == pytest.approx((100_001 * 0.50 + 10 * 2.50) / 1e6)


amounts = st.floats(0, 200, allow_nan=False)
entries = st.builds(
    Price,
    input=amounts,
    cached=st.none() | amounts,
    cache_write=st.none() | amounts,
    output=amounts,
    long_above=st.integers(1, 300_000),
    long_input_times=st.floats(1, 5),
    long_output_times=st.floats(1, 5),
)


@given(price=entries, data=st.data())
def test_no_request_costs_more_than_its_bound_allows(price: Price, data: st.DataObject) -> None:
    bound = Usage(
        calls=1,
        tokens_in=data.draw(st.integers(0, 500_000)),
        tokens_out=data.draw(st.integers(0, 100_000)),
    )
    tokens_in = data.draw(st.integers(0, bound.tokens_in))
    cached = data.draw(st.integers(0, tokens_in))
    used = Usage(
        calls=1,
        tokens_in=tokens_in,
        tokens_cached=cached,
        tokens_written=data.draw(st.integers(0, tokens_in - cached)),
        tokens_out=data.draw(st.integers(0, bound.tokens_out)),
    )
    assert price.usd(used) <= price.most(bound) * (1 + 1e-12)


def test_the_shipped_table_is_package_data() -> None:
    project = (SHIPPED.parent.parent / "pyproject.toml").read_text()
    assert 'inner_loop = ["*.toml"' in project
