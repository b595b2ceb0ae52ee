"""Damages files of an index one after the other and opens it each time; in a process of its own, which may crash.

    python damage.py ROOT FIRST < cases.json

Each case is {"file", "kind", ...}; what happened to it is a line of JSON. Files are whole again after each case.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def damaged(data: bytes, case: dict[str, Any]) -> bytes:
    """Return what the file holds after the damage."""
    if case["kind"] == "flip":
        changed = bytearray(data)
        changed[case["at"]] ^= 1 << case["bit"]
        return bytes(changed)
    if case["kind"] == "size":
        return data[: case["size"]] + bytes(max(0, case["size"] - len(data)))
    return Path(case["other"]).read_bytes()


def attempt(root: str, case: dict[str, Any]) -> list[Any]:
    """Open the index and ask it for words and a product; returns what happened."""
    from catalogue_lookup import open_index
    from encoders.bundle import BundleError
    from encoders.integrity import IntegrityError

    try:
        with open_index(root, verify=case["verify"]) as index:
            hits = [*index.search(text="red shirt", k=5), *index.search(product_id="P00004", k=5)]
            return ["opened", index.version, [hit.product_id for hit in hits]]
    except (IntegrityError, BundleError) as error:
        return ["refused", type(error).__name__, str(error)]
    except Exception as error:
        return ["failed", type(error).__name__, str(error)]


def main() -> None:
    """Do all cases from the first asked for."""
    root, first = sys.argv[1], int(sys.argv[2])
    for number, case in enumerate(json.load(sys.stdin)):
        if number < first:
            continue
        path = Path(case["file"])
        data = path.read_bytes()
        stat = path.stat()
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CATALOGUE_INDEX_CACHE"] = cache  # as on a machine that opens this copy for the first time
            if case.get("seen"):
                attempt(root, case)
            try:
                path.write_bytes(damaged(data, case))
                if case.get("seen"):
                    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
                outcome = attempt(root, case)
            finally:
                path.write_bytes(data)
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
