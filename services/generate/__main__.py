"""`python -m services.generate`: settings -> build -> run."""

from ragline.runtime import serve
from services.generate.app import build

if __name__ == "__main__":
    serve(build)
