"""The one write: looks whether everything still is as it was read, and only then writes all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from vigil.features.compiled import wire

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

# KEYS: logs of entities, then what is remembered of events.
# ARGV: how many are logs, seconds that logs and events live, a letter a log, the versions of the logs
# (8 bytes each), a letter an event, the heads of the events (2 bytes each), then what to write for each key.
# Letters of logs: k only looked at, a appended to, x appended to and given its time anew, s replaced,
# l appended to where it is there, whatever its version. Letters of events: p put, h only its head replaced.
SOURCE = """
local call, sub = redis.call, string.sub
local n, log_s, event_s = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local of_logs, versions, of_events, heads = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local none, absent, stale, there = string.rep('\\0', 8), '\\0\\0', {}, {}
for i = 1, n do
  local found = call('GETRANGE', KEYS[i], -8, -1)
  if sub(of_logs, i, i) == 'l' then
    there[i] = found ~= ''
  else
    if found == '' then found = none end
    if found ~= sub(versions, 8 * i - 7, 8 * i) then stale[#stale + 1] = i end
  end
end
local first = n + 1
if not string.find(heads, '[^%z]') then  -- as a rule no event is known, and one call for many is enough
  while first <= #KEYS do
    local last = math.min(first + 999, #KEYS)
    if call('EXISTS', unpack(KEYS, first, last)) > 0 then break end
    first = last + 1
  end
end
for i = first, #KEYS do
  local found = call('GETRANGE', KEYS[i], 0, 1)
  if found == '' then found = absent end
  if found ~= sub(heads, 2 * (i - n) - 1, 2 * (i - n)) then stale[#stale + 1] = i end
end
if #stale > 0 then return stale end
for i = 1, n do
  local how = sub(of_logs, i, i)
  if how == 's' then
    call('SET', KEYS[i], ARGV[i + 7], 'EX', log_s)
  elseif how ~= 'k' and there[i] ~= false then
    call('APPEND', KEYS[i], ARGV[i + 7])
    if how == 'x' then call('EXPIRE', KEYS[i], log_s) end
  end
end
for i = n + 1, #KEYS do
  if sub(of_events, i - n, i - n) == 'p' then
    call('SET', KEYS[i], ARGV[i + 7], 'EX', event_s)
  else
    call('SETRANGE', KEYS[i], 0, ARGV[i + 7])
  end
end
return stale
"""


# KEYS: logs. ARGV: their versions as they are loaded, 8 bytes each, and how long these are, 4 bytes each. Gives, of
# each log that has another one: its place and what has come behind, or minus its place and all that it is now.
LOOK = """
local call, sub = redis.call, string.sub
local none, stale = string.rep('\\0', 8), {}
for i = 1, #KEYS do
  local version, found = sub(ARGV[1], 8 * i - 7, 8 * i), call('GETRANGE', KEYS[i], -8, -1)
  if found == '' then found = none end
  if found ~= version then
    local size = struct.unpack('<I4', ARGV[2], 4 * i - 3)
    local behind = size > 0 and call('GETRANGE', KEYS[i], size - 8, -1) or ''
    if sub(behind, 1, 8) == version then
      stale[#stale + 1] = i
      stale[#stale + 1] = sub(behind, 9)
    else
      stale[#stale + 1] = -i
      stale[#stale + 1] = call('GET', KEYS[i])
    end
  end
end
return stale
"""
KEPT, APPENDED, RENEWED, ANEW, PUT = map(ord, "kaxsp")


class Writes(NamedTuple):
    """What a commit does with n keys, all of logs or all of events.

    Attributes:
        how: uint8 [n], the letter of each.
        before: what each must be: int64 [n], versions of logs, or uint16 [n], heads of events.
        buckets: int64 [n], where each lies.
        keys, key_at: uint8, and int64 [n, 2]: where in it each key begins and ends.
        payloads, payload_at: the same of what is to be written.
        rows: int64 [n], of what is loaded; -1 where that is not concerned.
    """

    how: npt.NDArray[np.uint8]
    before: npt.NDArray[Any]
    buckets: Ints
    keys: Bytes
    key_at: Ints
    payloads: Bytes
    payload_at: Ints
    rows: Ints

    @classmethod
    def of(cls, how: str, before: npt.NDArray[Any], places: Sequence[tuple[int, bytes]], payloads: list[bytes]) -> Self:
        """Of keys given one by one, of which nothing is loaded: a letter, bucket and key, and payload each."""
        buckets = np.array([bucket for bucket, _ in places], np.int64)
        joined = (_join([key for _, key in places]), _join(payloads))
        letters = np.frombuffer(how.encode(), np.uint8)
        return cls(letters, before, buckets, *joined[0], *joined[1], np.full(len(places), -1))

    def take(self, places: Ints) -> Writes:
        """Only those at these places."""
        chosen = {name: getattr(self, name)[places] for name in self._fields if name not in ("keys", "payloads")}
        return self._replace(**chosen)

    @property
    def of_logs(self) -> bool:
        """Whether these are keys of logs."""
        return self.before.dtype == np.int64


def command(script: str, parts: Sequence[Writes], log_s: int, event_s: int) -> bytes:
    """One call of the script, as it goes to the server.

    Args:
        script: its name there.
        parts: all that it writes.
        log_s: how long logs live.
        event_s: how long events are remembered.
    """
    logs, events = ([part for part in parts if part.of_logs is of_logs] for of_logs in (True, False))
    count = sum(len(part.how) for part in logs)
    return pack_command(
        b"EVALSHA",
        script.encode(),
        b"%d" % (count + sum(len(part.how) for part in events)),
        *[(part.keys, part.key_at) for part in (*logs, *events)],
        b"%d" % count,
        b"%d" % log_s,
        b"%d" % event_s,
        *[b"".join([column.tobytes() for column in columns]) for columns in (
            [part.how for part in logs],
            [part.before for part in logs],
            [part.how for part in events],
            [part.before for part in events],
        )],
        *[(part.payloads, part.payload_at) for part in (*logs, *events)],
    )  # fmt: skip


def look(script: str, keys: Bytes, key_at: Ints, versions: Ints, sizes: Ints) -> bytes:
    """One call of the script that looks for changed logs.

    Args:
        script: its name on the server.
        keys, key_at: uint8, and int64 [n, 2]: where in it each log's key begins and ends.
        versions, sizes: int64 [n], of what is loaded; sizes in bytes.
    """
    loaded = versions.tobytes(), sizes.astype("<u4").tobytes()
    return pack_command(b"EVALSHA", script.encode(), b"%d" % len(key_at), (keys, key_at), *loaded)


def pack_command(*pieces: bytes | tuple[Bytes, Ints]) -> bytes:
    """A command as the protocol (RESP) has it.

    Args:
        pieces: words, or many words in one: uint8, and int64 [n, 2], where in it each begins and ends.
    """
    count, chunks = 0, list[bytes | memoryview]()
    for piece in pieces:
        if isinstance(piece, bytes):
            count += 1
            chunks.append(b"$%d\r\n%b\r\n" % (len(piece), piece))
            continue
        blob, at = piece
        count += len(at)
        at = np.ascontiguousarray(at)  # as columns of a table come, the machine code would read it wrong
        out = np.empty(int((at[:, 1] - at[:, 0]).sum()) + wire.FRAMED * len(at), np.uint8)
        chunks.append(out[: wire.frames(blob, at, out, 0)].data)
    return b"*%d\r\n" % count + b"".join(chunks)


def _join(words: list[bytes]) -> tuple[Bytes, Ints]:
    ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    return np.frombuffer(bytearray().join(words), np.uint8), np.column_stack((starts, ends))
