import pytest

from datafast_nb.models.base import Usage
from datafast_nb.models.fake import FakeModel
from datafast_nb.models.openai import OpenAICompatibleModel, OpenAIModel
from datafast_nb.models.pricing import Price, price_of, prices_version, similar_names


def test_cost_counts_cached_input_at_its_own_price():
    price = Price(10, 100, 1)
    usage = Usage(input_tokens=1_000_000, output_tokens=10_000, cached_input_tokens=400_000)
    assert price.cost(usage) == pytest.approx(0.6 * 10 + 0.4 * 1 + 0.01 * 100)
    assert Price(10, 100).cost(usage) == pytest.approx(10 + 1)


def test_cached_tokens_never_make_a_cost_negative():
    assert Price(10, 0, 1).cost(Usage(input_tokens=10, cached_input_tokens=50)) > 0


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_impossible_prices_are_refused(value):
    with pytest.raises(ValueError, match="input_per_mtok_usd"):
        Price(value, 1)


@pytest.mark.parametrize(
    ("provider", "name", "per_input", "per_output"),
    [
        ("openai", "gpt-4o-mini", 0.15, 0.6),
        ("anthropic", "claude-haiku-4-5-20251001", 1, 5),
        ("gemini", "gemini-2.5-pro", 1.25, 10),  # tiered: the first tier
    ],
)
def test_list_prices(provider, name, per_input, per_output):
    price = price_of(FakeModel(name=name, provider=provider))
    assert price is not None
    assert (price.input_per_mtok_usd, price.output_per_mtok_usd) == (per_input, per_output)
    assert price.source == prices_version()


def test_unknown_models_and_providers_have_no_price():
    assert price_of(FakeModel(name="no-such-model", provider="openai")) is None
    assert price_of(FakeModel(name="gpt-4o", provider="someone")) is None


@pytest.mark.parametrize("provider", ["local", "fake", "ollama"])
def test_models_on_this_machine_are_free(provider):
    price = price_of(FakeModel(provider=provider))
    assert price is not None and price.is_free


def test_own_price_comes_first_and_may_be_a_pair():
    model = OpenAIModel("gpt-4o", price=(1, 2))
    assert price_of(model) == Price(1, 2, source="as given")
    changed = model.with_(price=(3, 4))
    assert price_of(changed) == Price(3, 4, source="as given")
    with pytest.raises(TypeError, match="per million tokens"):
        OpenAIModel("gpt-4o", price=5)  # type: ignore[arg-type]


def test_price_of_a_compatible_server_is_known_only_where_its_host_lists_prices():
    unknown = OpenAICompatibleModel("gpt-4o", "http://localhost:8000/v1")
    assert price_of(unknown) is None
    assert price_of(unknown.with_(cache_id="openai-like")) is None
    listed = OpenAICompatibleModel("openai/gpt-4o-mini", "https://openrouter.ai/api/v1")
    assert price_of(listed) is not None


def test_similar_names_come_from_the_same_provider():
    assert "gpt-4o-mini" in similar_names(OpenAIModel("gpt-4o-mni"))
    assert similar_names(OpenAICompatibleModel("gpt-4o-mni", "http://localhost:1/v1")) == []
