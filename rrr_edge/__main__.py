"""The entry point of `python -m rrr_edge`, the same as `rrr-edge`."""

from rrr_edge.cli import main

if __name__ == "__main__":
    main()
