"""A frozen module becomes the fastest callable that this machine has for it."""

from svertka.engine.choose import fastest, fingerprint
from svertka.engine.kinds import Engine, engine

__all__ = ["Engine", "engine", "fastest", "fingerprint"]
