"""Withdrawn products: recalled or forbidden goods, in no answer of any version.

`WITHDRAWN` lies beside `CURRENT` and is one JSON document; the lookup owns the format, `catalogue-index withdraw` writes
it. It holds the hash of its own content, so that a truncated list is refused and not taken for a shorter one. Where
there is no such file, nothing is withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from catalogue_lookup.place import Place
from encoders.integrity import IntegrityError, SealedJson

FORMAT = 1
WITHDRAWN_FILE = "WITHDRAWN"


class WithdrawnError(IntegrityError):
    """The list of withdrawn products cannot be read; the message names the file."""


_SEALED = SealedJson(
    "list of withdrawn products", FORMAT, WithdrawnError, "copy it again, or remove it and withdraw its products again"
)


@dataclass(frozen=True)
class Withdrawal:
    """One product that is withdrawn.

    Attributes:
        product_id: the product.
        reason: why, for people; may be empty.
        since: UTC time, ISO 8601.
    """

    product_id: str
    reason: str
    since: str

    def __str__(self) -> str:
        return f"'{self.product_id}' is withdrawn since {self.since}" + (f": {self.reason}" if self.reason else "")


Withdrawn = Mapping[str, Withdrawal]


def write_withdrawn(withdrawn: Withdrawn) -> bytes:
    """Return the content of `WITHDRAWN`: the products sorted by their ids."""
    products = [asdict(withdrawn[product_id]) for product_id in sorted(withdrawn)]
    return _SEALED.write({"products": products})


def read_withdrawn(data: bytes, path: str) -> dict[str, Withdrawal]:
    """Read what `write_withdrawn` wrote: withdrawals by product.

    Args:
        data: content of the file.
        path: where it lies, for messages.

    Raises:
        WithdrawnError: it is of a newer format, truncated or altered.
    """
    content = _SEALED.read(data, path)
    try:
        return {entry["product_id"]: Withdrawal(**entry) for entry in content["products"]}
    except (KeyError, TypeError) as error:
        raise WithdrawnError(f"{path} lacks what a list of format {FORMAT} has ({error!r}): {_SEALED.remedy}") from None


@dataclass(frozen=True)
class WithdrawnFile:
    """What the root of an index has under `WITHDRAWN`.

    Attributes:
        path: where it lies, for messages.
        content: None where there is no such file.
    """

    path: str
    content: bytes | None

    @classmethod
    def of(cls, root: Place) -> WithdrawnFile:
        """Read the file of an index."""
        path = f"{root.uri.rstrip('/')}/{WITHDRAWN_FILE}"
        try:
            return cls(path, root.read(WITHDRAWN_FILE))
        except FileNotFoundError:
            return cls(path, None)

    def products(self) -> dict[str, Withdrawal]:
        """Return the withdrawals by product.

        Raises:
            WithdrawnError: the file is of a newer format, truncated or altered.
        """
        return {} if self.content is None else read_withdrawn(self.content, self.path)
