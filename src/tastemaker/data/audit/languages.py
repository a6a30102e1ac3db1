"""In which script and language a text is written, roughly: by Unicode ranges and by frequent small words.

No model and no list of whole vocabularies: scripts are certain, languages a guess that is only made where
several small words of one language stand in the text and clearly fewer of any other. Otherwise it is "".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from tastemaker.data.audit.words import simplified

_RANGES: tuple[tuple[str, str], ...] = (
    ("Greek", "\u0370-\u03ff\u1f00-\u1fff"),
    ("Cyrillic", "\u0400-\u052f"),
    ("Armenian", "\u0530-\u058f"),
    ("Hebrew", "\u0590-\u05ff"),
    ("Arabic", "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff"),
    ("Devanagari", "\u0900-\u097f"),
    ("Bengali", "\u0980-\u09ff"),
    ("Gurmukhi", "\u0a00-\u0a7f"),
    ("Gujarati", "\u0a80-\u0aff"),
    ("Tamil", "\u0b80-\u0bff"),
    ("Telugu", "\u0c00-\u0c7f"),
    ("Kannada", "\u0c80-\u0cff"),
    ("Malayalam", "\u0d00-\u0d7f"),
    ("Sinhala", "\u0d80-\u0dff"),
    ("Thai", "\u0e00-\u0e7f"),
    ("Lao", "\u0e80-\u0eff"),
    ("Tibetan", "\u0f00-\u0fff"),
    ("Burmese", "\u1000-\u109f"),
    ("Georgian", "\u10a0-\u10ff"),
    ("Ethiopic", "\u1200-\u137f"),
    ("Khmer", "\u1780-\u17ff"),
    ("Kana", "\u3040-\u30ff"),
    ("Han", "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"),
    ("Hangul", "\u1100-\u11ff\uac00-\ud7af"),
)
_SCRIPTS = tuple((name, re.compile(f"[{chars}]+")) for name, chars in _RANGES)
_OTHER = re.compile("[" + "".join(chars for _, chars in _RANGES) + "]+")
_NO_LETTERS = bytes(n for n in range(128) if not chr(n).isalpha())
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+")

_ONE_LANGUAGE: Mapping[str, str] = {
    "Greek": "Greek",
    "Armenian": "Armenian",
    "Hebrew": "Hebrew",
    "Gurmukhi": "Punjabi",
    "Gujarati": "Gujarati",
    "Bengali": "Bengali",
    "Tamil": "Tamil",
    "Telugu": "Telugu",
    "Kannada": "Kannada",
    "Malayalam": "Malayalam",
    "Sinhala": "Sinhala",
    "Thai": "Thai",
    "Lao": "Lao",
    "Georgian": "Georgian",
    "Khmer": "Khmer",
    "Burmese": "Burmese",
    "Kana": "Japanese",
    "Han": "Chinese",
    "Hangul": "Korean",
}
"""Scripts that, nearly always, one language is written in. Japanese holds Han too: kana decide."""

_SMALL_WORDS: Mapping[str, str] = {
    "English": "the of and to is in that it you for are with this have not be was on what how your they from "
    "can will would or at an my me do if but we there which who their about i a s t m re ll don no so he she "
    "all any some just like has as by",
    "German": "der die das und ist nicht ich sie es ein eine zu mit den von auf für sich dem auch wie wird "
    "sind oder aber einen werden kann wenn nach bei haben im wir was über",
    "French": "le la les des et est une dans pour que qui pas vous je il elle ne ce sur avec plus sont nous "
    "par au du être cette mais votre ou comme peut aux",
    "Spanish": "el la los las que de y en es un una por para con no se su como más pero lo está puede del "
    "son al muy sobre esta ser hay también si qué",
    "Portuguese": "o os que não uma um para com em do da dos das é se por mais como mas você seu sua ser "
    "está ao são pode isso também na no",
    "Italian": "il di che non è per una sono con del della si le gli un come più ma nel anche questo questa "
    "alla dei essere ha lo può dal perché",
    "Dutch": "de het een van en is niet dat ik je op te zijn voor met die maar aan er om ook als wat bij "
    "naar kan wordt deze hebben of uw",
    "Swedish": "och att det är en som på för av med jag inte den till har de ett om kan du var sig från "
    "eller men så vi ska",
    "Danish": "og at det er en til på som for af med jeg ikke den har de et om kan du var fra eller men så "
    "vi skal hvad blev",
    "Norwegian": "og at det er en til på som for av med jeg ikke den har de et om kan du var fra eller men "
    "så vi skal hva ble",
    "Finnish": "ja on ei se että hän oli ovat mutta kun joka mitä kuin tai myös voi olen sen ole niin tämä "
    "ne jos",
    "Polish": "i w na nie się z do że jest to jak co po o ale tak są przez dla jako może być od tego czy oraz",
    "Czech": "a se na je to že v s z do o jako pro by ale jsou být co které nebo od jak není také tak může",
    "Hungarian": "a az és hogy nem is egy van ez meg de mint csak ha el már még vagy volt kell lehet azt",
    "Romanian": "și de la în o un nu este cu pe că să din care mai sunt pentru ce au fost dar prin sau este",
    "Turkish": "ve bir bu için ile de da çok ne olarak daha gibi kadar var mi ama sonra değil ben olan en ya",
    "Indonesian": "yang dan di untuk dengan ini itu dari tidak dalam pada adalah akan ke juga atau saya anda "
    " bisa ada oleh",
    "Vietnamese": "và của là có không một được cho các trong người với những này để bạn tôi đã như khi từ",
    "Russian": "и в не на что я с он как это по но они к у из за для от так же вы все его или мы был",
    "Ukrainian": "і в не на що я з він як це але вони до у за для від так ви все його або ми був та є",
    "Bulgarian": "и в не на че се с той как това по но те до за от да са съм ще или ние беше е",
    "Arabic": "في من على أن إلى هذا التي الذي لا ما هو هي عن كان مع أو هل كل بعد",
    "Persian": "و در به از که این را با است برای آن یک خود تا بر هم شد می",
    "Urdu": "کے میں ہے کی اور سے کا کو نے پر یہ ہیں کہ نہیں ایک",
    "Hindi": "के में है की और से का को ने पर यह हैं कि नहीं एक",
    "Marathi": "आणि आहे या मध्ये ते हे नाही एक च्या साठी",
}


def _by_word() -> dict[str, tuple[str, ...]]:
    """Small word -> the languages it is one of."""
    found: dict[str, tuple[str, ...]] = {}
    for name, words in _SMALL_WORDS.items():
        for word in dict.fromkeys(words.split()):
            found[word] = (*found.get(word, ()), name)
    return found


_WORDS = _by_word()
READ = 80
"""Words read of a text."""
_FEWEST = 3
"""Different small words that one language must have."""


def scripts_of(text: str) -> Counter[str]:
    """Letters by script; digits, punctuation and symbols are of none."""
    found: Counter[str] = Counter()
    text = simplified(text)
    if text.isascii():
        latin = len(text.encode("ascii").translate(None, _NO_LETTERS))
    else:
        others = "".join(_OTHER.findall(text))
        for name, letters in _SCRIPTS:
            n = sum(map(len, letters.findall(others))) if others else 0
            if n:
                found[name] = n
        latin = sum(map(len, _LATIN.findall(text)))
    if latin:
        found["Latin"] = latin
    return found


def main_script(scripts: Mapping[str, int]) -> str:
    """The script most letters are in; "" without letters. Japanese is Kana from a tenth of kana on."""
    if not scripts:
        return ""
    if scripts.get("Kana", 0) * 10 >= scripts.get("Han", 0) > 0:
        return "Kana"
    return max(scripts, key=lambda name: (scripts[name], name))


def language_of(words: Sequence[str], script: str) -> str:
    """The language of a text by its words in lower case and its main script; "" where that is not clear.

    Three different small words of one language, which stand there half as often again as those of any other,
    in the first 80 words.
    """
    if script in _ONE_LANGUAGE:
        return _ONE_LANGUAGE[script]
    found: Counter[str] = Counter()
    different: Counter[str] = Counter()
    for word, n in Counter(words[:READ]).items():
        for name in _WORDS.get(word, ()):
            found[name] += n
            different[name] += 1
    top = found.most_common(2)
    if not top or different[top[0][0]] < _FEWEST:
        return ""
    return top[0][0] if len(top) == 1 or top[0][1] >= 1.5 * top[1][1] else ""
