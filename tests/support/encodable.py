"""Makes values encodable as UTF-8, whatever text stands in them."""


def encodable(value: object) -> object:
    """The value with each lone surrogate in its texts escaped; lists, tuples and dicts are followed."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {encodable(key): encodable(item) for key, item in value.items()}
        case list():
            return [encodable(item) for item in value]
        case tuple():
            return tuple(encodable(item) for item in value)
        case _:
            return value
