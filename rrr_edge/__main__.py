"""`python -m rrr_edge` is `rrr-edge`."""

from rrr_edge.cli import main

if __name__ == "__main__":
    main()
