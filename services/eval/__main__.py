"""`python -m services.eval`: settings -> build -> run."""

from ragline.runtime import serve
from services.eval.app import build

if __name__ == "__main__":
    serve(build)
