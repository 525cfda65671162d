"""The version of the package, in a module that any other can import."""

__version__ = "0.2.0"
