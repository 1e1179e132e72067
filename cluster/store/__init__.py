"""The journal: two implementations of `supervisors.ports.Journal`, and readers that own nothing."""
