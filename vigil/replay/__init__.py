"""Decision records run again: does the same come out, and what would another model have decided?"""
