"""Exit codes of the command; docs/operations.md says what to do for each."""

from __future__ import annotations

from pipelines.config import ConfigError

DONE, FAILED, BAD_FLAG, LOCKED, REFUSED, REJECTS, STORAGE, NOT_INDEXED = 0, 1, 2, 3, 4, 5, 6, 7
INTERRUPTED = 130


def exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that is a sentence for the user, None for any other."""
    if isinstance(error, ConfigError):
        return BAD_FLAG
    flags = ("CatalogueError", "WhereError", "UnknownProductError", "StageError", "BundleError", "TowerError", "QueryError",
             "FusionError", "ApplicationError", "SavedModelError", "PoolingError", "ViewVersionError",
             "WithdrawError", "LabelledQueriesError")  # fmt: skip
    codes = dict.fromkeys(flags, BAD_FLAG) | dict.fromkeys(("BuildError", "ConversionError", "ModuleNotFoundError"), FAILED)
    codes |= {"RejectRateError": REJECTS, "PublishError": REFUSED, "RefusedError": REFUSED, "IndexTooLargeError": REFUSED,
              "LockedError": LOCKED}
    codes |= dict.fromkeys(("StorageError", "IntegrityError", "WeightsError", "OSError"), STORAGE)
    return next((codes[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in codes), None)
