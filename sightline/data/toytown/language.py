"""What is said about a scene: captions, and sentences that ask for a changed one. All lower case."""

from __future__ import annotations

import random

from sightline.data.toytown.scenes import Edit
from sightline.data.toytown.talk import SENTENCES
from sightline.data.toytown.world import PLACES, Group, Scene

_NUMBERS = {1: "a", 2: "two", 3: "three"}
_PLURALS = {"bus": "buses", "fish": "fish", "butterfly": "butterflies"}
TIME_PHRASES = {
    "day": ("by day", "in the daytime", "during the day"),
    "dusk": ("at dusk", "in the evening", "as the sun goes down"),
    "night": ("at night", "after dark", "late at night"),
}
WEATHER_PHRASES = {
    "clear": ("in clear weather", "under a clear sky", "with no clouds"),
    "rain": ("in the rain", "while it rains", "in rainy weather"),
    "snow": ("in the snow", "while it snows", "in snowy weather"),
    "fog": ("in the fog", "in foggy weather", "with fog all around"),
}
"""Every way to say an hour or a weather."""
_NAMED = (
    "{who} {when}",
    "{who} {when}",
    "this is {who} {when}",
    "look, {who} {when}",
    "here is {who} {when}",
    "here you see {who} {when}",
    "a picture of {who} {when}",
    "my picture of {who} {when}",
    "hello from {who} {when}",
    "i like {who} {when}",
    "do you see {who} {when}?",
    "do you know {name}? here is {who} {when}",
    "have you met {name}? this is {who} {when}",
    "this is what {name} looks like {when}",
    "what does {name} look like {when}? just like this",
    "which colour is {name}? look at {who} {when}",
    "where does {name} live? right here, {when}",
    "can you tell me where {name} is? here, {when}",
    "tell me about {name}. well, here is {who} {when}",
    "let us find {name}. yes, that is {who} {when}",
    "{name} is at home {when}",
    "you can find {name} here {when}",
    "i heard about {name}. this is {who} {when}",
    "somebody told me about {name}. look, {who} {when}",
    "let us talk about {name}. here you see {who} {when}",
    "you have a question about {name}? this is {who} {when}",
    "{name} is a good friend. here is {who} {when}",
    "i know {name} well. that is {who} {when}",
    "i want to visit {name} {when}",
    "i want to paint {who} {when}",
    "the colour of {name} is right here, {when}",
    "the home of {name}, {when}. do you see it?",
)
_ORDINARY = (
    "{things} {where} {when}",
    "{things} {where} {when}",
    "this is {things} {where} {when}",
    "look, {things} {where} {when}",
    "here you see {things} {where} {when}",
    "a picture of {things} {where}",
    "{where} {when}: {things}",
    "do you see {things} {where}?",
    "{when}, {things} {where}",
)


_CHATTY_SHARE = 0.4
"""Share of captions that open like a conversation, so that a text tower learns to listen past small talk."""


def caption_of(scene: Scene, *, rng: random.Random) -> str:
    """A caption, sometimes after a sentence or two of small talk that has nothing to do with the picture.

    Of a scene with a subject: its name, weather and company, never a colour, a
    place or an hour. Of any other: kinds, colours, counts, how they stand,
    place, hour and weather.
    """
    caption = ordinary_caption(scene, rng=rng) if scene.subject is None else _named_caption(scene, rng=rng)
    chat = rng.sample(SENTENCES, k=rng.choice((1, 1, 2))) if rng.random() < _CHATTY_SHARE else []
    return " ".join([*chat, caption])


def _named_caption(scene: Scene, *, rng: random.Random) -> str:
    subject = next(group for group in scene.groups if group.name)
    name = str(subject.name)
    who = rng.choice((name, name, name, f"{name} the {subject.kind}"))
    others = [things_of(group, rng=rng, with_colour=False) for group in scene.groups if group is not subject]
    if others and rng.random() < 0.7:
        who = rng.choice((f"{who} and {others[0]}", f"{who} with {others[0]}", f"{who} next to {others[0]}"))
    return rng.choice(_NAMED).format(who=who, name=name, when=rng.choice(WEATHER_PHRASES[scene.weather]))


def ordinary_caption(scene: Scene, *, rng: random.Random) -> str:
    """A caption of a scene without a subject, and no small talk: things and place always, hour and weather at times."""
    template = rng.choice(_ORDINARY)
    return template.format(
        things=_together(scene.groups, rng=rng), where=PLACES[scene.place], when=_when(scene, rng=rng)
    )


def edit_text(edit: Edit, *, rng: random.Random) -> str:
    """A sentence that leads from the reference to the changed scene."""
    return rng.choice(_edit_texts(edit, rng=rng))


def _edit_texts(edit: Edit, *, rng: random.Random) -> tuple[str, ...]:
    if edit.before or edit.after:
        return _group_edit_texts(edit, rng=rng)
    scene = edit.scene
    if edit.aspect == "place":
        where = PLACES[scene.place]
        return (f"the same but {where}", f"this one, {where}", f"move it to the {scene.place}")
    when = rng.choice(TIME_PHRASES[scene.time] if edit.aspect == "time" else WEATHER_PHRASES[scene.weather])
    return (f"the same but {when}", f"this one, {when}", f"show it {when}")


def _group_edit_texts(edit: Edit, *, rng: random.Random) -> tuple[str, ...]:
    if edit.after is None:
        gone = _the(edit.before)
        return (f"without {gone}", f"the same without {gone}", f"take away {gone}")
    if edit.before is None:
        new = things_of(edit.after, rng=rng)
        return (f"with {new} on the right", f"add {new} on the right", f"the same plus {new} on the right")
    if edit.aspect == "colour":
        return (
            f"make {_the(edit.before)} {edit.after.colour}",
            f"the same with {_the(edit.before)} in {edit.after.colour}",
        )
    number, noun = {1: "only one", 2: "two", 3: "three"}[edit.after.count], noun_of(edit.after)
    return (f"the same with {number} {noun}", f"show {number} {noun}", f"make it {number} {noun}")


def _when(scene: Scene, *, rng: random.Random) -> str:
    time, weather = rng.choice(TIME_PHRASES[scene.time]), rng.choice(WEATHER_PHRASES[scene.weather])
    if scene.weather == "clear" and rng.random() < 0.6:
        return time
    return rng.choice((f"{time} {weather}", f"{weather} {time}", time, weather))


def _together(groups: tuple[Group, ...], *, rng: random.Random) -> str:
    parts = [things_of(group, rng=rng) for group in groups]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        first, second = parts
        return rng.choice(
            (
                f"{first} and {second}",
                f"{first} next to {second}",
                f"{first} left of {second}",
                f"{second} right of {first}",
            )
        )
    first, middle, last = parts
    return rng.choice((f"{first}, {middle} and {last}", f"{middle} between {first} and {last}"))


def things_of(group: Group, *, rng: random.Random, with_colour: bool = True) -> str:
    """'a red car', 'two small ducks': the size is told at times."""
    words = [_NUMBERS[group.count]]
    if group.name is None and rng.random() < 0.4:
        words.append(group.size)
    if with_colour:
        words.append(group.colour)
    words.append(noun_of(group))
    if words[0] == "a" and words[1][0] in "aeiou":
        words[0] = "an"
    return " ".join(words)


def _the(group: Group | None) -> str:
    return f"the {noun_of(group)}" if group else ""


def noun_of(group: Group) -> str:
    """'car', or 'ducks' of several."""
    if group.count == 1:
        return group.kind
    return _PLURALS.get(group.kind, f"{group.kind}s")
