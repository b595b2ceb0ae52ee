"""What ENCODE is about to do: how much, why, and for how long.

How fast a space's items are encoded is kept with the space, `features/<space>/speed.json`, by each run that encoded
enough of them to tell. Where no run has yet, some items of the first unit of work are encoded for it, and forgotten.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from encoders.bundle import tower_of
from encoders.pooling import Views
from encoders.tower_spec import SPEC_FILE
from pipelines import ranges, storage
from pipelines.counts import plural
from pipelines.encode import EncodeSettings, encode_work
from pipelines.features import Space
from pipelines.layout import Index, read_json, write_json

SPEED_FILE = "speed.json"
# A measurement of fewer items says more about beginnings and ends, and does not take the place of one of more.
TELLING_ITEMS = 512
TIMED_PICTURES, TIMED_TEXTS = 32, 128

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outlook:
    """What is to be encoded of one modality.

    Attributes:
        products: whose picture, text or reviews it is.
        items: encoder items: pictures, texts or reviews, times views.
        items_per_second: as measured; None where nothing tells.
        basis: what measured it.
    """

    products: int
    items: int
    items_per_second: float | None
    basis: str

    @property
    def seconds(self) -> float | None:
        """Seconds it will take, None where nothing tells."""
        return None if self.items_per_second is None else self.items / self.items_per_second

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self) | {"seconds": None if self.seconds is None else round(self.seconds, 1)}

    def __str__(self) -> str:
        if self.items_per_second is None:
            return f"{self.items:,} items"
        speed = f"{self.items_per_second:,.0f}" if self.items_per_second >= 10 else f"{self.items_per_second:.2g}"
        return f"{shown_seconds(self.seconds or 0.0)} ({self.items:,} items at {speed}/s, {self.basis})"


def shown_seconds(seconds: float) -> str:
    """Say for a person how long that is."""
    if seconds < 10:
        return "less than 10 seconds"
    if seconds < 90:
        return f"about {round(seconds / 10) * 10} seconds"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def shown_total(outlooks: Mapping[str, Outlook]) -> str:
    """Say what is to be encoded, and how long that will take altogether."""
    if not outlooks:
        return "nothing is to be encoded"
    each = "; ".join(f"{outlook.products:,} products' {plural(modality)}: {outlook}" for modality, outlook in outlooks.items())
    known = [outlook.seconds for outlook in outlooks.values() if outlook.seconds is not None]
    if len(outlooks) > 1 and len(known) == len(outlooks):
        return f"to encode: {each}; {shown_seconds(sum(known))} altogether"
    return f"to encode: {each}"


def look_ahead(
    index: Index, planned: Mapping[str, Any], encoders: Mapping[str, EncodeSettings], elements: Sequence[str]
) -> dict[str, Outlook]:
    """Return modality -> what is still to be encoded of it, of those that anything is to be encoded of.

    Args:
        index: paths of the index.
        planned: the counts of PLAN.
        encoders: modality -> what its features depend on.
        elements: names of the elements of PLAN that cut units.
    """
    found = {}
    for modality, settings in encoders.items():
        # Of a run that goes on, some units are there already; they cost alike.
        left = 1 - settings.done() / max(settings.units, 1)
        products, items = (round(left * planned[name][modality]) for name in ("missing", "items"))
        if products:
            found[modality] = Outlook(products, items, *_speed(index, settings, elements))
    return found


def _speed(index: Index, settings: EncodeSettings, elements: Sequence[str]) -> tuple[float | None, str]:
    path = storage.join(index.space(settings.space.id), SPEED_FILE)
    try:
        known = read_json(path)
        return known["items"] / known["seconds"], f"as in the run of {known['ended'][:10]}"
    except (FileNotFoundError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return _time(settings, elements), "as timed on this machine"


def keep_speed(index: Index, space: Space, run: str, items: int, seconds: float) -> None:
    """Keep how fast a run encoded, if it tells more than what is known."""
    path = storage.join(index.space(space.id), SPEED_FILE)
    try:
        enough = min(TELLING_ITEMS, read_json(path)["items"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        enough = 1
    if items >= enough:
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {"items": items, "seconds": round(max(seconds, 1e-3), 3), "run": run, "ended": ended})


def _time(settings: EncodeSettings, elements: Sequence[str]) -> float | None:
    """Encode some items of the first unit, twice, and return how many the second time went through in a second."""
    modality, views = settings.space.modality, settings.space.views.count
    for element in elements:
        names = read_json(settings.run.done(settings.stage, element))["units"].get(modality, [])
        if names:
            work = ranges.read_table(storage.join(settings.run.work(modality), f"{names[0]}.parquet"))
            some = work.slice(0, max(1, (TIMED_PICTURES if modality == "picture" else TIMED_TEXTS) // views))
            tower = settings.load_tower()
            for _ in range(2):
                started = time.monotonic()
                items = encode_work(some, tower, settings)[1]
            return items / max(time.monotonic() - started, 1e-3) if items else None
    return None


def other_spaces(index: Index, since: str, spaces: Mapping[str, Space], towers: Mapping[str, str]) -> dict[str, str]:
    """Return modality -> what sets its features apart from another run's, for each that has another space there.

    Args:
        index: paths of the index.
        since: the other run.
        spaces: modality -> space.
        towers: modality -> folder of its tower.
    """
    try:
        before = read_json(index.run(since).plan)
    except FileNotFoundError:
        return {}
    told = {}
    for modality, space in spaces.items():
        old = before["spaces"].get(modality)
        if old is None:
            told[modality] = "it had none"
        elif old != space.id:
            tower = storage.join(index.bundles, str(before["bundle"]), "towers", tower_of(modality))
            differences = _differences(index, space, old, (tower, towers[modality]))
            told[modality] = "; ".join(differences) or "another tower, or other views"
    return told


def _differences(index: Index, space: Space, old: str, towers: tuple[str, str]) -> list[str]:
    try:
        before = read_json(storage.join(index.space(old), "space.json"))
    except FileNotFoundError:
        return []
    told = []
    if before["weights"] != space.weights:
        names = [_tower(tower) for tower in towers]
        told.append(f"tower {names[1]} in place of {names[0]}" if len(set(names)) > 1 else f"other weights of tower {names[1]}")
    if before.get("decoding") != space.decoding:
        told.append("another decoding of pictures")
    fields = _fields(space.views, Views.from_json(before["views"]))
    return [*told, *(f"{name} {_shown(mine)} in place of {_shown(theirs)}" for name, mine, theirs in fields)]


def _fields(views: Views, before: Views) -> list[tuple[str, Any, Any]]:
    pairs: list[tuple[str, Any, Any]] = [("views", views.count, before.count)]
    pairs.append(("pooling of views", views.pooling, before.pooling))
    several = views.count > 1 and before.count > 1
    if several:
        operations = dict.fromkeys([*views.operations, *before.operations])
        pairs += [(name, views.operations.get(name), before.operations.get(name)) for name in operations]
        pairs += [("seed", views.seed, before.seed), ("words across languages", views.cross_language, before.cross_language)]
        pairs += [("synonym tables", [t for t, _ in views.tables], [t for t, _ in before.tables])]
    differ = [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]
    if several and not differ and views != before:
        differ.append(("content of synonym tables, or code of views,", views.digest[:8], before.digest[:8]))
    return differ


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else ", ".join(value) or "none" if isinstance(value, list) else str(value)


def _tower(folder: str) -> str:
    try:
        return str(read_json(storage.join(folder, SPEC_FILE))["spec"])
    except FileNotFoundError:
        return "another one"
