"""`python -m podium` and the `podium` command."""

from .cluster.gateways.cli.main import main

if __name__ == "__main__":
    main()
