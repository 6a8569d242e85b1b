"""`python -m ragline.cli`: the `ragline` command without its script."""

from ragline.cli.main import run

if __name__ == "__main__":
    run()
