"""One module a format; each yields `Example`s lazily and names file and line in its errors."""
