"""What actors say to each other: one file for each conversation, one NamedTuple for each message, reply and chunk."""
