"""Writes sizes in bytes as people read them, in decimal units: 259 B, 33 kB, 8.0 MB."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size_text(size_bytes: int) -> str:
    """Return a size with two digits or more: one behind the point below 10, except for bytes."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    number = float(size_bytes)
    for unit in _UNITS:
        if number < 999.5 or unit == _UNITS[-1]:
            break
        number /= 1000
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:,.0f} {unit}"
