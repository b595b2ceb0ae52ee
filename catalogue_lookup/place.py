"""Where an index lies: a local folder, or one of an object store of which files are copied here once."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from encoders.integrity import IntegrityError, cache_folder


@dataclass(frozen=True)
class Place:
    """A folder.

    Attributes:
        uri: its name for people.
        path: its path, on this machine or in `filesystem`.
        filesystem: the `pyarrow.fs.FileSystem` of a remote one, None for a local one.
    """

    uri: str
    path: str
    filesystem: Any = None

    @classmethod
    def at(cls, uri: str | os.PathLike[str]) -> Place:
        """Return the place of a path or of a URI that pyarrow knows (gs://, s3://, hdfs://, abfs://)."""
        name = os.fspath(uri)
        if name.startswith("file://"):
            return cls(name, unquote(urlsplit(name).path))
        if "://" not in name:
            return cls(name, name)
        from pyarrow.fs import FileSystem  # slow to import, as it brings the clients of object stores

        filesystem, path = FileSystem.from_uri(name)
        return cls(name.rstrip("/"), path, filesystem)

    def below(self, *names: str) -> Place:
        """Return a folder below this one."""
        added = "/".join(names)
        return Place(f"{self.uri.rstrip('/')}/{added}", f"{self.path.rstrip('/')}/{added}", self.filesystem)

    def above(self, levels: int) -> Place:
        """Return the folder that many levels above this one."""
        if self.filesystem is None:
            path = str(Path(self.path).absolute().parents[levels - 1])
            return Place(path, path)
        uri, path = self.uri.rstrip("/"), self.path.rstrip("/")
        return Place(uri.rsplit("/", levels)[0], path.rsplit("/", levels)[0], self.filesystem)

    def read(self, name: str) -> bytes:
        """Read a small file; raises FileNotFoundError where there is none."""
        path = f"{self.path.rstrip('/')}/{name}"
        if self.filesystem is None:
            try:
                return Path(path).read_bytes()
            except NotADirectoryError as error:
                raise FileNotFoundError(error.errno, error.strerror, path) from None
        with self.filesystem.open_input_stream(path) as stream:
            return stream.read()

    def sizes(self) -> dict[str, int]:
        """List the files below this folder of an object store, by their names relative to it."""
        from pyarrow.fs import FileSelector

        found = self.filesystem.get_file_info(FileSelector(self.path, recursive=True))
        return {info.path.removeprefix(f"{self.path}/"): info.size for info in found if info.is_file}

    def fetch(self, files: Mapping[str, int], content: bytes) -> Path:
        """Return a local folder that holds the files: this one, or its copy in the cache, completed.

        Args:
            files: relative names and sizes.
            content: what tells this content of the folder from an earlier one.

        Raises:
            IntegrityError: a file is missing.
        """
        if self.filesystem is None:
            return Path(self.path)
        folder = cache_folder() / "copies" / hashlib.sha256(self.uri.encode() + b"\0" + content).hexdigest()[:32]
        for name, size in files.items():
            target = folder / name
            if target.is_file() and target.stat().st_size == size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            try:
                with os.fdopen(handle, "wb") as copy, self.filesystem.open_input_stream(f"{self.path}/{name}") as source:
                    shutil.copyfileobj(source, copy, 1 << 22)
                os.replace(temporary, target)
            except FileNotFoundError:
                raise IntegrityError(f"{self.uri}/{name} is missing: copy the whole folder again") from None
            finally:
                Path(temporary).unlink(missing_ok=True)
        return folder
