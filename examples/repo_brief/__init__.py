"""A briefing on any folder of source code: see brief.yaml, or workflow.py for the same in Python."""
