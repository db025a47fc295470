"""`python -m ovfuse` is the `ovfuse` command."""

from ovfuse.cli import main

if __name__ == "__main__":
    main()
