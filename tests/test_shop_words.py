"""The shop-word table: what it has in each language, the user's tables, and what is wrong with one."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from transforms.shop_words import LANGUAGES, TABLE, ShopWords
from transforms.text import clean_text

# Words that stand in two rows of one language because they mean both.
SHARED = {
    "de": {"uhren", "tassen"},
    "es": {"impermeables", "impermeable", "deportivas", "mocasines", "mocasín", "tazas", "taza", "plumas", "cascos", "cristal"},
    "fr": {"imperméable", "ensemble", "mocassins", "mocassin", "bureau"},
    "ja": {"ニット", "ダウン", "アクセサリー", "マフラー"},
}


@pytest.fixture(scope="module")
def words() -> ShopWords:
    return ShopWords.load()


def table(folder: Path, text: str) -> Path:
    path = folder / "words.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_row_has_words_in_all_languages(words: ShopWords) -> None:
    assert len(words.rows) == len(TABLE.read_text(encoding="utf-8").splitlines()) - 1
    assert [row.variants["en"][0] for row in words.rows if set(row.variants) != set(LANGUAGES)] == []


def test_words_are_clean_and_none_is_twice_in_a_cell(words: ShopWords) -> None:
    for row in words.rows:
        for variants in row.variants.values():
            assert [word for word in variants if clean_text(word) != word] == []
            assert len(set(variants)) == len(variants), variants


@pytest.mark.parametrize("language", list(SHARED))
def test_word_of_two_rows_means_both(words: ShopWords, language: str) -> None:
    rows: dict[str, set[str]] = defaultdict(set)
    for row in words.rows:
        for word in row.variants[language]:
            rows[word.casefold()].add(row.variants["en"][0])
    assert {word for word, where in rows.items() if len(where) > 1} == SHARED[language]


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_words_of_scripts_without_spaces_are_in_their_script(words: ShopWords, language: str) -> None:
    usual = [row.variants[language][0] for row in words.rows]
    assert [word for word in usual if not any(char > "\u2e7f" for char in word)] == []


@pytest.mark.parametrize(
    ("value", "language", "expected"),
    [
        ("sneakers", "de", "Sneaker"), ("Trainers", "es", "zapatillas"), ("sneaker", "fr", "baskets"),
        ("SNEAKERS", "ja", "スニーカー"), ("m", "de", "Herren"), ("off-white", "fr", "blanc cassé"),
        ("Dark Olive Shirts", "es", "camisas verde oliva oscuro"), ("Dark Olive Shirts", "ja", "ダークオリーブシャツ"),
        ("Flux Capacitor", "de", "Flux Capacitor"), ("Red", "en", "red"),
    ],
)  # fmt: skip
def test_values_are_translated_by_the_usual_word(words: ShopWords, value: str, language: str, expected: str) -> None:
    assert words.translate(value, language) == expected


def test_table_of_the_user_adds_and_changes_rows(tmp_path: Path) -> None:
    path = table(tmp_path, "# ours\nen\tde\tja\nsneakers|kicks\tSportschuhe|Treter\t\n\nblender|mixer\tMixer\t\n")
    own = ShopWords.load([path])
    assert own.variants("trainers", "de") == ("Sportschuhe", "Treter")
    assert own.variants("kicks", "ja") == ("スニーカー",)
    assert own.variants("Sneakers", "en") == ("sneakers", "trainers", "sneaker", "kicks")
    assert own.translate("Mixers", "de") == "Mixer"
    assert own.variants("mixer", "ja") == ("mixer",)
    assert own.translate("red", "es") == "rojo"
    assert ShopWords.load([path], ours=False).translate("red", "es") == "red"


def test_later_table_changes_what_an_earlier_one_said(tmp_path: Path) -> None:
    first = table(tmp_path, "en\tde\nmixer\tMixer\n")
    second = tmp_path / "second.tsv"
    second.write_bytes("\ufeffen\tde\r\nmixer\tRührgerät\r\n".encode())
    assert ShopWords.load([first, second]).variants("mixer", "de") == ("Rührgerät",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with the columns '': name 'en' and at least one other of en, zh, de, es, fr, ja, each once, parted by tabs"),
        ("colour\tzh\nred\t红", "begins with the columns 'colour zh': name 'en'"),
        ("en\nred", "begins with the columns 'en': name 'en'"),
        ("en\tde\tde\nred\trot\trot", "begins with the columns 'en de de'"),
        ("en\tit\nred\trosso", "begins with the columns 'en it'"),
        ("en\tzh\nred", "line 2 has 1 cells, not 2 parted by tabs: 'red'"),
        ("en\tzh\nred|\t红", r"line 2 has an empty word beside a '\|': 'red\|  红'"),
        ("en\tzh\n\t红", "line 2 has no English word, by which a row is found"),
        ("en\tde\nred\trot\n\nRed\tröter", "line 4 lists 'Red', which line 2 lists too"),
    ],
)
def test_table_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^word table '.*words\.tsv',? {message}"):
        ShopWords.load([table(tmp_path, text)])


def test_table_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^word table 'no/such\.tsv' cannot be read: No such file or directory$"):
        ShopWords.load(["no/such.tsv"])
    path = tmp_path / "latin.tsv"
    path.write_bytes("en\tfr\nsummer\tété\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"^word table '.*latin\.tsv' is not UTF-8: save the table in that encoding$"):
        ShopWords.load([path])
