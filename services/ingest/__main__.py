"""`python -m services.ingest`: settings -> build -> run."""

from ragline.runtime import serve
from services.ingest.app import build

if __name__ == "__main__":
    serve(build)
