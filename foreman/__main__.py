"""`python -m foreman` is the `foreman` command."""

import gc

gc.disable()  # nothing that an import makes is garbage: looking for it took an eighth of every start

try:
    from foreman.cli import main
except KeyboardInterrupt:  # Ctrl-C in the first second: no traceback of imports
    raise SystemExit(1) from None

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
