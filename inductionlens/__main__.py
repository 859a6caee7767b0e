"""Where the command line starts: the installed script, and python -m inductionlens."""

import sys

from inductionlens.errors import INTERRUPTED


def main() -> None:
    """Run the command line; an interrupt while its own modules are read is exit code 130 too."""
    try:
        from inductionlens.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write(f"inductionlens: {INTERRUPTED}\n")
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
