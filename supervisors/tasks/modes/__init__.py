"""The four ways to govern a node's children. Each file answers the same two questions:

`opening(place)`: what starts now? `following(place, child)`: what follows from this child's outcome?
"""
