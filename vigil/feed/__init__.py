"""The demo client: events made up at a rate, sent over any wire, and what became of them on the terminal."""
