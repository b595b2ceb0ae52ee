"""Synonym tables: ours, the user's, and how terms are found in tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transforms.segment import segment
from transforms.synonyms import TABLES, Synonyms, fold, our_synonyms
from transforms.text import clean_text

ROOT = Path(__file__).parent.parent
ALONE = "a group has two or more, parted by tabs, and a line that takes a term out begins with '='"


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def found(synonyms: Synonyms, text: str) -> dict[str, tuple[str, ...]]:
    """Return the terms found in a text, as it writes them, with their alternatives."""
    tokens = segment(text, synonyms.known)
    return {"".join(tokens[match.start : match.end]): match.alternatives for match in synonyms.find(tokens)}


def groups(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(("language", "least"), [("en", 250), ("zh", 200)])
def test_our_tables_are_clean_and_no_group_is_twice(language: str, least: int) -> None:
    (path,) = (path for path in TABLES if path.stem.endswith(language))
    rows = groups(path)
    assert len(rows) >= least
    assert all(clean_text(term) == term for row in rows for term in row)
    assert len({tuple(sorted(map(fold, row))) for row in rows}) == len(rows)
    assert [row for row in rows if len(row) < 2] == []


def test_our_tables_cover_what_a_shop_sells() -> None:
    words = "t-shirt|sneakers|backpack|grey|faux leather|slim fit|women's|striped|sofa|headphones|moisturiser|waterproof"
    words += "|运动鞋|双肩包|卫衣|纯棉|口红|充电宝|男士|修身|碎花|藏青色|衣柜|时尚"
    alternatives = our_synonyms().alternatives
    assert [word for word in words.split("|") if word not in alternatives] == []


def test_languages_are_not_crossed_unless_asked_for() -> None:
    for term, others in our_synonyms().alternatives.items():
        if term.isascii():
            assert all(fold(other)[0] < "\u2e80" for other in others), term
    crossed = Synonyms.load(cross_language=("en", "zh"))
    assert "sneakers" in crossed.alternatives["运动鞋"]
    assert crossed.alternatives["red"] == ("红色",)
    assert {"运动鞋", "trainers"} <= set(crossed.alternatives["sneakers"])
    assert "china" not in crossed.alternatives
    assert "m" not in crossed.alternatives


def test_any_languages_are_crossed_but_for_their_false_friends() -> None:
    alternatives = Synonyms.load(cross_language=("en", "de", "fr", "ja"), ours=False).alternatives
    assert alternatives["red"] == ("rot", "rouge", "赤")
    assert alternatives["turnschuhe"] == ("sneakers", "baskets", "スニーカー")
    assert alternatives["sneaker"] == ("baskets", "スニーカー", "sneakers")  # a word of both
    assert "运动鞋" not in alternatives
    assert [word for word in ("or", "bad", "kind", "robe", "rock") if word in alternatives] == []
    assert "robe" not in Synonyms.load(cross_language=("en", "fr"), ours=False).alternatives
    assert Synonyms.load(cross_language=("fr", "de"), ours=False).alternatives["robe"] == ("Kleider",)


def test_longest_term_is_found_whatever_its_case() -> None:
    text = "Dark grey Running Shoes, T-SHIRT"
    assert found(our_synonyms(), text) == {
        "Dark grey": ("dark gray", "charcoal"),
        "Running Shoes": ("jogging shoes",),
        "T-SHIRT": ("tee", "tee shirt", "tshirt"),
    }


def test_term_ends_where_tokens_do() -> None:
    synonyms = Synonyms.merge([("own", "shirt\tblouse\n鞋\t履\n".encode())], ours=False)
    assert found(synonyms, "shirts t-shirt sweatshirt") == {}
    assert found(synonyms, "shirt, 鞋") == {"shirt": ("blouse",), "鞋": ("履",)}


def test_terms_of_han_and_of_two_scripts_are_found() -> None:
    assert found(our_synonyms(), "纯棉圆领短袖T恤") == {
        "纯棉": ("全棉", "百分百棉"),
        "短袖": ("半袖",),
        "T恤": ("T恤衫", "体恤衫"),
    }


def test_curly_apostrophe_is_as_good_as_a_straight_one() -> None:
    assert found(our_synonyms(), "women’s bag") == {"women’s": ("womens", "ladies'", "ladies")}


def test_user_adds_to_a_group(tmp_path: Path) -> None:
    own = table(tmp_path / "own.tsv", "# shoes\nsneakers\tkicks\t运动鞋\n\nflux capacitor\ttime engine\n")
    alternatives = Synonyms.load([own]).alternatives
    assert alternatives["sneakers"] == ("trainers", "kicks", "运动鞋")
    assert alternatives["trainers"] == ("sneakers",)
    assert alternatives["kicks"] == ("sneakers", "运动鞋")
    assert "sneakers" in alternatives["运动鞋"]
    assert "球鞋" in alternatives["运动鞋"]
    assert alternatives["time engine"] == ("flux capacitor",)


def test_user_replaces_a_group(tmp_path: Path) -> None:
    own = table(tmp_path / "own.tsv", "=Sneakers\tkicks\n")
    alternatives = Synonyms.load([own]).alternatives
    assert alternatives["sneakers"] == ("kicks",)
    assert alternatives["kicks"] == ("Sneakers",)
    assert "trainers" not in alternatives


def test_user_takes_a_term_out(tmp_path: Path) -> None:
    assert any("charcoal" in others for others in our_synonyms().alternatives.values())
    alternatives = Synonyms.load([table(tmp_path / "own.tsv", "=charcoal\n")]).alternatives
    assert "charcoal" not in alternatives
    assert not any("charcoal" in others for others in alternatives.values())
    assert alternatives["dark grey"] == ("dark gray",)


def test_later_table_replaces_what_an_earlier_one_added(tmp_path: Path) -> None:
    first = table(tmp_path / "first.tsv", "foo\tbar\n")
    second = table(tmp_path / "second.tsv", "=foo\tbaz\n")
    assert Synonyms.load([first, second], ours=False).alternatives == {"foo": ("baz",), "baz": ("foo",)}


def test_hash_follows_the_terms_and_nothing_else(tmp_path: Path) -> None:
    plain = table(tmp_path / "a.tsv", "foo\tbar\n")
    noted = table(tmp_path / "b.tsv", "\ufeff# a note\r\n\r\n  \nfoo\tbar\r\n")
    other = table(tmp_path / "c.tsv", "foo\tbaz\n")
    assert Synonyms.load([plain]).hash == Synonyms.load([noted]).hash
    crossed = {Synonyms.load(cross_language=languages).hash for languages in (("en", "zh"), ("en", "de"))}
    assert len({Synonyms.load(paths).hash for paths in ([], [plain], [other])} | crossed) == 5


def test_hash_is_the_same_in_another_process() -> None:
    script = "from transforms.synonyms import our_synonyms\nprint(our_synonyms().hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == our_synonyms().hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"foo\tbar\nfoo\n", f"line 2 has one term, 'foo': {ALONE}"),
        (b"foo bar\n", "line 1 has one term, 'foo bar'"),
        (b"# note\n\nfoo\t\tbar\n", "line 3 has an empty term: part the terms by one tab each"),
        (b"foo\tbar\t\n", "line 1 has an empty term"),
        (b"=\n", "line 1 has an empty term"),
        (b"foo\tbar\tFoo\n", "line 1 lists a term twice: 'foo bar Foo'"),
        (b"foo\tbar\nb\xe9ret\tcap\n", "line 2 is not UTF-8: save the table in that encoding"),
    ],
)  # fmt: skip
def test_bad_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "own.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        Synonyms.load([path])
    assert str(caught.value).startswith(f"synonym table '{path}', {message}")


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        Synonyms.load([tmp_path / "none.tsv"])
    assert str(caught.value) == f"synonym table '{tmp_path}/none.tsv' cannot be read: No such file or directory"


def test_folding_keeps_the_length() -> None:
    assert fold("İSTANBUL’s ẞ") == "İstanbul's ß"
    assert len(fold("İ" * 5)) == 5
