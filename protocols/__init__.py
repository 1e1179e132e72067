"""What is done: the language that users write. Pure: no Ray, no clock, no files."""
