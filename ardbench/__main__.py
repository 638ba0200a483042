"""What `ardbench` and `python -m ardbench` call."""

from __future__ import annotations

from ardbench.cli import ardbench


def main() -> None:
    """Run the command line and leave with its exit code."""
    ardbench.main(prog_name="ardbench")


if __name__ == "__main__":
    main()
