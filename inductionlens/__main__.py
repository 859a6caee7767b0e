"""Run the command line with python -m inductionlens."""

from inductionlens.cli import main

if __name__ == "__main__":
    main()
