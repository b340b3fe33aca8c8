"""The type checker behind the shape checks of the tests (see `conftest`)."""

from beartype import BeartypeConf, beartype

# As in Python's own typing rules, an int may stand where a float is expected.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
