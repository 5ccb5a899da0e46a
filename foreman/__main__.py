"""`python -m foreman` is the `foreman` command."""

from foreman.cli import main

if __name__ == "__main__":
    main()
