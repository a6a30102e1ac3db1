"""Near copies against brute force and their stated rate of misses; how texts are written; languages."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.audit.languages import language_of, main_script, scripts_of
from tastemaker.data.audit.looks import cut_off, damage, formats_of
from tastemaker.data.audit.near import Bands, Sketches, bands_for
from tastemaker.data.audit.words import Vocabulary, resemblance, words_of


def found_among(texts: list[str], similarity: float, others: int | None = None) -> list[tuple[int, int, float]]:
    vocabulary, sketches = Vocabulary(), Sketches(similarity)
    triples = [vocabulary.triples(words_of(text)) for text in texts]
    for each in triples:
        sketches.add(each)
    bags = [set(each.tolist()) for each in triples]
    return sketches.links(lambda a, b: resemblance(bags[a], bags[b]), others)


def jaccard(a: str, b: str) -> float:
    one, other = (
        {tuple(w[i : i + 3]) for i in range(max(1, len(w) - 2))} for w in (a.lower().split(), b.lower().split())
    )
    return len(one & other) / len(one | other)


_texts = st.lists(
    st.lists(st.sampled_from(["ab", "cd", "ef", "gh"]), min_size=1, max_size=9).map(" ".join), max_size=14
)


@settings(max_examples=100, deadline=None)
@given(_texts)
def test_links_are_near_and_no_clear_one_is_missed(texts: list[str]) -> None:
    links = found_among(texts, 0.8)
    for later, earlier, similarity in links:
        assert earlier < later and similarity == pytest.approx(jaccard(texts[later], texts[earlier]))
        assert similarity >= 0.8
    linked = {later for later, _, _ in links}
    for k, text in enumerate(texts):
        if text in texts[:k]:  # alike to the letter: never missed
            assert k in linked


def test_the_rate_of_misses_is_the_one_stated() -> None:
    """Sets of known similarity, cut so coarsely that a good part is missed."""
    rng = np.random.default_rng(0)
    pairs, similarity, shared = 1500, 0.5, 60
    sketches = Sketches(similarity)
    sketches.bands = Bands(8, 5)
    bags: list[set[int]] = []
    for _ in range(pairs):
        numbers = rng.choice(2**32, shared + 60, replace=False).astype(np.uint32)
        for own in (numbers[: shared + 30], np.concatenate([numbers[:shared], numbers[shared + 30 :]])):
            sketches.add(own)
            bags.append(set(own.tolist()))
    links = sketches.links(lambda a, b: resemblance(bags[a], bags[b]))
    missed = 1 - len(links) / pairs
    expected = Bands(8, 5).missed(similarity)
    assert expected == pytest.approx((1 - 0.5**5) ** 8)
    assert abs(missed - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


def test_bands_miss_one_in_a_hundred_at_most() -> None:
    for similarity in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        cut = bands_for(similarity)
        assert cut.bands * cut.rows <= 128 and cut.missed(similarity) <= 0.01
        assert (cut.missed(1.0) == 0 and cut.missed(similarity / 2) > cut.missed(similarity)) or similarity == 1
    assert bands_for(0.8) == Bands(21, 6)
    for wrong in (0.01, 1.2):
        with pytest.raises(ValueError, match="similarity"):
            bands_for(wrong)


def test_collections_are_held_against_each_other_alone() -> None:
    rng = random.Random(0)
    long = [" ".join(rng.choice("abcdefgh") * 3 for _ in range(60)) for _ in range(3)]
    texts = [long[0], long[0] + " x", long[1], long[1] + " x", long[0] + " y", long[2]]
    assert [(a, b) for a, b, _ in found_among(texts, 0.8, others=3)] == [(3, 2), (4, 0)]
    assert [(a, b) for a, b, _ in found_among(texts, 0.8)] == [(1, 0), (3, 2), (4, 0)]


def test_the_same_again_gives_the_same(tmp_path: object) -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.choice(("ab", "cd", "ef")) for _ in range(30)) for _ in range(60)]
    assert found_among(texts, 0.3) == found_among(texts, 0.3) != []


def test_words_and_triples() -> None:
    assert words_of("Don't stop, ÉTÉ_2!") == ["don", "t", "stop", "été", "2"]
    assert words_of("你好 world") == ["你", "好", "world"]
    vocabulary = Vocabulary()
    assert [len(vocabulary.triples(words_of(t))) for t in ("", "a", "a b", "a b c", "a b c d")] == [
        0,
        1,
        1,
        1,
        2,
    ]
    one, other = (set(vocabulary.triples(words_of(t)).tolist()) for t in ("a b c d", "b c d a"))
    assert len(one & other) == 1, "triples are in order"


# ------------------------------------------------------------------------------------------- how written

PROSE = "I would go there in the morning. It is quiet then, and the light is better for photographs"


@pytest.mark.parametrize(
    "text",
    [
        PROSE + ", and also",
        PROSE + " than at noon when",
        PROSE + ",",
        "Here is how:\n```python\nprint(1)\n",
    ],
)
def test_what_looks_cut_off(text: str) -> None:
    assert cut_off(text)


@pytest.mark.parametrize(
    "text",
    [
        PROSE + ".",
        PROSE + "!)",
        PROSE + " \u201cthen.\u201d",
        "Paris",
        "the capital of France, which is Paris, as far as anybody that I have ever met would know it",
        PROSE + ".\n- one thing\n- another thing that ends in no stop and is long",
        PROSE + ".\nBest wishes,\nAnna Smith",
        PROSE + ".\nSee https://example.org/a/b/c?d=e for more of it",
        "Here:\n```python\nprint(1)\n```",
        "Erste. " + PROSE + "。",
    ],
)
def test_what_does_not_look_cut_off(text: str) -> None:
    assert cut_off(text) == ""


@pytest.mark.parametrize(
    ("text", "traits"),
    [
        ("one\n- two\n- three", {"a list"}),
        ("1. one\n2. two", {"a list"}),
        ("a **word** here", {"bold text"}),
        ("# Title\ntext", {"a heading"}),
        ("use `ls` now", {"code"}),
        ("| a | b |\n|---|---|\n| 1 | 2 |", {"a table"}),
        ("see https://example.org", {"a link"}),
        ("fine \U0001f600", {"an emoji"}),
        ("Hello!", {"an exclamation mark"}),
        ("a\n\nb", {"several paragraphs"}),
        ("Is it so?", {"a question at its end"}),
        ("I\u2019m sorry, but no.", {"an apology or a refusal at its beginning"}),
        ("As an AI, I do not know.", {"an apology or a refusal at its beginning"}),
        ("I can help. 2 * 3 * 4 # no | table, - no list", set()),
        ("She was sorry.", set()),
    ],
)
def test_traits_of_a_response(text: str, traits: set[str]) -> None:
    assert set(formats_of(text)) == traits


def test_damage() -> None:
    assert (
        damage("caf\u00c3\u00a9")
        and damage("it\u00e2\u20ac\u2122s")
        and damage("a \ufffd b")
        and damage("a &amp; b")
    )
    assert not any(map(damage, ("café", "R&D", "a & b", "Ã la carte", "naïve")))


SENTENCES = {
    "English": "It is not clear to me what you would like to do with this, but I can help you if you tell me.",
    "German": "Ich weiß nicht, was du damit machen möchtest, aber ich kann dir helfen, wenn du es mir sagst.",
    "French": "Je ne sais pas ce que vous voulez faire avec cela, mais je peux vous aider si vous me le dites.",
    "Spanish": "No sé qué es lo que quieres hacer con esto, pero te puedo ayudar si me dices más sobre la "
    "idea.",
    "Portuguese": "Não sei o que você quer fazer com isso, mas posso ajudar se me disser mais sobre a sua "
    "ideia.",
    "Italian": "Non so che cosa vuoi fare con questo, ma ti posso aiutare se mi dici di più della tua "
    "idea, anche ora.",
    "Dutch": "Ik weet niet wat je hiermee wilt doen, maar ik kan je helpen als je het mij zegt, ook met "
    "een vraag.",
    "Swedish": "Jag vet inte vad du vill göra med det här, men jag kan hjälpa dig om du säger det till mig.",
    "Finnish": "En tiedä mitä haluat tehdä, mutta voin auttaa, jos kerrot sen minulle, ja se on niin kuin "
    "ennen.",
    "Polish": "Nie wiem, co chcesz z tym zrobić, ale mogę ci pomóc, jak mi to powiesz, bo to jest dla "
    "mnie ważne.",
    "Turkish": "Bununla ne yapmak istediğini bilmiyorum ama bana daha çok anlatırsan ben sana yardım "
    "ederim, bu iyi bir fikir.",
    "Indonesian": "Saya tidak tahu apa yang ingin Anda lakukan dengan ini, tetapi saya bisa membantu untuk "
    "itu.",
    "Vietnamese": "Tôi không biết bạn muốn làm gì với cái này, nhưng tôi có thể giúp bạn với những điều đó.",
    "Russian": "Я не знаю, что вы хотите с этим сделать, но я могу вам помочь, если вы мне скажете, как и что.",
    "Ukrainian": "Я не знаю, що ви хочете з цим зробити, але я можу вам допомогти, якщо ви мені скажете, як "
    "це і що.",
    "Arabic": "لا أعرف ما الذي تريد أن تفعله مع هذا لكن أستطيع أن أساعدك إذا كان في هذا من فائدة",
    "Hindi": "मुझे नहीं पता कि आप इस का क्या करना चाहते हैं, और यह एक अच्छा विचार है पर मैं मदद को तैयार हूँ",
    "Greek": "Δεν ξέρω τι θέλεις να κάνεις με αυτό.",
    "Hebrew": "אני לא יודע מה אתה רוצה לעשות עם זה.",
    "Japanese": "それで何をしたいのか分かりませんが、お手伝いできます。",
    "Chinese": "我不知道你想用它做什么，但是我可以帮助你。",
    "Korean": "그것으로 무엇을 하고 싶은지 모르겠지만 도울 수 있습니다.",
    "Thai": "ฉันไม่รู้ว่าคุณต้องการทำอะไรกับสิ่งนี้",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_languages(name: str) -> None:
    text = SENTENCES[name]
    assert language_of(words_of(text), main_script(scripts_of(text))) == name


def test_what_is_not_clear_is_not_guessed() -> None:
    for text in ("Paris", "print(x)", "4", "", "Lorem ipsum", "Yes.", "a.com, b.com, c.com, d.com"):
        assert language_of(words_of(text), main_script(scripts_of(text))) == ""
    assert main_script(scripts_of("12 + 3 = 15!")) == ""
    assert scripts_of("abc где") == {"Latin": 3, "Cyrillic": 3}
