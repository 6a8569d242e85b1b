"""`python -m services.retrieve`: settings -> build -> run."""

from ragline.runtime import serve
from services.retrieve.app import build

if __name__ == "__main__":
    serve(build)
