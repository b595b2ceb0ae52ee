"""WITHDRAW: take recalled or forbidden products out of all answers, and let them back.

    catalogue-index withdraw PRODUCT_ID... --index DIR [--reason TEXT]
    catalogue-index withdraw PRODUCT_ID... --index DIR --undo
    catalogue-index withdraw --list --index DIR [--json]

`WITHDRAWN` lies beside `CURRENT` and holds for every version, those to come too. Readers obey it when they open the
index, and where they follow it at their next poll. It is replaced only if nobody else changed it meanwhile. Runs leave
its products out, and `prune` takes them out of what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from catalogue_lookup import open_index
from catalogue_lookup.manifest import CURRENT_FILE
from catalogue_lookup.withdrawn import Withdrawal, read_withdrawn, write_withdrawn
from pipelines import storage
from pipelines.layout import Index

# Of writers at the same time one succeeds at each turn.
TURNS = 1_000


class WithdrawError(RuntimeError):
    """The list cannot be changed as asked; the message says why."""


def list_withdrawn(index: str) -> list[Withdrawal]:
    """List the withdrawn products of an index, sorted by id.

    Raises:
        WithdrawError: there is no index.
        IntegrityError: the list cannot be read.
    """
    withdrawn = _read(_found(index))[1]
    return [withdrawn[product_id] for product_id in sorted(withdrawn)]


def withdrawn_ids(index: Index) -> frozenset[str]:
    """Return the ids of the withdrawn products.

    Raises:
        IntegrityError: the list cannot be read.
    """
    return frozenset(_read(index)[1])


def withdraw(index: str, product_ids: Sequence[str], reason: str | None = None) -> int:
    """Withdraw products; returns how many are withdrawn then.

    One that is withdrawn already keeps the time, and its reason unless another is given.

    Raises:
        WithdrawError: there is no index, or an id is empty or no text.
        IntegrityError: the list cannot be read.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for text in (*product_ids, reason or ""):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise WithdrawError(f"{text!r} is not UTF-8: give the text as the catalogue has it") from None
    if "" in product_ids:
        raise WithdrawError("an id is empty: give the ids of products")

    def add(withdrawn: dict[str, Withdrawal]) -> dict[str, Withdrawal]:
        added = {}
        for product_id in product_ids:
            before = withdrawn.get(product_id, Withdrawal(product_id, "", now))
            added[product_id] = Withdrawal(product_id, before.reason if reason is None else reason, before.since)
        return withdrawn | added

    return _change(_found(index), add)


def undo(index: str, product_ids: Sequence[str]) -> int:
    """Take products off the list; returns how many are withdrawn then.

    Raises:
        WithdrawError: there is no index, or a product is not withdrawn; then nothing is changed.
        IntegrityError: the list cannot be read.
    """

    def remove(withdrawn: dict[str, Withdrawal]) -> dict[str, Withdrawal]:
        unknown = [repr(product_id) for product_id in product_ids if product_id not in withdrawn]
        if unknown:
            verb = "is" if len(unknown) == 1 else "are"
            raise WithdrawError(f"{', '.join(unknown)} {verb} not withdrawn: nothing is changed; see --list")
        return {name: withdrawal for name, withdrawal in withdrawn.items() if name not in product_ids}

    return _change(_found(index), remove)


def not_in_index(index: str, product_ids: Sequence[str]) -> list[str]:
    """Return those ids of which the current version has no product; none where no version can be read."""
    if not storage.exists(Index(index).current):
        return []
    try:
        # Ids alone: no Annoy file is opened.
        with open_index(index, shards=()) as opened:
            return [product_id for product_id in product_ids if product_id not in opened]
    except (ValueError, OSError):
        return []


def count_withdrawn(index: Index, version: str) -> int:
    """Count the products of a version that are withdrawn; 0 where it cannot be opened.

    Raises:
        IntegrityError: the list cannot be read.
    """
    withdrawn = withdrawn_ids(index)
    if not withdrawn:
        return 0
    try:
        # Ids alone: no Annoy file is opened.
        with open_index(index.root, version=version, shards=()) as opened:
            return sum(product_id in opened for product_id in withdrawn)
    except (ValueError, OSError):
        return 0


def _found(root: str) -> Index:
    index = Index(root)
    if not storage.exists(index.current) and not storage.exists(index.settings):
        raise WithdrawError(f"{root} holds no {CURRENT_FILE}: give --index the folder of an index")
    return index


def _read(index: Index) -> tuple[bytes | None, dict[str, Withdrawal]]:
    try:
        content = storage.read_bytes(index.withdrawn)
    except FileNotFoundError:
        return None, {}
    return content, read_withdrawn(content, index.withdrawn)


def _change(index: Index, change: Callable[[dict[str, Withdrawal]], dict[str, Withdrawal]]) -> int:
    for _ in range(TURNS):
        content, withdrawn = _read(index)
        changed = change(withdrawn)
        if changed == withdrawn or storage.compare_and_swap(index.withdrawn, content, write_withdrawn(changed)):
            return len(changed)
    raise WithdrawError(f"{index.withdrawn} was changed by others {TURNS:,} times meanwhile: run it again")
