"""Converts the answer of an MCP tool to a value: its data, or its text. Content that is left out is named."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..json_forms import to_json
from ..values import Value

if TYPE_CHECKING:
    from mcp_types import BlobResourceContents, CallToolResult, ContentBlock, TextResourceContents

KNOWN = frozenset({"text", "image", "audio", "resource", "resource_link"})
"""Kinds of blocks that the protocol has."""
MAX_ERROR_CHARS = 4_000


def mended(result: dict[str, Any]) -> dict[str, Any]:
    """Return a raw result in a form that the protocol's own types accept.

    An answer without `content` gets one; blocks of unknown kinds become a text that names them as left out.
    """
    if not {"content", "structuredContent", "isError"} & set(result):
        return result
    blocks = result.get("content")
    if not isinstance(blocks, list):
        return {**result, "content": [] if blocks is None else [_said(str(blocks)[:MAX_ERROR_CHARS])]}
    return {**result, "content": [_mended_block(block) for block in blocks]}


def _mended_block(block: object) -> object:
    kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
    return block if kind in KNOWN else _said(f"[{str(kind)[:40]}, left out]")


def _said(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}


def text_of(blocks: Sequence[ContentBlock]) -> str:
    """Return the text of all blocks, one after the other; content that is not text is named as left out.

    A document among other blocks gets a line with its address before it.
    """
    return "\n".join(_text(block, len(blocks) > 1) for block in blocks)


def left_out(blocks: Sequence[ContentBlock]) -> list[str]:
    """Return the names of the blocks that are not plain text. Structured data does not hold them."""
    return [_name(block) for block in blocks if block.type != "text"]


def everything(result: CallToolResult) -> dict[str, Value]:
    """Return all of an answer: {"structured", "text", "blocks"}, with binary content as bytes."""
    blocks = [_plain(block) for block in result.content]
    return {"structured": result.structured_content, "text": text_of(result.content), "blocks": blocks}


def complaint(result: CallToolResult) -> str:
    """Return the error that a failed tool reports: its text, else its data; at most MAX_ERROR_CHARS characters."""
    text = text_of(result.content).strip()
    if not text and result.structured_content is not None:
        text = to_json(result.structured_content)
    return text[:MAX_ERROR_CHARS] or "the tool says that it failed, and no more"


def _text(block: ContentBlock, has_others: bool) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "resource":
            text = _document(block.resource)
            if text is None:
                return f"[{_name(block)}, left out]"
            return f"[resource {block.resource.uri}]\n{text}" if has_others else text
        case "resource_link":
            about = ", ".join(str(each) for each in (block.description, block.mime_type) if each)
            return f"[link {block.uri} {block.name}{f': {about}' if about else ''}]"
        case _:
            return f"[{_name(block)}, left out]"


def _name(block: ContentBlock) -> str:
    """Return the description of a block: its kind, address, type and size."""
    holder = block.resource if block.type == "resource" else block
    content = getattr(holder, "blob", None) or getattr(holder, "data", None) or ""
    size = f"{len(content) * 3 // 4} bytes" if content else ""
    parts = (block.type, getattr(holder, "uri", None), getattr(holder, "mime_type", None), size)
    return " ".join(str(part) for part in parts if part)


def _document(resource: BlobResourceContents | TextResourceContents) -> str | None:
    """Return the text of an embedded resource; bytes count if their type is text and they are UTF-8. None otherwise."""
    if hasattr(resource, "text"):
        return resource.text
    if not str(resource.mime_type or "").startswith("text/"):
        return None
    content = _bytes(resource.blob)
    try:
        return content.decode("utf-8") if isinstance(content, bytes) else None
    except UnicodeDecodeError:
        return None


def _plain(block: ContentBlock) -> dict[str, Value]:
    plain: dict[str, Value] = block.model_dump(mode="json", by_alias=True, exclude_none=True)
    for holder, key in ((plain, "data"), (plain.get("resource", {}), "blob")):
        if key in holder:
            holder[key] = _bytes(holder[key])
    return plain


def _bytes(text: str) -> bytes | str:
    """Decode Base64 to bytes; other text stays as it is."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return text
