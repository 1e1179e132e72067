"""`python -m podium` and the `podium` command."""

from .cluster.gateways.cli import main

if __name__ == "__main__":
    main()
