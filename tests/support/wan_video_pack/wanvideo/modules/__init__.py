"""The package that the stand-in of the transformer lies in, as in the pack."""
