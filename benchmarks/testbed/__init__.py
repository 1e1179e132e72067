"""The test bed for real kills: a driver under steady load, an independent witness, kills by class, and the checks."""
