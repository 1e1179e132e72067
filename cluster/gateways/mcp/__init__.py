"""Podium as an MCP server: published workflows as tools, over stdio or HTTP. Needs `podium[mcp]`."""
