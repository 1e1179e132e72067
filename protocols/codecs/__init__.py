"""Codecs: how values of types that are no plain data become bytes, and values again.

A codec of Podium's own is imported when a value of its type is met, so the library is no dependency. Nothing here ever
uses pickle: what is kept has to be read by later processes, of any version.
"""
