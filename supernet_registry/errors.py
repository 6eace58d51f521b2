"""Every error that this package raises, by name; the tree of them stands at the top of `search.errors`.

    from supernet_registry import errors

    try:
        client.upload_images(dataset)
    except errors.DiskFull as error:
        print(error.remedy)

All are `SupernetRegistryError`s. They are grouped by what the caller does about them.
"""

from supernet_registry.search import errors as _errors
from supernet_registry.search.errors import *  # noqa: F403  the tree is written once, with its own `__all__`

__all__ = []
__all__ += _errors.__all__
