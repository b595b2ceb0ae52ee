"""Views of texts: what each operation does, that numbers stay, and that a view follows from seed, key and number alone."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import re
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_segment import random_texts

from transforms.segment import KnownWords, segment
from transforms.synonyms import Synonyms, our_synonyms
from transforms.text import clean_text
from transforms.text_views import MAX_CHARACTERS, MAX_TOKENS, OPERATIONS, TextViewSettings, text_views, views_hash
from transforms.typing_errors import NEIGHBOURS, can_misspell, misspell

ROOT = Path(__file__).parent.parent

ENGLISH = "White running shoes for men, breathable mesh, size 42, 1.5l pocket, USB-C"
CHINESE = "Nike白色运动鞋 42码 透气轻便 男士夏季新款"
JAPANESE = "白いスニーカー メンズ 軽量ランニングシューズ 26.5cm"
THAI = clean_text("รองเท้าผ้าใบสีขาวสำหรับผู้ชาย 42")
TEXTS = (ENGLISH, CHINESE, JAPANESE, THAI, "Кроссовки белые мужские 42", "Nike 운동화 👍🏽")
QUIET: dict[str, Any] = dict.fromkeys(OPERATIONS, 0.0)
NONE = TextViewSettings(**QUIET)


EXPECTED_ENGLISH = [
    "White running shoes for men, breathable mesh, size 42, 1.5l pocket, USB-C",
    "White running shoes for gentlemen, breathable mesh, size 42, 1.5l pocket, USB-C",
    "Whitte running shoes for men, breathable mesh, size 42, 1.5l pocket, USB-C",
    "White running shoes for men, breathable, size 42, 1.5l pocket, USB-C",
    "White running shoes for gentlemen, breathable mesh, size 42, 1.5l pocket, USB-C",
    "White gentlemen running shoes for men, breathable mesh, size 42, 1.5l pocket, USB-C",
]
EXPECTED_CHINESE = [
    "Nike白色运动鞋 42码 透气轻便 男士夏季新款",
    "Niek便携球鞋纯白色 42码 轻便 夏季新款",
    "透气 Nik 42码 纯色轻便 男款夏季新品",
    "Nkie白色轻便 42码 透气纯白色 夏天新款",
    "Njke轻巧 42码 鞋波便携 男士纯白色新款",
]


def only(operation: str, rate: float = 0.5) -> TextViewSettings:
    rates: dict[str, Any] = {**QUIET, operation: rate}
    return TextViewSettings(**rates)


def all_of(rate: float) -> TextViewSettings:
    rates: dict[str, Any] = dict.fromkeys(OPERATIONS, rate)
    return TextViewSettings(**rates, operations_per_view=len(OPERATIONS))


def words(text: str) -> list[str]:
    return [token for token in segment(text, our_synonyms().known) if token[0].isalnum()]


def drawn_texts(count: int, length: int, lexicon: list[str]) -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(lexicon[i] for i in rng.choice(len(lexicon), length, replace=False)) for _ in range(count)]


STEMS, ENDINGS = "lantern meadow harbour orchard cobble pillar".split(), "wick stone field gate loft mark rise".split()
LEXICON = [stem + ending for stem in STEMS for ending in ENDINGS]


def test_first_view_is_the_text_and_the_others_are_these() -> None:
    assert text_views(ENGLISH, 6, TextViewSettings(), seed=0) == EXPECTED_ENGLISH
    assert text_views(CHINESE, 5, all_of(0.3), seed=3) == EXPECTED_CHINESE


def test_views_are_the_same_in_another_process() -> None:
    script = (
        "import json, sys\nfrom transforms.text_views import *\n"
        "settings = TextViewSettings.from_json(sys.argv[1])\n"
        "print(json.dumps([text_views(text, 4, settings, 5) for text in reversed(json.loads(sys.argv[2]))]))\n"
        "print(views_hash(settings))\n"
    )
    settings = all_of(0.3)
    answer = subprocess.run(
        [sys.executable, "-c", script, settings.to_json(), json.dumps(TEXTS)],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "4242"},
    )  # fmt: skip
    views, digest = answer.stdout.splitlines()
    assert json.loads(views)[::-1] == [text_views(text, 4, settings, 5) for text in TEXTS]
    assert digest == views_hash(settings)


def test_tensorflow_is_not_imported() -> None:
    script = "import sys, transforms.text_views\nprint('tensorflow' in sys.modules, 'budoux' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_view_knows_neither_the_count_nor_what_was_asked_before() -> None:
    settings = all_of(0.3)
    eight = [text_views(text, 8, settings, 1) for text in TEXTS]
    random.seed(99)
    for text, views in reversed(list(zip(TEXTS, eight, strict=True))):
        assert text_views(text, 3, settings, 1) == views[:3]


def test_view_follows_from_seed_key_and_number() -> None:
    settings = all_of(0.3)
    views = text_views(ENGLISH, 30, settings, 1)
    assert len(set(views)) == 30
    assert not set(views[1:]) & set(text_views(ENGLISH, 30, settings, 2)[1:])
    assert not set(views[1:]) & set(text_views(ENGLISH, 30, settings, 1, key=b"another")[1:])
    key = hashlib.blake2b(ENGLISH.encode(), digest_size=16).digest()
    assert text_views(ENGLISH, 30, settings, 1, key=key) == views


@pytest.mark.parametrize("text", TEXTS)
def test_rate_of_zero_changes_nothing(text: str) -> None:
    assert text_views(text, 5, NONE, 0) == [text] * 5


def test_share_of_deleted_words_is_the_rate() -> None:
    texts = drawn_texts(400, 30, LEXICON)
    for rate in (0.05, 0.1, 0.4):
        left = [len(text_views(text, 2, only("random_deletion", rate), 0)[1].split()) for text in texts]
        assert np.mean(left) / 30 == pytest.approx(1 - rate, abs=0.01)


def test_rate_holds_for_short_titles_too() -> None:
    titles = drawn_texts(2000, 4, LEXICON)
    left = [len(text_views(title, 2, only("random_deletion", 0.1), 0)[1].split()) for title in titles]
    assert np.mean(left) / 4 == pytest.approx(0.9, abs=0.015)


def test_share_of_swapped_words_is_the_rate_and_none_is_lost() -> None:
    moved = []
    for text in drawn_texts(400, 30, LEXICON):
        view = text_views(text, 2, only("random_swap", 0.2), 0)[1]
        assert Counter(view.split()) == Counter(text.split())
        moved.append(sum(a != b for a, b in zip(text.split(), view.split(), strict=True)))
    assert np.mean(moved) / 30 == pytest.approx(0.2, abs=0.01)


def test_share_of_misspelt_words_is_the_rate() -> None:
    wrong = []
    for text in drawn_texts(400, 30, LEXICON):
        view = text_views(text, 2, only("character_noise", 0.1), 0)[1]
        wrong.append(sum(a != b for a, b in zip(text.split(), view.split(), strict=True)))
        assert all(a[0] == b[0] and abs(len(a) - len(b)) <= 1 for a, b in zip(text.split(), view.split(), strict=True))
    assert np.mean(wrong) / 30 == pytest.approx(0.1, abs=0.01)


def test_share_of_replaced_and_of_inserted_words_is_the_rate() -> None:
    table = "\n".join(f"{word}\t{word}x\t{word}y" for word in LEXICON)
    synonyms = Synonyms.merge([("own", table.encode())], ours=False)
    replaced, inserted = [], []
    for text in drawn_texts(400, 30, LEXICON):
        view = text_views(text, 2, only("synonym_replacement", 0.1), 0, synonyms=synonyms)[1].split()
        pairs = [(a, b) for a, b in zip(text.split(), view, strict=True) if a != b]
        assert all(b in (a + "x", a + "y") for a, b in pairs)
        replaced.append(len(pairs))
        more = text_views(text, 2, only("random_insertion", 0.1), 0, synonyms=synonyms)[1].split()
        new = [word for word in more if word[-1] in "xy"]
        assert [word for word in more if word not in new] == text.split()
        assert {word[:-1] for word in new} <= set(text.split())
        inserted.append(len(new))
    assert np.mean(replaced) / 30 == pytest.approx(0.1, abs=0.01)
    assert np.mean(inserted) / 30 == pytest.approx(0.1, abs=0.01)


def test_view_takes_as_many_operations_as_it_is_told() -> None:
    settings = replace(NONE, random_deletion=1.0, random_swap=1.0)
    text = " ".join(LEXICON[:12])
    lengths = Counter(len(view.split()) for view in text_views(text, 400, settings, 0)[1:])
    assert set(lengths) == {1, 12}
    assert 150 < lengths[1] < 250
    both = replace(settings, operations_per_view=5)
    assert {len(view.split()) for view in text_views(text, 50, both, 0)[1:]} == {1}


def test_synonym_is_written_like_the_word_that_it_replaces() -> None:
    synonyms = Synonyms.merge([("own", b"running shoes\tjogging shoes\nbag\tpouch\n")], ours=False)
    settings = only("synonym_replacement", 1)
    for text, view in (
        ("RUNNING SHOES, BAG", "JOGGING SHOES, POUCH"),
        ("Running Shoes, Bag", "Jogging Shoes, Pouch"),
        ("Running shoes, bag", "Jogging shoes, pouch"),
    ):
        assert text_views(text, 2, settings, 0, synonyms=synonyms)[1] == view


def test_deleted_words_take_their_commas_and_brackets_with_them() -> None:
    text = "red, blue (green) and white - black & pink."
    views = text_views(text, 400, only("random_deletion", 0.6), 0)
    assert {"red, blue.", "red, white - pink.", "(green) - black."} <= set(views)
    for view in views:
        assert not any(odd in view for odd in (", ,", ",,", "()", " ,", " .", "- &", "& -", "( ", " )")), view
        assert view[0].isalpha() or view[0] == "("
        assert view.count("(") == view.count(")")


def test_chinese_views_keep_words_whole_and_write_no_spaces_into_them() -> None:
    text = "白色运动鞋透气轻便男士夏季新款"
    swapped = text_views(text, 30, only("random_swap"), 0)
    assert all(Counter(words(view)) == Counter(words(text)) and " " not in view for view in swapped)
    deleted = text_views(text, 30, only("random_deletion"), 0)
    assert all(set(words(view)) < set(words(text)) and " " not in view for view in deleted[1:])
    replaced = text_views("白色运动鞋", 60, only("synonym_replacement", 1), 0)
    assert set(replaced[1:]) == {"纯白色球鞋", "纯白色波鞋"}
    inserted = text_views("白色运动鞋", 200, only("random_insertion", 0.5), 0)
    assert {"白色球鞋运动鞋", "波鞋白色运动鞋", "白色运动鞋纯白色"} <= set(inserted)


def test_japanese_and_thai_views_are_made_of_their_words() -> None:
    assert set(text_views("白いスニーカー", 40, only("random_swap", 1), 0)) == {"白いスニーカー", "スニーカー白い"}
    assert set(text_views("白いスニーカー", 40, only("random_deletion", 1), 0)[1:]) == {"白い", "スニーカー"}
    assert set(text_views("軽量ランニングシューズ", 40, only("random_deletion", 1), 0)[1:]) == {"軽量", "ランニングシューズ"}
    assert set(text_views("เสื้อยืดคอกลม", 40, only("random_swap", 1), 0)) == {"เสื้อยืดคอกลม", "คอกลมเสื้อยืด"}
    assert set(text_views("เสื้อยืดคอกลม", 40, only("random_deletion", 1), 0)[1:]) == {"เสื้อยืด", "คอกลม"}


def test_words_of_two_scripts_are_not_run_together() -> None:
    views = text_views("Nike白色Air", 60, only("random_deletion", 0.4), 0)
    assert "Nike Air" in views
    crossed = Synonyms.merge([("own", "运动鞋\tsneakers\n".encode())], ours=False)
    assert text_views("Nike运动鞋", 2, only("synonym_replacement", 1), 0, synonyms=crossed)[1] == "Nike sneakers"
    assert text_views("白色运动鞋", 2, only("synonym_replacement", 1), 0, synonyms=crossed)[1] == "白色sneakers"
    inserted = text_views("white sneakers", 60, only("random_insertion", 0.5), 0, synonyms=crossed)
    assert {"white 运动鞋 sneakers", "white sneakers 运动鞋"} <= set(inserted)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (ENGLISH, ["size 42", "1.5l"]),
        (CHINESE, ["42码"]),
        (JAPANESE, ["26.5cm"]),
        (THAI, ["42"]),
        ("Bottle 250 ml, 3 pack, Art. AB-1234/56, 10,000 mAh", ["250 ml", "3 pack", "Art. AB-1234/56", "10,000 mAh"]),
        ("T-shirt, size XL, Größe M", ["size XL", " M"]),
        ("保温杯500毫升 2件装 2024年", ["500毫升", "2件", "2024年"]),
    ],
)
def test_numbers_units_and_codes_stay_as_they_are_and_in_order(text: str, kept: list[str]) -> None:
    numbers = [token for token in segment(text) if any(char.isdigit() for char in token)]
    for view in text_views(text, 60, all_of(0.5), 0):
        assert [token for token in segment(view) if any(char.isdigit() for char in token)] == numbers
        assert all(number in view for number in kept)


def test_codes_are_not_misspelt() -> None:
    assert [word for word in "USB-C HDMI 42 1.5l GORE-TEX XL the 鞋 A4 ab12345".split() if can_misspell(word)] == []
    assert all(map(can_misspell, "shoes women's t-shirts SNEAKERS Кроссовки 运动鞋 スニーカー".split()))


def test_typing_errors_are_swaps_drops_doubles_and_neighbours_on_the_keyboard() -> None:
    rng = random.Random(0)
    made = {misspell("shoes", rng) for _ in range(2000)}
    assert {"sohes", "shoe", "shooes", "shles", "sjoes"} <= made
    assert "shoes" not in made
    assert all(word[0] == "s" for word in made)
    assert {misspell("运动鞋", rng) for _ in range(200)} == {"动运鞋", "运鞋动", "动鞋", "运鞋", "运动"}
    cyrillic = {misspell("обувь", rng) for _ in range(500)}
    assert all(set(word) <= set("обувь") for word in cyrillic)
    assert NEIGHBOURS["g"] == "fhtyvb"
    assert set("".join(NEIGHBOURS.values())) == set("abcdefghijklmnopqrstuvwxyz")


def test_words_of_han_are_misspelt_at_a_quarter_of_the_rate() -> None:
    known = ["白色", "男士", "夏季", "新款", "透气", "轻便", "短袖", "纯棉"]
    text = "".join(known)
    assert segment(text, KnownWords(known)) == known
    wrong = [
        sum(word not in view for word in known)
        for view in text_views(text, 1501, only("character_noise", 0.4), 0)[1:]
    ]  # fmt: skip
    assert np.mean(wrong) / len(known) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("text", ["", "shoe", "鞋", "!!!", "42", "👍🏽", "运动鞋", "a", "- & -"])
def test_short_text_never_becomes_empty(text: str) -> None:
    for view in text_views(text, 30, all_of(1), 0):
        assert bool(view) == bool(text)


def test_user_s_table_takes_the_place_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("=sneakers\tkicks\n", encoding="utf-8")
    settings = only("synonym_replacement", 1)
    assert text_views("red sneakers", 2, settings, 0)[1] == "red trainers"
    own = Synonyms.load([path])
    assert text_views("red sneakers", 2, settings, 0, synonyms=own)[1] == "red kicks"
    assert views_hash(settings, own) != views_hash(settings)


def test_hash_follows_settings() -> None:
    assert views_hash(TextViewSettings()) == views_hash(TextViewSettings(), our_synonyms())
    assert views_hash(TextViewSettings(random_swap=0)) != views_hash(TextViewSettings())


def test_views_of_random_texts_are_clean() -> None:
    seen = 0
    for raw in random_texts(500, seed=1):
        text = clean_text(raw)
        if clean_text(text) != text:  # what entities spelled
            continue
        for view in text_views(text, 4, all_of(0.4), 0):
            seen += view != text
            assert bool(view) == bool(text)
            assert unicodedata.normalize("NFKC", view) == view
            assert view == " ".join(view.split())
            if "<" not in text and "&" not in text:
                assert clean_text(view) == view, ascii(text)
    assert seen > 600


def test_views_look_at_the_head_of_a_long_text() -> None:
    text = clean_text("A plain sentence about shoes and bags. " * 500_000)
    start = time.process_time()
    views = text_views(text, 4, all_of(0.1), 0)
    assert time.process_time() - start < 2
    assert views[0] == text
    assert all(0.8 * MAX_TOKENS < len(words(view)) <= 1.2 * MAX_TOKENS for view in views[1:])
    assert all(len(view) <= 2 * MAX_CHARACTERS for view in text_views("运动" * 400_000, 4, all_of(0.1), 0)[1:])
    assert all(len(view) <= 2 * MAX_CHARACTERS for view in text_views("x" * 900_000, 4, all_of(0.1), 0)[1:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"random_deletion": 1.5}, "random_deletion is 1.5; it must be a number from 0 to 1, a share of a text's words"),
        ({"random_swap": -0.1}, "random_swap is -0.1; it must be a number from 0 to 1, a share of a text's words"),
        ({"character_noise": float("nan")}, "character_noise is nan; it must be a number from 0 to 1, a share of a text's words"),
        ({"random_insertion": "0.1"}, "random_insertion is '0.1'; it must be a number from 0 to 1, a share of a text's words"),
        ({"random_swap": True}, "random_swap is True; it must be a number from 0 to 1, a share of a text's words"),
        ({"operations_per_view": 6}, "operations_per_view is 6; it must be a whole number from 1 to 5"),
        ({"operations_per_view": 1.0}, "operations_per_view is 1.0; it must be a whole number from 1 to 5"),
        ({"deletion": 0.1}, f"text view settings have no 'deletion' (there are: {', '.join(OPERATIONS)}, operations_per_view)"),
    ],
)  # fmt: skip
def test_bad_setting_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        TextViewSettings.from_json(json.dumps(values))
    assert str(caught.value) == message


def test_settings_that_are_not_json_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^text view settings are not JSON: Expecting value"):
        TextViewSettings.from_json("random")
    with pytest.raises(ValueError, match=r"^text view settings are list, not a JSON object: \[1\]$"):
        TextViewSettings.from_json("[1]")


def test_settings_survive_json() -> None:
    settings = TextViewSettings(random_swap=0, character_noise=1, operations_per_view=3)
    assert TextViewSettings.from_json(settings.to_json()) == settings
    assert TextViewSettings.from_json("{}") == TextViewSettings()
    assert settings.to_json() == TextViewSettings(random_swap=0.0, character_noise=1.0, operations_per_view=3).to_json()


def test_text_has_at_least_one_view() -> None:
    with pytest.raises(ValueError, match=r"^count is 0; a text has at least one view, itself$"):
        text_views("shoe", 0, TextViewSettings(), 0)


def test_tables_travel_to_workers_as_they_are() -> None:
    own = Synonyms.merge([("own", b"sneakers\tkicks\n")], cross_language=("en", "zh"))
    sent = pickle.loads(pickle.dumps(own))
    settings = all_of(0.4)
    assert sent.hash == own.hash
    assert [text_views(text, 4, settings, 0, synonyms=sent) for text in TEXTS] == [
        text_views(text, 4, settings, 0, synonyms=own) for text in TEXTS
    ]


def test_titles_of_a_real_shop_have_clean_views_with_their_numbers(real_data: Path) -> None:
    titles = pq.read_table(real_data / "fashion60", columns=["title"]).column("title").to_pylist()
    texts = [clean_text(title) for title in titles[::20]]
    synonyms = our_synonyms()
    assert np.mean([bool(synonyms.find(segment(text, synonyms.known))) for text in texts]) > 0.9
    for text in texts:
        view = text_views(text, 2, all_of(0.3), 0)[1]
        assert clean_text(view) == view
        assert re.findall("[0-9]+", view) == re.findall("[0-9]+", text)


def test_documented_examples_are_views() -> None:
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "text-views.md").read_text(encoding="utf-8").splitlines()]
    (head,) = (row for row in rows if row[0] == "operation")
    documented = {row[0].strip("`"): row for row in rows if row[0].strip("`") in OPERATIONS}
    assert list(documented) == list(OPERATIONS)
    for operation, row in documented.items():
        assert float(row[1]) == getattr(TextViewSettings(), operation)
        for text, view in zip(head[3:], row[3:], strict=True):
            assert view in text_views(text.strip('"'), 8, only(operation, 0.3), 0)[1:]
