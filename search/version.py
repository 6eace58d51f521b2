"""The release that this code is of: read by whatever builds the package, said once."""

__all__ = ["__version__"]

__version__ = "0.1.0"
