"""Files that steps hand on: their contents are in the blob store, and only whoever opens one reads it."""

from __future__ import annotations

import io
from pathlib import PurePath
from typing import IO, Any, BinaryIO, Literal, Protocol, TextIO, overload

import msgpack
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from .codecs.registry import register_file
from .encoded import Travelling
from .errors import FixTheCall, InvalidInput
from .large import file_part
from .stored import FILE, BlobKey, BlobSource, Buffer, Stored


class File(Travelling):
    """A file of any size. Steps hand it on without reading it; whoever needs what is in it opens it.

        @podium.protocol
        def shorten(ctx: podium.Context, log: podium.File) -> podium.File:
            with log.open("r") as lines, ctx.new_file("short.log") as short:
                short.write("".join(line for line in lines if "ERROR" in line).encode())
            return short.file

        task = engine.submit(flow, podium.File("/var/log/app.log"))
        print(task.result().read_text())

    `podium.File(path)` stands for a file of this machine. When it is submitted, or returned from a step, it goes to the
    blob store in pieces, and is read there from then on.
    """

    __slots__ = ("_part", "_path", "name")

    def __init__(self, path: str | PurePath, name: str = "") -> None:
        """`name` is what the file is called from then on, if not as the path is."""
        self._path: str | None = str(path)
        self._part: Stored | None = None
        self.name = PurePath(name).name or PurePath(path).name
        """The name of the file, without folders."""

    @classmethod
    def _of(cls, part: Stored) -> File:
        made = cls.__new__(cls)
        made._part, made._path, made.name = part, None, PurePath(str(part.about.get("name", ""))).name
        return made

    @property
    def size_bytes(self) -> int:
        """The size, in bytes. Raises FixTheCall for one that was made here, by its path."""
        return self._stored("size_bytes").key.size

    @overload
    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO: ...
    @overload
    def open(self, mode: Literal["r"]) -> TextIO: ...
    def open(self, mode: Literal["rb", "r"] = "rb") -> IO[Any]:
        """Open the file for reading, as bytes or (`r`) as UTF-8 text.

        Raises:
            FixTheCall: It was made here, by its path: open that.
            BlobMissing, BlobCorrupt, BlobsAway: It cannot be read.
        """
        if mode not in ("rb", "r"):
            raise FixTheCall(f"a podium.File is only read: mode 'rb' or 'r', not {mode!r}")
        stream = self._source("open").open(self._stored("open").key)
        return stream if mode == "rb" else io.TextIOWrapper(stream, encoding="utf-8")

    def read_bytes(self) -> bytes:
        """Return the whole content."""
        return bytes(self._source("read_bytes").get(self._stored("read_bytes").key))

    def read_text(self) -> str:
        """Return the whole content, which is UTF-8 text."""
        return self.read_bytes().decode()

    def save(self, path: str | PurePath) -> None:
        """Write the content to a new file of this machine. Raises FileExistsError, or another OSError."""
        self._source("save").save(self._stored("save").key, str(path))

    def _stored(self, what: str) -> Stored:
        if self._part is None or self._part.number is not None:
            raise FixTheCall(f"{what}: {self!r} stands for a file of this machine; use its path here")
        return self._part

    def _source(self, what: str) -> BlobSource:
        source = self._stored(what).source
        if source is None:
            raise FixTheCall(f"{what}: {self!r} was not read by a step or an engine, so nothing knows where it is")
        return source

    def travel(self) -> msgpack.ExtType:
        if self._part is not None:
            return self._part.travel()
        assert self._path is not None
        return file_part(self._path, self.name, lambda: self)

    def __repr__(self) -> str:
        return f"<file {self.name!r}>" if self._path is None else f"File({self._path!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and (self._path, self.name, self._part) == (other._path, other.name, other._part)

    def __hash__(self) -> int:
        return hash((File, self._path, self.name, self._part))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(cls)


class Draft(Protocol):
    """A blob that is being written."""

    @property
    def is_broken(self) -> bool: ...

    def write(self, piece: Buffer) -> None: ...

    def commit(self) -> BlobKey: ...

    def abandon(self) -> None: ...


class Drafting(BlobSource, Protocol):
    """A blob store, as far as new files use it."""

    def new_draft(self) -> Draft: ...


class NewFile(io.RawIOBase):
    """A file that a step writes, made by `ctx.new_file(name)`. It takes bytes, in order, and has no `seek`."""

    def __init__(self, store: Drafting, name: str, most_bytes: int) -> None:
        self._key: BlobKey | None = None
        self._draft: Draft | None = None
        self._store, self._written, self._most_bytes = store, 0, most_bytes
        self.name = PurePath(name).name if isinstance(name, str) else ""
        if not self.name:
            raise InvalidInput(problem="new_file wants a name, such as 'out.parquet'")
        self._draft = store.new_draft()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, piece: Any, /) -> int:
        """Add bytes. Raises BlobsAway if they cannot be stored; then the file is given up, so begin another.

        Raises InvalidInput if the file becomes larger than the setting `max_blob_bytes`.
        """
        if self.closed or self._draft is None:
            raise ValueError(f"file '{self.name}' is closed")
        view = memoryview(piece)
        self._written += view.nbytes
        if self._written > self._most_bytes:
            what = f"file '{self.name}' has more than {self._most_bytes} bytes"
            raise InvalidInput(problem=f"{what}, which is the limit (setting `max_blob_bytes`)")
        self._draft.write(view)
        return view.nbytes

    def close(self) -> None:
        """Make the file durable. Raises BlobsAway."""
        if not self.closed and self._draft is not None:
            try:
                self._key = self._draft.commit()
            finally:
                self._give_up()

    def _give_up(self) -> None:
        if self._draft is not None:
            self._draft.abandon()
        super().close()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        elif not self.closed:
            self._give_up()

    def __del__(self) -> None:
        """Keep nothing of a file that was never closed."""
        if not self.closed:
            self._give_up()

    @property
    def file(self) -> File:
        """The file to hand on. Raises FixTheCall as long as this one is not closed."""
        if self._key is None:
            raise FixTheCall(f"file '{self.name}' is not closed yet, or was given up: use `with`, and `.file` after it")
        part = Stored.under(self._key, FILE, {"name": self.name}, is_packed=False)
        part.source = self._store
        return file_of(part)


file_of = File._of
register_file(file_of)
