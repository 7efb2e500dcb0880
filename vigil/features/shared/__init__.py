"""Feature state on servers (Redis, Valkey), shared by any number of processes."""
