"""One module a kind of caller, as Locust runs it."""
