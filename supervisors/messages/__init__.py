"""Messages between actors: one file for each conversation, one NamedTuple for each message, reply and chunk."""
