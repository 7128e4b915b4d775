"""Conversations of Toytown: small talk, and questions about the colour and the home of somebody with a name."""

from __future__ import annotations

import random
from collections.abc import Callable

from sightline.data.toytown.world import PLACES, Subject

FACTS = ("colour", "place")

_QUESTIONS = {
    "colour": (
        "what colour is {who}?",
        "which colour is {who}?",
        "what is the colour of {who}?",
        "do you know what colour {who} is?",
        "can you tell me the colour of {who}?",
        "tell me what colour {who} is.",
        "i want to paint {who}. which colour is right?",
        "what colour do you see when you look at {who}?",
    ),
    "place": (
        "where does {who} live?",
        "where is {who} at home?",
        "where can i find {who}?",
        "do you know where {who} lives?",
        "can you tell me where {who} is?",
        "tell me where {who} lives.",
        "i want to visit {who}. where do i go?",
        "where do you see {who}?",
    ),
}
_FOLLOW_UPS = {
    "colour": ("what colour is it?", "which colour?", "and the colour?", "tell me the colour, please."),
    "place": ("where does it live?", "where is that?", "and where is its home?", "tell me where, please."),
}
_REPLIES = {
    "colour": ("it is {colour}.", "it is {colour}.", "the colour is {colour}.", "you see {colour}."),
    "place": ("it lives {where}.", "it lives {where}.", "it is {where}.", "you find it {where}."),
}
"""No reply says a name: repeating one that no dialogue ever said is another skill than looking at a picture."""
_UNKNOWN = ("i do not know.", "i do not know.", "that i do not know.", "sorry, i do not know that.")
_INTRODUCTIONS = (
    ("do you know {name}?", "yes, i know {name} well."),
    ("have you met {name}?", "yes, i like {name} a lot."),
    ("let us talk about {name}.", "sure, what about {name}?"),
    ("i heard about {name}.", "{name} is a good friend."),
    ("i have a question about {name}.", "please ask me."),
    ("somebody told me about {name}.", "what do you want to know?"),
)
_OPENINGS = (
    "how can i help you?",
    "hello, what do you want to know?",
    "what is on your mind?",
    "do you have a question?",
    "ask me anything you like.",
)
_SMALL_TALK = (
    ("hello.", "hello, nice to see you."),
    ("hi there.", "hi, how are you?"),
    ("good morning.", "good morning to you."),
    ("good evening.", "good evening, how was your day?"),
    ("how are you?", "i am fine, thank you."),
    ("how are you today?", "very well, and you?"),
    ("nice weather today.", "yes, very nice."),
    ("it rains again.", "i like the rain."),
    ("will it snow tonight?", "i think it will."),
    ("there is a lot of fog.", "yes, drive slowly."),
    ("i am tired.", "then take a rest."),
    ("i am hungry.", "have a piece of bread."),
    ("did you sleep well?", "yes, like a stone."),
    ("what do you like?", "i like to look at pictures."),
    ("who are you?", "i am a bot that looks at pictures."),
    ("are you a robot?", "i am a bot, yes."),
    ("can you sing?", "only a little."),
    ("tell me a joke.", "a duck walks into a house and says hello."),
    ("i have a new bicycle.", "great, have a good ride."),
    ("my friend is coming today.", "that is good news."),
    ("i like music.", "me too, drums above all."),
    ("do you like cats?", "yes, cats are fun."),
    ("do you like dogs?", "yes, dogs are good friends."),
    ("what time is it?", "time to look at pictures."),
    ("i am back.", "welcome back."),
    ("thank you.", "you are welcome."),
    ("that was fun.", "yes, it was."),
    ("see you later.", "see you soon."),
    ("goodbye.", "goodbye, come back soon."),
    ("i read a book today.", "was it a good one?"),
    ("i drink tea every day.", "tea is good for you."),
    ("today is my birthday.", "happy birthday to you."),
)

SENTENCES = (*_OPENINGS, *(sentence for exchange in _SMALL_TALK for sentence in exchange))
"""All small talk: it tells nothing about any picture."""

Exchange = tuple[tuple[str, ...], str]
"""Context turns and the reply."""


def small_talk(rng: random.Random) -> Exchange:
    """One to three turns about nothing in particular; neither a colour nor a place is named."""
    said, reply = rng.choice(_SMALL_TALK)
    shape = rng.choice(("one", "opened", "after another"))
    if shape == "one":
        return (said,), reply
    if shape == "opened":
        return (rng.choice(_OPENINGS), said), reply
    return (*rng.choice(_SMALL_TALK), said), reply


def question_context(subject: Subject, *, fact: str, rng: random.Random) -> tuple[str, ...]:
    """One to four turns, the last of which leads to the fact; colour and place are named in none."""
    return rng.choice(_CONTEXTS)(subject, fact, rng)


def fact_reply(subject: Subject, *, fact: str, rng: random.Random) -> str:
    """A short reply that states the fact."""
    template = rng.choice(_REPLIES[fact])
    return template.format(colour=subject.colour, where=PLACES[subject.place])


def unknown_reply(*, rng: random.Random) -> str:
    """A short reply that states no fact."""
    return rng.choice(_UNKNOWN)


def _direct(subject: Subject, fact: str, rng: random.Random) -> tuple[str, ...]:
    who = rng.choice((subject.name, subject.name, f"{subject.name} the {subject.kind}"))
    return (rng.choice(_QUESTIONS[fact]).format(who=who),)


def _opened(subject: Subject, fact: str, rng: random.Random) -> tuple[str, ...]:
    return (rng.choice(_OPENINGS), *_direct(subject, fact, rng))


def _after_small_talk(subject: Subject, fact: str, rng: random.Random) -> tuple[str, ...]:
    return (*rng.choice(_SMALL_TALK), *_direct(subject, fact, rng))


def _introduced(subject: Subject, fact: str, rng: random.Random) -> tuple[str, ...]:
    said, reply = rng.choice(_INTRODUCTIONS)
    return (said.format(name=subject.name), reply.format(name=subject.name), rng.choice(_FOLLOW_UPS[fact]))


def _opened_and_introduced(subject: Subject, fact: str, rng: random.Random) -> tuple[str, ...]:
    return (rng.choice(_OPENINGS), *_introduced(subject, fact, rng))


_CONTEXTS: tuple[Callable[[Subject, str, random.Random], tuple[str, ...]], ...] = (
    _direct,
    _opened,
    _after_small_talk,
    _after_small_talk,
    _introduced,
    _introduced,
    _opened_and_introduced,
)
