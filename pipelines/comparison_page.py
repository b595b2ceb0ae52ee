"""The page of a comparison: one HTML file with its pictures inside, without scripts, light or dark as its reader has it.

Whatever comes of a catalogue is escaped, and a policy in the page keeps browsers from loading or running anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from pipelines.measures import NAMES, Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #5f6670; --page: #f6f7f8; --card: #fff; --line: #d9dce0;
  --good: #17713a; --bad: #b3261e; --good-page: #e5f4ea; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e9; --dim: #a0a6ae; --page: #15171a; --card: #1f2226; --line: #3a3f45;
  --good: #6fd08c; --bad: #ff8a80; --good-page: #1b3324; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 1.5rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .75rem; }
h1, h2, td, bdi { overflow-wrap: anywhere; }
p { margin: .25rem 0; } .dim { color: var(--dim); } .good { color: var(--good); } .bad { color: var(--bad); }
.figures { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; background: var(--card); font-variant-numeric: tabular-nums; width: 100%; }
th, td { border: 1px solid var(--line); padding: .35rem .6rem; text-align: right; white-space: nowrap; font-size: .9rem; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem; margin-bottom: 1rem; }
header.asked { display: flex; gap: .9rem; align-items: center; margin-bottom: .6rem; }
header.asked img { width: 96px; height: 96px; border-radius: 4px; }
.query { font-size: 1.1rem; font-weight: 600; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1.25rem; }
@media (max-width: 900px) { .sides { grid-template-columns: 1fr; } }
h3 { font-size: .85rem; font-weight: 600; margin: 0 0 .35rem; color: var(--dim); }
ol { list-style: none; margin: 0; padding: 0; display: grid; grid-template-columns: repeat(5, 1fr); gap: .5rem; }
li { border: 2px solid var(--line); border-radius: 6px; padding: .3rem; font-size: .75rem; line-height: 1.3; min-width: 0; }
li.right { border-color: var(--good); background: var(--good-page); }
li img, .none { display: block; width: 100%; aspect-ratio: 1; border-radius: 3px; margin: .2rem 0; }
.none { background: var(--page); color: var(--dim); display: grid; place-items: center; text-align: center; }
.mark { font-weight: 700; } .id { color: var(--dim); font-family: ui-monospace, monospace; font-size: .7rem; }
li bdi { display: block; }
"""


@dataclass(frozen=True)
class Answer:
    """An answer to a query.

    Attributes:
        product_id: of the product.
        title: of the product, None where the version keeps none.
        right: whether it is a right one.
        picture: URI of it, with the picture inside; None where there is none.
    """

    product_id: str
    title: str | None
    right: bool
    picture: str | None


@dataclass(frozen=True)
class Moved:
    """A query that one version answers better than the other.

    Attributes:
        name: of its set and the search.
        text: what is asked, None for none.
        picture: URI of what is asked, None for none.
        right: how many products are right.
        ndcg: nDCG@10 of both versions.
        answers: the first ones of both versions.
    """

    name: str
    text: str | None
    picture: str | None
    right: int
    ndcg: tuple[float, float]
    answers: tuple[Sequence[Answer], Sequence[Answer]]

    @property
    def change(self) -> float:
        """Give the difference of nDCG@10."""
        return self.ndcg[1] - self.ndcg[0]


@dataclass(frozen=True)
class FiguresRow:
    """A row of the table of figures: of which queries, by which vectors, and by measure both figures and the difference."""

    name: str
    by: str
    figures: Mapping[str, tuple[Figure, Figure, Figure]]


def render(
    versions: tuple[str, str], rows: Iterable[FiguresRow], moved: Sequence[Moved], counts: tuple[int, int], notes: Iterable[str]
) -> str:
    """Return the page.

    Args:
        versions: ids of both.
        rows: of the table of figures.
        moved: the queries that are shown.
        counts: how many queries the second version answers better, and worse, shown or not.
        notes: sentences to stand below the heading.
    """
    sections = [
        _section(versions, f"{adverb} answered by {versions[1]}", [one for one in moved if (one.change > 0) == better], count)
        for adverb, better, count in (("Better", True, counts[0]), ("Worse", False, counts[1]))
    ]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("queries", "by", *NAMES))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(versions[0])} and {escape(versions[1])}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(versions[1])} next to {escape(versions[0])}</h1>\n"
        '<p class="dim">Each cell: the first version, the second, and the difference with its paired 95 % interval, '
        "coloured where it leaves out 0.</p>\n" + "".join(f"<p>{escape(note)}</p>\n" for note in notes)
        + f'<div class="figures"><table>\n<tr>{head}</tr>\n' + "".join(map(_row, rows)) + "</table></div>\n"
        + "".join(sections) + "</body>\n</html>\n"
    )  # fmt: skip


def _row(row: FiguresRow) -> str:
    cells = []
    for before, after, change in (row.figures[name] for name in NAMES):
        told = f"{change.value:+.3f}<br><small>{change.low:+.3f} to {change.high:+.3f}</small>"
        told = "<br>same" if change == Figure(0, 0, 0) else f"<br>{told}"
        cells.append(f'<td>{before.value:.3f} → {after.value:.3f}<span class="{_class(change)}">{told}</span></td>')
    return f"<tr><td>{escape(row.name)}</td><td>{escape(row.by)}</td>{''.join(cells)}</tr>\n"


def _class(change: Figure) -> str:
    return "good" if change.low > 0 else "bad" if change.high < 0 else "dim"


def _section(versions: tuple[str, str], title: str, moved: Sequence[Moved], count: int) -> str:
    shown = "" if len(moved) == count else f", the {len(moved):,} that differ most"
    articles = "".join(_article(versions, one) for one in moved)
    return f"<h2>{escape(title)}: {count:,} queries{shown}</h2>\n{articles}"


def _article(versions: tuple[str, str], one: Moved) -> str:
    picture = "" if one.picture is None else f'<img src="{escape(one.picture)}" alt="the picture asked by">'
    text = "" if one.text is None else f'<p class="query"><bdi>{escape(one.text)}</bdi></p>'
    kind = "good" if one.change > 0 else "bad"
    told = f'nDCG@10 {one.ndcg[0]:.3f} → {one.ndcg[1]:.3f} <span class="{kind}">{one.change:+.3f}</span>'
    right = f"{one.right:,} right product{'' if one.right == 1 else 's'}"
    sides = "".join(
        f"<section><h3>{escape(version)}</h3><ol>{''.join(map(_answer, answers))}</ol></section>"
        for version, answers in zip(versions, one.answers, strict=True)
    )
    return (
        f'<article><header class="asked">{picture}<div>{text}<p class="dim">{escape(one.name)} · {right} · {told}</p></div>'
        f'</header><div class="sides">{sides}</div></article>\n'
    )


def _answer(answer: Answer) -> str:
    mark = '<span class="mark good">✓ right</span>' if answer.right else '<span class="mark bad">✗</span>'
    picture = '<span class="none">no picture</span>'
    if answer.picture is not None:
        picture = f'<img src="{escape(answer.picture)}" alt="" loading="lazy">'
    title = "" if answer.title is None else f"<bdi>{escape(answer.title)}</bdi>"
    return (
        f'<li{" class=right" if answer.right else ""}>{mark}{picture}{title}'
        f'<bdi class="id">{escape(answer.product_id)}</bdi></li>'
    )
