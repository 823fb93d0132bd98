"""What is kept of millions of images by columns, and put together one image at a time."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

_T = TypeVar("_T")


class MadeWhenAsked(Sequence[_T]):
    """A sequence whose items are made when they are asked for; a subclass says how many, and makes each."""

    @overload
    def __getitem__(self, place: int) -> _T: ...
    @overload
    def __getitem__(self, place: slice) -> list[_T]: ...
    def __getitem__(self, place: int | slice) -> _T | list[_T]:
        places = range(len(self))
        if isinstance(place, slice):
            return [self._made(each) for each in places[place]]
        return self._made(places[place])

    @abstractmethod
    def _made(self, place: int) -> _T:
        """The item at a place from 0 on."""
