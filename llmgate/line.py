"""What the parent of several workers and each of them say to each other, over a socket that only these two have.

    parent ───► worker    Resolved       serve by this config: the first begins, each later one is a reload
                          STOP, HURRY    let requests end · end them now
                          end of file    the parent is dead: as STOP
    worker ───► parent    Recovered      requests are answered; what the start has booked
                          LlmgateError   it can't begin

A message is a pickle with its length in front. Both ends are llmgate's own processes, and nobody else can reach them.
"""

from __future__ import annotations

import asyncio
import copyreg
import pickle
import socket
from enum import Enum
from types import MappingProxyType
from typing import Any

LENGTH = 4
"""Bytes in front of a message, big end first."""


class Order(Enum):
    STOP = "stop"
    HURRY = "hurry"


def _frozen(items: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(items)


copyreg.pickle(MappingProxyType, lambda proxy: (_frozen, (dict(proxy),)))  # presets have some, and pickle knows none


def pack(message: object) -> bytes:
    data = pickle.dumps(message)
    return len(data).to_bytes(LENGTH) + data


async def read(reader: asyncio.StreamReader) -> Any:
    """The next message. Raises EOFError where the other side is gone."""
    try:
        size = int.from_bytes(await reader.readexactly(LENGTH))
        return pickle.loads(await reader.readexactly(size))  # noqa: S301 - from our own process
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError from error


def receive(line: socket.socket) -> Any:
    """The same for a caller that may wait."""
    try:
        size = int.from_bytes(_exactly(line, LENGTH))
        return pickle.loads(_exactly(line, size))  # noqa: S301 - from our own process
    except ConnectionError as error:
        raise EOFError from error


def _exactly(line: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = line.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
