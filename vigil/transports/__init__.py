"""Ways in: each decodes, calls the engine and encodes. Nothing is decided here."""
