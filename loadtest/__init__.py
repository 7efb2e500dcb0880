"""Load on a running service, and peers to compare with."""
