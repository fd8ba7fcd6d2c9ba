"""The subcommands of `python -m teacache`; each module has `add_parser` and `run`."""
