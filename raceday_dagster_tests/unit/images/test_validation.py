"""What a vision API answers, and what is accepted of it."""

from __future__ import annotations

import json

import pytest

from raceday_dagster.errors import ImageError, SettingsError
from raceday_dagster.images.records import Description
from raceday_dagster.images.validation import CATEGORIES, Rules, build_prompt, read_description
from raceday_dagster.settings import Settings

WORDS = [f"word {number}" for number in range(30)]
GOOD = Description(title="t" * 50, keywords=tuple(WORDS), category=7)


def answer(**fields: object) -> str:
    return json.dumps({"title": "A title", "keywords": ["a", "b"], "category": 7} | fields)


@pytest.mark.parametrize(
    "text",
    [
        answer(),
        f"```json\n{answer()}\n```",
        f"```\n{answer()}```",
        f"Here it is:\n\n```json\n{answer()}\n```\nAnything else?",
        f"Sure! {answer()} There you are.",
        answer(keywords="a, b"),
        answer(keywords=" a ,, b ,"),
        answer(category="7"),
        answer(category="7 Food"),
        answer(category=7.0),
        answer(category="food"),
        answer(title="  A\n title\x00", more="fields"),
    ],
)
def test_an_answer_is_read_in_every_form_that_models_give_it(text: str) -> None:
    assert read_description(text) == Description(title="A title", keywords=("a", "b"), category=7)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the answer is empty"),
        (" \n", "the answer is empty"),
        ("I see a horse.", "the answer is no JSON"),
        ("[1, 2]", "the answer is no JSON object"),
        ('{"title": "cut sh', "the answer is no JSON"),
        ("[" * 100_000, "the answer is no JSON"),
        (answer(title=None), "there is no title"),
        (answer(keywords=[1]), "the keywords are neither"),
        (answer(keywords=None), "the keywords are neither"),
        (answer(category=True), "the category is no number"),
        (answer(category="horses"), "the category is no number"),
        (answer(category=1.5), "the category is no number"),
    ],
)
def test_what_is_no_description_is_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ImageError, match=f"^{complaint}") as caught:
        read_description(text)
    assert (caught.value.stage, caught.value.retryable) == ("validate", False)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"title": "t" * 49}, "the title has 49 characters instead of 50 to 200"),
        ({"title": "t" * 201}, "the title has 201 characters instead of 50 to 200"),
        ({"title": "t" * 50 + ","}, "the title has a comma"),
        ({"keywords": WORDS[1:]}, "there are 29 keywords instead of 30 to 50"),
        ({"keywords": [f"{n}" for n in range(51)]}, "there are 51 keywords instead of 30 to 50"),
        ({"keywords": [*WORDS, "k" * 51]}, "1 keywords are longer than 50 characters"),
        ({"keywords": [*WORDS, "WORD 3"]}, "keywords are repeated (word 3)"),
        ({"category": 0}, "the category is 0 instead of 1 to 21"),
        ({"category": 22}, "the category is 22 instead of 1 to 21"),
    ],
)
def test_each_rule_is_held(change: dict[str, object], fault: str) -> None:
    assert Rules().find_faults(GOOD) == []
    (found,) = Rules().find_faults(Description.model_validate(GOOD.model_dump() | change))
    assert found.startswith(fault)


def test_the_rules_are_settings() -> None:
    settings = Settings.from_environment({"IMAGE_TITLE_MIN": "5", "IMAGE_TITLE_MAX": "9", "IMAGE_KEYWORDS_MIN": "1"})
    rules = Rules.of(settings)
    assert (rules.title_min, rules.title_max, rules.keywords_min, rules.keyword_max) == (5, 9, 1, 50)


def test_a_highest_number_below_the_lowest_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^IMAGE_TITLE_MAX is wrong: must not be less than 50"):
        Settings.from_environment({"IMAGE_TITLE_MAX": "40"})


def test_the_prompt_says_the_rules_and_what_was_wrong() -> None:
    prompt = build_prompt(Rules(), ["the title has a comma"])
    assert all(part in prompt for part in ("50 to 200 characters", "30 to 50", "21 Travel", "refused: the title has a"))
    assert "refused" not in build_prompt(Rules())
    assert len(CATEGORIES) == 21
