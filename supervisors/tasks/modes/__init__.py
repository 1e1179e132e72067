"""The four modes: the ways to govern the children of a node. Each file answers the same questions (`mode.Mode`).

`opening(place)` returns what starts now. `following(place, child)` returns what follows from the outcome of a child.
`timed_out(place)`, which a mode may leave out, returns what follows when the time limit of the node is over.
"""
