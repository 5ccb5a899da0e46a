"""`python -m foreman` is the `foreman` command."""

import gc

gc.disable()  # nothing that an import makes is garbage: looking for it took an eighth of every start

from foreman.cli import main  # noqa: E402 - what the line above is for

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
