"""What code would run now: the fingerprint of a protocol, from its source or from what is carried.

The source of a protocol that others can import is that of its module and of all modules that this imports, directly or
not, from the user's own folders: not of installed packages, which a version names, and not Podium's.
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
    """SHA-256, hexadecimal. `root` is the folder that its module is imported from; None if it is carried."""
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
    """Digests of the sources, by module."""
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
    """Where the source of a module of the user's is; None if it is none, or installed."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is not None:
        path = Path(file)
        is_his = path.suffix == ".py" and not str(path.resolve()).startswith((*_INSTALLED, _OURS))
        return path if is_his and path.is_file() else None
    place = root.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@lru_cache(maxsize=1024)
def _read(path: str, module: str, is_package: bool, _mtime_ns: int, _size: int) -> tuple[str, tuple[str, ...]]:
    """The digest of a source, and the names of what it may import; read again when the file has changed."""
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
