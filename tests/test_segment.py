"""Segmentation: words of every script, nothing lost, no grapheme cluster cut."""

from __future__ import annotations

import time

import numpy as np
import pytest
import regex

from transforms.segment import KnownWords, clusters, is_unspaced, models_hash, segment

# Ranges that hold what is hard: marks, joiners, jamo, emoji with flags and tones, Thai, Lao, Devanagari, surrogates.
RANGES = (
    (0x09, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0x980), (0xE00, 0xEE0), (0x1100, 0x1200),
    (0x200B, 0x2070), (0x2600, 0x27C0), (0x3000, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xD800, 0xE000), (0xFE00, 0xFF00),
    (0xFF00, 0xFFEF), (0x1F1E6, 0x1F200), (0x1F300, 0x1F650), (0x20000, 0x20100), (0xE0000, 0xE0080),
)  # fmt: skip


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Return strings that mix characters of a few ranges each."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        chosen = [RANGES[i] for i in rng.integers(len(RANGES), size=rng.integers(1, 5))]
        points = [int(rng.integers(*chosen[int(rng.integers(len(chosen)))])) for _ in range(int(rng.integers(0, 40)))]
        texts.append("".join(chr(point) if rng.random() < 0.85 else " " for point in points))
    return texts


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Nike白色运动鞋 42码", "Nike|白色|运动|鞋| |42|码"),
        ("42码白色跑鞋", "42|码|白色|跑鞋"),
        ("新款男士休閒運動鞋", "新款|男士|休閒|運動|鞋"),
        ("軽量ランニングシューズ", "軽量|ランニングシューズ"),
        ("白いスニーカー・メンズ", "白い|スニーカー|・|メンズ"),
        ("รองเท้าผ้าใบสีขาว", "รอง|เท้า|ผ้า|ใบ|สี|ขาว"),
        ("เสื้อยืดคอกลม L", "เสื้อยืด|คอกลม| |L"),
        ("Nike운동화 42사이즈", "Nike|운동화| |42|사이즈"),
        ("Кроссовки Nike-белые", "Кроссовки| |Nike|-|белые"),
    ],
)
def test_words_of_every_script_are_tokens_and_borders_of_scripts_cut(text: str, tokens: str) -> None:
    assert segment(text) == tokens.split("|")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("White t-shirt, women's", "White| |t-shirt|,| |women's"),
        ("1.5l USB-C 10,000 3/4 10:30", "1.5l| |USB-C| |10,000| |3/4| |10:30"),
        ("soft.Great and/or -", "soft|.|Great| |and|/|or| |-"),
        ("AB-1234 30% off €5", "AB-1234| |30|%| |off| |€|5"),
        ("a  b\tc\r\nd", "a|  |b|\t|c|\r\n|d"),
    ],
)
def test_hyphens_and_points_inside_a_word_or_number_stay_in_it(text: str, tokens: str) -> None:
    assert segment(text) == tokens.split("|")


def test_known_words_are_found_before_guessing() -> None:
    known = KnownWords(["纯棉", "圆领", "短袖", "不锈钢", "大衣"])
    assert segment("纯棉圆领短袖") == ["纯", "棉圆", "领短", "袖"]
    assert segment("纯棉圆领短袖", known) == ["纯棉", "圆领", "短袖"]
    assert segment("家用不锈钢保温杯", known) == ["家", "用", "不锈钢", "保温杯"]


def test_known_word_across_two_words_is_chance() -> None:
    assert segment("加大衣服大衣", KnownWords(["大衣"])) == ["加大", "衣服", "大衣"]
    assert segment("羊毛大衣", KnownWords(["大衣", "羊毛"])) == ["羊毛", "大衣"]


def test_known_word_that_is_longer_than_the_text_is_not_found() -> None:
    assert segment("纯棉圆领短袖T恤", KnownWords(["短袖T恤", "短袖", "圆领", "纯棉"])) == ["纯棉", "圆领", "短袖", "T", "恤"]


def test_one_japanese_particle_makes_no_text_japanese() -> None:
    assert "卫衣" in segment("日系の宽松卫衣", KnownWords(["卫衣", "宽松"]))


@pytest.mark.parametrize(
    "text", ["👨\u200d👩\u200d👧 🇩🇪🇫🇷 👍🏽", "e\u0301te\u0301", " \u0301x", "नमस्ते दुनिया", "น้ํายาซักผ้า", "\u1112\u1161\u11ab국"]
)
def test_no_grapheme_cluster_is_cut(text: str) -> None:
    inside = {at for match in regex.finditer(r"\X", text) for at in range(match.start() + 1, match.end())}
    borders = np.cumsum([len(token) for token in segment(text)])
    assert not inside & set(borders.tolist())


def test_emoji_and_flags_are_tokens_each() -> None:
    assert segment("👨\u200d👩\u200d👧🇩🇪🇫🇷👍🏽") == ["👨\u200d👩\u200d👧", "🇩🇪", "🇫🇷", "👍🏽"]


def test_sara_am_is_one_vowel_when_normalised_too() -> None:
    """NFKC takes U+0E33 apart; words end where they did before."""
    assert [word.replace("\u0e4d\u0e32", "\u0e33") for word in segment("น้ํายาทําความสะอาด")] == segment("น้ำยาทำความสะอาด")
    assert clusters("น้ํา") == ["น้ํา"]


def test_tokens_of_random_texts_are_the_text_and_cut_no_cluster() -> None:
    known = KnownWords(["运动鞋", "白色"])
    for text in random_texts(600):
        tokens = segment(text, known)
        assert "".join(tokens) == text
        assert all(tokens)
        inside = {at for match in regex.finditer(r"\X", text) for at in range(match.start() + 1, match.end())}
        assert not inside & set(np.cumsum([len(token) for token in tokens]).tolist()), ascii(text)


def test_empty_text_has_no_tokens() -> None:
    assert segment("") == []


@pytest.mark.parametrize("part", ["a", "a ", "1.", "白", "あ", "ไ", "\u0301", "a-", "'"])
def test_time_is_linear_in_the_length(part: str) -> None:
    def seconds(count: int) -> float:
        start = time.process_time()
        segment(part * count)
        return time.process_time() - start

    seconds(100)
    assert seconds(80_000) < 16 * max(seconds(20_000), 0.005)


def test_scripts_without_spaces_are_told_from_others() -> None:
    assert [is_unspaced(char) for char in "鞋あアไ々ーA한я1"] == [True] * 6 + [False] * 4


def test_hash_of_the_models_has_128_bits() -> None:
    assert len(models_hash()) == 32
    assert models_hash() == models_hash()
