"""Test workflows without Ray and without waiting: one process, virtual time, seeded faults.

from podium.testing import Faults, Simulation, simulate

assert simulate(workflow, [1, 2, 3]) == [4, 8, 12]
assert simulate(workflow, [1], seed=7, faults=Faults(lose_reply=0.1, kills=3)) == [4]
"""

from .cluster.simulation.simulated import Faults, Simulation, simulate

__all__ = ["Faults", "Simulation", "simulate"]
