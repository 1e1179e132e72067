"""Computes the fingerprint of a protocol's code, as it would run now.

For a protocol that other processes can import, the fingerprint covers the source of its module, and of all modules that
this one imports from the user's own folders, directly or not. Installed packages, which have a version, and Podium's
own modules are left out. For a protocol that is sent as a pickle, the fingerprint is of its code.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..protocols.fingerprint import code_fingerprint
from ..protocols.protocol import ProtocolLike

_INSTALLED = tuple(
    str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_OURS = str(Path(__file__).resolve().parents[1])


def fingerprint_of(target: ProtocolLike, root: str | None) -> str:
    """Return the hexadecimal SHA-256 of a protocol. `root` is the import folder of its module, or None if pickled."""
    if root is None:
        return code_fingerprint(target)
    if target.__module__.partition(".")[0] == "podium":
        return hashlib.sha256(f"podium {_version()}".encode()).hexdigest()
    digest = hashlib.sha256()
    for name, text in sorted(_sources(target.__module__, Path(root)).items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()


def _version() -> str:
    try:
        return version("podium")
    except PackageNotFoundError:
        return "unknown"


def _sources(module: str, root: Path) -> dict[str, str]:
    """Return the digests of the sources, by module."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path(name, root)
        if name in found or path is None:
            continue
        facts = path.stat()
        found[name], imported = _read(str(path), name, path.name == "__init__.py", facts.st_mtime_ns, facts.st_size)
        waiting += imported
    return found


def _path(module: str, root: Path) -> Path | None:
    """Return the path of the source of a user's module; None for modules that are installed, Podium's or not found."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is not None:
        path = Path(file)
        is_his = path.suffix == ".py" and not str(path.resolve()).startswith((*_INSTALLED, _OURS))
        return path if is_his and path.is_file() else None
    place = root.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@lru_cache(maxsize=1024)
def _read(path: str, module: str, is_package: bool, _mtime_ns: int, _size: int) -> tuple[str, tuple[str, ...]]:
    """Return the digest of a source, and the names of modules that it may import. Cached until the file changes."""
    source = Path(path).read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return digest, ()
    return digest, tuple(dict.fromkeys(_imported(tree, module if is_package else module.rpartition(".")[0])))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(part for part in [*above, node.module or ""] if part)
            yield base
            for alias in node.names:
                yield f"{base}.{alias.name}"
