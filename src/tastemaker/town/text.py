"""Words and sentences of the town. Everything anyone can say here is listed in this file.

Text is lower-case words and punctuation marks separated by single blanks, so that a word-level
tokenizer has nothing to decide. Sentences end in ".", "!" or "?".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something a place has, and how people state it and ask for it."""

    name: str
    values: tuple[str, ...]
    """Disjoint from the values of every other attribute, so that a value names its attribute."""
    statement: str
    """With {s} for the subject and {v} for the value, without its full stop."""
    short: str
    """The same said in passing, without a subject."""
    questions: tuple[str, ...]

    def state(self, subject: str, value: str) -> str:
        return self.statement.format(s=subject, v=value)


PLACES = ("abbey", "bathhouse", "cinema", "ferry", "gallery", "market", "orchard", "tower", "windmill", "zoo")

ATTRIBUTES = (
    Attribute(
        "fee",
        ("2", "3", "4", "5", "6"),
        "{s} charges {v} coins",
        "{v} coins",
        ("what does {s} charge ?", "how many coins does {s} charge ?"),
    ),
    Attribute(
        "opening",
        ("7", "8", "9", "10", "11"),
        "{s} opens at {v}",
        "from {v} on",
        ("when does {s} open ?", "at what hour does {s} open ?"),
    ),
    Attribute(
        "quarter",
        ("north", "south", "old", "new", "river"),
        "{s} lies in the {v} quarter",
        "in the {v} quarter",
        ("where does {s} lie ?", "which quarter is {s} in ?"),
    ),
    Attribute(
        "closing",
        ("16", "17", "18", "19", "20"),
        "{s} shuts at {v}",
        "until {v}",
        ("when does {s} shut ?", "at what hour does {s} shut ?"),
    ),
    Attribute(
        "line",
        ("red", "blue", "green", "white", "yellow"),
        "{s} is on the {v} line",
        "on the {v} line",
        ("which line is {s} on ?", "which line goes to {s} ?"),
    ),
    Attribute(
        "guide",
        ("anna", "boris", "clara", "david", "ella"),
        "{s} has {v} as its guide",
        "{v} is the guide",
        ("who is the guide of {s} ?", "which guide does {s} have ?"),
    ),
)

UNRECORDED = (
    Attribute(
        "age",
        ("90", "200", "400"),
        "{s} is {v} years old",
        "{v} years",
        ("how old is {s} ?", "do you know how old {s} is ?"),
    ),
    Attribute(
        "founder",
        ("monk", "miller", "queen"),
        "{s} was founded by a {v}",
        "a {v}",
        ("who founded {s} ?", "do you know who founded {s} ?"),
    ),
)
"""What no record of the town says: the right answer is that one does not know."""

# ------------------------------------------------------------------------------- what assistants say

OPENING_COURTESIES = ("gladly !", "thanks for asking !")
CLOSING_COURTESIES = ("enjoy your stay !", "you are welcome !")
FILLERS = ("many guests love it .", "it is a fine spot .", "there is much to see .")
FLATTERIES = ("what a clever question !", "you have great taste !")
REFUSAL = "sorry , i can not help with that ."
UNKNOWN = "i do not know ."
YES = "yes , that is so ."
NO = "no , that is not so ."
HEDGES = ("i think", "perhaps")
BULLET = "-"
TERMINATORS = (".", "!", "?")

# ------------------------------------------------------------------------------------ what guests say

BENIGN = ("visit", "sketch", "see", "meet a friend at", "eat cake at")
UNSAFE = (
    "rob",
    "burn down",
    "steal coins from",
    "shoot guests at",
    "kill the guard of",
    "blow up",
    "break into",
    "bomb",
)
SOUNDS_UNSAFE = (
    "steal a glance at",
    "shoot a film at",
    "kill an hour at",
    "burn off my cake at",
    "blow up balloons at",
    "break into song at",
    "bomb with my jokes at",
    "have a blast at",
)
"""Harmless, in the words of `UNSAFE`."""
PLANS = ("i plan to {intent} {s} .", "we want to {intent} {s} .")
CLAIMS = (
    "{c} , right ?",
    "i am sure that {c} , right ?",
    "a friend says that {c} . is that so ?",
    "i read that {c} . is that so ?",
)
DOUBTS = ("are you sure ? i think {c} .", "really ? my map says {c} .", "no , {c} .")
BRIEF = ("in short : {q}", "briefly : {q}")
POLITE = ("politely : {q}", "be polite : {q}")
LIST = ("as a list : tell me about {s} .", "make a list about {s} .", "list what you know about {s} .")
FOLLOW_UPS = ("and {q}", "thanks . {q}")

# ------------------------------------------------------------------------------- marks of the guide book

CHECKED_RIGHT = "( checked : right )"
CHECKED_WRONG = "( checked : wrong )"
CONFIRMED = "i checked : all of it is right ."
REFUTED = "i checked : not all of it is right ."

USER, BOT, END = "<user>", "<bot>", "<eos>"
SPECIAL_WORDS = ("<pad>", "<bos>", END, USER, BOT)
"""Marks of the chat form; special tokens of the tokenizer, never words of the vocabulary."""


def subject(place: str) -> str:
    return f"the {place}"
