"""`python -m services.embed`: settings -> build -> run."""

from ragline.runtime import serve
from services.embed.app import build

if __name__ == "__main__":
    serve(build)
