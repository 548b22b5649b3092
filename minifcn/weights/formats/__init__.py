"""Containers: one module each, with `read(path)` -> arrays by the names they have in the file. None knows a network."""
