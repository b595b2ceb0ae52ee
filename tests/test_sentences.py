from __future__ import annotations

import time

import pytest

from transforms.sentences import MOST_CHARACTERS, sentences, shared_by_many


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Soft cotton shirt for men. It is 1.5 cm thick! Do you like it?",
         ["Soft cotton shirt for men.", "It is 1.5 cm thick!", "Do you like it?"]),
        ("Works with approx. 5 bar, e.g. Gardena hoses. Made in the U.S. by hand.",
         ["Works with approx. 5 bar, e.g. Gardena hoses.", "Made in the U.S. by hand."]),
        ("Die Jacke ist warm, z.B. im Winter. Größe ca. 42 cm bzw. Länge 1,5 m. Max. 30 Grad waschen.",
         ["Die Jacke ist warm, z.B. im Winter.", "Größe ca. 42 cm bzw. Länge 1,5 m.", "Max. 30 Grad waschen."]),
        ("这款运动鞋透气舒适。适合跑步和健身！您还在等什么呢？好。",
         ["这款运动鞋透气舒适。", "适合跑步和健身!", "您还在等什么呢?"]),
        ("軽量で通気性の良いシューズです。「とても快適です！」毎日の通勤に最適です。",
         ["軽量で通気性の良いシューズです。", "「とても快適です!」", "毎日の通勤に最適です。"]),
        ("<p>Warm hoodie for cold\nmornings.</p>\n<ul><li>Two front pockets</li><li>Machine wash cold</li></ul>",
         ["Warm hoodie for cold mornings.", "Two front pockets", "Machine wash cold"]),
        ("<p>&bull; Two-tone gray heather hoodie.<br />&bull; Drawstring-adjustable hood. <br />&bull; Wash.</p>",
         ["Two-tone gray heather hoodie."]),
        ("Two front pockets\n- Soft brushed interior\n* Ribbed cuffs and hem",
         ["Two front pockets", "Soft brushed interior", "Ribbed cuffs and hem"]),
        ("1. Open the box. 2. Take the shoe out.", ["1. Open the box.", "2. Take the shoe out."]),
        ("<script>A b c d.</script><style>p. Q r s t.</style>Only this is said.", ["Only this is said."]),
        ("Nice and warm. Nice and warm. Nice and warm.", ["Nice and warm."]),
        ("تصميم أنيق ومريح جدا؟ يناسب كل يوم عمل", ["تصميم أنيق ومريح جدا؟", "يناسب كل يوم عمل"]),
        ("", []),
        ("<p></p> . ! 。", []),
    ],
)  # fmt: skip
def test_a_description_is_cut_where_its_sentences_end(raw: str, expected: list[str]) -> None:
    assert sentences(raw, 10) == expected


def test_only_the_first_sentences_are_taken() -> None:
    assert sentences("It has one part. It has two parts. It has three parts.", 2) == ["It has one part.", "It has two parts."]


def test_a_sentence_without_end_is_cut_at_its_commas() -> None:
    found = sentences("soft warm cotton with pockets, " * 30, 10)
    assert found == [", ".join(["soft warm cotton with pockets"] * count) + "," for count in (7, 2)]
    assert all(len(text) <= MOST_CHARACTERS for text in sentences("x y" * 1000 + "好" * 1000, 100))


def test_what_very_many_products_say_is_of_the_shop() -> None:
    own = [[f"This is product number {number}.", "Free shipping on all orders."] for number in range(100)]
    own += [["Goes well with shirts."]] * 5
    assert shared_by_many(own, 105) == {"Free shipping on all orders."}


def test_hostile_descriptions_take_linear_time() -> None:
    started = time.monotonic()
    for raw in ("<p" * 300_000, "." * 900_000, "a. " * 300_000, "!" * 900_000, "<br " * 200_000, "(" * 900_000, "- " * 400_000):
        sentences(raw, 8)
    assert time.monotonic() - started < 60
