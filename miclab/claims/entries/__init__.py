"""Claims, one of each in one place: statement, criterion, conditions and figure. A module of this package is loaded
because it is here; nothing else names it."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
