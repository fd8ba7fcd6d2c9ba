"""The set-up of run.py; standard library only."""
