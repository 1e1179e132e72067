"""Requests about tasks from outside: cancelling, following and watching; and the chunks that steps emit."""
