"""What is asked of the vision API, and whether its answer is a title, keywords and a category by the rules."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from raceday_dagster.errors import ImageError
from raceday_dagster.images.records import Description
from raceday_dagster.racing.records import Record
from raceday_dagster.settings import Settings

CATEGORIES = (
    *("Animals", "Buildings and Architecture", "Business", "Drinks", "The Environment", "States of Mind", "Food"),
    *(
        "Graphic Resources",
        "Hobbies and Leisure",
        "Industry",
        "Landscapes",
        "Lifestyle",
        "People",
        "Plants and Flowers",
    ),
    *("Culture and Religion", "Science", "Social Issues", "Sports", "Technology", "Transport", "Travel"),
)
"""Those of the stock sites, numbered from 1."""
_FENCED = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)```", re.DOTALL)


class Rules(Record):
    """The limits of a description: characters of the title and of a keyword, number of keywords, highest category."""

    title_min: int = 50
    title_max: int = 200
    keywords_min: int = 30
    keywords_max: int = 50
    keyword_max: int = 50
    category_max: int = 21

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that are set."""
        return cls(**{name: getattr(settings, f"image_{name}") for name in cls.model_fields})

    def find_faults(self, description: Description) -> list[str]:
        """What is wrong with a description, a phrase each; empty when it is valid."""
        title, keywords = description.title, description.keywords
        faults = []
        if not self.title_min <= len(title) <= self.title_max:
            faults.append(f"the title has {len(title)} characters instead of {self.title_min} to {self.title_max}")
        if "," in title:
            faults.append("the title has a comma")
        if not self.keywords_min <= len(keywords) <= self.keywords_max:
            faults.append(f"there are {len(keywords)} keywords instead of {self.keywords_min} to {self.keywords_max}")
        long = [keyword[:20] for keyword in keywords if len(keyword) > self.keyword_max]
        if long:
            faults.append(f"{len(long)} keywords are longer than {self.keyword_max} characters ({long[0]}…)")
        counted = Counter(keyword.casefold() for keyword in keywords)
        repeated = [keyword[:20] for keyword, count in counted.items() if count > 1]
        if repeated:
            faults.append(f"keywords are repeated ({', '.join(repeated[:3])})")
        if not 1 <= description.category <= self.category_max:
            faults.append(f"the category is {description.category} instead of 1 to {self.category_max}")
        return faults


def build_prompt(rules: Rules, faults: Sequence[str] = ()) -> str:
    """The request for a description; with ``faults``, those of the answer before, to be mended."""
    categories = ", ".join(f"{number} {name}" for number, name in enumerate(CATEGORIES[: rules.category_max], 1))
    lines = [
        "Describe this image for a stock image library. Answer with one JSON object and nothing else:",
        '{"title": "…", "keywords": ["…", "…"], "category": 18}',
        f"title: what is to be seen, {rules.title_min} to {rules.title_max} characters, no comma.",
        f"keywords: {rules.keywords_min} to {rules.keywords_max} different ones, the most important first, "
        f"each at most {rules.keyword_max} characters.",
        f"category: one number from 1 to {rules.category_max}: {categories}.",
    ]
    if faults:
        lines.append(f"Your last answer was refused: {'; '.join(faults)}. Mend that.")
    return "\n".join(lines)


def read_description(answer: str) -> Description:
    """The description that an answer holds, by whatever rules: a JSON object, alone, in a code fence or among words.

    Keywords may be a list or text with commas, the category a number, a number as text or the name of one.

    Raises:
        ImageError: Stage "validate", not retryable: there is no such object in it.
    """
    content = _find_object(answer)
    title, keywords, category = content.get("title"), content.get("keywords"), content.get("category")
    if not isinstance(title, str):
        raise _refuse("there is no title")
    if isinstance(keywords, str):
        keywords = keywords.split(",")
    if not isinstance(keywords, list) or not all(isinstance(keyword, str) for keyword in keywords):
        raise _refuse("the keywords are neither a list of texts nor one text")
    cleaned = (_clean(keyword) for keyword in keywords)
    return Description(title=_clean(title), keywords=tuple(filter(None, cleaned)), category=_read_category(category))


def _find_object(answer: str) -> dict[str, Any]:
    if not answer.strip():
        raise _refuse("the answer is empty")
    fenced = _FENCED.search(answer)
    text = fenced.group(1) if fenced else answer
    begin, end = text.find("{"), text.rfind("}")
    try:
        content = json.loads(text[begin : end + 1] if begin >= 0 else text)
    except (ValueError, RecursionError) as error:
        raise _refuse("the answer is no JSON") from error
    if not isinstance(content, dict):
        raise _refuse("the answer is no JSON object")
    return content


def _read_category(category: object) -> int:
    if isinstance(category, str):
        number = re.match(r"\s*([0-9]{1,3})\b", category)
        if number:
            return int(number.group(1))
        names = [name.casefold() for name in CATEGORIES]
        if category.strip().casefold() in names:
            return names.index(category.strip().casefold()) + 1
    if isinstance(category, float) and category.is_integer():
        category = int(category)
    if isinstance(category, bool) or not isinstance(category, int):
        raise _refuse("the category is no number")
    return category


def _clean(text: str) -> str:
    """On one line, without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _refuse(message: str) -> ImageError:
    return ImageError(message, stage="validate")
