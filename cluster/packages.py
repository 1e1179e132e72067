"""Packs the local folders of a deployment, so that the machines of a cluster need not have them.

A package is a zip archive, named by the SHA-256 of what is in it. So a changed file makes another package, and another
version of the protocol; a copy of the folder does not. Packages go with the deployment, and are kept in the shard of
the workflow as long as a version needs them.

Left out are `.git`, `.podium`, `__pycache__`, `.venv`, `venv`, Podium's data directory, and what `.gitignore` and
`.rayignore` files name.
"""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..protocols.decoding import decoded
from ..protocols.environment import PACKAGE, Pip, RuntimeEnv
from ..protocols.errors import InvalidDefinition
from ..protocols.library.ignoring import Rules, is_ignored, lines_of, rules_above

MAX_PACKAGE_BYTES = 16 * 1024 * 1024
"""Most bytes of all packages of one deployment."""
MAX_UNPACKED_BYTES = 256 * 1024 * 1024
"""Most bytes of the files in one package."""
LEFT_OUT = frozenset({".git", ".podium", "__pycache__", ".venv", "venv"})
"""Names of folders that are never packed."""
_ARCHIVES = (".zip", ".whl")
_OTHER_FILES = ("-r", "--requirement", "-c", "--constraint", "-e", "--editable")
_WAYS_OUT = (
    "name what is not needed in a `.gitignore` or `.rayignore` file there, install large things on the machines, or "
    "give the URI of an archive"
)


class Packages:
    """The packages of one deployment."""

    def __init__(self, working_dir: str | None = None, data: Path | None = None) -> None:
        """Begin without packages.

        Args:
            working_dir: the one of protocols that have none of their own.
            data: folder that is never packed.
        """
        self._working_dir, self._data = working_dir, None if data is None else data.resolve()
        self.packed: dict[str, bytes] = {}
        """Zip archives by key: `PACKAGE` and the SHA-256 of their content."""
        self._keys: dict[tuple[str, bool], str] = {}
        """Keys by path as given, and by whether the folder's name is part of the package."""

    def environment(self, declared: RuntimeEnv | None, ref: str) -> RuntimeEnv | None:
        """Return the environment of a protocol as it is deployed: without anything that only this machine has.

        Raises:
            InvalidDefinition: names the protocol `ref`, and the file that is missing, too large or unreadable.
        """
        given = declared or RuntimeEnv()
        working_dir = self._working_dir if given.working_dir is None else given.working_dir
        if working_dir is None and declared is None:
            return None
        try:
            packed = {
                "pip": _listed(given.pip),
                "working_dir": None if working_dir is None else self._key(working_dir, with_name=False),
                "py_modules": tuple(self._key(path, with_name=True) for path in given.py_modules),
            }
        except OSError as error:
            problem = f"{error.filename or 'runtime_env'}: {error.strerror or error}"
            raise InvalidDefinition(problem=problem, path=f"protocol {ref}") from error
        except ValueError as error:
            raise InvalidDefinition(problem=str(error), path=f"protocol {ref}") from error
        return given.model_copy(update=packed)

    def _key(self, path: str, with_name: bool) -> str:
        if "://" in path or path.startswith(PACKAGE):
            return path
        known = self._keys.get((path, with_name))
        if known is None:
            known = self._keys[path, with_name] = self._pack(Path(path).expanduser(), with_name)
        return known

    def _pack(self, path: Path, with_name: bool) -> str:
        place = path.resolve(strict=True)
        if place.is_dir():
            digest, archive = _zipped(self._files(place), f"{place.name}/" if with_name else "", path)
        elif place.suffix in _ARCHIVES:
            archive = place.read_bytes()
            digest = hashlib.sha256(archive).hexdigest()
        elif with_name and place.suffix == ".py":
            digest, archive = _zipped(iter([(place.name, place)]), "", path)
        else:
            kinds = "a folder, a .py file, a .zip or .whl archive" if with_name else "a folder or a .zip archive"
            raise ValueError(f"{path} is not {kinds}")
        key = PACKAGE + digest
        self.packed[key] = archive
        total = sum(map(len, self.packed.values()))
        if total > MAX_PACKAGE_BYTES:
            raise ValueError(f"{path}: {_mb(total)} packed, the limit is {_mb(MAX_PACKAGE_BYTES)}: {_WAYS_OUT}")
        return key

    def _files(self, root: Path) -> Iterator[tuple[str, Path]]:
        """Yield the files below a folder, with their paths from there, in an order that depends on the names alone.

        Links are followed, but not back up into a folder that is being walked.
        """
        waiting: list[tuple[str, Path, tuple[Rules, ...], tuple[Path, ...]]] = [("", root, rules_above(root), ())]
        while waiting:
            prefix, folder, chain, above = waiting.pop()
            chain = (*chain, Rules([*lines_of(folder), *_ray_ignores(folder)], below=len(prefix)))
            above = (*above, folder.resolve())
            for entry in sorted(folder.iterdir(), key=lambda each: each.name, reverse=True):
                is_folder = entry.is_dir()
                if is_ignored(chain, prefix + entry.name, is_folder):
                    continue
                if entry.is_file():
                    yield prefix + entry.name, entry
                elif is_folder and entry.name not in LEFT_OUT and entry.resolve() not in (*above, self._data):
                    waiting.append((f"{prefix}{entry.name}/", entry, chain, above))


def _zipped(files: Iterator[tuple[str, Path]], prefix: str, root: Path) -> tuple[str, bytes]:
    """Return the digest of names, modes and contents, and the archive."""
    digest, target, size = hashlib.sha256(), io.BytesIO(), 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files:
            facts = path.stat()
            size += facts.st_size
            if size > MAX_UNPACKED_BYTES or target.tell() > MAX_PACKAGE_BYTES:
                problem = f"more than {_mb(MAX_PACKAGE_BYTES)} packed, or {_mb(MAX_UNPACKED_BYTES)} unpacked"
                raise ValueError(f"{root}: {problem}, at the file {name} of {_mb(facts.st_size)}: {_WAYS_OUT}")
            content = path.read_bytes()
            entry = zipfile.ZipInfo(prefix + name)  # of 1980, so that times make no other package
            entry.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
            entry.external_attr = (stat.S_IFREG | mode) << 16
            digest.update(f"{prefix}{name}\0{mode:o}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
            archive.writestr(entry, content)
    return digest.hexdigest(), target.getvalue()


def _ray_ignores(folder: Path) -> list[str]:
    path = folder / ".rayignore"
    return decoded(path.read_bytes()).splitlines() if path.is_file() else []


def _listed(pip: Pip | None) -> Pip | None:
    """Return the packages as a list, if they were given as the path of a requirements file."""
    if pip is None or not isinstance(pip.packages, str):
        return pip
    lines = decoded(Path(pip.packages).expanduser().read_bytes()).splitlines()
    wanted = tuple(text for line in lines if (text := line.split(" #")[0].strip()) and not text.startswith("#"))
    for text in wanted:
        if text.startswith(_OTHER_FILES):
            raise ValueError(f"{pip.packages}: `{text}` names a file of this machine: put its lines in place of it")
    return pip.model_copy(update={"packages": wanted})


def _mb(size: int) -> str:
    return f"{size / (1024 * 1024):.1f} MiB"


__all__ = ["LEFT_OUT", "MAX_PACKAGE_BYTES", "MAX_UNPACKED_BYTES", "Packages"]
