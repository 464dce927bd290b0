"""Invented words: venues, races, horses, dogs and people.

Nobody and nothing here is real; some names carry macrons and apostrophes because real ones do.
"""

from __future__ import annotations

from random import Random


def _list_words(text: str) -> list[str]:
    return text.split()


NZ_VENUES = ("Kōwhai Flat", "Te Rimu Downs", "Pōhutu Park", "Mānuka Straight")
AUS_VENUES = (
    "Wattle Bend",
    "Ironbark Park",
    "Galah Plains",
    "Old Tannery",
    "Quandong Creek",
    "Saltbush",
    "Mallee Cross",
    "Banksia Hill",
)
GREYHOUND_VENUES = ("Tussock Lane", "Brolga Bay")
OTHER_VENUES = ("Val d'Ombre", "Göl Parkuru")

_FIRST_WORDS = _list_words(
    "Amber Brisk Copper Dapper Ember Feral Gentle Hollow Indigo Jolly Keen Lucid Merry Nimble Ochre Plucky "
    "Quiet Rustic Silver Tawny Umber Velvet Wily Yonder Zesty Breezy Crimson Dusky Earnest Frosted Gilded "
    "Hasty Ivory Jaunty Kindly Limber Mellow Noble Opal Placid Roving Saffron Tidy Upland Vivid Windy Tōtara"
)
_LAST_WORDS = _list_words(
    "Anchor Bellows Compass Drummer Echo Fiddler Gambit Harbour Isthmus Jester Kestrel Lantern Meridian "
    "Nectar Orchard Pilgrim Quill Rascal Sonnet Thimble Umbra Voyager Whistle Yarn Zephyr Almanac Bramble "
    "Cinder Dynamo Ferry Grotto Hatter Inkwell Juniper Kernel Ledger Mosaic Nomad Outrider Pepper Ripple "
    "Saddler Tinder Usher Verse Willow Yeoman O'Malley"
)
_GIVEN_NAMES = _list_words(
    "Aroha Ben Cleo Dov Esme Finn Greta Hemi Isla Jonty Kiri Leif Mere Ned Odette Piers Quin Rewi Sina "
    "Tomasz Una Viv Wiremu Xanthe Yusuf Zara"
)
_FAMILY_NAMES = _list_words(
    "Abelard Birchall Coppins D'Arcy Elphick Farrant Gudgeon Hakopa Inskip Jarrold Kettley Lumsden Mowbray "
    "Nightingale Oakhurst Penhallow Quested Rangihuna Stallworthy Tregear Umaga-Reid Vosper Whakatau Yelland"
)
_RACE_WORDS = _list_words(
    "Ferrymen Lamplighters Potters Weavers Cartographers Beekeepers Shipwrights Millers Glaziers Tinkers "
    "Bellringers Chandlers Drovers Coopers Thatchers Fletchers"
)
_RACE_KINDS = ("Handicap", "Maiden", "Stakes", "Cup", "Sprint", "Plate (BM64)", "Classic", "Trophy")
_COLOURS = ("White", "Emerald", "Navy", "Cerise", "Gold", "Black", "Orange", "Sky blue", "Maroon", "Lime")
_PATTERNS = ("hoops", "stars", "sash", "chevrons", "quarters", "spots", "stripes", "diamonds")


def pick_runner_names(rng: Random, count: int) -> list[str]:
    """`count` different names for the runners of one race."""
    pairs = rng.sample(range(len(_FIRST_WORDS) * len(_LAST_WORDS)), count)
    return [f"{_FIRST_WORDS[n // len(_LAST_WORDS)]} {_LAST_WORDS[n % len(_LAST_WORDS)]}" for n in pairs]


def pick_person(rng: Random) -> str:
    """A jockey, a driver, a trainer or an owner."""
    return f"{rng.choice(_GIVEN_NAMES)} {rng.choice(_FAMILY_NAMES)}"


def pick_race_name(rng: Random) -> str:
    """What the API calls the description of a race."""
    return f"{rng.choice(_RACE_WORDS)} {rng.choice(_RACE_KINDS)}"


def pick_silk_colours(rng: Random) -> str:
    """The colours a jockey wears, in words."""
    body, mark, cap = rng.sample(_COLOURS, 3)
    return f"{body}, {mark.lower()} {rng.choice(_PATTERNS)}, {cap.lower()} cap"
