"""The gate between BUILD and PUBLISH: what a version must be to take the place of the current one.

    catalogue-index run --catalogue 'shop/*.parquet' --index DIR --min-recall 0.95 --max-shrink 0.10

Measures: recall@10 against exact search, the least over the kinds of queries; the bytes of the Annoy files; the number of
products, and what is found for labelled queries, next to the version that is current. A version that fails stays, unpublished,
with all the reasons in `refused.json` beside its manifest.

Of an index of ten products or fewer a product has fewer than ten others: recall is the share of those there are. Annoy
looks at all of so few, so that it is 1; it is 1 for a single product, too, which has no neighbour to miss. An index of no
products has no recall and is not measured by it. Where nothing is published yet, the number of products is not compared.
Withdrawn products are not missed.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from catalogue_lookup.manifest import MANIFEST_FILE, Manifest, ManifestError, read_manifest
from pipelines import storage
from pipelines.config import Config
from pipelines.evaluated import reasons_of_evaluation
from pipelines.layout import Index, read_json, write_json
from pipelines.withdraw import count_withdrawn

REFUSED_FILE = "refused.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What the gate lets through.

    Attributes:
        min_recall: recall@10, at least.
        max_shrink: share of the products of the version before that may be gone.
        max_index_bytes: bytes of the Annoy files, at most; None for any.
        max_evaluation_drop: by how much nDCG@10 and recall@10 of labelled queries may be below those of the version before.
    """

    min_recall: float
    max_shrink: float
    max_index_bytes: int | None = None
    max_evaluation_drop: float = 0.02

    @classmethod
    def of(cls, config: Config) -> Limits:
        """Take the limits of the configuration."""
        return cls(config.min_recall, config.max_shrink, config.max_index_bytes, config.max_evaluation_drop)


class RefusedError(RuntimeError):
    """A version did not pass the gate.

    Attributes:
        version: its id.
        reasons: all of them, a sentence each.
    """

    def __init__(self, index: Index, version: str, reasons: list[str]) -> None:
        self.version, self.reasons = version, reasons
        lines = [f"version {version} is refused by the gate and not published:", *(f"- {reason}" for reason in reasons)]
        super().__init__("\n".join([*lines, f"to publish it anyway: {publish_command(index, version)} --force"]))


def publish_command(index: Index, version: str) -> str:
    """Return the command that publishes a version."""
    return shlex.join(["catalogue-index", "publish", version, "--index", index.root])


def reasons_against(manifest: Manifest, previous: Manifest | None, limits: Limits, withdrawn: int = 0) -> list[str]:
    """Return why a version may not take the place of another one, a sentence each; none for one that may.

    Args:
        manifest: the version.
        previous: the one whose place it would take, None for the first.
        limits: what is let through.
        withdrawn: products of the other one that are withdrawn, less those of this one: they are not missed.
    """
    reasons = []
    recall = manifest.recall
    if recall is not None and recall < limits.min_recall:
        kind = min(manifest.measured.by_query, key=lambda name: manifest.measured.by_query[name])
        reasons.append(
            f"recall@10 of {kind} queries is {recall:g}, below --min-recall {limits.min_recall:g}: more --trees would help"
        )
    if limits.max_index_bytes is not None and manifest.annoy_bytes > limits.max_index_bytes:
        reasons.append(
            f"its Annoy files take {manifest.annoy_bytes:,} bytes, above --max-index-bytes {limits.max_index_bytes}: "
            f"fewer --trees than {manifest.n_trees} would help"
        )
    if previous is not None:
        before = previous.items - withdrawn
        gone = before - manifest.items
        # A share like 0.1 is no exact number: the last allowed product must not depend on its rounding.
        if gone > limits.max_shrink * before + 1e-6:
            reasons.append(
                f"it has {manifest.items:,} products, {100 * gone / before:.1f} % fewer than the {before:,} of "
                f"version {previous.id}, above --max-shrink {limits.max_shrink:g} ({100 * limits.max_shrink:g} %): "
                "see that the catalogue is whole"
            )
    return reasons


def withdrawn_between(index: Index, version: str, previous: str | None) -> int:
    """Return how many more withdrawn products the version `previous` has than `version`."""
    return 0 if previous is None else count_withdrawn(index, previous) - count_withdrawn(index, version)


def read_version(index: Index, version: str) -> Manifest:
    """Return the manifest of a version.

    Raises:
        FileNotFoundError: there is none.
        ManifestError: it is damaged, or another version's.
    """
    path = storage.join(index.version(version), MANIFEST_FILE)
    manifest = read_manifest(storage.read_bytes(path), path)
    if manifest.id != version:
        raise ManifestError(f"{path} is the manifest of version {manifest.id}")
    return manifest


def find_version(index: Index, version: str | None) -> Manifest | None:
    """Return the manifest of a version to compare with, None (and a line in the log) where there is none to be read."""
    if version is None:
        return None
    try:
        return read_version(index, version)
    except (FileNotFoundError, ManifestError) as error:
        reason = error if isinstance(error, ManifestError) else "its manifest is missing"
        _log.warning("version %s cannot be compared with: %s", version, reason)
        return None


def judge(index: Index, version: str, previous: str | None, limits: Limits) -> list[str]:
    """Hold a whole version to the limits, keep the verdict beside its manifest, and return the reasons against it.

    Args:
        index: paths of the index.
        version: the version.
        previous: the version whose place it would take.
        limits: what is let through.

    Raises:
        FileNotFoundError: the version has no manifest.
        ManifestError: its manifest is damaged.
    """
    manifest, before = read_version(index, version), find_version(index, previous)
    reasons = [
        *reasons_against(manifest, before, limits, withdrawn_between(index, version, previous)),
        *reasons_of_evaluation(index, version, previous, limits.max_evaluation_drop),
    ]
    path = _refused_path(index, version)
    if reasons:
        write_json(
            path,
            {"version": version, "refused": datetime.now(UTC).isoformat(timespec="seconds"), "reasons": reasons,
             "previous": previous, "limits": asdict(limits)},
        )  # fmt: skip
    else:
        storage.remove([path])
    recall = "none" if manifest.recall is None else f"{manifest.recall:g}"
    compared = "nothing to compare with" if before is None else f"{before.items:,} in version {before.id}"
    _log.info(
        "gate: recall@10 %s (at least %g), %s products (%s): %s", recall, limits.min_recall, f"{manifest.items:,}", compared,
        "refused" if reasons else "passed",
    )  # fmt: skip
    return reasons


def read_refusal(index: Index, version: str) -> list[str]:
    """Return the reasons that a version was refused for, none where it was not."""
    path = _refused_path(index, version)
    try:
        content = read_json(path)
    except FileNotFoundError:
        return []
    except ValueError:
        return [f"it was refused, but {path} is damaged and does not say why"]
    return [str(reason) for reason in content["reasons"]]


def refused_versions(index: Index) -> set[str]:
    """Return the ids of the versions that were refused."""
    found = storage.list_folder(index.versions, f"*/{REFUSED_FILE}")
    return {info.path.rsplit("/", 2)[-2] for info in found}


def _refused_path(index: Index, version: str) -> str:
    return storage.join(index.version(version), REFUSED_FILE)
