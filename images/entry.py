#!/opt/suanli/bin/python
"""The `suanli` command inside an image (the console script that pip would have written)."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
