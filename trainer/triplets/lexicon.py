"""The closed lists of the rules: words that exchange for one another, phrases of where and when, and templates."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = ("one", "two", "three", "four", "five")
DETERMINERS = frozenset({"a", "an", "the", "some", "several", "many", "his", "her", "its", "their", *NUMBERS, "six"})
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "brown", "grey"),
    "size": ("tiny", "small", "big", "huge"),
    "age": ("old", "young", "new"),
    "material": ("wooden", "metal", "plastic", "glass", "stone", "paper"),
    "pattern": ("striped", "spotted", "plain", "checkered"),
    "state": ("open", "closed", "empty", "full", "broken", "clean", "dirty"),
    "light": ("light", "medium", "dark", "medium-light", "medium-dark"),
    "mood": ("happy", "sad", "angry", "smiling", "crying", "grinning", "frowning", "sleepy"),
}
SAME_ATTRIBUTE = {"gray": "grey", "large": "big", "little": "small"}
"""Other words for a listed one: exchanged as it is, never for it."""
NOUNS: dict[str, tuple[str, ...]] = {
    "person": ("man", "woman", "boy", "girl", "child", "person"),
    "pet": ("dog", "cat", "rabbit", "horse", "cow", "sheep", "goat", "pig"),
    "wild animal": ("bear", "elephant", "giraffe", "zebra", "lion", "monkey", "fox", "deer"),
    "small animal": ("duck", "owl", "turtle", "snail", "fish", "butterfly", "bird", "frog"),
    "vehicle": ("car", "bus", "truck", "train", "tractor", "motorcycle", "bicycle", "van"),
    "craft": ("boat", "plane", "rocket", "ship", "balloon", "kite", "helicopter"),
    "building": ("house", "castle", "tent", "windmill", "church", "barn", "tower"),
    "plant": ("tree", "flower", "mushroom", "cactus", "bush"),
    "thing": ("ball", "umbrella", "teapot", "cup", "hat", "drum", "gift", "book", "lamp", "clock", "suitcase"),
    "furniture": ("chair", "table", "sofa", "bed", "bench", "desk"),
    "food": ("pizza", "sandwich", "cake", "salad", "hot dog", "burger", "bowl of soup"),
    "fruit": ("apple", "pear", "banana", "lemon", "peach", "pineapple"),
    "sport": ("surfboard", "skateboard", "frisbee", "tennis racket", "baseball bat"),
}
FIGURE_ATTRIBUTES = ("young", "old", "tall", "smiling")
"""What a person can be given where others are given a colour."""
IRREGULAR = {
    **{
        "bus": "buses",
        "man": "men",
        "woman": "women",
        "child": "children",
        "person": "people",
        "fish": "fish",
        "sheep": "sheep",
    },
    **{"deer": "deer", "mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "leaf": "leaves"},
    **{"knife": "knives", "shelf": "shelves", "wolf": "wolves", "cactus": "cacti"},
}
BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "place": (
        *("at the beach", "in the harbour", "in the park", "on the street", "on the farm", "in the mountains"),
        *(
            "in the desert",
            "in the forest",
            "in a field",
            "in a kitchen",
            "in a living room",
            "in a city",
            "in a garden",
        ),
        *("on a beach", "on the beach", "in a park", "on a street", "in the woods", "in the water", "in the grass"),
        *("on a road", "in a room", "at a station", "in a bathroom", "in a bedroom", "in a forest", "in the ocean"),
    ),
    "hour": (
        *("by day", "at dusk", "at night", "in the daytime", "during the day", "in the evening", "after dark"),
        *("late at night", "as the sun goes down", "at sunset", "at sunrise", "in the morning"),
    ),
    "weather": (
        *(
            "in clear weather",
            "under a clear sky",
            "with no clouds",
            "in the rain",
            "while it rains",
            "in rainy weather",
        ),
        *("in the snow", "while it snows", "in snowy weather", "in the fog", "in foggy weather", "with fog all around"),
        *("under a cloudy sky", "in the sun"),
    ),
}
ALIKE = (
    frozenset({"by day", "in the daytime", "during the day", "in the morning"}),
    frozenset({"at night", "after dark", "late at night"}),
    frozenset({"at dusk", "in the evening", "as the sun goes down", "at sunset", "at sunrise"}),
    frozenset({"in clear weather", "under a clear sky", "with no clouds", "in the sun"}),
    frozenset({"in the rain", "while it rains", "in rainy weather"}),
    frozenset({"in the snow", "while it snows", "in snowy weather"}),
    frozenset({"in the fog", "in foggy weather", "with fog all around"}),
    frozenset({"at the beach", "on a beach", "on the beach"}),
    frozenset({"in the park", "in a park", "in a garden"}),
    frozenset({"in the forest", "in a forest", "in the woods"}),
    frozenset({"on the street", "on a street", "on a road"}),
)
"""Phrases that say the same: none of them is an edit of another."""
VIEWPOINTS: dict[str, str] = {
    "seen from above": "{scene}, seen from above",
    "seen from behind": "{scene}, seen from behind",
    "seen from far away": "{scene}, seen from far away",
    "seen from below": "{scene}, seen from below",
    "seen through a window": "{scene}, seen through a window",
    "from the side": "{scene}, from the side",
}
"""What the edit says, and the scene that it makes of `{scene}`."""
VIEW_WORDS = frozenset({"seen", "view", "viewed", "aerial", "close-up", "closeup", "close", "above", "behind", "shot"})
RELATIONS: dict[str, tuple[str, ...]] = {
    "left of": ("right of", "behind", "in front of"),
    "right of": ("left of", "behind", "in front of"),
    "next to": ("behind", "in front of", "far away from"),
    "beside": ("behind", "in front of", "far away from"),
    "near": ("far away from", "behind", "on top of"),
    "on top of": ("under", "next to", "behind"),
    "in front of": ("behind", "next to", "left of"),
    "behind": ("in front of", "next to", "right of"),
    "under": ("on top of", "next to", "behind"),
    "above": ("under", "next to"),
    "inside": ("next to", "on top of"),
    "on": ("under", "next to", "behind"),
    "and": ("behind", "in front of", "on top of", "under"),
}
"""How two things stand, and how they can stand instead."""
STOPS = _words(
    "and or but of in on at by with without to from for over under near behind beside between above below inside "
    "outside into onto off up down through across against along around next left right front top while as during "
    "after before that which who where when is are was were be been being has have had can will do does did it this "
    "these those there here you i we they he she not no all both very sits stands lies walks runs eats holds rides "
    "plays looks flies rests shows wears carries drives swims jumps sit stand lie walk run eat hold ride play look "
    "fly rest show wear carry drive swim jump swings sleep sleeps"
)
"""Words that no noun phrase goes past."""
NO_THINGS = _words(
    "lot lots sky fog rain snow weather cloud clouds picture pictures photo photograph image images view tone colour "
    "color home group bunch pair couple number variety kind type way side top bottom front back middle edge end "
    "background foreground day night time question friend inside outside ground field air body hand head"
)
"""Heads of phrases that no edit is about: amounts, parts and what is everywhere."""
ENDINGS_THAT_ARE_NO_VERB = _words(
    "building wing ring king string evening morning clothing ceiling railing painting bed shed sled red seed weed "
    "grinning smiling crying frowning striped spotted checkered closed broken"
)
TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": ("add {new}", "with {new} as well", "put {new} into it", "the same plus {new}"),
    "remove": ("remove the {old}", "without the {old}", "take away the {old}", "the {old} should be gone"),
    "replace": (
        "replace the {old} with {new}",
        "{new} instead of the {old}",
        "turn the {old} into {new}",
        "change the {old} to {new}",
    ),
    "attribute": (
        "make the {noun} {new}",
        "the {noun} should be {new}",
        "turn the {noun} {new}",
        "change the {noun} to {new}",
    ),
    "property": ("with {new} instead of {old}", "change {old} to {new}", "make it {new}", "{new} now, not {old}"),
    "count": ("show {new}", "make it {new}", "the same with {new}", "change {old} to {new}"),
    "background": ("the same but {new}", "this one {new}", "show it {new}", "{new} this time"),
    "viewpoint": ("the same {new}", "show it {new}", "this one {new}", "{new} please"),
    "relation": (
        "put the {first} {new} the {second}",
        "move the {first} {new} the {second}",
        "show the {first} {new} the {second}",
    ),
}  # fmt: skip
HELD_OUT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": ("there should also be {new}", "include {new}"),
    "remove": ("get rid of the {old}", "no {old} any more"),
    "replace": ("swap the {old} for {new}", "it has {new} where the {old} was"),
    "attribute": ("i want the {noun} {new}", "give me a {new} {noun}"),
    "property": ("swap {old} for {new}", "rather {new}"),
    "count": ("there should be {new}", "i would like {new}"),
    "background": ("now {new}", "move the scene: {new}"),
    "viewpoint": ("but {new}", "look at it {new}"),
    "relation": ("the {first} should be {new} the {second}", "rearrange it: the {first} {new} the {second}"),
}
"""Never used for training: a model that is graded on its own phrasing is graded on nothing."""
