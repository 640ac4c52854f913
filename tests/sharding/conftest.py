"""Files of small models, for shards."""

from tests.support.shards import models

__all__ = ["models"]
