"""Placeholders for results that are not known yet, as arguments of a job that waits for them.

To type checkers a placeholder is the result itself. So at run time every use but as an argument raises, on the line
that is wrong, and not later in a worker. `result_of` and `results_of` take receipts, so they are in
producer/receipt.py.
"""

from __future__ import annotations

from typing import Any, NoReturn

from broker_jobs.messages.envelope import ResultArgument


class Pending:
    """A placeholder for the results of jobs; made by `result_of` and `results_of`. Only its `repr` can be used.

    Args:
        parents: the ids of the jobs.
        title: their names and ids, for error messages: "fetch 0190…".
        many: it stands for a list of all results, in the order of `parents`.
    """

    __slots__ = ("_many", "_parents", "_title")

    def __init__(self, parents: tuple[str, ...], title: str, *, many: bool) -> None:
        self._parents = parents
        self._title = title
        self._many = many

    def __repr__(self) -> str:
        return f"{'results_of' if self._many else 'result_of'}({self._title})"

    def _use(self, *args: object, **kwargs: object) -> NoReturn:
        del args, kwargs
        if self._many:
            raise TypeError(
                f"the results of {self._title} are not known yet; results_of() can only be an argument of a job"
            )
        raise TypeError(f"the result of {self._title} is not known yet; result_of() can only be an argument of a job")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # Python looks up protocols this way, and none is supported
        self._use()

    __str__ = __format__ = __bytes__ = __bool__ = __hash__ = __int__ = __float__ = __complex__ = __index__ = _use
    __len__ = __iter__ = __next__ = __reversed__ = __contains__ = _use
    __getitem__ = __setitem__ = __delitem__ = __call__ = __await__ = __fspath__ = _use
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _use
    __add__ = __sub__ = __mul__ = __matmul__ = __truediv__ = __floordiv__ = __mod__ = __divmod__ = __pow__ = _use
    __radd__ = __rsub__ = __rmul__ = __rmatmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = _use
    __and__ = __or__ = __xor__ = __lshift__ = __rshift__ = __rand__ = __ror__ = __rxor__ = _use
    __neg__ = __pos__ = __abs__ = __invert__ = __round__ = __reduce_ex__ = _use


def extract_result_args(
    args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any], tuple[ResultArgument, ...]]:
    """Bound arguments with null in place of each placeholder, and the result arguments for these places."""
    if not has_pending(args, kwargs):
        return args, kwargs, ()
    result_args = [_result_argument(place, value) for place, value in enumerate(args) if type(value) is Pending]
    result_args += [_result_argument(place, value) for place, value in kwargs.items() if type(value) is Pending]
    return (
        [None if type(value) is Pending else value for value in args],
        {name: None if type(value) is Pending else value for name, value in kwargs.items()},
        tuple(result_args),
    )


def placeholders_of(result_args: tuple[ResultArgument, ...]) -> dict[int | str, Pending]:
    """The placeholders of an envelope by their places: the reverse of `extract_result_args`."""
    return {
        result_arg.place: Pending(result_arg.parents, _title(result_arg.parents), many=result_arg.many)
        for result_arg in result_args
    }


def has_pending(args: list[Any] | tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an argument is a placeholder."""
    for value in args:
        if type(value) is Pending:
            return True
    return bool(kwargs) and any(type(value) is Pending for value in kwargs.values())


def comparable(value: object) -> object:
    """A value that supports `==`: a placeholder as its parents, any other value as it is."""
    return (Pending, value._parents, value._many) if type(value) is Pending else value  # noqa: SLF001


def _result_argument(place: int | str, pending: Pending) -> ResultArgument:
    return ResultArgument(place=place, parents=pending._parents, many=pending._many)  # noqa: SLF001


def _title(parents: tuple[str, ...]) -> str:
    return parents[0] + (f" and {len(parents) - 1} more" if len(parents) > 1 else "")
