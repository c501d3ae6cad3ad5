"""Types that parameters of jobs may have: models, dataclasses, enums and others, each with one trait that matters."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from decimal import Decimal
from typing import Any, Generic, NamedTuple, NotRequired, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType, TypedDict

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    ONE = 1
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    RED = "red"
    DATE = "2026-10-25"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: str = "x"


class Boxed(BaseModel, Generic[T]):
    value: T


class Wrapped(RootModel[list[int]]):
    pass


class Plain(BaseModel):
    id: int
    total: float = 0
    note: str | None = None


class Bigger(Plain):
    more: int = 1


class Aliased(BaseModel):
    order_id: int = Field(alias="orderId")
    name: str = Field(default="", validation_alias="nameIn", serialization_alias="nameOut")
    tag: str = Field(default="", validation_alias=AliasChoices("tag", "label"))  # type: ignore[pydantic-alias]


class Swapped(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=lambda name: name.title().replace("_", ""), populate_by_name=True)
    order_id: int
    unit_price: Decimal = Decimal("1.10")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.a * 2


class Private(BaseModel):
    a: int
    _seen: int = PrivateAttr(default=0)
    _lock: Any = PrivateAttr(default_factory=object)

    def marked(self) -> Private:
        self._seen = 1
        return self


class Cents(BaseModel):
    cents: int

    @field_validator("cents")
    @classmethod
    def _to_cents(cls, value: int) -> int:
        return value * 100


class Excluded(BaseModel):
    a: int
    hidden: int = Field(default=0, exclude=True)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 0


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", frozen=True)
    data: bytes


class Utf8(BaseModel, frozen=True):
    data: bytes


class Login(BaseModel):
    name: str
    password: SecretStr


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


@dataclasses.dataclass
class Row:
    name: str
    data: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Key:
    id: int
    at: dt.datetime | None = None


@dataclasses.dataclass(kw_only=True)
class Kept:
    a: int
    b: list[int] = dataclasses.field(default_factory=list)
    c: int = dataclasses.field(default=3, init=False)
    d: int = dataclasses.field(default=0, compare=False, repr=False)


@dataclasses.dataclass
class Init:
    a: int
    b: dataclasses.InitVar[int] = 0
    c: int = dataclasses.field(init=False, default=0)

    def __post_init__(self, b: int) -> None:
        self.c = self.a + b


@pydantic_dataclass
class Checked:
    a: int = Field(alias="anA")
    b: set[str] = dataclasses.field(default_factory=set)


class Movie(TypedDict):
    title: str
    year: NotRequired[int]
    poster: NotRequired[bytes]


class Text(str):
    __slots__ = ()


Nested = TypeAliasType("Nested", "list[Nested] | int | str | None")
