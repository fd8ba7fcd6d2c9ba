"""What run.py uses to set this project up and start it; standard library only."""
