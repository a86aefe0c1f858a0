import pytest

import datafast_nb as dfn
from datafast_nb.models.aliases import ALIASES, AS_OF
from datafast_nb.models.pricing import listed_context, price_of, similar_names


@pytest.mark.parametrize("alias", ALIASES, ids=lambda a: a.name)
def test_a_short_name_is_a_listed_model_whose_card_shows_its_id(alias):
    model = getattr(dfn, alias.name)
    assert model.name == alias.model_id
    assert alias.model_id in similar_names(model)  # the price list knows the very name
    price = price_of(model)
    assert price is not None and price.output_per_mtok_usd > 0
    assert (listed_context(model) or 0) >= 100_000
    assert alias.model_id in repr(model) and alias.model_id in model._repr_html_()
    assert model.missing_key() is not None  # building it needed no key


def test_the_table_is_dated_and_sorted():
    assert [a.name for a in ALIASES] == sorted(a.name for a in ALIASES)
    assert len(AS_OF) == 10
    # Where the model of the specification is still there, its end is known.
    assert all(a.until > AS_OF or a.until < AS_OF for a in ALIASES if a.until)


def test_the_names_of_the_specification_are_the_providers_of_the_specification():
    providers = {a.name: getattr(dfn, a.name).provider for a in ALIASES}
    assert providers == {
        "claude": "anthropic",
        "claude_haiku": "anthropic",
        "gemini": "gemini",
        "gpt4": "openai",
        "gpt4_mini": "openai",
    }
