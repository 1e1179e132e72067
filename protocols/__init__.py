"""The language in which users write protocols and workflows. Pure: no Ray, no clock, no files."""
